"""Against scipy's Gaussian filter, and against the formula written out at one place."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from unnoise.core.errors import InputError
from unnoise.evaluation.ssim import ssim


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, by scipy: a window of radius 5 is 11 pixels wide; the border, where it would stick out, is cut off."""

    def mean(v: np.ndarray) -> np.ndarray:
        return gaussian_filter(v, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return float(((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def test_it_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (2, 3, 20, 17))
    y = np.clip(x + rng.normal(0, 40, x.shape), 0, 255)
    expected = [np.mean([reference(x[b, c], y[b, c]) for c in range(3)]) for b in range(2)]
    np.testing.assert_allclose(ssim(torch.from_numpy(x), torch.from_numpy(y)).numpy(), expected, rtol=1e-9)


def test_constant_pictures_have_the_closed_form_of_their_means() -> None:
    c1 = (0.01 * 255) ** 2
    x, y = torch.full((1, 1, 11, 11), 100.0), torch.full((1, 1, 11, 11), 150.0)
    assert float(ssim(x, y)) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), rel=1e-9)
    assert float(ssim(x / 255, y / 255, span=1.0)) == pytest.approx(float(ssim(x, y)), rel=1e-6)


def test_pictures_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(InputError, match="11 pixels"):
        ssim(torch.zeros(1, 1, 10, 20), torch.zeros(1, 1, 10, 20))
