"""Variations of a picture against scipy's, and that they are the sample's own."""

import numpy as np
import torch
from scipy import ndimage

from unnoise.core.random import Streams
from unnoise.modalities.image.augment import _blurred, _moved, varied


def test_moved_as_scipy_moves() -> None:
    """grid_sample's coordinates (u, v) in [-1, 1] at pixel centres: u = (2 i + 1) / n - 1; outside is white."""
    rng, n = Streams.of(5, 6), 17
    x = torch.rand(6, 2, n, n, generator=torch.Generator().manual_seed(0)) * 2 - 1
    got = _moved(x, rng).numpy()
    u = (2 * np.arange(n) + 1) / n - 1
    v, h = np.meshgrid(u, u, indexing="ij")
    for i, (turn, zoom, squeeze, right, down) in enumerate((2 * rng.uniform("moved", (5,)) - 1).double().tolist()):
        c, s, wide = np.cos(0.25 * turn), np.sin(0.25 * turn), np.exp(0.25 * zoom)
        high = wide * np.exp(0.1 * squeeze)
        across, along = wide * (c * h - s * v) + 0.2 * right, high * (s * h + c * v) + 0.2 * down
        places = np.stack([(along + 1) * n / 2 - 0.5, (across + 1) * n / 2 - 0.5])
        for k in range(2):
            # white beyond the edge, as far as interpolation looks
            padded = np.pad(x[i, k].numpy().astype(np.float64), 2, constant_values=1.0)
            expected = ndimage.map_coordinates(padded, places + 2, order=1, mode="constant", cval=1.0)
            np.testing.assert_allclose(got[i, k], expected, atol=2e-5)


def test_white_stays_white_and_blur_keeps_the_mean() -> None:
    rng = Streams.of(1, 40)
    torch.testing.assert_close(_moved(torch.ones(40, 3, 12, 12), rng), torch.ones(40, 3, 12, 12))
    flat = torch.rand(40, 3, 1, 1).expand(-1, -1, 12, 12).contiguous()
    torch.testing.assert_close(_blurred(flat, rng), flat)
    x = torch.randn(40, 1, 12, 12)
    changed = (_blurred(x, rng) != x).flatten(1).any(1)
    torch.testing.assert_close(changed, rng.uniform("blurred") >= 0.5)


def test_a_variation_is_the_samples_own() -> None:
    x, rng = torch.rand(4, 3, 16, 16), Streams.of(9, 4)
    whole = varied(x, rng)
    for i in range(4):
        torch.testing.assert_close(varied(x[i : i + 1], rng[i : i + 1])[0], whole[i])
    assert (whole[0] - varied(x[:1], rng[1:2])[0]).abs().max() > 0.1
