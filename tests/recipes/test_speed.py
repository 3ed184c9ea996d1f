"""Drawing within a time or an error: a model whose walks are known in closed form, so that what is measured has a truth."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_config, tiny_model
from torch import Tensor, nn

import unnoise
from unnoise.checkpoints.foreign.textual_inversion import textual_inversion
from unnoise.control.budget import Precision, Way, measure
from unnoise.control.low_rank import Adapted, Adapter, LowRank, Place
from unnoise.control.sampling import Sampling
from unnoise.control.step_caching import Every, StepCaching
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import Data
from unnoise.core.random import Streams, derive
from unnoise.modalities.words.frozen import encoders_of
from unnoise.model import DiffusionModel
from unnoise.recipes import speed
from unnoise.recipes.speed import SEED, Order, difference, draw, fitted

STD = 0.3
USUAL = Way(Sampling(24, "dpmpp-2m"))
OWN = (Precision.OWN,)


@dataclass
class Parts:
    x: Tensor
    level: Tensor
    base: None = None


class Wiener(nn.Module):
    """The best denoiser of pixels of N(0, STD^2) from x_t = (1 - t) x_0 + t e: x0 = STD gain(t) times the unit-variance input, told
    u = log-SNR / 4 = ln((1 - t) / t) / 2. The gain is its deep feature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Parts:
        return Parts(x, noise_level)

    def deep(self, entered: Parts) -> Tensor:
        return self.weight * STD * torch.tensor([gain(u) for u in entered.level.tolist()])[:, None, None, None]

    def leave(self, entered: Parts, deep: Tensor) -> Tensor:
        return deep * entered.x


class Whole(nn.Module):
    """It, in one part: nothing is forecast."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Wiener()

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return self.inner(x, noise_level, cond)


def gain(u: float) -> float:
    """a STD / sqrt(a^2 STD^2 + s^2) with a / s = e^(2u)."""
    ratio = STD * math.exp(2 * u)
    return ratio / math.hypot(1, ratio)


def shrunk(way: Way) -> float:
    """What a walk multiplies its starting noise by: DPM-Solver++(2M) of Lu et al. 2022, algorithm 2, in plain numbers."""
    steps, caching = way.sampling.steps, way.sampling.caching
    lams = [-4.5 + i * 9.5 / (steps - 1) for i in range(steps)]  # ln(a / s)
    times = [1.0, *[1 / (1 + math.exp(v)) for v in lams[1:]], 0.0]
    x, known, last = 1.0, [], None
    for i, (t, s) in enumerate(pairwise(times)):
        u = max(-5.0, lams[i] / 2) if i else -5.0
        if caching is None or i < 2 or (i - 1) % caching.when.n == 0:
            g = gain(u)
            known = [*known[-1:], (u, g)]
        else:
            (u0, g0), (u1, g1) = known
            g = g1 + (g1 - g0) / (u1 - u0) * (u - u1)
        a, x0 = 1 - t, STD * g * x / math.hypot((1 - t) * STD, t)
        d = x0
        if last is not None and s > 0 and last[0] is not None:
            r = (lams[i] - last[0]) / (lams[i + 1] - lams[i])
            d = x0 + (x0 - last[1]) / (2 * r)
        x = s / t * x + ((1 - s) - s * a / t) * d
        last = (lams[i] if i else None, x0)
    return x


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DiffusionModel:
    """On a clock by which every call takes a second: what is faster is no matter of the processor's mood."""
    ticks = count()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "measure", partial(measure, clock=lambda: float(next(ticks))))
    made = replace(tiny_config(), preconditioner=Data(STD), sampling=USUAL.sampling).build()
    made.denoiser.network = Wiener()
    return made


def noise(model: DiffusionModel, seeds: list[int]) -> Tensor:
    return model.config.process.prior(model.codec.shape(), Streams.each(seeds))


def true_error(model: DiffusionModel, way: Way, trials: int) -> Tensor:
    """|a - b| times the noise's root mean square, over 2 since pictures go from -1 to 1."""
    seeds = [derive(SEED, i) for i in range(trials)]
    size = noise(model, seeds).double().flatten(1).square().mean(1).sqrt()
    return abs(shrunk(way) - shrunk(USUAL)) / 2 * size


def unopened() -> DiffusionModel:
    raise AssertionError("nothing in another precision is needed")


ROUNDING = math.sqrt(2 / 12) / 255
"""Both pictures are rounded to 1 / 255."""


def test_the_oracle_is_the_exact_solution_in_the_limit() -> None:
    """The probability flow of Gaussian data takes noise z to STD z."""
    assert shrunk(Way(Sampling(2000))) == pytest.approx(STD, rel=2e-3)


@pytest.mark.parametrize("caching", [None, StepCaching(Every(2), 1), StepCaching(Every(3), 1)], ids=str)
@pytest.mark.parametrize("steps", [6, 14, 24])
def test_a_picture_is_what_the_closed_form_says(model: DiffusionModel, steps: int, caching: StepCaching | None) -> None:
    way, seeds = Way(Sampling(steps, caching=caching)), [3, 4]
    expected = (shrunk(way) * noise(model, seeds)).clamp(-1, 1)
    made = draw(model, way, Order(USUAL), seeds).permute(0, 3, 1, 2).double() / 127.5 - 1
    assert float((made - expected).abs().max()) < 1.01 / 255


def test_measured_errors_are_the_true_ones(model: DiffusionModel) -> None:
    """To rounding; and what is picked is right by the true errors."""
    asked: list[str] = []
    bound, trials = 0.012, 5
    plan, chosen = fitted(model, unopened, Order(USUAL, batch=trials), OWN, None, bound, trials, asked.append)
    assert chosen is model
    assert len(asked) == 1
    assert "on 5 pictures" in asked[0]
    (file,) = (Path(asked[0].split("(")[-1].rstrip(")")),)
    kept = json.loads(file.read_text())
    compared = 0
    for steps in (6, 8, 10, 15, 20):
        for caching in (None, StepCaching(Every(2), 1)):
            way = Way(replace(USUAL.sampling, steps=steps, caching=caching))
            if repr(way) in kept:
                off = true_error(model, way, trials)
                torch.testing.assert_close(torch.tensor(kept[repr(way)]).double(), off, rtol=0.02, atol=2 * ROUNDING)
                compared += float(off.max()) > 3 * ROUNDING
    assert compared >= 4
    assert plan.error <= bound
    assert max(plan.errors) == plan.error


def test_errors_are_measured_once(model: DiffusionModel) -> None:
    said: list[str] = []
    model.denoiser.network = network = Whole()
    first, _ = fitted(model, unopened, Order(USUAL), OWN, None, 0.02, 2, said.append)
    again, _ = fitted(model, unopened, Order(USUAL), OWN, None, 0.02, 2, said.append)
    assert len(said) == 1
    assert (first.way, first.errors) == (again.way, again.errors)
    network.inner.weight.data.mul_(0.9)
    fitted(model, unopened, Order(USUAL), OWN, None, 0.02, 2, said.append)
    assert len(said) == 2, "other weights have other errors"


@pytest.mark.usefixtures("model")
def test_a_lora_has_errors_of_its_own() -> None:
    """It lies beside the weights, by which a model is known; each weight of it draws other pictures."""
    model, said = tiny_model(), list[str]()
    order = Order(Way(replace(model.config.sampling, steps=8)))
    network = model.denoiser.network
    name, layer = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear))
    factors, adapted = (torch.ones(1, layer.in_features), torch.ones(2, 1)), Adapted.of(network)
    adapter, twice, below = (
        Adapter([(Place(name, start, 2), LowRank(*factors, scale))]) for start, scale in ((0, 0.1), (0, 0.2), (2, 0.1))
    )
    for adapters, measured in (
        ({}, 1),
        ({"one": (adapter, 1.0)}, 2),
        ({"one": (adapter, 0.5)}, 3),
        ({"other": (adapter, 1.0)}, 3),
        ({"one": (twice, 1.0)}, 4),
        ({"one": (below, 1.0)}, 5),
        ({}, 5),
    ):
        adapted.set(adapters)
        fitted(model, unopened, order, OWN, None, 0.5, 1, said.append)
        assert len(said) == measured


@pytest.mark.usefixtures("model")
def test_prompts_that_errors_are_measured_with_have_errors_of_their_own() -> None:
    """A model's examples are measured with, whatever is asked; one that has none is measured with what is asked."""
    bare = tiny_model()
    example = replace(bare.config, about=replace(bare.config.about, examples=("three",)))
    for config, expected in ((bare.config, [1, 2, 2]), (example, [1, 1, 1])):
        model, said, measured = tiny_model(), list[str](), []
        model.config = config
        for prompt in ("one", "two", "one"):
            fitted(model, unopened, Order(Way(replace(config.sampling, steps=8)), (prompt,)), OWN, None, 0.5, 1, said.append)
            measured.append(len(said))
        assert measured == expected


@pytest.mark.usefixtures("model")
def test_a_learnt_word_has_errors_of_its_own(tmp_path: Path) -> None:
    """It lies in a table beside the text encoder; other vectors by the same name draw other pictures."""
    pytest.importorskip("diffusers", reason="it saves the checkpoint")
    import checkpoints.foreign_pipelines as tiny

    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    folder, said, measured = tiny.save(pipeline, tmp_path / "model"), list[str](), []
    for seed, asked in ((None, "a"), (None, "b"), (0, "a"), (1, "a"), (0, "b")):  # of usual prompts, whatever is asked
        model = unnoise.load(folder)
        if seed is not None:
            width = next(iter(encoders_of(model.conditioner).values())).opened.network.get_input_embeddings().weight.shape[1]
            file = tmp_path / "toy.safetensors"
            save_file({"<toy>": torch.randn(width, generator=torch.Generator().manual_seed(seed))}, file)
            assert textual_inversion(model, file) == ("<toy>",)
        order = Order(Way(replace(model.config.sampling, steps=8)), (asked,))
        fitted(model, unopened, order, OWN, None, 0.9, 1, said.append)
        measured.append(len(said))
    assert measured == [1, 1, 2, 3, 3]
    with torch.no_grad():
        next(p for p in pipeline.text_encoder.parameters() if p.ndim == 2).mul_(1.5)
    other = unnoise.load(tiny.save(pipeline, tmp_path / "other"))
    assert other.hash() == model.hash()
    fitted(other, unopened, order, OWN, None, 0.9, 1, said.append)
    assert len(said) == 4, "another text encoder, too"


def test_time_enough_needs_no_measuring(model: DiffusionModel) -> None:
    said: list[str] = []
    plan, _ = fitted(model, unopened, Order(USUAL), OWN, 10_000, None, 3, said.append)
    assert (plan.way, plan.errors, said) == (USUAL, (), [])
    assert "nothing left out" in str(plan)


def test_bfloat16_is_a_way_of_its_own(model: DiffusionModel) -> None:
    """Its model is opened once, and drawn with where it is picked; the reference stays in float32."""
    opened: list[DiffusionModel] = []

    def half() -> DiffusionModel:
        opened.append(model)
        return model

    plan, _ = fitted(model, half, Order(USUAL), (Precision.BFLOAT16,), None, 0.5, 1)
    assert len(opened) == 1
    assert plan.way.precision is Precision.BFLOAT16
    assert "in bfloat16" in str(plan)


def test_difference_by_hand() -> None:
    a, b = torch.zeros(2, 1, 2, 1, dtype=torch.uint8), torch.zeros(2, 1, 2, 1, dtype=torch.uint8)
    b[1, 0, 0, 0] = 255
    assert difference(a, b).tolist() == pytest.approx([0, math.sqrt(1 / 2)])
    clear = torch.tensor([[[[200, 100, 0, 0]]]], dtype=torch.uint8)
    other = torch.tensor([[[[0, 0, 0, 0]]]], dtype=torch.uint8)
    assert float(difference(clear, other)) == 0, "colours of what is not seen do not count"


def test_bad_input(model: DiffusionModel) -> None:
    with pytest.raises(InputError, match="on 0 pictures"):
        fitted(model, unopened, Order(USUAL), OWN, None, 0.1, 0)
    said: list[str] = []
    fitted(model, unopened, Order(USUAL), OWN, None, 0.1, 1, said.append)
    Path(said[0].split("(")[-1].rstrip(")")).write_text("[]")
    with pytest.raises(InputError, match="remove it"):
        fitted(model, unopened, Order(USUAL), OWN, None, 0.1, 1)
