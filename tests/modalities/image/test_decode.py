"""Decoding against closed forms: what a pixel of a known value must become."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.modalities.image.decode import Target, Unreadable, colour, decode, inspect

from .make import bomb

WHITE, BLUE = (255, 255, 255), (0, 0, 255)


def file(im: Image.Image, format: str = "PNG", **options: object) -> BytesIO:
    out = BytesIO()
    im.save(out, format=format, **options)
    out.seek(0)
    return out


def target(height: int, width: int, channels: int = 3, background: tuple[int, int, int] = WHITE, pad: bool = False) -> Target:
    return Target(height, width, channels, background, pad)


@pytest.mark.parametrize("alpha", [0, 1, 64, 128, 254, 255])
@pytest.mark.parametrize("background", [WHITE, BLUE])
def test_alpha_is_composited(alpha: int, background: tuple[int, int, int]) -> None:
    ink = (200, 100, 50)
    im = Image.new("RGBA", (5, 5), (*ink, alpha))
    assert inspect(file(im)).alpha
    got = decode(file(im), target(5, 5, background=background))
    want = [alpha / 255 * c + (1 - alpha / 255) * b for c, b in zip(ink, background)]
    np.testing.assert_allclose(got.reshape(-1, 3), np.tile(want, (25, 1)), atol=1)


def test_resizing_does_not_bleed_hidden_colour_out_of_transparent_parts() -> None:
    """Left half opaque black, right half fully transparent *red*: over white no red may show at the edge."""
    x = np.zeros((32, 32, 4), np.uint8)
    x[:, :16, 3] = 255
    x[:, 16:, 0] = 255
    got = decode(file(Image.fromarray(x)), target(8, 8)).astype(int)
    assert (got[..., 0] == got[..., 1]).all()
    assert got[:, 0].max() <= 16
    assert got[:, -1].min() >= 239  # Lanczos rings a little about the edge


def test_palettes_and_their_transparency() -> None:
    im = Image.new("P", (4, 4), 1)
    im.putpalette([255, 0, 0, 0, 128, 0] + [0] * 762)
    assert (decode(file(im), target(4, 4)) == (0, 128, 0)).all()
    assert (decode(file(im, transparency=1), target(4, 4, background=BLUE)) == BLUE).all()


def test_sixteen_bits_scale_by_257() -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert (decode(file(Image.fromarray(levels * 257)), target(16, 16, 1))[..., 0] == levels).all()


def test_a_dark_sixteen_bit_picture_stays_dark() -> None:
    """The range is the format's, not the picture's own: or all pictures of a set would be stretched differently."""
    for level in (10, 0.8):
        im = Image.fromarray(np.full((4, 4), round(257 * level), np.uint16))
        assert (decode(file(im), target(4, 4, 1)) == round(level)).all()


def test_floating_point_tiff_of_0_to_1() -> None:
    im = Image.fromarray(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    assert (decode(file(im, "TIFF"), target(4, 4, 1)).flatten() == np.arange(16) * 17).all()


def test_whole_numbers_of_32_bits_are_bytes_where_they_fit_and_16_bits_where_not() -> None:
    levels = np.arange(256, dtype=np.int32).reshape(16, 16)
    for factor in (1, 257):
        assert (decode(file(Image.fromarray(levels * factor), "TIFF"), target(16, 16, 1))[..., 0] == levels).all()


def test_cmyk_and_bilevel() -> None:
    assert (decode(file(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "TIFF"), target(4, 4)) == 255).all()
    assert (decode(file(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), target(4, 4)) == (255, 0, 0)).all()
    assert (decode(file(Image.new("1", (4, 4), 1)), target(4, 4, 1)) == 255).all()


EXIF = [(1, 0, 0), (2, 0, 1), (3, 2, 0), (4, 2, 1), (5, 1, 1), (6, 3, 0), (7, 3, 1), (8, 1, 0)]


@pytest.mark.parametrize(("orientation", "turns", "mirrored"), EXIF)
def test_exif_orientation(orientation: int, turns: int, mirrored: int) -> None:
    """EXIF 2.32, tag 274: 6 is to be turned a quarter clockwise, 8 anticlockwise, 3 half; 2, 4, 5 and 7 are mirrored first."""
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    want = np.rot90(x[:, ::-1] if mirrored else x, turns)  # anticlockwise quarters
    head = inspect(file(Image.fromarray(x), exif=exif))
    assert (head.height, head.width) == want.shape[:2]
    assert (decode(file(Image.fromarray(x), exif=exif), target(*want.shape[:2])) == want).all()


def test_a_crop_is_the_centre_and_a_pad_is_the_background() -> None:
    x = np.zeros((8, 24, 3), np.uint8)
    x[:, 8:16] = (0, 255, 0)
    assert (decode(file(Image.fromarray(x)), target(8, 8)) == (0, 255, 0)).all()
    padded = decode(file(Image.fromarray(x)), target(24, 24, background=BLUE, pad=True))
    assert (padded[:8] == BLUE).all()
    assert (padded[16:] == BLUE).all()
    assert (padded[8:16] == x).all()
    grey = decode(file(Image.fromarray(x)), target(24, 24, 1, background=BLUE, pad=True))
    assert (grey[:8] == 29).all()  # 0.114 of 255 (ITU-R BT.601)
    assert (grey[16:] == 29).all()


def test_shrinking_is_antialiased() -> None:
    """A checkerboard of single pixels has nothing but its mean below the new Nyquist frequency."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    got = decode(file(Image.fromarray(board)), target(16, 16, 1)).astype(int)
    assert abs(got[2:-2, 2:-2] - 127.5).max() <= 2


def test_large_jpegs_take_the_short_way_to_the_same_picture() -> None:
    """JPEGs decode at a fraction of their size; a smooth picture must come out as it does from a PNG."""
    y, x = np.mgrid[0:512, 0:512] / 512
    smooth = np.stack([x, y, 0.5 + 0.3 * np.sin(9 * x * y)], -1)
    im = Image.fromarray((smooth * 255).astype(np.uint8))
    got = decode(file(im, "JPEG", quality=98, subsampling=0), target(32, 32)).astype(int)
    assert abs(got - decode(file(im), target(32, 32))).max() <= 4


@pytest.mark.parametrize("side", [200, 300, 512])
def test_the_short_way_leaves_detail_to_lanczos(side: int) -> None:
    """Stripes of 3.2 pixels of the result, which decoding at less than twice that size would already have blurred by itself."""
    stripes = 127 + 100 * np.sin(2 * np.pi * 20 * np.arange(side) / side)
    im = Image.fromarray(np.broadcast_to(stripes[None, :, None], (side, side, 3)).astype(np.uint8))
    got = decode(file(im, "JPEG", quality=98, subsampling=0), target(64, 64)).astype(int)
    assert abs(got - decode(file(im), target(64, 64))).max() <= 4


def test_only_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("L", (4, 4), v) for v in (10, 200)]
    assert (decode(file(frames[0], "GIF", save_all=True, append_images=frames[1:]), target(4, 4, 1)) == 10).all()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: file(Image.new("L", (1, 1))), "1 x 1, smaller than 4 x 4"),
        (lambda: file(Image.new("1", (10_000, 9_001))), "10000 x 9001"),
        (lambda: BytesIO(b"GIF, says I"), "not a picture"),
        (lambda: BytesIO(file(Image.new("L", (64, 64))).read()[:20]), "not a picture|truncated|cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refused_by_the_header_alone(make, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        inspect(make())


def test_a_decompression_bomb_is_refused_unopened(tmp_path: Path) -> None:
    for look in (inspect, lambda f: decode(f, target(8, 8))):
        with bomb(tmp_path / "bomb.png").open("rb") as f, pytest.raises(Unreadable, match="over 90 million pixels"):
            look(f)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(format: str) -> None:
    whole = file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), format).read()
    decode(BytesIO(whole), target(8, 8))
    with pytest.raises(Unreadable):
        decode(BytesIO(whole[: len(whole) // 2]), target(8, 8))


def test_colours() -> None:
    assert colour("white") == WHITE
    assert colour("#0000ff") == BLUE
    with pytest.raises(InputError, match="'whyte' is no colour"):
        colour("whyte")
