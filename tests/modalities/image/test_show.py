import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.modalities.image.show import path_strip, read_meta, save_png, sheet, write_pictures

from .make import noise, png

META = {"prompt": "ein Löwe 🦁\n\x00 \ud800", "seed": 2**62, "guidance": 3.5, "interval": [0, 1], "negative": None}


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", noise(0), META)
    assert read_meta(tmp_path / "a.png") == META
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), noise(0))
    save_png(tmp_path / "a.png", noise(1, channels=1), {})
    assert read_meta(tmp_path / "a.png") == {}
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


def test_files_are_as_readable_as_others(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", noise(0), {})
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "a.png", noise(0), {"old": True})

    def full(self: Image.Image, file: io.BufferedWriter, **options: object) -> None:
        file.write(b"half of it")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_png(tmp_path / "a.png", noise(1), {})
    assert read_meta(tmp_path / "a.png") == {"old": True}
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


def test_metadata_that_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        save_png(tmp_path / "a.png", noise(0), {"guidance": float("nan")})
    assert not any(tmp_path.iterdir())


def test_files_without_our_metadata(tmp_path: Path) -> None:
    plain, jpeg, text = png(tmp_path / "plain.png", 0), png(tmp_path / "a.jpg", 0), tmp_path / "b.png"
    text.write_text("not a picture")
    for path, message in (
        (plain, "does not say how"),
        (jpeg, "not a PNG"),
        (text, "not a PNG"),
        (tmp_path / "gone.png", "not exist"),
    ):
        with pytest.raises(InputError, match=message) as e:
            read_meta(path)
        assert path.name in str(e.value)
        assert "\n" not in str(e.value)


def cells(page: Image.Image, columns: int, rows: int, size: int, line: int = 0) -> list[np.ndarray]:
    x = np.asarray(page)
    at = [(8 + r * (size + line + 8), 8 + c * (size + 8)) for r in range(rows) for c in range(columns)]
    return [x[top : top + size, left : left + size] for top, left in at]


def test_a_sheet_shows_every_picture_enlarged_by_whole_pixels() -> None:
    pictures = [noise(i) for i in range(6)]
    page = sheet(pictures, columns=3, smallest=64)
    for cell, picture in zip(cells(page, 3, 2, 64), pictures):
        assert np.array_equal(cell, picture.repeat(4, 0).repeat(4, 1))


def test_grey_pictures_and_large_ones() -> None:
    big = noise(0, 200, 200, 1)
    page = sheet([big])
    assert np.array_equal(cells(page, 1, 1, 200)[0], big.repeat(3, -1))


def test_captions_change_only_the_room_below_their_picture() -> None:
    pictures = [noise(i) for i in range(2)]
    page = np.asarray(sheet(pictures, ["a", "a rather long caption of several words, " * 5], columns=2))
    bare = np.asarray(sheet(pictures, columns=2))
    assert page.shape[1] == bare.shape[1]
    assert np.array_equal(page[: 8 + 128], bare[: 8 + 128])
    below = page[8 + 128 :]
    left, right = below[:, : 8 + 128 + 4], below[:, 8 + 128 + 4 :]
    assert 0 < (left < 100).sum() < (right < 100).sum()
    assert (page[:, -7:] > 200).all()  # no ink runs off the page


def test_words_too_long_for_a_line_are_cut() -> None:
    page = np.asarray(sheet([noise(0)], ["x" * 500]))
    assert (page[8 + 128 :, -7:] > 200).all()


def test_a_path_has_a_row_a_sample() -> None:
    frames = [[noise(10 * k + b, 96, 96) for b in range(2)] for k in range(3)]
    x = np.asarray(path_strip(frames))
    flat = [frames[k][b] for b in range(2) for k in range(3)]
    for cell, picture in zip(cells(Image.fromarray(x), 3, 2, 96), flat):
        assert np.array_equal(cell, picture)


@pytest.mark.parametrize(("each", "columns"), [(2, 2), (5, 5), (16, 16), (17, 7)])
def test_prompts_with_several_pictures_have_a_row_each(each: int, columns: int, tmp_path: Path) -> None:
    """Up to 16; of more, 34 pictures with captions are about square: the root of 1.3 x 34 is 6.6."""
    pictures = [noise(i, 128, 128) for i in range(2 * each)]
    files = write_pictures(pictures, tmp_path, [{"prompt": p} for p in "ab" for _ in range(each)])
    width, _ = Image.open(files[-1]).size
    assert width == columns * (128 + 8) + 8


def test_a_sheet_of_very_many_shows_the_first_256_and_says_so(tmp_path: Path) -> None:
    pictures = [noise(i, 4, 4) for i in range(258)]
    for n, title in ((256, ""), (258, "the first 256 of 258")):
        files = write_pictures(pictures[:n], tmp_path, [{"seed": 0}] * n)
        assert len(files) == n + 1
        assert np.array_equal(np.asarray(Image.open(files[-1])), np.asarray(sheet(pictures[:256], columns=16, title=title)))


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8)])
def test_what_is_no_picture(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="a picture is uint8"):
        sheet([bad])


def test_mismatches() -> None:
    for wrong in (
        lambda: sheet([]),
        lambda: sheet([noise(0)], ["a", "b"]),
        lambda: path_strip([]),
        lambda: path_strip([[noise(0)], []]),
    ):
        with pytest.raises(InputError):
            wrong()


def test_emoji_in_captions_are_written_as_their_names() -> None:
    """The font has none: they were boxes."""
    picture = np.zeros((64, 64, 3), np.uint8)
    page, said, other = (np.asarray(sheet([picture], [c])) for c in ("a \U0001f34e", "a red apple", "a"))
    assert np.array_equal(page, said)
    assert not np.array_equal(page, other)
