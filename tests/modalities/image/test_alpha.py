"""Transparency kept from the file to the state and back: compared with Pillow's own compositing, and pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.modalities.image.alpha import over, premultiplied, straight
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.show import sheet, to_image
from unnoise.modalities.image.transparency import transparent_anywhere

from .make import noise, png, zipped


def rgba(seed: int, size: int = 16) -> np.ndarray:
    """Random straight RGBA, a quarter of it invisible and black."""
    x = noise(seed, size, size, 4)
    x[: size // 2, : size // 2] = 0
    return x


def floats(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(2, 0, 1)[None].double() / 255


def test_compositing_is_pillows() -> None:
    x, behind = rgba(0), (200, 30, 90)
    ours = over(premultiplied(floats(x)), torch.tensor([behind]).double() / 255)[0].permute(1, 2, 0) * 255
    theirs = Image.alpha_composite(Image.new("RGBA", (16, 16), (*behind, 255)), Image.fromarray(x)).convert("RGB")
    assert float((ours - torch.from_numpy(np.array(theirs)).double()).abs().max()) <= 1.0  # Pillow works in bytes


def test_straight_is_the_way_back_and_never_leaves_0_to_1() -> None:
    x = floats(rgba(1))
    torch.testing.assert_close(straight(premultiplied(x)), x, atol=1e-12, rtol=0)
    wild = straight(torch.tensor([[3.0, -1.0, 0.2, 0.5], [1.0, 1.0, 1.0, -2.0]])[..., None, None])
    assert wild.flatten(1).tolist() == [[1.0, 0.0, pytest.approx(0.4), 0.5], [0.0, 0.0, 0.0, 0.0]]


def test_the_codec_brings_every_visible_pixel_back() -> None:
    codec = PixelsConfig(16, 16, 4).build()
    x = torch.from_numpy(np.stack([rgba(0), rgba(1)]))
    state = codec.encode(x)
    assert float(state.min()) >= -1
    assert float(state.max()) <= 1
    seen = x[..., 3] > 0
    assert torch.equal(codec.decode(state)[..., 3], x[..., 3])
    assert torch.equal(codec.decode(state)[seen], x[seen])


def test_it_is_kept_where_it_is_asked_for_and_there(tmp_path: Path) -> None:
    png(tmp_path / "all" / "a.png", rgba(0))
    png(tmp_path / "all" / "b.png", noise(1))
    kept = read_pictures(tmp_path / "all", PictureOptions(alpha=True), progress=False)
    assert np.array_equal(kept.pictures([0])[0], rgba(0))
    assert np.array_equal(kept.pictures([1])[0], np.concatenate([noise(1), np.full((16, 16, 1), 255, np.uint8)], -1))
    assert "which is kept" in kept.account()
    assert read_pictures(tmp_path / "all", progress=False).channels == 3
    png(tmp_path / "none" / "b.png", noise(1))
    none = read_pictures(tmp_path / "none", PictureOptions(alpha=True), progress=False)
    assert none.channels == 3
    assert "none with transparency" in none.account()


@pytest.mark.parametrize("form", ["folder", "zip", "npz", "npz in a folder"])
def test_whether_any_pixel_is_transparent(form: str, tmp_path: Path) -> None:
    """By an alpha channel, by a colour of a palette; what cannot be read is opaque."""
    opaque = np.concatenate([noise(1), np.full((16, 16, 1), 255, np.uint8)], -1)
    seen = opaque.copy()
    seen[3, 4, 3] = 254
    for name, last in (("opaque", opaque), ("seen", seen)):
        folder = tmp_path / name
        if "npz" in form:
            folder.mkdir()
            np.savez(folder / "set.npz", x=np.stack([opaque] * 7 + [last]))
            path = folder / "set.npz" if form == "npz" else folder
        else:
            for i in range(70):
                png(folder / f"{i:02}.png", opaque if i % 2 else noise(i))
            (folder / "30.png").write_bytes((folder / "31.png").read_bytes()[:60])
            png(folder / "99.png", last)
            path = folder if form == "folder" else zipped(folder, tmp_path / f"{name}.zip")
        assert transparent_anywhere(path) == (name == "seen")


@pytest.mark.parametrize(
    ("mode", "colour", "seen"), [("P", 0, True), ("P", 5, False), ("LA", (9, 255), False), ("LA", (9, 3), True)]
)
def test_transparency_of_other_modes(mode: str, colour: int | tuple[int, int], seen: bool, tmp_path: Path) -> None:
    how = {"transparency": 0} if mode == "P" else {}
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png", **how)
    assert Image.open(tmp_path / "a.png").has_transparency_data
    assert transparent_anywhere(tmp_path) == seen


def test_invisible_colours_do_not_bleed_when_pictures_are_resized(tmp_path: Path) -> None:
    """Half red, half invisible green: straight averaging would make the edge brown."""
    x = np.zeros((16, 16, 4), np.uint8)
    x[:, :8] = (255, 0, 0, 255)
    x[:, 8:] = (0, 255, 0, 0)
    png(tmp_path / "a.png", x)
    small = read_pictures(tmp_path, PictureOptions(alpha=True, size=5), progress=False).pictures([0])[0]
    seen = small[small[..., 3] > 0]
    assert np.abs(seen[:, :3].astype(int) - [255, 0, 0]).max() <= 1
    assert not small[small[..., 3] == 0].any()


def test_the_spread_that_is_told_is_that_of_the_encoded_pictures(tmp_path: Path) -> None:
    for i in range(5):
        png(tmp_path / f"{i}.png", rgba(i))
    data = read_pictures(tmp_path, PictureOptions(alpha=True), progress=False)
    encoded = data.codec().build().encode(data.pictures(range(5)))
    assert data.data_std() == pytest.approx(float(encoded.double().std(unbiased=False)), rel=1e-5)


def test_sheets_show_a_light_ground_behind() -> None:
    page = np.asarray(sheet([np.zeros((8, 8, 4), np.uint8)], smallest=8))
    assert page[8:16, 8:16].min() >= 240
    assert to_image(rgba(0)).mode == "RGBA"
