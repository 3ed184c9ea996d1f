"""Outlines place as the sprites that they are of do."""

import math

import numpy as np

from unnoise.modalities.image.scenes.outlines import Outlines
from unnoise.modalities.image.scenes.place import place
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.world import OVERLAPPING, Relation, holds


def test_scenes_are_placed_the_same() -> None:
    """To the last digit, but where it matters what is seen of a thing behind another."""
    world, outlines = World(seed=4), Outlines.of(Shapes())
    for row in range(60):
        request = world.request(row)
        scenes = [place(request, np.random.Generator(np.random.Philox(key=row)), s) for s in (world.sprites, outlines)]
        if request.relation not in OVERLAPPING - {Relation.INSIDE}:
            assert scenes[0] == scenes[1]
        assert holds(scenes[1], request)


def test_an_outline_is_an_ellipse() -> None:
    assert abs(Outlines.of(Shapes()).mask("cup", 120, 60).mean() - math.pi / 4) < 0.01
