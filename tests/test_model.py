"""Sampling a whole model: a sample belongs to its seed alone, and settings that cannot be right are refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_model

from unnoise.control.guidance import classifier_free
from unnoise.control.sampling import Sampling, Start, check_finite
from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean
from unnoise.core.random import Streams
from unnoise.loading import load
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.model import DiffusionModel
from unnoise.samplers.loop import sample

PROMPTS = ["zero", "one", "two", "three", "zero", "one", "two", "three"]


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return tiny_model()


def states(model: DiffusionModel, prompts: list[str], seeds: list[int], **settings) -> torch.Tensor:
    """The samples before they are rounded to pixels: (B, 1, 8, 8)."""
    last: list[torch.Tensor] = []
    model.sample(
        prompts, sample_seeds=seeds, watch=lambda done, steps, x: last.append(x.clone()) if done == steps else None, **settings
    )
    return torch.cat(last)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp-2m", "heun", "dpmpp-2m-sde"])
def test_exact_is_bitwise_in_any_company(model: DiffusionModel, sampler: str) -> None:
    seeds = list(range(100, 108))
    together = states(model, PROMPTS, seeds, exact=True, sampler=sampler)
    for i in range(8):
        assert torch.equal(states(model, PROMPTS[i : i + 1], seeds[i : i + 1], exact=True, sampler=sampler)[0], together[i])
    assert torch.equal(states(model, PROMPTS[2:5], seeds[2:5], exact=True, sampler=sampler), together[2:5])
    assert torch.equal(states(model, PROMPTS, seeds, exact=True, sampler=sampler, batch=3), together)
    assert len({x.numpy().tobytes() for x in together}) == 8, "different seeds make different samples"


@pytest.mark.parametrize(("strength", "walked"), [(1.0, 10), (0.77, 8), (0.5, 5), (0.19, 2)])
def test_a_start_is_walked_from_as_many_steps_as_its_strength_leaves(model: DiffusionModel, strength: float, walked: int) -> None:
    """Whole steps, in this flow rounded up, as diffusers' pipelines of flows; x_t = (1 - t) x_0 + t noise."""
    begun: list[torch.Tensor] = []
    pictures = torch.full((2, 8, 8, 1), 255, dtype=torch.uint8)
    how = {"sample_seeds": [3, 4], "steps": 10, "sampler": "ddim", "grid": "uniform", "guidance": 1.0}

    def denoised(x: torch.Tensor, t: torch.Tensor, cond: dict) -> Mean:
        begun.append(x.clone())
        assert float(t[0]) == pytest.approx(walked / 10 - (len(begun) - 1) / 10)
        return Mean(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.denoiser, "forward", denoised)
        samples = model.sample(["one", "two"], start=Start(pictures, strength), **how)
    assert len(begun) == walked
    noise = model.config.process.prior(model.codec.shape(), Streams.each([3, 4]))
    white, t = torch.ones(2, 1, 8, 8), walked / 10
    spread = begun[0] - (1 - t) * white  # t times noise of some stream of each sample's own
    assert spread.std() / t == pytest.approx(float(noise.std()), abs=0.35)
    assert not torch.equal(spread[0], spread[1])
    assert samples.settings["strength"] == strength


def test_exact_is_in_float32(model: DiffusionModel) -> None:
    with pytest.raises(InputError, match="exact, which is in float32, with bfloat16"):
        model.sample(["one"], exact=True, bf16=True)


def test_without_exact_it_is_the_same_to_rounding(model: DiffusionModel) -> None:
    seeds = list(range(8))
    together = states(model, PROMPTS, seeds)
    alone = torch.cat([states(model, [p], [s]) for p, s in zip(PROMPTS, seeds)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_exact_is_bitwise_in_another_process(model: DiffusionModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    code = (
        "import sys, torch, unnoise; torch.set_num_threads(1); m = unnoise.load(sys.argv[1]);"
        "print(m.sample(['two'], sample_seeds=[5], exact=True).data.numpy().tobytes().hex());"
        "last = []; m.sample(['two'], sample_seeds=[5], exact=True, watch=lambda d, s, x: last.append(x.clone()));"
        "print(last[-1].numpy().tobytes().hex())"
    )
    out = [
        subprocess.run([sys.executable, "-c", code, tmp_path / "model"], capture_output=True, text=True, check=True).stdout
        for _ in "ab"
    ]
    assert out[0] == out[1]
    assert out[0].split()[1] == states(model, ["two"], [5], exact=True).numpy().tobytes().hex()


def test_seeds_are_derived_from_the_call_and_the_index(model: DiffusionModel) -> None:
    many = model.sample(["one", "two"], n=3, seed=7)
    assert many.prompts == ("one",) * 3 + ("two",) * 3
    again = model.sample(["two"], sample_seeds=[many.seeds[4]])
    assert (again.data[0].int() - many.data[4].int()).abs().max() <= 1  # float rounding may cross a grey level
    assert model.sample(["one"], n=3, seed=8).seeds[0] not in many.seeds


def test_guidance_of_one_is_plain_and_of_nought_is_unconditional(model: DiffusionModel) -> None:
    nothing = states(model, [], [1, 2], n=2)
    torch.testing.assert_close(states(model, ["one", "two"], [1, 2], guidance=0.0), nothing, rtol=0, atol=1e-5)
    plain, strong = (states(model, ["one", "two"], [1, 2], guidance=w) for w in (1.0, 4.0))
    assert (plain - nothing).abs().max() > 1e-3
    assert (plain - strong).abs().max() > 1e-3


def test_another_size_is_what_a_model_of_that_size_makes(model: DiffusionModel) -> None:
    other = replace(model.config, codec=PixelsConfig(12, 7, 1)).build()
    other.parts.load_state_dict(model.parts.state_dict())
    wide = model.sample(["one", "two"], seed=3, height=12, width=7)
    assert torch.equal(wide.data, other.sample(["one", "two"], seed=3).data)
    assert model.sample(seed=3, width=9).data.shape == model.sample(seed=3, height=9).data.shape == (1, 9, 9, 1)


def test_a_negative_prompt_leads_elsewhere(model: DiffusionModel) -> None:
    away = states(model, ["one"], [1], guidance=3.0, negative="two")
    assert (away - states(model, ["one"], [1], guidance=3.0)).abs().max() > 1e-3
    same = states(model, ["one"], [1], guidance=3.0, negative="one")  # leads away from itself: nowhere
    torch.testing.assert_close(same, states(model, ["one"], [1], guidance=1.0), rtol=0, atol=1e-5)


def test_a_negative_prompt_leads_away_where_nothing_else_is_said(model: DiffusionModel) -> None:
    """As of guidance 3 from it: D_nothing + 2 (D_nothing - D_two), whatever the neighbours are told."""
    away = states(model, [None], [1], guidance=3.0, negative="two")
    assert (away - states(model, [None], [1])).abs().max() > 1e-3
    denoise = classifier_free(
        model.denoiser, *(dict(model.conditioner(model.conditioner.prepare([p]))) for p in (None, "two")), 3.0
    )
    usual, steps = model.config.sampling.choice(), model.config.sampling.steps
    with torch.no_grad():
        times, rng = usual.grid.of(model.codec.shape()).times(steps, model.config.process), Streams.each([1])
        x = model.config.process.prior(model.codec.shape(), rng, torch.device("cpu"))
        by_hand = sample(denoise, model.config.process, x, times, usual.sampler, rng.scoped("sampler"))
    torch.testing.assert_close(away, by_hand, rtol=0, atol=1e-5)
    for prompts in (["one", None], ["one", "[two:0.5]"]):
        alone, both = (states(model, p, [2, 1][-len(p) :], guidance=3.0, negative="two") for p in (prompts[1:], prompts))
        torch.testing.assert_close(alone[0], both[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps 0: a sampler takes whole steps, at least 1"),
        ({"guidance": float("nan")}, "guidance nan is not a usable scale"),
        ({"sampler": "dpmpp2m"}, "unknown sampler 'dpmpp2m'; did you mean 'dpmpp-2m'"),
        ({"grid": "karas"}, "unknown time grid 'karas'; did you mean 'karras'"),
        ({"rescale": 2.0}, "rescale 2.0 is outside 0 ... 1"),
        ({"interval": (0.7, 0.2)}, "two rising times"),
        ({"n": 0}, "ask for at least 1 sample"),
        ({"height": 3}, "the sides are 4 to 4096"),
        ({"width": 10**6}, "the sides are 4 to 4096"),
        ({"sample_seeds": [1, 2]}, "2 sample seeds for 1 samples"),
        ({"sample_seeds": [-1]}, "sample seed -1 is outside"),
        ({"seed": -1}, "seed -1: a seed is an integer from 0"),
        ({"prompts": [""]}, "the prompt is empty"),
        ({"prompts": 5}, "5: no prompt; a prompt is text"),
        ({"prompts": ["one", 5]}, "5: no prompt; a prompt is text"),
        ({"steps": 2.5}, "steps 2.5: a sampler takes whole steps"),
        ({"batch": 0}, "batch 0: at least 1 sample"),
        ({"negative": ["two"], "guidance": 3.0}, "one prompt for all samples is meant"),
        ({"start": Start("a.png")}, "'a.png': no pictures; they are uint8"),
        ({"start": Start([Image.new("L", (8, 8)), Image.new("L", (9, 8))])}, "pictures of one size are meant"),
        ({"prompts": ["द्वि"]}, "no training caption has"),
        ({"prompts": ["one " * 2500]}, "bytes long|at most"),
        ({"negative": "नहीं", "guidance": 3.0}, "no training caption has"),
        ({"negative": "two", "guidance": 1.0}, "negative 'two': at guidance 1 nothing is led away from; give a larger scale"),
        ({"rescale": 0.5, "guidance": 1.0}, "rescale: at guidance 1 there is none that this could change"),
        ({"rescale": 0.5, "interval": (0.1, 0.9), "guidance": 1.0}, "interval and rescale: at guidance 1 there is none"),
    ],
)
def test_bad_settings_are_one_clear_line(model: DiffusionModel, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        model.sample(**{"prompts": ["one"], **settings})
    assert "\n" not in str(e.value)


def test_sampling_defaults_are_checked_when_they_are_made() -> None:
    with pytest.raises(InputError, match="unknown sampler"):
        Sampling(sampler="magic")


def test_saved_in_bfloat16_it_is_half_as_large_and_the_rounded_model(model: DiffusionModel, tmp_path: Path) -> None:
    model.save(tmp_path / "whole")
    model.save(tmp_path / "half", torch.bfloat16)
    sizes = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("whole", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    again = load(tmp_path / "half")
    for name, value in model.parts.state_dict().items():
        expected = value.bfloat16().to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(again.parts.state_dict()[name], expected)
    assert again.hash() in (tmp_path / "half" / "README.md").read_text()


def test_what_is_not_finite_is_refused_and_not_drawn() -> None:
    """Codecs draw NaN as 0: broken weights would come out as a picture."""
    broken = tiny_model()
    with torch.no_grad():
        next(broken.denoiser.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(InputError, match=r"2 samples \(number 0, 1\) are not finite: either weights are broken"):
        broken.sample("one", n=2)
    x = torch.zeros(6, 1, 2, 2)
    x[2, 0, 1, 1], x[5, 0, 0, 0] = torch.inf, torch.nan
    check_finite(x[:2], 4)
    with pytest.raises(InputError, match=r"2 samples \(number 10, 13\)"):
        check_finite({"kind": torch.ones(6, dtype=torch.long), "x": x}, 8)
    check_finite({"none": torch.zeros(6, 0), "x": torch.zeros(6, 0, 3), "kind": torch.ones(6, dtype=torch.long)})
