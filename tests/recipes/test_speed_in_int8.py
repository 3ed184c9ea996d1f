"""int8 among the ways to draw: networks that really compute in it, on a clock by which a call takes a second, half of one in
bfloat16 and 0.3 of one in int8, whatever the processor is doing."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model, wide_model
from torch import Tensor, nn

from unnoise.cli.main import main
from unnoise.control.budget import Costs, Precision, Way
from unnoise.control.low_rank import Adapted, Adapter, LowRank, Place
from unnoise.core.errors import InputError
from unnoise.core.random import derive
from unnoise.model import DiffusionModel
from unnoise.networks.int8 import available, in_int8
from unnoise.recipes import speed
from unnoise.recipes.speed import SEED, Order, difference, fitted, precisions

pytestmark = pytest.mark.skipif(not available(), reason="this processor has neither VNNI nor AMX")

HALF, EIGHT = Precision.BFLOAT16, Precision.INT8
TRIALS = 2
STEPS = 9


def clocked(eight: float) -> Callable[[nn.Module, object, object, object], Costs]:
    """In place of `measure`: seconds by what the network computes in."""

    def measure(denoiser: nn.Module, x: object, cond: object, decode: object) -> Costs:
        half = torch.is_autocast_enabled("cpu") or next(denoiser.parameters()).dtype == torch.bfloat16
        return Costs(eight if in_int8(denoiser) else 0.5 if half else 1, None, 0)

    return measure


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "measure", clocked(0.3))
    monkeypatch.setattr(speed, "faster_in_bfloat16", lambda device: True)


class Opening:
    """Opens the wide model anew, and sees to it that none that was opened before is still in memory."""

    def __init__(self) -> None:
        self.opened: list[weakref.ref[nn.Module]] = []

    def __call__(self) -> DiffusionModel:
        assert not any(network() is not None for network in self.opened), "a third model in memory"
        model = wide_model()
        self.opened.append(weakref.ref(model.denoiser.network))
        return model


def order(model: DiffusionModel) -> Order:
    return Order(Way(replace(model.config.sampling, steps=STEPS)), ("one",))


def off(model: DiffusionModel, way: Way) -> Tensor:
    """What a model's pictures are off by from those of another one, in float32, drawn here."""
    how, seeds = way.sampling, [derive(SEED, i) for i in range(TRIALS)]
    usual = wide_model().sample(["one"] * TRIALS, sample_seeds=seeds, steps=STEPS)
    made = model.sample(
        ["one"] * TRIALS, sample_seeds=seeds, steps=how.steps, sampler=str(how.sampler), caching=how.caching, bf16=way.bf16
    )
    return difference(made.data, usual.data)


@pytest.mark.parametrize(
    ("seconds", "precision", "steps", "opened"),
    [(6, HALF, STEPS, 1), (4, EIGHT, STEPS, 1), (2.8, EIGHT, 8, 1)],  # 9 steps take 9.9, 4.95 and 2.97; 8 in int8 take 2.64
)
def test_within_a_time(seconds: float, precision: Precision, steps: int, opened: int) -> None:
    """The model is in the precision that was picked, and draws pictures that are off by what is said."""
    model, opening = wide_model(), Opening()
    plan, chosen = fitted(model, opening, order(model), (HALF, EIGHT), seconds, None, TRIALS)
    assert (plan.way.precision, plan.way.sampling.steps) == (precision, steps)
    assert chosen.in_int8 == (precision is EIGHT)
    assert not model.in_int8
    assert len(opening.opened) == opened
    assert plan.errors == pytest.approx(off(chosen, plan.way).tolist(), rel=1e-6)
    if precision is EIGHT:
        assert plan.errors == pytest.approx(off(wide_model().to_int8(), plan.way).tolist(), rel=1e-6)
        assert plan.errors != pytest.approx(off(wide_model(), plan.way).tolist(), rel=1e-6), "bfloat16 rounds otherwise"


def test_the_fastest_within_an_error_is_in_int8() -> None:
    model = wide_model()
    plan, chosen = fitted(model, Opening(), order(model), (HALF, EIGHT), None, 0.5, TRIALS)
    assert "6 steps" in str(plan)
    assert "in int8" in str(plan)
    assert chosen.in_int8


def test_bfloat16_is_opened_again_where_it_is_picked_after_all(tmp_path: Path) -> None:
    """Errors are kept, so that they can be told otherwise: int8 is far off, and the model that it was made of is gone."""
    model, opening = wide_model(), Opening()
    fitted(model, opening, order(model), (HALF, EIGHT), 4, None, TRIALS)
    (file,) = (tmp_path / "cache").rglob("errors-*.json")
    kept = json.loads(file.read_text())
    assert {"INT8" in way for way in kept} == {True, False}
    file.write_text(json.dumps({way: [0.9] * TRIALS if "INT8" in way else off for way, off in kept.items()}))
    opening = Opening()
    plan, chosen = fitted(model, opening, order(model), (HALF, EIGHT), 4, None, TRIALS)
    assert plan.way.precision is HALF
    assert not chosen.in_int8
    assert len(opening.opened) == 2
    assert plan.errors == pytest.approx(off(chosen, plan.way).tolist(), rel=1e-6)


@pytest.mark.parametrize(("call", "picked"), [(0.46, HALF), (0.44, EIGHT)])
def test_a_tenth_at_least_is_gained(call: float, picked: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine steps are within the time in int8 alone."""
    monkeypatch.setattr(speed, "measure", clocked(call))
    model = wide_model()
    plan, chosen = fitted(model, Opening(), order(model), (HALF, EIGHT), 4.6, None, TRIALS)
    assert plan.way.precision is picked
    assert chosen.in_int8 == (picked is EIGHT)


def test_where_all_is_in_bfloat16_a_second_model_is_in_int8_or_left_out() -> None:
    """As with --bf16, for models that may fill the memory alone."""
    model, said = wide_model(), list[str]()
    usual = replace(order(model), usual=replace(order(model).usual, precision=HALF))
    among = precisions(model, HALF)
    assert among == (HALF, EIGHT)
    plan, chosen = fitted(model, Opening(), usual, among, 4, None, TRIALS)
    assert plan.way.precision is EIGHT
    assert chosen.in_int8
    assert not model.in_int8

    def full() -> DiffusionModel:
        raise InputError("wide: needs about 40 GB, and 3 GB are free")

    plan, chosen = fitted(model, full, usual, among, 4, None, TRIALS, said.append)
    assert plan.way.precision is HALF
    assert chosen is model
    assert "int8 is not tried: wide: needs about 40 GB, and 3 GB are free" in said


def test_a_lora_is_in_what_is_drawn_in_int8() -> None:
    """The model's own stays beside its weights; the other one's is merged, for good."""

    def with_lora() -> DiffusionModel:
        model = wide_model()
        network, rng = model.denoiser.network, torch.Generator().manual_seed(0)
        name, layer = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear) and n.startswith("blocks"))
        change = LowRank(torch.randn(2, layer.in_features, generator=rng), torch.randn(layer.out_features, 2, generator=rng), 0.02)
        Adapted.of(network).set({"one": (Adapter([(Place(name, 0, layer.out_features), change)]), 1.0)})
        return model

    model = with_lora()
    assert precisions(model, Precision.OWN) == (HALF, EIGHT)
    plan, chosen = fitted(model, with_lora, order(model), (HALF, EIGHT), 4, None, TRIALS)
    assert (plan.way.precision, chosen.in_int8, model.in_int8) == (EIGHT, True, False)
    made, usual, plain = (
        m.sample("one", 1, sample_seeds=[5], steps=STEPS, bf16=half).data.double()
        for m, half in ((chosen, True), (model, False), (wide_model(), False))
    )
    assert 0 < (made - usual).abs().mean() < (plain - usual).abs().mean() / 3


def test_what_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 only to networks that have layers for it, on processors for it; and nothing is changed."""
    model = wide_model()
    assert precisions(model, Precision.OWN) == (HALF, EIGHT)
    assert not model.in_int8
    assert precisions(tiny_model(), Precision.OWN) == (HALF,)
    monkeypatch.setattr(speed, "faster_in_bfloat16", lambda device: False)
    assert precisions(model, Precision.OWN) == (Precision.OWN, EIGHT)
    monkeypatch.setattr("unnoise.networks.int8.available", lambda: False)
    assert precisions(model, Precision.OWN) == (Precision.OWN,)
    assert precisions(model, HALF) == (HALF,)


def test_the_command_line_says_it_and_makes_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = wide_model()
    model.config = replace(model.config, sampling=replace(model.config.sampling, steps=STEPS))
    model.save(tmp_path / "wide")
    argv = ["sample", str(tmp_path / "wide"), "one", "-n", "1", "--budget", "4s", "--trials", "1"]
    main([*argv, "--out", str(tmp_path / "made")])
    assert f"budget 4 s: {STEPS} steps of dpmpp-2m, in int8; about 3.0 s; off by at most" in capsys.readouterr().err
    (made,) = (tmp_path / "made").glob("0*.png")
    main(["info", str(made)])
    words = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  unnoise sample")).split()
    assert {"--bf16", "--int8"} <= set(words)
    main([*words[1:-1], str(tmp_path / "again")])
    (again,) = (tmp_path / "again").glob("0*.png")
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(made)))
