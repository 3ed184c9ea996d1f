"""Dynamic thresholding against numpy's quantile and diffusers' implementation."""

import numpy as np
import pytest
import torch

from unnoise.control.thresholding import thresholded, upper_quantile
from unnoise.core.errors import InputError
from unnoise.core.predictions import Logits, Mean

X = torch.randn(6, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(
    [0.1, 0.3, 0.5, 1.0, 2.0, 5.0], dtype=torch.float64
).reshape(-1, 1, 1, 1)
T = torch.full((6,), 0.5, dtype=torch.float64)


@pytest.mark.parametrize("q", [0.0, 0.37, 0.5, 0.99, 0.995, 1.0])
@pytest.mark.parametrize("n", [1, 2, 101, 105])
def test_the_quantile_is_numpys(q, n):
    a = X.flatten(1)[:, :n].abs()
    torch.testing.assert_close(upper_quantile(a, q), torch.from_numpy(np.quantile(a.numpy(), q, axis=1)))


@pytest.mark.parametrize("q", [0.9, 0.995])
def test_it_is_imagens_as_diffusers_has_it(q):
    scheduler = pytest.importorskip("diffusers").DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=q, sample_max_value=1e9
    )
    torch.testing.assert_close(thresholded(lambda x, t: Mean(x), q)(X, T).x0, scheduler._threshold_sample(X))


def test_the_bound_is_the_datas_and_what_lies_within_stays():
    got = thresholded(lambda x, t: Mean(x), 0.9, bound=2.0)(X, T).x0
    assert torch.equal(got[:2], X[:2])
    assert float(got.abs().max()) == 2.0
    torch.testing.assert_close(got, 2 * thresholded(lambda x, t: Mean(x / 2), 0.9)(X, T).x0)  # the unit does not matter


def test_refusals():
    for quantile, bound, message in (
        (1.5, 1.0, "quantile"),
        (-0.1, 1.0, "quantile"),
        (0.9, 0.0, "bound"),
        (0.9, float("nan"), "bound"),
    ):
        with pytest.raises(InputError, match=message):
            thresholded(lambda x, t: Mean(x), quantile, bound)
    with pytest.raises(InputError, match="mean of continuous data; this model predicts Logits"):
        thresholded(lambda x, t: Logits(x))(X, T)
