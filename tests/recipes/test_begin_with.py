"""Going on from a model: its weights, its network, on other data or on the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.loading import load
from unnoise.recipes.latent import LatentRun, codec_at
from unnoise.recipes.options import Options
from unnoise.recipes.run import Run
from unnoise.recipes.train import plan, start


def folder(place: Path, seed: int, size: int = 8) -> str:
    rng = np.random.default_rng(seed)
    for name in ("cup", "pear"):
        (place / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(place / name / f"{i}.png")
    return str(place)


def options(**more: object) -> Options:
    network = {} if "begin_with" in more else {"width": 16, "depth": 1}
    return Options(steps=2, batch=2, **network, **more)


def test_a_run_begins_with_the_weights_of_a_model_and_its_network(tmp_path: Path) -> None:
    old = start(plan(folder(tmp_path / "a", 0), options()), tmp_path / "old")
    planned = plan(folder(tmp_path / "b", 1), options(begin_with=str(tmp_path / "old")))
    assert isinstance(planned.run, Run)
    assert planned.run.model.network == old.config.network
    model, _ = planned.run.task(planned.run.model.build)
    for name, value in old.parts.state_dict().items():
        assert torch.equal(model.parts.state_dict()[name], value), name
    new = start(planned, tmp_path / "new")
    assert new.hash() != old.hash()
    assert load(tmp_path / "new").config.network == old.config.network


def test_a_latent_model_goes_on_with_its_own_codec(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", 0, 16)
    first = plan(data, replace(options(), compression=4), "latent")
    assert isinstance(first.run, LatentRun)
    short = replace(first.run.first, losses=replace(first.run.first.losses, features=0.0), train=first.run.train)
    old = start(replace(first, run=replace(first.run, first=short)), tmp_path / "old")
    planned = plan(data, options(begin_with=str(tmp_path / "old")), "latent")
    new = start(planned, tmp_path / "new")
    assert new.codec.hash() == old.codec.hash() == codec_at(str(tmp_path / "new")).hash()


def test_what_cannot_be_gone_on_from_is_refused(tmp_path: Path) -> None:
    start(plan(folder(tmp_path / "a", 0), options()), tmp_path / "old")
    with pytest.raises(InputError, match="makes Pixels of height 8, width 8, channels 3, and this data is Pixels of height 16"):
        plan(folder(tmp_path / "b", 0, 16), options(begin_with=str(tmp_path / "old")))
    with pytest.raises(InputError, match="no such folder"):
        plan(folder(tmp_path / "c", 0), options(begin_with=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="trains no diffusion model"):
        plan(folder(tmp_path / "d", 0), options(begin_with=str(tmp_path / "old")), "autoencoder")
    with pytest.raises(InputError, match=r"--codec and --begin-with: the one brings what the other asks for"):
        plan(folder(tmp_path / "f", 0), replace(options(begin_with=str(tmp_path / "old")), codec=str(tmp_path / "old")), "latent")
    for name in ("width", "depth", "spelling"):  # the model brings its network and its words
        with pytest.raises(InputError, match=f"--begin-with and --{name}: the one brings what the other asks for along"):
            plan(str(tmp_path / "f"), replace(options(begin_with=str(tmp_path / "old")), **{name: 1}))
    with pytest.raises(InputError, match="this model's codec is Pixels, no autoencoder's"):
        plan(folder(tmp_path / "e", 0), options(codec=str(tmp_path / "old")), "latent")
