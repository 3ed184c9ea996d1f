"""The recipe `scenes`: from its name to a model folder that counts, whatever it has learnt of how things look."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.control.layout.conditioner import Planned, PlannedConfig
from unnoise.control.layout.planner import understood
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import Batch
from unnoise.loading import load
from unnoise.recipes.options import Options
from unnoise.recipes.run import Run
from unnoise.recipes.train import Plan, plan

SMALL = Options(steps=2, batch=2, width=8, size=32)
PROMPT = "three red apples left of a sign that says OPEN"


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan("scenes", SMALL, "scenes")


def test_sheets_of_other_sprites_are_of_things_that_these_are_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "cup", "sun hat", "boat"):
        picture = np.zeros((40, 40, 4), np.uint8)
        picture[4:36, 4:36] = (*rng.integers(0, 256, 3), 255)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    rows = [json.dumps({"file": f"{name}.png", "name": name}) for name in ("cat", "cup", "sun hat", "boat")]
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    run = plan(f"scenes:{tmp_path}", SMALL, "scenes").run
    assert isinstance(run, Run)
    assert isinstance(run.model.conditioner, PlannedConfig)
    assert all(understood(prompt, run.model.conditioner.sprites) for prompt in run.preview.prompts)
    assert run.model.about.examples == run.preview.prompts[:3]


def test_another_size_is_refused(planned: Plan) -> None:
    assert isinstance(planned.run, Run)
    with pytest.raises(InputError, match="64 x 32 pixels: this model lays out pictures of 32 x 32; leave the height and width out"):
        planned.run.model.build().sample(PROMPT, height=64, width=32, steps=1)


def test_a_saved_model_plans_as_it_did(planned: Plan, tmp_path: Path) -> None:
    """The plan is the sample's: the picture is the same alone and in any batch, before and after."""
    assert isinstance(planned.run, Run)
    torch.manual_seed(0)
    built = planned.run.model.build()
    with torch.no_grad():  # what starts at zero given random values, so that everything has an effect
        for p in built.denoiser.parameters():
            p.add_(0.1 * torch.randn_like(p))
    built.save(tmp_path / "model")
    model = load(tmp_path / "model")
    assert isinstance(model.conditioner, Planned)
    together = model.sample([PROMPT, "ten blue fish"], n=2, seed=3, steps=2, exact=True)
    alone = model.sample([PROMPT], sample_seeds=together.seeds[1:2], steps=2, exact=True)
    assert torch.equal(alone.data[0], together.data[1])
    assert torch.equal(together.data, built.sample([PROMPT, "ten blue fish"], n=2, seed=3, steps=2, exact=True).data)
    assert not torch.equal(together.data[0], together.data[1])  # another layout


def test_the_generator_is_trained_along(planned: Plan) -> None:
    """What is made small is the picture's loss and the generator's own, of the same batch."""
    assert isinstance(planned.run, Run)
    model, task = planned.run.task(planned.run.model.build)
    rng = Streams.of(0, 4)
    batch = planned.opened.training(model.codec, model.conditioner).batch([0, 1, 2, 3], rng)
    out = task(batch, rng)
    told = model.conditioner(batch["cond"])
    assert isinstance(model.conditioner, Planned)
    own = model.conditioner.learn(batch["cond"], told, rng.scoped("conditioner")).mean()
    plain = planned.run.objective(model.denoiser, Batch(batch["x"], told), rng)["loss"]
    assert float(out["loss"].detach()) == pytest.approx(float((own + plain).detach()), rel=1e-5)
    assert float(out["conditioner"]) == pytest.approx(float(own.detach()), rel=1e-5)
    out["loss"].backward()
    assert model.conditioner.generator is not None
    assert any(bool(p.grad.any()) for p in model.conditioner.generator.parameters() if p.grad is not None)


def test_pictures_that_no_world_drew_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "photos.npz", images=np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="train it on scenes"):
        plan(str(tmp_path / "photos.npz"), Options(), "scenes")
