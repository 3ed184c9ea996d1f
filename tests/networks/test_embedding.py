"""Noise features have unit power, rotary positions are relative, and nothing depends on the dtype of the weights."""

import pytest
import torch

from unnoise.networks.embedding import Fourier, Learned, NoiseFeatures, Sinusoidal, centred_grid, rotary_2d, rotate, sincos_2d

FEATURES = [Sinusoidal(), Fourier(), Learned(2.0)]


@pytest.mark.parametrize("features", FEATURES, ids=lambda f: type(f).__name__)
def test_features_have_unit_mean_square(features: NoiseFeatures) -> None:
    """2 cos^2 is 1 on average over the phase: exactly for a pair of sine and cosine. Its variance is 1/2, so the mean over 256
    independent phases has a standard error of 0.044; spread phases stay within 4 of these.
    """
    x = torch.linspace(-5, 5, 101)
    power = features.build(256)(x).square().mean(1)
    torch.testing.assert_close(power, torch.ones(101), rtol=0, atol=4 * (0.5 / 256) ** 0.5)


@pytest.mark.parametrize("features", FEATURES, ids=lambda f: type(f).__name__)
def test_features_tell_levels_apart_and_vary_smoothly(features: NoiseFeatures) -> None:
    """Distinct levels get distinct features, and a step of 1e-3 moves them by no more than the fastest frequency allows."""
    x = torch.linspace(-5, 5, 201)
    module = features.build(128)
    f = module(x)
    distance = torch.cdist(f, f) + 1e9 * torch.eye(201)
    assert bool((distance > 0.1).all())
    steps = (module(x + 1e-3) - f).abs().max()
    assert steps.item() < 2**0.5 * 1e-3 * 110


def test_fourier_frequencies_follow_the_normal_law() -> None:
    """Quantiles of N(0, (2 pi bandwidth)^2): the variance of 4096 mid-point quantiles is within 0.5 % of it."""
    module = Learned(1.5).build(4096)
    assert float(module.frequencies.std()) == pytest.approx(2 * torch.pi * 1.5, rel=5e-3)
    assert abs(float(torch.corrcoef(torch.stack([module.frequencies, module.phases]))[0, 1])) < 0.02


@pytest.mark.parametrize("features", [Sinusoidal(), Fourier()], ids=lambda f: type(f).__name__)
def test_casting_the_network_does_not_touch_the_frequencies(features: NoiseFeatures) -> None:
    x = torch.linspace(-5, 5, 11)
    assert torch.equal(features.build(64).bfloat16()(x), features.build(64)(x))


def test_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        Sinusoidal().build(7)


def test_rotary_products_depend_on_the_difference_of_positions_alone() -> None:
    """q at p and k at p + d give the same product wherever p is: in one grid, and between grids of different sizes."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    products: dict[tuple[float, float], list[float]] = {}
    for height, width in ((4, 5), (7, 3)):
        cos, sin = (c.double() for c in rotary_2d(height, width, 16))
        y, x = centred_grid(height, width)
        scores = rotate(q.expand(len(y), -1), cos, sin) @ rotate(k.expand(len(y), -1), cos, sin).T
        for i in range(len(y)):
            for j in range(len(y)):
                products.setdefault((float(y[i] - y[j]), float(x[i] - x[j])), []).append(float(scores[i, j]))
    assert all(max(p) - min(p) < 1e-5 for p in products.values())
    assert len({round(p[0], 6) for p in products.values()}) == len(products)  # and differences tell apart


def test_rotation_is_the_complex_product() -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    angle = torch.randn(6, 4, dtype=torch.float64)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(rotate(x, angle.cos(), angle.sin()), torch.cat([turned.real, turned.imag], -1))


def test_positions_are_centred_and_distinct() -> None:
    y, x = centred_grid(3, 4)
    assert float(y.sum()) == float(x.sum()) == 0
    assert y.view(3, 4)[:, 0].tolist() == [-1, 0, 1]
    assert x.view(3, 4)[0].tolist() == [-1.5, -0.5, 0.5, 1.5]
    codes = sincos_2d(9, 13, 32)
    assert float((torch.cdist(codes, codes) + 1e9 * torch.eye(9 * 13)).min()) > 0.1
