"""How a whole model is guided: one step from noise is the prediction itself, so the formulas can be read off its samples."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_model

from unnoise.cli.again import command
from unnoise.control.perturbed import perturbed
from unnoise.control.rules import RULES, Linear, Projected, ZeroStar
from unnoise.control.sampling import Sampling
from unnoise.control.self_guidance import Internal, PerturbedAttention, SmoothedAttention, chosen
from unnoise.control.step_caching import Every, StepCaching
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.loading import load
from unnoise.model import DiffusionModel, ModelConfig, Weaker

PROMPTS, SEEDS = ["one", "two", "three"], [5, 6, 7]
ONE_STEP = {"steps": 1, "sampler": "ddim", "grid": "uniform"}


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return tiny_model()


@pytest.fixture(scope="module")
def other() -> DiffusionModel:
    return tiny_model(seed=1)


def states(model: DiffusionModel, **settings) -> torch.Tensor:
    """The samples before they are rounded to pixels: (3, 1, 8, 8)."""
    last: list[torch.Tensor] = []
    settings.setdefault("watch", lambda done, steps, x: last.append(x.clone()) if done == steps else None)
    model.sample(PROMPTS, sample_seeds=SEEDS, **settings)
    return torch.cat(last)


@torch.no_grad()
def said(model: DiffusionModel, prompts: list[str | None], denoiser=None) -> torch.Tensor:
    """What a denoiser says about the noise that these seeds begin with."""
    x = model.config.process.prior(model.codec.shape(), Streams.each(SEEDS))
    t = torch.ones(3, dtype=torch.float64)
    return (denoiser or model.denoiser)(x, t, model.conditioner(model.conditioner.prepare(prompts))).x0


def test_a_rule_is_followed(model: DiffusionModel) -> None:
    d_c, d_u = said(model, PROMPTS), said(model, [None] * 3)
    torch.testing.assert_close(states(model, guidance=3.0, **ONE_STEP), d_u + 3 * (d_c - d_u), rtol=1e-4, atol=1e-5)
    got = states(model, guidance=3.0, rule=Projected(), **ONE_STEP)
    assert ((got - d_c) * d_c).flatten(1).sum(1).abs().max() < 1e-4 * float((got - d_c).norm())
    still = states(model, guidance=3.0, rule=ZeroStar(0.5), **ONE_STEP)  # no velocity: the noise itself
    torch.testing.assert_close(still, model.config.process.prior(model.codec.shape(), Streams.each(SEEDS)))


def rescaled(led: torch.Tensor, like: torch.Tensor, phi: float) -> torch.Tensor:
    """Lin et al. 2023 (2305.08891, eq. 15-16), each sample by itself."""
    had, has = (d.flatten(1).std(1, correction=0)[:, None, None, None] for d in (like, led))
    return phi * led * had / has + (1 - phi) * led


def test_what_is_led_is_rescaled_and_outside_the_interval_nothing_is(model: DiffusionModel, other: DiffusionModel) -> None:
    """The one step is at t = 1; beside a weaker model, words lead between what is left after leading away from it."""
    d_c, d_u = said(model, PROMPTS), said(model, [None] * 3)
    beside = [said(other, p) + 1.5 * (said(model, p) - said(other, p)) for p in (PROMPTS, [None] * 3)]
    for more, (towards, away) in (({}, (d_c, d_u)), ({"weaker": Weaker(other, 1.5)}, beside)):
        led = away + 3 * (towards - away)
        got = states(model, guidance=3.0, rescale=0.7, **more, **ONE_STEP)
        torch.testing.assert_close(got, rescaled(led, towards, 0.7), rtol=1e-4, atol=1e-4)
        assert (got - led).abs().max() > 0.1
        outside = states(model, guidance=3.0, interval=(0.0, 0.5), **more, **ONE_STEP)
        torch.testing.assert_close(outside, towards, rtol=1e-4, atol=1e-5)


def test_a_weaker_model_is_led_away_from_on_both_sides(model: DiffusionModel, other: DiffusionModel) -> None:
    sides = [
        said(other, p) + 1.5 * (said(model, p) - said(other, p))
        for p in (PROMPTS, ["zero"] * 3)
    ]  # fmt: skip
    alone = states(model, guidance=1.0, weaker=Weaker(other, 1.5), **ONE_STEP)
    torch.testing.assert_close(alone, sides[0], rtol=1e-4, atol=1e-5)
    both = states(model, guidance=3.0, negative="zero", weaker=Weaker(other, 1.5), **ONE_STEP)
    torch.testing.assert_close(both, sides[1] + 3 * (sides[0] - sides[1]), rtol=1e-4, atol=1e-4)
    from_itself = states(model, guidance=2.0, weaker=Weaker(model, 7.0))
    torch.testing.assert_close(from_itself, states(model, guidance=2.0), rtol=1e-4, atol=1e-4)


def test_each_side_of_guidance_beside_a_weaker_model_has_a_memory_of_its_own(
    model: DiffusionModel, other: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep features are computed at every third of six steps, for either side: in one memory each would forget the other's."""
    network, calls = type(model.denoiser.network), []
    deep = network.deep
    monkeypatch.setattr(network, "deep", lambda self, entered: calls.append(self) or deep(self, entered))
    model.sample(
        "one", negative="two", guidance=3.0, weaker=Weaker(other, 1.5), sampler="ddim", steps=6, caching=StepCaching(Every(3))
    )
    assert sum(called is model.denoiser.network for called in calls) == 2 * 2


def test_the_network_leads_itself(model: DiffusionModel) -> None:
    weak = perturbed(model.denoiser, [0])
    want = said(model, PROMPTS, weak) + 2 * (said(model, PROMPTS) - said(model, PROMPTS, weak))
    got = states(model, guidance=1.0, inner=PerturbedAttention(2.0, blocks=(0,)), **ONE_STEP)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_threshold_keeps_predictions_within_pictures(model: DiffusionModel) -> None:
    plain = states(model, guidance=30.0, **ONE_STEP)
    assert float(plain.abs().max()) > 1.5
    s = torch.quantile(plain.flatten(1).abs(), 0.9, dim=1).clamp(min=1)[:, None, None, None]
    got = states(model, guidance=30.0, threshold=0.9, **ONE_STEP)
    torch.testing.assert_close(got, plain.clamp(-s, s) / s)


def test_the_memory_of_a_rule_is_each_samples_own(model: DiffusionModel) -> None:
    how = {"guidance": 4.0, "rule": RULES["apg"], "sampler": "heun", "steps": 4}
    together = states(model, **how)
    torch.testing.assert_close(states(model, batch=1, **how), together, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(states(model, exact=True, **how), together, rtol=1e-3, atol=1e-3)
    assert (together - states(model, **{**how, "rule": Projected(norm=0.06)})).abs().max() > 0.02  # the memory does act


def test_what_a_model_usually_does_is_saved_and_models_of_before_are_read(tmp_path: Path) -> None:
    usual = replace(tiny_config().sampling, rule=Projected(0.1, -0.5), threshold=0.995, inner=SmoothedAttention(3.0, blocks=(1,)))
    config: ModelConfig = replace(tiny_config(), sampling=usual)
    config.build().save(tmp_path / "model")
    assert load(tmp_path / "model").config == config
    tiny_model().save(tmp_path / "old")
    file = tmp_path / "old" / "config.json"
    text = json.loads(file.read_text())
    where = text if "sampling" in text else next(v for v in text.values() if isinstance(v, dict) and "sampling" in v)
    for new in ("rule", "threshold", "inner"):
        del where["sampling"][new]
    file.write_text(json.dumps(text))
    how = load(tmp_path / "old").config.sampling
    assert (how.rule, how.threshold, how.inner) == (Linear(), None, None)


USUAL = [
    {"guidance": 4.0},
    {"interval": (0.0, 0.5)},
    {"rescale": 0.7},
    {"rule": ZeroStar(0.5)},
    {"threshold": 0.3},
    {"inner": PerturbedAttention(2.0, blocks=(0,))},
    {"steps": 2},
    {"sampler": "dpmpp-2m-sde", "steps": 3},
    {"grid": "shifted", "steps": 3},
    {"caching": StepCaching(Every(3)), "steps": 3},
]


@pytest.mark.parametrize("usual", USUAL, ids=lambda u: next(iter(u)))
def test_unasked_a_model_does_as_usual_and_says_so_as_if_it_were_asked(model: DiffusionModel, usual: dict) -> None:
    config = replace(model.config, sampling=Sampling(**{**ONE_STEP, "guidance": 3.0}))
    plain = DiffusionModel(config, model.codec, model.conditioner, model.denoiser.network)
    config = replace(config, sampling=replace(config.sampling, **usual))
    changed = DiffusionModel(config, model.codec, model.conditioner, model.denoiser.network)
    got = states(changed)
    assert torch.equal(got, states(plain, **usual))
    assert (got - states(plain)).abs().max() > 0.01
    told = changed.sample("one").settings
    assert {**told, "grid": None} == {
        **plain.sample("one", **usual).settings,
        "grid": None,
    }  # a grid is told where it was asked for
    for name in set(usual) & {"guidance", "interval", "rescale", "threshold", "steps", "sampler"}:
        assert told[name] == (list(usual[name]) if name == "interval" else usual[name])


def test_a_sample_tells_how_it_was_guided(model: DiffusionModel, other: DiffusionModel) -> None:
    how = {"rule": RULES["apg"], "inner": PerturbedAttention(3.0, (0.2, 0.9), (0, 1)), "weaker": Weaker(other, 1.5)}
    meta = model.sample(["one"], steps=2, **how).meta()[0]
    words = command(json.loads(json.dumps({**meta, "weaker": "small"})))
    for option in ("--rule apg", "--inner pag", "--inner-scale 3.0", "--inner-interval 0.2 0.9", "--blocks 0 1", "--weaker small"):
        assert option in words
    assert "--inner" not in command(json.loads(json.dumps(model.sample(["one"], steps=1).meta()[0])))
    assert chosen(None, "pag", 3.0, (0.2, 0.9), (0, 1)) == how["inner"]


def test_refusals(model: DiffusionModel, other: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(tiny_config(), codec=replace(tiny_config().codec, width=16)).build()
    for settings, message in (
        ({"weaker": Weaker(wide)}, "cannot be the weaker model: its shape differs"),
        ({"inner": Internal()}, "no middle head"),
        ({"inner": PerturbedAttention(blocks=(7,))}, "block 7 has no self-attention"),
        ({"threshold": 1.5}, "threshold 1.5 is a quantile"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message) as e:
            model.sample(["one"], **settings)
        assert "\n" not in str(e.value)
    monkeypatch.setattr(model.codec, "bound", None, raising=False)
    with pytest.raises(InputError, match="have no bound to keep"):
        model.sample(["one"], threshold=0.99)
    with pytest.raises(InputError, match="guidance nan"):
        Weaker(other, float("nan"))
    with pytest.raises(InputError, match="say which"):
        chosen(None, None, 3.0, None, None)
    with pytest.raises(InputError, match="no blocks to choose"):
        chosen(None, "internal", None, None, (1,))
