"""From files to training pictures: what is found, what is left out, and what is said of it."""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.data import OnDisk, PictureData, PictureOptions
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.show import write_pictures

from .make import bomb, noise, png, zipped


def read(path: Path, **options: object) -> PictureData:
    return read_pictures(path, PictureOptions(**options), progress=False)  # type: ignore[arg-type]


def reasons(data: PictureData) -> dict[str, str]:
    return {s.name: s.reason for s in data.skipped}


def test_every_kind_of_file(tmp_path: Path) -> None:
    kinds = ("png", "bmp", "tiff", "webp", "jpg", "jpeg", "gif", "PNG")
    for i, kind in enumerate(kinds):
        png(tmp_path / f"{i}.{kind}", np.full((8, 8, 3), 20 * i, np.uint8))
    data = read(tmp_path)
    assert len(data) == len(kinds)
    assert abs(data.pictures(range(8)).astype(int) - 20 * np.arange(8).reshape(8, 1, 1, 1)).max() <= 1
    assert (data.height, data.width) == (8, 8)


def test_folder_zip_and_a_folder_of_zips_are_the_same(tmp_path: Path) -> None:
    for name, seed in (("emu/a.png", 1), ("emu/b.png", 2), ("fox/a.png", 3)):
        png(tmp_path / "set" / name, seed)
    (tmp_path / "set" / "__MACOSX").mkdir()
    (tmp_path / "set" / "__MACOSX" / "._a.png").write_bytes(b"clutter")
    folder = read(tmp_path / "set")
    archive = read(zipped(tmp_path / "set", tmp_path / "set.zip"))
    (tmp_path / "zips").mkdir()
    for name in ("emu", "fox"):
        zipped(tmp_path / "set" / name, tmp_path / "zips" / f"{name}.zip")
    zips = read(tmp_path / "zips")
    for other in (archive, zips):
        assert other.names == folder.names == ("emu/a.png", "emu/b.png", "fox/a.png")
        assert other.classes == ("emu", "fox")
        assert other.captions == folder.captions
        assert np.array_equal(other.pictures(range(3)), folder.pictures(range(3)))
    assert np.array_equal(folder.pictures([2]), noise(3)[None])


def test_what_unnoise_wrote_among_them_is_no_picture_of_the_set(tmp_path: Path) -> None:
    """Contact sheets, and runs with the sheets in them; a picture that is only called so is one."""
    write_pictures([noise(1), noise(2)], tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    png(tmp_path / "runs" / "loss.png", 3)
    (tmp_path / "runs" / "run.json").write_text('{"unnoise": 1, "data": "", "run": {}}')
    png(tmp_path / "mine" / "a.png", 5)
    (tmp_path / "mine" / "run.json").write_text('{"shutter": 0.01}')
    png(tmp_path / "more" / "sheet.png", 4)
    data = read(tmp_path)
    assert data.names == ("0000-a.png", "0001-b.png", "mine/a.png", "more/sheet.png")
    (tmp_path / "runs" / "loss.png").unlink()
    assert read(zipped(tmp_path, tmp_path.parent / "all.zip")).names == data.names
    assert not data.skipped
    assert (data.height, data.width) == noise(1).shape[:2]


def test_captions_of_each_of_several_zips(tmp_path: Path) -> None:
    for vendor in ("one", "two"):
        png(tmp_path / vendor / "a.png", 1)
        (tmp_path / vendor / "captions.jsonl").write_text(json.dumps({"file": "a.png", "caption": f"a smile by {vendor}"}))
        zipped(tmp_path / vendor, tmp_path / f"{vendor}.zip")
        (tmp_path / vendor / "a.png").unlink()
        (tmp_path / vendor / "captions.jsonl").unlink()
    assert read(tmp_path).captions == (("a smile by one",), ("a smile by two",))


def test_a_folder_that_holds_one_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.stack([noise(i) for i in range(3)]))
    (tmp_path / "README.md").write_text("notes")
    assert np.array_equal(read(tmp_path).pictures([1]), noise(1)[None])


@pytest.mark.parametrize("memory", [2.0, 0.0])
def test_broken_pictures_among_good_ones(tmp_path: Path, memory: float) -> None:
    for i in range(4):
        png(tmp_path / f"good{i}.png", i)
    whole = (tmp_path / "good0.png").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "liar.jpg").write_bytes(b"not a picture")
    png(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    bomb(tmp_path / "bomb.png")
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    data = read(tmp_path, memory=memory)
    expected = {
        "bomb.png": "over 90 million pixels",
        "dot.png": "1 x 1, smaller than 4 x 4",
        "empty.png": "empty file (0 bytes)",
        "liar.jpg": "not a picture, whatever its name says",
    }
    if memory:
        assert re.search("truncated|cannot be decoded", reasons(data)["half.png"])
        assert [s.name for s in data.skipped] == sorted([*expected, "half.png"])
        assert data.names == tuple(f"good{i}.png" for i in range(4))
        assert "5 files were skipped (bomb.png: over 90 million pixels; " in data.account()
    else:  # only the headers were read: the truncated one gives way to its successor when it is met
        assert isinstance(data.pixels, OnDisk)
        assert reasons(data) == expected
        half = data.names.index("half.png")
        assert np.array_equal(data.pictures([half]), data.pictures([(half + 1) % len(data)]))
    for name, reason in expected.items():
        assert reasons(data)[name] == reason
    good = [data.names.index(f"good{i}.png") for i in range(4)]
    assert np.array_equal(data.pictures(good), np.stack([noise(i) for i in range(4)]))


def test_none_left(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    png(tmp_path / "b.png", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(InputError, match=r"none of the 2 pictures .*\(a\.png: empty file \(0 bytes\); b\.png: 1 x 1"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: p, "holds no pictures .it is empty."),
        (lambda p: _text(p / "notes.txt").parent, "holds no pictures .only txt."),
        (lambda p: _text(p / "set.pickle"), "a .pickle file"),
        (lambda p: _text(p / "set"), "a file without an extension"),
        (lambda p: _text(p / "set.zip"), "not a readable zip"),
        (lambda p: _zip_with(p / "set.zip", "../../etc/evil.png"), "points outside the archive"),
        (lambda p: _zip_with(p / "set.zip", "/etc/evil.png"), "points outside the archive"),
        (lambda p: _zip_with(p / "set.zip", "..\\evil.png"), "points outside the archive"),
    ],
)
def test_refusals_are_one_clear_line(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        read(make(tmp_path))
    assert "\n" not in str(e.value)


def _text(path: Path) -> Path:
    path.write_text("text")
    return path


def _zip_with(path: Path, member: str) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(member, b"x")
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"size": 3},
        {"size": 5000},
        {"caption_drop": 1.5},
        {"held_out": 1.0},
        {"threads": 0},
        {"memory": float("nan")},
        {"largest": 0},
    ],
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError):
        PictureOptions(**options)


@pytest.mark.parametrize(
    ("shapes", "options", "size", "said"),
    [
        ([(28, 28)] * 2, {}, (28, 28), "all 28 x 28 pixels, trained as they are"),
        ([(20, 28)] * 2, {}, (20, 28), "all 28 x 20 pixels, trained as they are"),
        ([(72, 72)] * 2, {}, (64, 64), "all 72 x 72 pixels, trained at 64 x 64 (antialiased Lanczos)"),
        ([(72, 72)] * 2, {"size": 72}, (72, 72), "trained as they are"),
        ([(72, 72)] * 2, {"size": 32}, (32, 32), "trained at 32 x 32"),
        ([(72, 72)] * 2, {"largest": 128}, (72, 72), "trained as they are"),
        ([(240, 320)] * 2, {}, (64, 64), "cropped to a square about the centre"),
        ([(240, 320)] * 2, {"pad": True}, (64, 64), "padded to a square"),
        ([(30, 90), (40, 40), (50, 60)], {}, (32, 32), "3 sizes (shorter sides 30 to 50 pixels"),
        ([(30, 90), (40, 40), (50, 60)], {}, (32, 32), "1 of them are smaller and were enlarged"),
    ],
)
def test_the_size_that_is_chosen(tmp_path: Path, shapes: list, options: dict, size: tuple[int, int], said: str) -> None:
    for i, (h, w) in enumerate(shapes):
        png(tmp_path / f"{i}.png", noise(i, h, w))
    data = read(tmp_path, **options)
    assert (data.height, data.width) == size
    assert data.pictures([0]).shape == (1, *size, 3)
    assert said in data.account()


def test_grey_stays_grey_and_mixed_sets_are_colour(tmp_path: Path) -> None:
    png(tmp_path / "a.png", noise(0, channels=1))
    assert read(tmp_path).channels == 1
    png(tmp_path / "b.png", np.repeat(noise(1, channels=1), 3, -1))  # a colour file without colour
    assert read(tmp_path).channels == 1
    assert np.array_equal(read(tmp_path).pictures([1])[0], noise(1, channels=1))
    png(tmp_path / "c.png", noise(2))
    data = read(tmp_path)
    assert data.channels == 3
    assert np.array_equal(data.pictures([0])[0], np.repeat(noise(0, channels=1), 3, -1))


def test_transparency_is_said_and_the_background_can_be_chosen(tmp_path: Path) -> None:
    png(tmp_path / "a.png", np.concatenate([noise(0), np.zeros((16, 16, 1), np.uint8)], -1))
    png(tmp_path / "b.png", 1)
    data = read(tmp_path, background="#102030")
    assert (data.pictures([0]) == (16, 32, 48)).all()
    assert "1 with transparency, which is laid over #102030" in data.account()
    assert (read(tmp_path).pictures([0]) == 255).all()


def test_missing_and_long_captions_are_counted(tmp_path: Path) -> None:
    for i, text in enumerate(("a short one", "Very  long " + "words " * 50, None)):
        png(tmp_path / f"{i}.png", i)
        if text is not None:
            (tmp_path / f"{i}.txt").write_text(text)
    data = read(tmp_path, caption_bytes=20)
    assert data.captions == (("a short one",), ("very long words",), ())
    assert "1 captions longer than 20 bytes were cut" in data.account()
    assert "1 pictures have none, and are learnt without" in data.account()
    assert data.classes is None


def test_other_files_are_counted(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 0)
    (tmp_path / "a.txt").write_text("used")
    (tmp_path / "b.mp4").write_bytes(b"x")
    (tmp_path / ".hidden").write_bytes(b"x")
    assert "1 other file left alone (mp4)" in read(tmp_path).account()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_and_dangling_links_are_not_waited_for(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 0)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert read(tmp_path).names == ("a.png",)


def test_from_memory_and_from_disk_are_the_same(tmp_path: Path) -> None:
    for i in range(5):
        png(tmp_path / "set" / f"{i}.png", noise(i, 40 + i, 50))
    rows = [4, 0, 0, 2]
    archive = zipped(tmp_path / "set", tmp_path / "set.zip")
    assert np.array_equal(read(tmp_path / "set").pictures(rows), read(archive, memory=0.0).pictures(rows))


def test_emoji(data_dir: Path) -> None:
    if not (data_dir / "emoji").is_dir():
        pytest.skip("no emoji set")
    data = read(data_dir / "emoji" / "twemoji_72px.zip")
    assert len(data) == 2091
    assert (data.height, data.width, data.channels) == (64, 64, 3)
    assert all(len(c) == 1 and c[0].endswith("twemoji emoji") for c in data.captions)
    assert "all with transparency, which is laid over white" in data.account()
    corners = data.pictures(range(len(data)))[:, 0, 0].astype(int)
    assert (corners.min(-1) > 250).mean() > 0.8  # most emoji leave their corners free: white shows there, not black


def test_fashion(data_dir: Path) -> None:
    if not (data_dir / "fashion_mnist").is_dir():
        pytest.skip("no fashion set")
    data = read(data_dir / "fashion_mnist")
    assert len(data) == 20_000
    assert (data.height, data.width, data.channels) == (28, 28, 1)
    assert data.classes is not None
    assert len(data.classes) == 10
    assert "Ankle boot" in data.classes
    assert data.data_std() == pytest.approx(2 * 0.353, rel=0.02)  # the set's well-known std of 0.353 on a scale of 0 to 1


def test_captions_that_are_all_equal_are_said_to_be(tmp_path: Path) -> None:
    for i in range(3):
        png(tmp_path / f"{i}.png", i)
        (tmp_path / f"{i}.txt").write_text("a photo")
    assert "all 3 the same, 'a photo'" in read(tmp_path).account()


def test_a_zip_beside_a_folder_of_its_name(tmp_path: Path) -> None:
    """Their pictures are two sets if no file of the one is called as one of the other."""
    for name in ("cats", "dogs"):
        for i in range(2):
            png(tmp_path / "set" / name / f"{i}.png", i)
    zipped(tmp_path / "set" / "cats", tmp_path / "set" / "cats.zip")
    with pytest.raises(InputError, match=r"holds cats/0.png twice, in .*cats.zip and in .*cats.0.png"):
        read_pictures(tmp_path / "set", progress=False)
    for i in range(2):
        (tmp_path / "set" / "cats" / f"{i}.png").rename(tmp_path / "set" / "cats" / f"{i + 2}.png")
    assert len(read_pictures(tmp_path / "set", progress=False)) == 6


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_later_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as z:
        for i in (1, 2, 3):
            z.write(png(tmp_path / f"{i}.png", np.full((8, 8, 3), 60 * i, np.uint8)), "a.png" if i < 3 else "b.png")
    data = read_pictures(tmp_path / "set.zip", progress=False)
    assert data.names == ("a.png", "b.png")
    assert data.pictures([0, 1])[:, 0, 0, 0].tolist() == [120, 180]


def test_links_to_folders_are_followed_and_lead_round_in_no_circle(tmp_path: Path) -> None:
    """As a tree of copies would be read; a folder that two links name is read twice, and one that links back to itself once."""
    for name in ("cats", "dogs"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        png(tmp_path / "elsewhere" / name / "0.png", 8)
    (tmp_path / "set" / "birds").mkdir(parents=True)
    png(tmp_path / "set" / "birds" / "0.png", 8)
    for link, to in (("cats", "cats"), ("dogs", "dogs"), ("hounds", "dogs")):
        (tmp_path / "set" / link).symlink_to(tmp_path / "elsewhere" / to, target_is_directory=True)
    (tmp_path / "set" / "birds" / "up").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "elsewhere" / "cats" / "across").symlink_to(tmp_path / "elsewhere" / "dogs", target_is_directory=True)
    (tmp_path / "elsewhere" / "dogs" / "back").symlink_to("../cats", target_is_directory=True)
    data = read_pictures(tmp_path / "set", progress=False)
    across = ["cats/across/0.png", "dogs/back/0.png", "hounds/back/0.png"]
    assert list(data.names) == sorted(["birds/0.png", "cats/0.png", "dogs/0.png", "hounds/0.png", *across])
    assert set(data.classes or ()) == {"birds", "cats", "dogs", "hounds", "across", "back"}


@pytest.mark.parametrize(("height", "width"), [(16, 24), (24, 16), (16, 16)])
def test_a_size_is_of_both_sides(height: int, width: int, tmp_path: Path) -> None:
    for i in range(2):
        png(tmp_path / f"{i}.png", noise(i, height, width))
    data = read_pictures(tmp_path, PictureOptions(size=16), progress=False)
    assert (data.height, data.width) == (16, 16)
    own = read_pictures(tmp_path, progress=False)
    assert (own.height, own.width) == (height, width)
