"""The codec of latent models, and tiles: against the network itself, and against the whole picture at once."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.modalities.image.alpha import straight
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.latents import Latents, LatentsConfig
from unnoise.modalities.image.tiling import Tiling, tiled
from unnoise.networks.autoencoder import AutoencoderConfig, Normalised
from unnoise.networks.bottlenecks import CodebookConfig, FiniteScalarsConfig, KLConfig


def network(channels: int = 3, **options: object) -> AutoencoderConfig:
    return AutoencoderConfig(channels, KLConfig(3), 2, (8, 8), (1, 1), **options)


def codec(height: int, width: int, channels: int = 3, tile: int = 512, **options: object) -> Latents:
    """With every weight drawn, so that everything has an influence."""
    torch.manual_seed(0)
    made = LatentsConfig(height, width, channels, network(channels, **options), tile).build().eval()
    with torch.no_grad():
        for p in made.autoencoder.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


def pictures(n: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (n, height, width, channels), dtype=np.uint8))


def test_the_state_is_the_networks_code_normalised() -> None:
    c, x = codec(8, 12), pictures(5, 8, 12)
    pixels = PixelsConfig(8, 12, 3).build()
    z = c.autoencoder.encode(pixels.encode(x))
    torch.testing.assert_close(c.encode(x), z)  # mean 0 and spread 1 until they are measured
    decoded = pixels.decode(c.autoencoder.decode(z))
    assert torch.equal(c.decode(z), decoded)
    c.measure([x[:2], x[2:]])
    flat = z.movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(c.mean, flat.mean(0))
    torch.testing.assert_close(c.std, flat.std(0, unbiased=False))
    torch.testing.assert_close(c.encode(x) * c.std[:, None, None] + c.mean[:, None, None], z, atol=1e-5, rtol=1e-4)
    assert int((c.decode(c.encode(x)).int() - decoded.int()).abs().max()) <= 1


def test_batch_normalisations_are_settled_on_pictures() -> None:
    """Of weights whose running statistics are another's: behind the norm every channel then has mean 0 and variance 1."""
    torch.manual_seed(0)
    c = LatentsConfig(8, 8, 3, AutoencoderConfig(3, CodebookConfig(5, 9), 2, (8, 8), (1, 1))).build().eval()
    (norm,) = (m for m in c.autoencoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.running_mean is not None
    norm.running_mean.fill_(7.0)
    seen: list[torch.Tensor] = []
    c.settle([pictures(6, 8, 8)])
    norm.register_forward_hook(lambda m, given, out: seen.append(out))
    c.encode(pictures(6, 8, 8))
    flat = seen[0].movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(flat.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.var(0), torch.ones(5), atol=1e-2, rtol=0)
    assert not norm.training
    assert norm.momentum == 0.1


def test_sides_that_do_not_divide_are_padded_and_cropped() -> None:
    """As if the picture's border had been repeated by hand."""
    c, x = codec(7, 10), pictures(2, 7, 10)
    assert c.shape() == (3, 2, 3)
    by_hand = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 1), (0, 2), (0, 0)), mode="edge"))
    whole = c.resized(8, 12)
    torch.testing.assert_close(c.encode(x), whole.encode(by_hand))
    assert torch.equal(c.decode(c.encode(x)), whole.decode(whole.encode(by_hand))[:, :7, :10])


def test_a_resized_codec_shares_its_weights() -> None:
    c = codec(8, 8)
    other = c.resized(16, 12)
    assert other.shape() == (3, 4, 3)
    assert c.shape() == (3, 2, 2)
    assert other.autoencoder is c.autoencoder
    assert other.hash() == c.hash()
    assert other.encode(pictures(1, 16, 12)).shape == (1, 3, 4, 3)


def test_transparency_goes_in_premultiplied_and_comes_out_straight() -> None:
    c, x = codec(8, 8, 4), pictures(2, 8, 8, 4)
    inside = c.autoencoder.decode(c.encode(x))
    expected = (straight((inside + 1) / 2) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(c.decode(c.encode(x)), expected)


def test_quantised_states_are_snapped_to_codes() -> None:
    torch.manual_seed(0)
    c = LatentsConfig(8, 8, 3, AutoencoderConfig(3, FiniteScalarsConfig((4, 4)), 2, (8,), (1,))).build().eval()
    c.measure([pictures(4, 8, 8)])
    state = c.encode(pictures(1, 8, 8))
    assert torch.equal(c.decode(state), c.decode(state + 0.01 * torch.randn_like(state)))


def test_the_posterior_is_where_the_state_lies() -> None:
    c, x = codec(8, 8), pictures(3, 8, 8)
    c.measure([x])
    mean, std = c.posterior(x)
    torch.testing.assert_close(mean, c.encode(x))
    assert float(std.min()) > 0


def test_bad_input_is_refused() -> None:
    c = codec(8, 8)
    with pytest.raises(InputError, match=r"takes \(B, 8, 8, 3\)"):
        c.encode(pictures(1, 8, 9))
    with pytest.raises(InputError, match=r"takes \(B, 8, 8, 3\)"):
        c.encode(pictures(1, 8, 8, 4))
    with pytest.raises(InputError, match=r"decodes one tensor \(B, 3, h, w\)"):
        c.decode(torch.zeros(1, 4, 2, 2))
    with pytest.raises(InputError, match="does not fit pictures of 4"):
        LatentsConfig(8, 8, 4, network(3))
    with pytest.raises(InputError, match="no pictures to measure"):
        c.measure([])


# -- tiles -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(200, 136), (96, 232)])
def test_tiles_of_networks_without_normalisation_are_exactly_the_whole(size: tuple[int, int]) -> None:
    whole, parts = codec(*size, tile=4096), codec(*size, tile=4)
    assert parts.tiling(4).side < max(size)
    x = pictures(1, *size)
    torch.testing.assert_close(parts.encode(x), whole.encode(x), atol=1e-5, rtol=1e-5)
    z = whole.encode(x)
    assert int((parts.decode(z).int() - whole.decode(z).int()).abs().max()) <= 1  # a rounding at a half


def test_tiles_of_normalised_networks_show_no_steps_between_them() -> None:
    """They differ from the whole, but the difference changes no faster than where there is no seam, many times over."""
    whole, parts = (codec(256, 96, tile=t, kind=Normalised(4)) for t in (4096, 4))
    z = torch.randn(1, 3, 64, 24) * torch.linspace(0.2, 2, 64)[:, None]  # tiles of different statistics
    difference = parts.autoencoder.decode(z)[0] * 0
    f = whole.config.autoencoder.factor
    difference = tiled(whole.autoencoder.decode, z, parts.tiling(1), Fraction(f)) - whole.autoencoder.decode(z)
    steps = difference.diff(dim=2).square().mean((0, 1, 3)).sqrt()
    assert float(steps.max()) < 0.2 * float(difference.square().mean().sqrt() + whole.autoencoder.decode(z).std())


def test_tiling_a_map_of_single_pixels_is_the_map_at_any_scale() -> None:
    how = Tiling(side=12, margin=2, fade=2, grain=2)
    x = torch.randn(2, 3, 38, 26)
    torch.testing.assert_close(tiled(torch.sin, x, how), torch.sin(x))
    pool, grow = torch.nn.AvgPool2d(2), torch.nn.Upsample(scale_factor=2)
    torch.testing.assert_close(tiled(pool, x, how, Fraction(1, 2)), pool(x))
    torch.testing.assert_close(tiled(grow, x, how, Fraction(2)), grow(x))


def test_every_pixel_is_covered_by_more_than_margins() -> None:
    for length in range(12, 80, 2):
        how = Tiling(side=12, margin=2, fade=2, grain=2)
        starts = how.starts(length)
        assert starts[0] == 0
        assert starts[-1] + 12 == length
        assert all(b - a <= 12 - 2 * 2 - 2 for a, b in pairwise(starts))


def test_tiles_of_only_margins_are_refused() -> None:
    with pytest.raises(ValueError, match="wider than its margins"):
        Tiling(side=8, margin=3, fade=2)


def test_a_broken_decoder_is_refused() -> None:
    broken = codec(8, 8)
    with torch.no_grad():
        for p in broken.autoencoder.parameters():
            p.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite: its weights are broken"):
        broken.decode(torch.zeros(1, *broken.shape()))
