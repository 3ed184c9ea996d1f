"""What is drawn is where the scene says, in the colour it says, as large as it says; and as smooth as a finer picture."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from unnoise.modalities.image.scenes.draw import BOARDS, STYLES, lettering, pixels, render, visible
from unnoise.modalities.image.scenes.rows import Rendered, World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.sprites import fitted
from unnoise.modalities.image.scenes.vocabulary import BACKDROPS, COLOURS, SHAPES
from unnoise.modalities.image.scenes.world import Backdrop, Scene, Sign, Thing

SPRITES = Shapes()


def alone(name, colour, side=0.5):
    width, height = fitted(SPRITES.aspect(name), side)
    return Thing(name, colour, "large", (0.25, 0.25, 0.25 + width, 0.25 + height))


@pytest.mark.parametrize("name", SHAPES)
def test_a_thing_fills_its_box_and_no_more(name):
    """The pixels that differ from the bare background reach to the box's sides, to a pixel, and nowhere beyond."""
    size, thing = 128, alone(name, "blue")
    changed = np.abs(render(Scene((thing,)), SPRITES, size).astype(int) - 255).sum(-1) > 60
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(found - np.array(thing.box) * size).max() <= 1


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [64, 128])
def test_the_colour_that_most_of_a_thing_has_is_its_own(name, size):
    for colour, rgb in COLOURS.items():
        picture = render(Scene((alone(name, colour),)), SPRITES, size).reshape(-1, 3).astype(int)
        thing = picture[np.abs(picture - 255).sum(1) > 60]
        nearest = [min(COLOURS, key=lambda c: np.abs(p - COLOURS[c]).sum()) for p in np.unique(thing, axis=0, return_counts=False)]
        _, counts = np.unique(thing, axis=0, return_counts=True)
        share = {c: counts[[n == c for n in nearest]].sum() for c in set(nearest)}
        assert max(share, key=share.get) == colour, (name, colour, rgb)


def test_a_picture_is_a_finer_one_averaged():
    """Antialiasing: 64 pixels of a side are the means of a picture of 512, nearer to them by far than every eighth pixel."""
    world = World()
    errors = []
    for row in range(12):
        scene = world.scene(row)
        fine = render(scene, SPRITES, 512).astype(float)
        means = fine.reshape(64, 8, 64, 8, 3).mean((1, 3))
        errors.append([np.abs(x - means).mean() for x in (render(scene, SPRITES, 64), fine[4::8, 4::8])])
    smooth, sampled = np.mean(errors, 0)
    assert smooth < 0.6 * sampled


def test_what_is_visible_of_squares_is_counted_as_areas():
    deep = Thing("square", "red", "medium", (0.25, 0.25, 0.5, 0.5), 1.0)
    near = Thing("square", "blue", "medium", (0.375, 0.25, 0.625, 0.5), 0.0)
    sign = Sign("A", (0.25, 0.4375, 0.3125, 0.625))
    assert visible(Scene((deep, near)), SPRITES) == [0.5, 1.0]
    assert visible(Scene((near, deep)), SPRITES) == [1.0, 0.5]
    assert visible(Scene((deep, near), (sign,)), SPRITES) == [0.5 - 1 / 16, 1.0]


def test_the_nearer_thing_is_drawn_over_the_deeper_one():
    deep, near = alone("square", "red"), Thing("square", "blue", "small", (0.4, 0.4, 0.6, 0.6))
    for things in ((deep, near), (near, deep)):
        picture = render(Scene(tuple(Thing(t.name, t.colour, t.size, t.box, float(t is deep)) for t in things)), SPRITES, 64)
        assert picture[32, 32].tolist() == list(COLOURS["blue"])
        assert picture[20, 20].tolist() == list(COLOURS["red"])


def test_the_word_on_a_sign_is_pillows_own_lettering():
    """Beside the same text drawn plainly and scaled to the same box: another way to the same pixels."""
    for word in ("OPEN", "MWQ", "MUSHROOM"):
        mine = lettering(word, 400, 60)
        assert mine.height == 60
        mine = mine.crop(mine.getbbox())  # without the room that letters keep to their sides
        font = ImageFont.load_default(size=84)
        sheet = Image.new("L", (1200, 200))
        ImageDraw.Draw(sheet).text((60, 40), word, 255, font, stroke_width=2)
        plain = sheet.crop(sheet.getbbox()).resize(mine.size, Image.Resampling.BOX)
        assert np.corrcoef(np.asarray(mine).ravel(), np.asarray(plain).ravel())[0, 1] > 0.95
    assert lettering("MUSHROOM", 100, 60).size == (100, 60)  # narrower, not lower


def test_every_board_and_backdrop_leaves_its_word_and_things_to_be_seen():
    for board, (fill, ink) in BOARDS.items():
        picture = render(Scene((), (Sign("HI", (0.2, 0.3, 0.8, 0.6), board),)), SPRITES, 64).reshape(-1, 3).astype(int)
        near = [(np.abs(picture - c).sum(1) < 90).sum() for c in (fill, ink)]
        assert near[0] > 60
        assert near[1] > 60
        assert np.abs(np.subtract(fill, ink)).sum() > 300
    for colour, rgb in BACKDROPS.items():
        for style in STYLES:
            picture = render(Scene((), (), Backdrop(colour, style)), SPRITES, 64).astype(int)
            assert np.abs(picture[0] - rgb).max() <= 1
            assert min(np.abs(picture - c).sum(-1).min() for c in COLOURS.values()) > 40


def test_boxes_become_pixels_that_are_never_empty():
    assert pixels((0.25, 0.5, 0.75, 1.0), 64) == (16, 32, 48, 64)
    assert pixels((0.5, 0.5, 0.5, 0.5), 64) == (32, 32, 33, 33)


def test_rows_are_functions_of_the_world_and_the_row():
    world = World(seed=3)
    drawn = Rendered(world, 48)
    together = drawn([5, 2, 900_000_000_000])
    assert all(np.array_equal(drawn([row])[0], picture) for row, picture in zip([5, 2, 900_000_000_000], together))
    assert world.captions(7) == World(seed=3).captions(7)
    assert world.scene(7) != World(seed=4).scene(7)
    assert len({world.captions(row) for row in range(200)}) > 190
