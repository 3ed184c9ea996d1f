"""The prompt language through a whole model: what is said at each step is what the network is told there."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_config
from torch import Tensor

from unnoise.control.guidance import classifier_free
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.conditioning import Text, TextConfig
from unnoise.modalities.words.syntax import read
from unnoise.model import DiffusionModel
from unnoise.samplers.euler import Euler
from unnoise.samplers.grids import Uniform
from unnoise.samplers.loop import sample


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    """tiny_model, which has never seen a space, told of one."""
    torch.manual_seed(0)
    config = tiny_config()
    words = TextConfig.of(["zero", "one", "two", "three", "zero one"], config.conditioner.encoder)
    model = replace(config, conditioner=words).build()
    with torch.no_grad():
        for p in model.parts.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def walk(model: DiffusionModel, *prompts: str | None, **settings) -> Tensor:
    """The states after every one of 5 Euler steps: (5, B, 1, 8, 8)."""
    states: list[Tensor] = []
    settings = {"sample_seeds": range(len(prompts)), "steps": 5, "sampler": "euler", "grid": "uniform"} | settings
    model.sample(list(prompts), watch=lambda done, steps, x: states.append(x.clone()), **settings)
    return torch.stack(states)


def test_a_change_takes_over_where_the_first_prompt_stands(model: DiffusionModel) -> None:
    changing, first = walk(model, "[zero:one:0.4] two"), walk(model, "zero two")
    assert torch.equal(changing[:2], first[:2])
    said, nothing = (dict(model.conditioner(model.conditioner.prepare([p]))) for p in ("one two", None))
    times = Uniform().times(5, model.config.process)
    with torch.no_grad():
        denoise = classifier_free(model.denoiser, said, nothing, 2.0)
        rest = sample(denoise, model.config.process, first[1], times[2:], Euler(), Streams.each([0]))
    torch.testing.assert_close(changing[4], rest)


@pytest.mark.parametrize(
    ("prompt", "same"),
    [
        ("[zero:one:0]", "one"), ("[zero:one:1.0]", "zero"), ("(zero:1.0)", "zero"), ("[zero::0]", None),
        ("[zero|zero]", "zero"), ("zero BREAK one", "zero one"),
    ],
)  # fmt: skip
def test_prompts_that_say_the_same(model: DiffusionModel, prompt: str, same: str | None) -> None:
    torch.testing.assert_close(walk(model, prompt)[4], walk(model, same)[4], rtol=0, atol=1e-5)


def test_each_of_a_batch_changes_at_its_own_step(model: DiffusionModel) -> None:
    prompts = ["[zero:one:0.4]", None, "(two:1.4)", "[three|one]", "[two:0.6]"]
    together = walk(model, *prompts)
    for i, prompt in enumerate(prompts):
        torch.testing.assert_close(walk(model, prompt, sample_seeds=[i])[:, 0], together[:, i], rtol=0, atol=1e-5)
    assert (walk(model, "two", sample_seeds=[2])[4, 0] - together[4, 2]).abs().max() > 1e-4, "a weight matters"


def test_weights_are_what_the_conditioner_makes_of_them(model: DiffusionModel) -> None:
    conditioner = model.conditioner
    assert isinstance(conditioner, Text)
    with torch.no_grad():
        said = dict(conditioner(conditioner.prepare_said([read("zero (one:1.5)").at(0, 5)])))
        away = dict(conditioner(conditioner.prepare_said([read("[two]").at(0, 5)])))
        x = model.config.process.prior((1, 8, 8), Streams.each([0]), torch.device("cpu"))
        denoise = classifier_free(model.denoiser, said, away, 2.0)
        times = Uniform().times(5, model.config.process)
        by_hand = sample(denoise, model.config.process, x, times, Euler(), Streams.each([0]))
    torch.testing.assert_close(walk(model, "zero (one:1.5)", negative="[two]")[4], by_hand)


def test_mistakes_are_refused_before_any_work(model: DiffusionModel) -> None:
    def never(done: int, steps: int, x: Tensor) -> None:
        raise AssertionError

    for prompt, negative in ((["one", "(two"], None), (["one"], "two)"), (["[one:xyz:0.5]"], None)):
        with pytest.raises(InputError, match=r"never closed|closes nothing|no training caption"):
            model.sample(prompt, negative=negative, watch=never)


def test_captions_are_taken_as_they_stand(model: DiffusionModel) -> None:
    """Training reads brackets and colons as characters: this alphabet has none."""
    with pytest.raises(InputError, match=r"has '\(:1.\)', which no training caption has"):
        model.conditioner.prepare(["(one:1.1)"])
