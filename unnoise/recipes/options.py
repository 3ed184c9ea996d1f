"""The short options of `unnoise train`; each overrides one choice of a recipe. None leaves it to the recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    steps: int | None = None
    """Optimiser steps; the recipe decides from the data."""
    batch: int | None = None
    """Rows an optimiser step."""
    size: int | None = None
    """Side of the training pictures in pixels; the recipe takes the pictures' own, up to 64."""
    lr: float | None = None
    """Learning rate after the warm-up."""
    seed: int = 0
    """Decides the first weights, the order of the data, all noise."""
    width: int | None = None
    """Width of the network."""
    depth: int | None = None
    """Blocks of the network."""
    background: str = "white"
    """What transparent pictures are laid over: a colour name or #rrggbb."""
    flip: bool = False
    """Mirror half of the pictures at random; wrong for letters, digits and faces of clocks."""
    condition: str | None = None
    """For tables: the column of categories whose values become prompts."""
