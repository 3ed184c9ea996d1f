"""A run with --internal-guidance saves a model whose middle head knows the data, and sampling is led away from that head."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.cli.sample import run as sample_command
from unnoise.control.self_guidance import Internal
from unnoise.core.denoisers import two_headed
from unnoise.core.errors import InputError
from unnoise.core.objectives import Denoising, DenoisingTwice
from unnoise.core.processes.gaussian import mean
from unnoise.core.random import Streams
from unnoise.loading import load
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.options import Options
from unnoise.recipes.train import plan, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one grey each, 40 or 210."""
    place = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        Image.fromarray(np.full((8, 8), (40, 210)[i % 2], dtype=np.uint8)).save(place / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(folder, out, internal_guidance=True, steps=100, batch=16, width=32, depth=2, lr=5e-3)
    return out


def test_both_heads_are_trained(run: Path) -> None:
    """Where the noise is a third of the picture's spread, the mean of a picture tells which of the two it is (64 pixels: 15 sigma
    apart), so the truth is known; both heads come near it, where a head that was not trained says 0."""
    denoiser = two_headed(load(run).denoiser)
    x_0 = torch.tensor([40.0, 210.0]).repeat(16)[:, None, None, None].expand(32, 1, 8, 8) / 127.5 - 1
    t = torch.full((32,), 0.25, dtype=torch.float64)
    x_t = denoiser.process.corrupt(x_0, t, Streams.of(0, 32)).x_t
    with torch.no_grad():
        for said in denoiser.both(x_t, t, {}):
            assert (mean(said) - x_0).square().mean() < 0.1 * x_0.square().mean()


def test_samples_are_led_away_from_the_middle_head(run: Path, tmp_path: Path) -> None:
    """One Euler step from pure noise is what the denoiser says there: D_middle + w (D - D_middle)."""
    model = load(run)
    how = {"n": 4, "seed": 5, "steps": 1, "sampler": "euler"}
    plain, guided = (model.sample(**how, inner=inner).data.float() for inner in (None, Internal(1.5)))
    x = model.config.process.prior(model.codec.shape(), Streams.each(model.sample(**how).seeds))
    with torch.no_grad():
        last, middle = (mean(said) for said in two_headed(model.denoiser).both(x, torch.ones(4, dtype=torch.float64), {}))
    for got, expected in ((plain, last), (guided, middle + 1.5 * (last - middle))):
        assert torch.equal(got, model.codec.decode(expected).float())
    sample_command([str(run), "-n", "2", "--steps", "2", "--inner", "internal", "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").glob("*.png"))) == 3  # two samples and the sheet


def test_the_option_gives_the_network_a_head_and_the_objective_its_loss(folder: Path) -> None:
    for recipe in ("pictures", "latent"):
        plain, twice = (plan(str(folder), Options(internal_guidance=g, width=16), recipe).run for g in (False, True))
        assert isinstance(plain.model.network, DiffusionTransformerConfig)
        assert (plain.model.network.head_at, twice.model.network.head_at) == (0, plain.model.network.depth // 2)
        assert isinstance(plain.objective, Denoising)
        assert twice.objective == DenoisingTwice(plain.objective)
    with pytest.raises(InputError, match="not for recipe 'unet'; those that take it are pictures, latent"):
        plan(str(folder), Options(internal_guidance=True), "unet")
    with pytest.raises(InputError, match="--depth 2 at least"):
        plan(str(folder), Options(internal_guidance=True, depth=1))
