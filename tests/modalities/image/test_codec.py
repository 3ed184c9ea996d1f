import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.show import read_meta


def test_encoding_is_the_line_from_0_255_to_minus_1_1() -> None:
    codec = PixelsConfig(1, 4, 1).build()
    x = codec.encode(np.array([0, 51, 204, 255], dtype=np.uint8).reshape(1, 1, 4, 1))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.0, -0.6, 0.6, 1.0]))


def test_every_grey_level_and_channel_comes_back() -> None:
    codec = PixelsConfig(16, 16, 3).build()
    x = torch.stack([torch.arange(256).reshape(16, 16).roll(k, 1) for k in range(3)], -1).to(torch.uint8)[None]
    assert tuple(codec.encode(x).shape) == (1, *codec.shape())
    assert torch.equal(codec.decode(codec.encode(x)), x)


def test_decoding_rounds_to_nearest_and_clamps() -> None:
    codec = PixelsConfig(1, 6, 1).build()
    x = torch.tensor([-7.0, 9.0, torch.inf, torch.nan, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1]).reshape(1, 1, 1, 6)
    assert codec.decode(x).flatten().tolist() == [0, 255, 255, 0, 100, 101]


@pytest.mark.parametrize(
    "data", [np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 4, 5, 3), np.uint8), np.zeros((1, 3, 4, 4), np.uint8)]
)
def test_other_pictures_are_refused(data: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"takes \(B, 4, 4, 3\)"):
        PixelsConfig(4, 4, 3).build().encode(data)


@pytest.mark.parametrize("bad", [(0, 4, 3, 0.5), (4, 4, 2, 0.5), (4, 4, 3, 0.0), (4, 4, 3, float("nan"))])
def test_impossible_configurations_are_refused(bad: tuple) -> None:
    with pytest.raises(InputError):
        PixelsConfig(*bad)


def test_writing_says_how_each_picture_was_made(tmp_path) -> None:
    codec = PixelsConfig(4, 4, 3).build()
    x = torch.arange(4 * 48, dtype=torch.uint8).reshape(4, 4, 4, 3)
    meta = [{"prompt": p, "sample_seed": s, "seed": 7} for p, s in zip(("a red apple", "a red apple", "zéro/../x", None), range(4))]
    files = codec.write(x, tmp_path, meta)
    assert [f.name for f in files] == ["0000-a-red-apple.png", "0001-a-red-apple.png", "0002-z-ro-x.png", "0003.png", "sheet.png"]
    assert read_meta(files[2]) == {"prompt": "zéro/../x", "sample_seed": 2, "seed": 7, "index": 2}
    sheet = read_meta(files[-1])
    assert sheet["seed"] == 7
    assert sheet["prompts"] == ["a red apple", "a red apple", "zéro/../x", None]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f.name for f in files)  # nothing half-written beside them
