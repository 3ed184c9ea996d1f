"""Scenes of pieces look as the renderer paints them; what is found by Fourier transform is what trying every place finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from unnoise.evaluation.prompt_suite.synthesis import Canvas, Piece, piece, templates
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.world import OVERLAPPING, Scene, Sign, Thing

SPRITES = Shapes()
WORLD = World(SPRITES, 5)
ROWS = [*[row for row in range(400) if WORLD.request(row).relation in OVERLAPPING][:12], 1, 2, 3]
EMPTY = np.full((64, 64, 3), 240.0)


def pieces(scene: Scene) -> tuple[Piece, ...]:
    return tuple(piece(t, 64) for t in sorted(scene.objects, key=lambda t: t.depth))


@pytest.mark.parametrize("row", ROWS)
def test_painted_as_the_renderer_paints(row):
    """On backdrops of every style; what is left of a level or two a pixel is rounding, and edges that cross within a pixel."""
    scene = replace(WORLD.scene(row), signs=())
    picture = render(scene, SPRITES, 64)
    wrong = np.abs(Canvas(picture, SPRITES).painted(pieces(scene)) - picture)
    assert wrong.mean() < 0.1
    assert (wrong > 3).mean() < 0.005
    assert Canvas(picture, SPRITES).error(pieces(scene)) == pytest.approx(np.maximum(wrong - 16, 0).sum(), rel=1e-5, abs=0.1)


def test_what_lies_under_signs_does_not_count():
    picture = render(Scene((), (Sign("OPEN", (0.25, 0.25, 0.75, 0.5)),)), SPRITES, 64)
    assert Canvas(picture, SPRITES).error(()) > 10_000
    assert Canvas(picture, SPRITES, [Sign("", (0.25, 0.25, 0.75, 0.5))]).error(()) == 0


def test_every_place_and_size_at_once_is_every_place_and_size_one_by_one():
    """Against scipy's direct correlation with the coverage of each paint, counted on the fine drawing."""
    rng = np.random.default_rng(0)
    house = next(t for t in templates(SPRITES, 64) if t.name == "house")
    costs = {paint: rng.normal(size=(64, 64)).astype(np.float32) for paint in house.paints("blue")}
    house = replace(house, boxes=house.boxes[::4], spectra=house.spectra[::4], beyond=house.beyond[::4])
    found = house.best("blue", lambda paint: torch.fft.rfft2(torch.from_numpy(costs[paint])))
    totals = {}
    for wide, high in house.boxes:
        drawn = np.asarray(SPRITES.draw("house", "blue", wide, high, 3)).astype(int)
        full = np.zeros((-(-high // 4) * 4, -(-wide // 4) * 4, 4), int)
        full[:high, :wide] = drawn
        total = 0.0
        for paint, cost in costs.items():
            its = (full[..., 3] == 255) & (full[..., :3] == paint).all(2)
            coverage = its.reshape(len(full) // 4, 4, -1, 4).mean((1, 3))
            total = total + correlate(cost.astype(float), coverage, "valid", "direct")
        y, x = np.unravel_index(total.argmin(), total.shape)
        totals[wide, high] = (float(total.min()), 4 * int(x), 4 * int(y))
    box = min(totals, key=lambda k: totals[k])
    assert found.error == pytest.approx(totals[box][0], rel=1e-4)
    assert found.piece == Piece("house", "blue", *totals[box][1:], *box)


@pytest.mark.parametrize("name", SPRITES.vocabulary.names)
def test_a_thing_is_found_wherever_it_is(name):
    """Alone and behind another, to half a fine pixel a side or one; of every shape, at any size."""
    rng = np.random.default_rng(len(name) + ord(name[0]))
    box = SPRITES.aspect(name)
    longer = int(rng.integers(70, 150))
    wide, high = (longer, round(longer / box)) if box >= 1 else (round(longer * box), longer)
    wanted = Piece(name, "blue", int(rng.integers(10, 246 - wide)), int(rng.integers(10, 246 - high)), wide, high)
    front = Piece("star" if name != "star" else "heart", "red", wanted.x - 8 if wanted.x > 20 else wanted.x + 20, wanted.y, 60, 60)
    alone, covered = (render(Scene(tuple(replace(p.thing(64), depth=float(i)) for i, p in enumerate(s))), SPRITES, 64)
                      for s in ((wanted,), (front, wanted)))  # fmt: skip
    for picture, before in ((alone, ()), (covered, (front,))):
        found = Canvas(picture, SPRITES).best_between(before, (), ["green", "blue"])
        assert (found.name, found.colour) == (name, "blue")
        assert max(abs(getattr(found, k) - getattr(wanted, k)) for k in ("x", "y", "wide", "high")) <= 2


def test_a_nudge_brings_a_thing_back_and_moves_no_other():
    star, heart = Thing("star", "red", "medium", (0.2, 0.2, 0.5, 0.5)), Thing("heart", "blue", "medium", (0.4, 0.4, 0.7, 0.68))
    right = (piece(star, 64), piece(heart, 64))
    picture = render(Scene((star, replace(heart, depth=1.0))), SPRITES, 64)
    off = replace(right[1], x=right[1].x + 7, y=right[1].y - 6, wide=right[1].wide - 5, high=right[1].high - 5)
    back = Canvas(picture, SPRITES).nudged((right[0], off), 1)
    assert back[0] == right[0]
    assert max(abs(getattr(back[1], k) - getattr(right[1], k)) for k in ("x", "y", "wide", "high")) <= 2


def test_the_colour_that_would_explain_the_most_comes_first():
    things = (Thing("square", "green", "large", (0.1, 0.1, 0.6, 0.6)), Thing("square", "pink", "small", (0.7, 0.7, 0.9, 0.9)))
    canvas = Canvas(render(Scene(things), SPRITES, 64), SPRITES)
    assert canvas.promising((), 2)[0] == "green"
    assert canvas.promising((piece(things[0], 64),), 1) == ["pink"]


def test_boxes_at_the_edge_stay_in_the_picture():
    for box in ((1.0, 1.0, 1.0, 1.0), (0.9, 0.9, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0)):
        p = piece(Thing("star", "red", "small", box), 64)
        assert min(p.x, p.y) >= 0
        assert max(p.x + p.wide, p.y + p.high) <= 256
        assert min(p.wide, p.high) >= 1
        assert Canvas(EMPTY, SPRITES).painted([p]).shape == (64, 64, 3)
