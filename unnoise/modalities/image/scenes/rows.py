"""An endless set of captioned scenes: row i of a world is a function of the world and i alone, made when it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unnoise.core.random import derive
from unnoise.modalities.image.annotations import Captions
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.grammar import at_random, caption, plainly
from unnoise.modalities.image.scenes.place import place
from unnoise.modalities.image.scenes.requests import KINDS, Kinds, draw_request
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.world import Request, Scene


@dataclass(frozen=True)
class World:
    """What scenes are made of, and how often each kind of request is drawn. Nothing that `split` holds out is shown or said."""

    sprites: Sprites = Shapes()
    seed: int = 0
    split: Split = field(default=Split())
    kinds: Kinds = field(default_factory=lambda: KINDS, hash=False)

    def request(self, row: int) -> Request:
        return draw_request(self._rng(row, "request"), self.sprites, self.split, self.kinds)

    def scene(self, row: int) -> Scene:
        return place(self.request(row), self._rng(row, "scene"), self.sprites, self.split)

    def captions(self, row: int, wordings: int = 3) -> Captions:
        """The plainest wording first, then others at random; different ones, so perhaps fewer."""
        request, rng = self.request(row), self._rng(row, "captions")
        said = [caption(request, plainly), *(caption(request, at_random(rng)) for _ in range(wordings - 1))]
        return tuple(dict.fromkeys(said))

    def _rng(self, row: int, what: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[derive(self.seed, row), derive(0, what)]))


@dataclass(frozen=True)
class Rendered:
    """The pixels of a world's rows, drawn when they are asked for."""

    world: World
    size: int

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        """uint8 (len(rows), size, size, 3)"""
        return np.stack([render(self.world.scene(int(r)), self.world.sprites, self.size) for r in rows])
