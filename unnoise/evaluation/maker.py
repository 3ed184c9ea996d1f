"""A generator as the evaluation sees it: prompts in, rows out. Diffusion models, GANs and VAEs all look alike from here."""

from collections.abc import Sequence
from typing import Protocol

import torch

from unnoise.core.errors import InputError
from unnoise.core.measure import Attribute, Examples
from unnoise.core.random import Streams


class Maker(Protocol):
    """Makes one row a prompt."""

    name: str

    def make(self, prompts: Sequence[str | None], seed: int, guidance: float | None = None) -> Examples:
        """One row a prompt, in their order; the class that was asked for is its attribute "class".

        guidance: 1 conditional, above 1 exaggerated; None: as the generator is usually sampled. Raises InputError for a prompt or
        a guidance scale that it cannot follow.
        """


def prompts_like(examples: Examples, n: int, seed: int = 0, name: str = "class") -> list[str | None]:
    """n prompts with the shares of the rows' attribute `name`; all None if they have none, or it is known of no row.

    Systematic draws: every value has its share of n, rounded up or down, so that made and real rows differ by what the generator
    does and not by what it was asked. In random order.
    """
    if n < 1:
        raise InputError(f"n {n}: ask for at least 1 row")
    attribute = attribute_of(examples, name)
    counts = torch.zeros(0) if attribute is None else counts_of(attribute)
    if attribute is None or counts.sum() == 0:
        return [None] * n
    offset = float(Streams.of(seed, 1).uniform("offset", dtype=torch.float64))
    ends = counts.double().cumsum(0) / counts.sum()
    places = (torch.arange(n, dtype=torch.float64) + offset) / n
    codes = torch.searchsorted(ends, places, right=True).clamp(max=int(counts.nonzero().max()))
    return [attribute.values[i] for i in codes[Streams.of(seed, n).uniform("order", dtype=torch.float64).argsort()].tolist()]


def attribute_of(examples: Examples, name: str) -> Attribute | None:
    """The rows' attribute of this name, if they have one."""
    return next((a for a in examples.attributes() if a.name == name), None)


def counts_of(attribute: Attribute) -> torch.Tensor:
    """How many rows have each value: (K,) int64. Rows of which it is not known are not counted."""
    return torch.bincount(attribute.codes[attribute.codes >= 0], minlength=len(attribute.values))
