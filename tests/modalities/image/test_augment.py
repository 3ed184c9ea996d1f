"""Variations of a picture against scipy's, and that they are the sample's own."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from unnoise.core.random import Streams
from unnoise.modalities.image.augment import _blurred, _cut_out, _moved, laid, varied


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


def test_transparent_pictures_are_laid_over_white_or_a_light_colour_which_moves_in_from_outside() -> None:
    rng, generator = Streams.of(2, 60), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 6, 6, 4), generator=generator).to(torch.uint8)
    pixels[:, 0, 0, 3] = 0
    out, around = laid(pixels, rng)
    behind = (around.numpy() + 1) / 2
    c, a = pixels[..., :3].numpy() / 255, pixels[..., 3:].numpy() / 255
    np.testing.assert_allclose(out.numpy() / 255, a * c + (1 - a) * behind[:, None, None], atol=0.5 / 255 + 1e-6)
    assert behind.min() >= 0.4 - 1e-6
    white = (behind == 1).all(1).sum()
    assert 8 < white < 52  # of 60 by halves: two-sided tail below 1e-8
    flat = around[:, :, None, None].expand(-1, -1, 9, 9).contiguous()
    torch.testing.assert_close(_moved(flat, rng, around), flat)
    opaque, around = laid(pixels[..., :3], rng)
    assert torch.equal(opaque, pixels[..., :3])
    assert torch.equal(around, torch.ones(60, 3))


def test_a_rectangle_is_cut_out_of_half_of_them() -> None:
    rng, n = Streams.of(3, 40), 20
    x = torch.rand(40, 3, n, n, generator=torch.Generator().manual_seed(0))
    got, some = _cut_out(x, rng), rng.uniform("cut") < 0.5
    where, colour = rng.uniform("cut/where", (4,)).double(), 2 * rng.uniform("cut/colour", (3,)) - 1
    for i, (y, across, high, wide) in enumerate(where.tolist()):
        expected = x[i].clone()
        for row in range(n):
            for column in range(n):
                if some[i] and abs((row + 0.5) / n - y) < 0.2 * high and abs((column + 0.5) / n - across) < 0.2 * wide:
                    expected[:, row, column] = colour[i]
        torch.testing.assert_close(got[i], expected)


@pytest.mark.parametrize("grey", [True, False])
def test_flat_pictures_are_recoloured_by_the_formula(grey: bool) -> None:
    """g (m + f (c - m)) + o: m the mean of the channels, one contrast g and one fullness f a picture, a brightness o a channel."""
    n = 200
    rng, generator = Streams.of(4, n), torch.Generator().manual_seed(0)
    colour = 2 * torch.rand(n, 1 if grey else 3, generator=generator).expand(n, 3) - 1
    x = colour[:, :, None, None].expand(n, 3, 12, 12).contiguous()
    centre = varied(x, rng, colour)[:, :, 6, 6]
    gain = (0.25 * rng.normal("contrast")).clamp(-0.5, 0.5).exp()[:, None]
    fullness = (0.5 + 0.8 * rng.uniform("fullness"))[:, None]
    middle = colour.mean(1, keepdim=True)
    noise = 0.06 * rng.uniform("amount")[:, None] * rng.normal("noise", (3, 12, 12))[:, :, 6, 6]
    expected = gain * (middle + fullness * (colour - middle)) + 0.12 * rng.normal("brightness", (3,)) + noise
    cut = _cut_out(torch.full_like(x, 9.0), rng)[:, :, 6, 6] != 9
    torch.testing.assert_close(centre[~cut], expected[~cut], atol=1e-5, rtol=1e-5)


def test_a_variation_is_the_samples_own() -> None:
    x, rng = torch.rand(4, 3, 16, 16), Streams.of(9, 4)
    whole = varied(x, rng)
    for i in range(4):
        torch.testing.assert_close(varied(x[i : i + 1], rng[i : i + 1])[0], whole[i])
    assert (whole[0] - varied(x[:1], rng[1:2])[0]).abs().max() > 0.1
