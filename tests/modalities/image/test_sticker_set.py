"""The set that the model that ships learns from, on a small one made here."""

import json

import numpy as np
import pytest
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.recaption import VARIANTS
from unnoise.modalities.image.sticker_set import Mix, are_stickers, read_stickers, sticker_folders

NAMES = ("cup", "pear", "boat", "drum", "kite", "lamp", "shoe", "tent")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stickers")
    for vendor in ("noto", "twemoji"):
        rows = []
        (path / vendor).mkdir()
        for i, name in enumerate(NAMES):
            image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
            image.paste((20 + 25 * i, 60, 200 if vendor == "noto" else 20, 255), (5, 5, 35, 35))
            image.save(path / vendor / f"{i}.png")
            group = "symbols" if name == "tent" else "objects"
            rows.append({"file": f"{i}.png", "name": name, "vendor": vendor, "keywords": ["thing"], "group": group})
        (path / vendor / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (path / "icons").mkdir()
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(path / "icons" / "slash.png")
    (path / "icons" / "captions.jsonl").write_text(json.dumps({"file": "slash.png", "name": "slash", "keywords": []}))
    return path


MIX = Mix(compositions=40, scenes=10, held_out=0)


def test_rows_are_what_was_asked_for(folder):
    data = read_stickers([folder], 32, MIX)
    kinds = [n.split("-")[0] for n in data.names]
    assert {k: kinds.count(k) for k in kinds} == {"emoji": 16, "icons": 1, "compositions": 40, "scenes": 10}
    x = data.pictures(range(len(data)))
    assert x.shape == (67, 32, 32, 4)
    assert (x[kinds.index("scenes") :, ..., 3] == 255).all()  # scenes have a ground
    icon = x[kinds.index("icons")]
    assert not icon[..., :3].any()  # black ink on nothing
    assert icon[5, 5, 3] > 60 > icon[5, 25, 3]
    assert data.captions[kinds.index("icons")] == ("slash, black icon", "icon of slash")
    assert all(c.startswith("scene with ") == (kind == "scenes") for kind, several in zip(kinds, data.captions) for c in several)


def test_shares_are_of_weight(folder):
    data = read_stickers([folder], 32, MIX)
    weights = np.array(data.weights)
    kinds = np.array([n.split("-")[0] for n in data.names])
    for kind, share in (("emoji", 0.52), ("icons", 0.12), ("compositions", 0.3), ("scenes", 0.06)):
        assert weights[kinds == kind].sum() == pytest.approx(share)
    emoji = weights[kinds == "emoji"]
    symbol = [i for i, name in enumerate(NAMES * 2) if name == "tent"]
    assert emoji[symbol] == pytest.approx(MIX.rare["symbols"] * emoji[0])
    assert VARIANTS in MIX.rare  # a group that this set lacks is passed over


def test_held_out_names_are_in_no_caption(folder):
    mix = Mix(compositions=150, scenes=0, held_out=0.5)
    gone = {n for n in NAMES if mix.holds_out(n)}
    assert 0 < len(gone) < len(NAMES) - 2
    data = read_stickers([folder], 32, mix)
    words = {w.rstrip("s,") for several in data.captions for c in several for w in c.split(" ")}
    assert not words & gone
    assert words & (set(NAMES) - gone)


def test_a_row_is_the_same_alone_and_in_company(folder):
    data = read_stickers([folder], 32, MIX)
    rows = [0, 16, 20, 60]
    assert np.array_equal(data.pictures(rows), np.concatenate([data.pictures([r]) for r in rows]))


@pytest.mark.parametrize(
    ("size", "mix", "complaint"),
    [(8, {}, "16 to 512"), (32, {"share_scenes": 0.9}, "must leave something"), (32, {"scenes": -1}, "0 or more")],
)
def test_what_cannot_be_right_is_refused(folder, size, mix, complaint):
    with pytest.raises(InputError, match=complaint):
        read_stickers([folder], size, Mix(**mix))


def test_options_of_pictures(folder):
    """Some hold out rows, others have nothing to change here."""
    assert read_stickers([folder], 32, MIX, PictureOptions(held_out=0.25)).options.held_out == 0.25
    for options in (PictureOptions(flip=True), PictureOptions(buckets=8), PictureOptions(weights={"flags": 0.5})):
        with pytest.raises(InputError, match="leave out flip, buckets, recaption and weights"):
            read_stickers([folder], 32, MIX, options)
    with pytest.raises(InputError, match="background red: stickers stay transparent"):
        read_stickers([folder], 32, MIX, PictureOptions(background="red"))


def test_a_folder_without_names_is_refused(tmp_path):
    Image.new("RGBA", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"captions\.jsonl"):
        read_stickers([tmp_path], 32, MIX)


def test_the_word_stands_for_a_folder(folder, monkeypatch):
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    assert [are_stickers(p) for p in ("stickers", f"stickers:{folder}", "stickerset")] == [True, True, False]
    assert sticker_folders(f"stickers:{folder}") == [folder / "icons"]
    with pytest.raises(InputError, match="UNNOISE_DATA"):
        sticker_folders("stickers")
    monkeypatch.setenv("UNNOISE_DATA", str(folder / "noto"))
    assert sticker_folders("stickers") == [folder / "noto"]
    with pytest.raises(InputError, match="does not exist"):
        sticker_folders(f"stickers:{folder}/none")
