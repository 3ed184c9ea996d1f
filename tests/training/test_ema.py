"""The averages against their closed forms, and reconstruction against averages that were really tracked."""

import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.training.distributed import World
from unnoise.training.ema import Averages, gamma_of, inner, reconstruct, save_snapshot


def profile(gamma, steps):
    """The weight of theta(1) ... theta(steps) in the average, from the telescoped closed form."""
    edges = (np.arange(steps + 1) / steps) ** (gamma + 1)
    return np.diff(edges)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.10, 0.2, 0.27])
def test_gamma_gives_the_width(width):
    gamma, n = gamma_of(width), 200_000
    p, tau = profile(gamma, n), (np.arange(n) + 0.5) / n
    assert np.sqrt(p @ tau**2 - (p @ tau) ** 2) == pytest.approx(width, rel=1e-4)
    assert gamma > 0


@pytest.mark.parametrize("width", [0.05, 0.10])
def test_recursion_equals_the_closed_form(width):
    steps = 300
    path = torch.randn(steps, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
    p = torch.zeros(7)
    averages = Averages({"w": p}, [width], World())
    for t in range(steps):
        p.copy_(path[t])
        averages.update(t + 1)
    expected = torch.from_numpy(profile(gamma_of(width), steps)) @ path
    # float32: about sqrt(steps) roundings of half an ulp of values near 20
    torch.testing.assert_close(averages.values[width]["w"].double(), expected, rtol=0, atol=2e-5)


def test_inner_products_are_those_of_the_profiles():
    t, w = 400_000, np.linspace(0, 1, 400_001)[1:]
    for t_a, g_a, t_b, g_b in [(1.0, 6.9, 1.0, 16.7), (0.6, 6.9, 1.0, 16.7), (1.0, 6.9, 0.25, 3.0)]:
        p_a = np.where(w <= t_a, (g_a + 1) * w**g_a / t_a ** (g_a + 1), 0)
        p_b = np.where(w <= t_b, (g_b + 1) * w**g_b / t_b ** (g_b + 1), 0)
        assert inner(np.array(t_a), np.array(g_a), np.array(t_b), np.array(g_b)) == pytest.approx(p_a @ p_b / t, rel=1e-3)


@pytest.mark.parametrize(("width", "step"), [(0.07, None), (0.15, None), (0.05, 600), (0.12, 800), (0.07, 849), (0.15, 5000)])
def test_any_width_after_the_fact(tmp_path, width, step):
    """A smooth path of weights, as training makes; snapshots of two widths give a third one, at any snapshot's step.

    At any other step it is that of the last snapshot up to it.
    """
    steps, every = 1000, 50
    u = torch.arange(1, steps + 1, dtype=torch.float64)[:, None] / steps
    path = torch.cat([u.sqrt(), torch.cos(5 * u), (-3 * u).exp(), u**2 + 0.1 * torch.sin(20 * u)], 1)
    p = torch.zeros(4)
    averages = Averages({"w": p}, [0.05, 0.10], World())
    for t in range(1, steps + 1):
        p.copy_(path[t - 1])
        averages.update(t)
        if t % every == 0:
            for w, values in averages.values.items():
                save_snapshot(tmp_path, w, t, values)
    end = min(step or steps, steps) // every * every
    expected = torch.from_numpy(profile(gamma_of(width), end)) @ path[:end]
    # snapshots are float16 (relative error 5e-4), their coefficients sum to 1 and are of order 1
    torch.testing.assert_close(reconstruct(tmp_path, width, step)["w"].double(), expected, rtol=0, atol=4e-3)
    # and it is no near miss: the path has moved, so the tracked averages themselves are further off
    assert all((values["w"] - expected).abs().max() > 8e-3 for values in averages.values.values())


def test_reconstruction_needs_snapshots(tmp_path):
    with pytest.raises(InputError, match="no averaged weights"):
        reconstruct(tmp_path, 0.1)
    with pytest.raises(InputError, match=r"between 0 and 0\.28"):
        reconstruct(tmp_path, 0.5)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "ema-0.0500-00000010.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"00000010\.safetensors: cannot be read"):
        reconstruct(tmp_path, 0.1)
