"""The condition of super-resolution: Pillow's resampling, the law of the noise, any size, and what fits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.core.codec import UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.enlarging import EnlargingConfig

PLAIN = EnlargingConfig(UnconditionalConfig(), PixelsConfig(16, 12, 1), 2, dim=8, strongest=0.0, strength=0.0)


def as_bytes(x: np.ndarray) -> np.ndarray:
    """-1 ... 1 -> the same, of 256 values."""
    return (x * 127.5 + 127.5).round().clip(0, 255) / 127.5 - 1


def resized(x: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(x.astype(np.float32), "F").resize((width, height), Image.Resampling.BICUBIC))


def test_without_noise_it_is_pillows_bicubic_down_and_up() -> None:
    data = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 1), dtype=np.uint8)
    given = PLAIN.build().from_data(data, Streams.of(0, 3))
    for row, picture in zip(data, given["picture"]):
        low = as_bytes(resized(row[..., 0] / 127.5 - 1, 6, 8))
        np.testing.assert_allclose(picture[0], resized(low, 12, 16), atol=2e-5)
    assert given["strength"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(8, 6), (5, 20)])
def test_made_pictures_of_any_size_are_enlarged_as_pillow_does(height: int, width: int) -> None:
    small = np.random.default_rng(1).integers(0, 256, (2, height, width, 1), dtype=np.uint8)
    made = PLAIN.build().from_made(small, Streams.of(0, 2))["picture"]
    np.testing.assert_allclose(made[1, 0], resized(small[1, ..., 0] / 127.5 - 1, 2 * width, 2 * height), atol=2e-5)


def test_the_noise_keeps_the_variance() -> None:
    """Before it is enlarged low_s = cos low + sin noise, so of a flat picture its pixel mean has the law N(cos c, sin^2 / 48)."""
    s, n = 0.4, 2000
    flat = torch.full((n, 8, 6, 1), 255, dtype=torch.uint8)
    picture = EnlargingConfig(**{**vars(PLAIN), "strength": s}).build().from_made(flat, Streams.of(1, n))["picture"]
    down = torch.nn.functional.interpolate(picture, (8, 6), mode="area").flatten(1).mean(1).double()
    mean, variance = math.cos(math.pi * s / 2), math.sin(math.pi * s / 2) ** 2 / 48
    assert abs(float(down.mean()) - mean) < 4.2 * (variance / n) ** 0.5  # P = 3e-5
    # edges are weighted a little otherwise by the resampling: a tenth of the variance
    assert float(down.var()) == pytest.approx(variance, rel=0.1 + 4.2 * (2 / n) ** 0.5)


def test_strengths_are_even() -> None:
    n = 4000
    given = EnlargingConfig(**{**vars(PLAIN), "strongest": 0.5}).build().from_data(
        torch.full((n, 16, 12, 1), 200, dtype=torch.uint8), Streams.of(2, n)
    )  # fmt: skip
    drawn = given["strength"].double().sort().values
    gap = (drawn / 0.5 - torch.arange(n) / n).abs().max()
    assert float(gap) < 2.3 / n**0.5  # Kolmogorov-Smirnov: P = 5e-5


def test_told_no_words_in_training_it_leaves_prompts_to_the_model_before_it() -> None:
    conditioner, rng = PLAIN.build(), Streams.of(0, 2)
    for said in (conditioner.prepare(["a cat", None]), conditioner.prepare_for(["a cat", None], rng)):
        assert set(said) == {"picture", "strength"}


def test_nothing_made_is_the_same_entries_and_all_is_told() -> None:
    torch.manual_seed(0)
    conditioner = PLAIN.build()
    nothing = conditioner.prepare([None, None])
    given = conditioner.from_made(torch.zeros(2, 8, 6, 1, dtype=torch.uint8), Streams.of(0, 2))
    assert {k: v.shape for k, v in nothing.items()} == {k: v.shape for k, v in given.items()}
    assert conditioner.kept(given) == given
    cond = conditioner(given)
    torch.testing.assert_close(cond["picture"], given["picture"])
    assert cond["vector"].shape == (2, 8)
    assert not torch.equal(cond["vector"], conditioner(nothing)["vector"])


def test_opaque_pictures_enter_a_stage_of_transparent_ones_as_such() -> None:
    conditioner = replace(PLAIN, large=replace(PLAIN.large, channels=4)).build()
    x = torch.randint(0, 256, (2, 8, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    opaque = torch.cat([x, torch.full_like(x[..., :1], 255)], -1)
    told, same = (conditioner.from_made(v, Streams.of(0, 2))["picture"] for v in (x, opaque))
    assert torch.equal(told, same)
    with pytest.raises(InputError, match="enlarges transparent pictures; the model before it makes grey pictures"):
        conditioner.from_made(x[..., :1], Streams.of(0, 2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="enlarges grey pictures; the model before it makes transparent pictures"):
        PLAIN.build().from_made(torch.zeros(1, 16, 12, 4, dtype=torch.uint8), Streams.of(0, 1))
    with pytest.raises(InputError, match="makes none"):
        PLAIN.build().from_made(torch.zeros(1, 5), Streams.of(0, 1))
    with pytest.raises(InputError, match="has none to enlarge"):
        PLAIN.build().alone()
    for bad in ({"factor": 5}, {"factor": 1}, {"strength": 1.5}, {"strongest": -0.1}):
        with pytest.raises(InputError):
            EnlargingConfig(**{**vars(PLAIN), **bad})
