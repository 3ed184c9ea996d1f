"""Layouts against the scenes they are of, and glyphs against the renderer's signs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.modalities.image.layouts import ALPHABET, Layouts, glyph_picture
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.vocabulary import DRAWN
from unnoise.modalities.image.scenes.world import Scene, Sign, Thing

WORLD = World(seed=3)
LAYOUTS = Layouts(DRAWN, 64, 64)


def test_scenes_and_back() -> None:
    """All that a scene says of its things and signs, in the order of their depth."""
    scenes = [WORLD.scene(row) for row in range(60)]
    told = LAYOUTS.encode(scenes)
    assert sum(bool(s.signs) for s in scenes) > 5
    for i, scene in enumerate(scenes):
        words = [s.word for s in scene.signs]
        back = LAYOUTS.decode(told["kind"][i], told["colour"][i], told["box"][i], words)
        nearest = sorted(scene.objects, key=lambda t: t.depth)
        assert [(t.name, t.colour, t.size) for t in back.objects] == [(t.name, t.colour, t.size) for t in nearest]
        assert np.allclose([t.box for t in back.objects], [t.box for t in nearest]) or not nearest
        assert [s.word for s in back.signs] == words
        assert back.backdrop.colour == scene.backdrop.colour
        letters = ["".join(ALPHABET[c - 1] for c in row if c) for row in told["letters"][i].tolist()]
        assert [w for w in letters if w] == words


def test_nothing_told_is_nothing() -> None:
    told = LAYOUTS.encode([None, Scene()])
    assert all(not bool(v[0].any()) for v in told.values())
    assert told["kind"][1].tolist() == [2] + [0] * 20  # a backdrop alone
    assert told["box"][1, 0].tolist() == [0, 0, 1, 1]
    assert len(LAYOUTS.encode([])["kind"]) == 0


def test_glyphs_are_the_ink_of_the_renderer() -> None:
    """On a white board: what is missing to white, within the board's edges."""
    sign = Sign("QUARTZ", (0.1, 0.3, 0.9, 0.55))
    shown = render(Scene((), (sign,)), Shapes(), 64).astype(float).mean(-1)
    ink = (255 - shown) / (255 - np.mean([20, 20, 24]))
    glyphs = glyph_picture([sign], 64, 64) / 255
    inside = (slice(21, 33), slice(9, 55))
    assert np.abs(ink - glyphs)[inside].max() < 0.03
    assert glyphs[inside].max() > 0.9
    glyphs[19:36, 6:58] = 0  # the board
    assert not glyphs.any()


def test_finer_glyphs_are_folded_into_channels() -> None:
    scene = next(s for s in map(WORLD.scene, range(100)) if s.signs)
    folded = Layouts(DRAWN, 8, 8, finer=8).encode([scene])["glyphs"][0].numpy()
    assert folded.shape == (64, 8, 8)
    whole = glyph_picture(scene.signs, 64, 64)
    for c in range(64):
        assert np.array_equal(folded[c], whole[c // 8 :: 8, c % 8 :: 8])


def test_what_does_not_fit_is_refused() -> None:
    thing = Thing("apple", "red", "small", (0.1, 0.1, 0.3, 0.3))
    with pytest.raises(InputError, match="room for 20"):
        LAYOUTS.encode([Scene((thing,) * 21)])
    with pytest.raises(InputError, match="'dragon'"):
        LAYOUTS.encode([Scene((replace(thing, name="dragon"),))])
    with pytest.raises(InputError, match="all positive"):
        Layouts(DRAWN, 0, 64)


def test_signs_without_a_word_are_left_out() -> None:
    kind, box = torch.tensor([1, 1, 0]), torch.tensor([[0.1, 0.1, 0.5, 0.3], [0.1, 0.5, 0.5, 0.7], [0.0, 0.0, 0.0, 0.0]])
    scene = LAYOUTS.decode(kind, torch.zeros(3, dtype=torch.int64), box, ["OPEN"])
    assert [s.word for s in scene.signs] == ["OPEN"]
    assert not scene.objects
