"""The recipes named after papers train and sample by the numbers that these print; what is the recipe's own is not here."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.processes import Gaussian
from unnoise.networks.mp_unet import MPUNetConfig
from unnoise.networks.unet import UNetConfig
from unnoise.recipes.options import Options
from unnoise.recipes.run import Run
from unnoise.recipes.train import plan

NORMAL = torch.special.ndtr(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))  # where these lie, as fractions of the draws


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for i, picture in enumerate(x):
        Image.fromarray(picture).save(place / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def data_std(folder: Path) -> float:
    """EDM's sigma_data, of the pictures in [-1, 1]."""
    return float(np.stack([np.asarray(Image.open(f)) for f in folder.iterdir()]).std() / 127.5)


def planned(folder: Path, recipe: str, **options: int) -> Run:
    run = plan(str(folder), Options(**options), recipe).run
    assert isinstance(run, Run)
    return run


def parts(run: Run) -> tuple[Denoising, Gaussian]:
    assert isinstance(run.objective, Denoising)
    assert isinstance(run.objective.loss, SquaredError)
    assert isinstance(run.model.process, Gaussian)
    return run.objective, run.model.process


@pytest.mark.parametrize(("recipe", "mean", "std"), [("edm", -1.2, 1.2), ("edm2", -0.4, 1.0)])
def test_edm(recipe: str, mean: float, std: float, folder: Path, data_std: float) -> None:
    """Karras et al. 2022 (2206.00364), table 1, column "ours"; NFE 35 is that of its table 2 for 32 x 32.

    P_mean and P_std of edm2 are those of Karras et al. 2024 (2312.02696) for ImageNet-512; its table of hyperparameters.
    """
    run = planned(folder, recipe)
    objective, process = parts(run)
    t = objective.times.ppf(NORMAL, process)
    sigma = process.schedule.sigma(t)
    torch.testing.assert_close(sigma.log(), mean + std * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(process.schedule.alpha(t), torch.ones_like(t))
    torch.testing.assert_close(process.schedule.sigma(torch.tensor(1.0)), torch.tensor(80.0))

    d = data_std
    weight = objective.loss.weight(process.schedule, t)
    torch.testing.assert_close(weight, (sigma**2 + d**2) / (sigma * d) ** 2)

    x, f = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    s = sigma[:, None, None, None]
    seen, _ = run.model.preconditioner.before(process, x, t)
    torch.testing.assert_close(seen, x / (s**2 + d**2).sqrt().float())
    got = run.model.preconditioner.after(process, f, x, t).x0
    want = d**2 / (s**2 + d**2) * x + s * d / (s**2 + d**2).sqrt() * f
    torch.testing.assert_close(got, want, check_dtype=False, rtol=1e-5, atol=1e-5)

    how = run.model.sampling
    sampler, grid = how.choice()
    assert sampler.calls(how.steps) == 35  # two for each of 18 steps but the last
    assert getattr(sampler, "churn", None) == 0
    i = torch.arange(18, dtype=torch.float64)
    walk = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(process.schedule.sigma(grid.times(how.steps, process))[:-1], walk)


def test_what_edm2_adds(folder: Path) -> None:
    """2312.02696, table of hyperparameters and eq. 67: Adam at 0.01, which falls with the root of the steps; u(sigma) learned."""
    run = planned(folder, "edm2", steps=4000)
    assert isinstance(run.model.network, MPUNetConfig)
    assert (run.train.optimiser.lr, run.train.optimiser.betas) == (1e-2, (0.9, 0.99))
    assert run.train.optimiser.weight_decay == 0
    assert run.train.lr_factor(999) == 1
    assert math.isclose(run.train.lr_factor(3999) / run.train.lr_factor(1999), math.sqrt(1999 / 3999))
    assert run.learned_uncertainty
    assert not planned(folder, "edm").learned_uncertainty


def test_ddpm(folder: Path) -> None:
    """Ho et al. 2020 (2006.11239), section 4 and appendix B; sampling is algorithm 2, with the posterior's variance (eq. 7)."""
    run = planned(folder, "ddpm")
    objective, process = parts(run)
    network = run.model.network
    assert isinstance(network, UNetConfig)
    assert (network.width, network.multipliers, network.blocks, network.attention) == (128, (1, 2, 2, 2), 2, (1,))
    assert network.dropout == 0.1
    t = torch.tensor([1, 500, 1000], dtype=torch.float64) / 1000
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[[0, 499, 999]]
    alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
    torch.testing.assert_close(alpha**2, kept)
    torch.testing.assert_close(sigma**2, 1 - kept)

    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(objective.times.ppf(u, process), u)
    x_0, e, said = (torch.randn(3, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    a, s = (v[:, None, None, None] for v in (alpha, sigma))
    x_t = a * x_0 + s * e
    x0 = run.model.preconditioner.after(process, said, x_t, t)
    loss = objective.loss(process, x0, x_0, x_t, t)
    simple = (said - e).square().flatten(1).mean(1)  # eq. 14
    torch.testing.assert_close(loss, simple, check_dtype=False, rtol=1e-4, atol=1e-4)
    assert (run.train.optimiser.lr, run.train.optimiser.betas) == (2e-4, (0.9, 0.999))

    how = run.model.sampling
    sampler, grid = how.choice()
    assert (how.steps, how.guidance) == (1000, 1.0)
    torch.testing.assert_close(grid.times(how.steps, process), torch.arange(1000, -1, -1, dtype=torch.float64) / 1000)
    assert getattr(sampler, "eta", None) == 1
