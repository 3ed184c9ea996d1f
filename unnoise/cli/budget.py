"""--budget and --error of unnoise sample: what they go with, and what was picked, told on the terminal."""

import sys
from collections.abc import Callable
from typing import Any

from unnoise.control.asking import check_words
from unnoise.control.budget import Way
from unnoise.core.errors import InputError, option
from unnoise.model import DiffusionModel

CHOSEN = ("steps", "sampler", "cache", "cache_within", "exact")
LONGER = (
    "inner", "weaker", "then", "control", "picture_prompt", "start", "fill", "change", "follow", "original", "int8",
    "picture_guidance", "arrange",
)  # fmt: skip


def check_beside(args: Any) -> None:
    """InputError where they stand beside what they choose, or what makes another walk than they measure."""
    asked = [f"--{name}" for name in ("budget", "error") if getattr(args, name) is not None]
    given = {name: getattr(args, name) for name in (*CHOSEN, *LONGER)}
    beside = [option(name) for name, v in given.items() if v is not None and v is not False and v != ()]
    if asked and beside:
        raise InputError(
            f"{' and '.join(asked)} with {', '.join(beside)}: they choose steps, sampler and caching of a plain walk; leave one out"
        )


def fit(
    model: DiffusionModel, half: Callable[[], DiffusionModel], usual: Way, prompts: tuple[str, ...], n: int, batch: int,
    side: tuple[int, int] | None, negative: str | None, seconds: float | None, error: float | None, trials: int,
) -> tuple[Way, DiffusionModel]:  # fmt: skip
    """How to draw, and the model for it; arguments as `fitted`'s and `Order`'s."""
    from unnoise.recipes.speed import Order, fitted, precisions  # recipes are slow to import

    check_words(model.conditioner, [*prompts, negative])
    order, among = Order(usual, prompts, n, batch, side, negative), precisions(model, usual.precision)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    plan, chosen = fitted(model, half, order, among, seconds, error, trials, say)
    asked = [f"budget {seconds:g} s" if seconds is not None else "", f"error {error:g}" if error is not None else ""]
    say(f"{', '.join(filter(None, asked))}: {plan}")
    return plan.way, chosen
