"""What lies over what is told from the picture: wrong names, doubled things, shifted boxes and depths come right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unnoise.evaluation.learning import drawing_from
from unnoise.evaluation.prompt_suite.augment import worn
from unnoise.evaluation.prompt_suite.lists import prompts
from unnoise.evaluation.prompt_suite.overlaps import explained, lie_over
from unnoise.evaluation.prompt_suite.score import SLACK
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.place import place
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.world import OVERLAPPING, Backdrop, Relation, Scene, Sign, Thing, holds

SPRITES, WHITE = Shapes(), Backdrop()
HEART = Thing("heart", "red", "medium", (0.2, 0.2, 0.5, 0.5), 0.0)
SQUARE = Thing("square", "blue", "large", (0.35, 0.3, 0.8, 0.75), 1.0)
MOON = Thing("moon", "green", "small", (0.05, 0.75, 0.25, 0.95), 0.0)


def picture(*things: Thing) -> np.ndarray:
    return render(Scene(things, (), WHITE), SPRITES, 64).astype(np.float64)


def known(things: list[Thing]) -> list[tuple[str, str, float]]:
    return sorted((t.name, t.colour, t.depth) for t in things)


@pytest.mark.parametrize(
    "found",
    [
        [HEART, SQUARE],
        [SQUARE],
        [HEART],
        [HEART, replace(SQUARE, name="tree", box=(0.37, 0.3, 0.78, 0.77))],
        [HEART, replace(SQUARE, name="house"), replace(SQUARE, name="arrow", box=(0.4, 0.35, 0.8, 0.75))],
        [replace(HEART, colour="pink"), replace(SQUARE, colour="purple")],
    ],
)
def test_what_was_found_wrongly_comes_right(found) -> None:
    """Missed, doubled, under a wrong name or of a wrong colour."""
    assert known(explained(found, picture(HEART, SQUARE), SPRITES)) == known([HEART, SQUARE])


@pytest.mark.parametrize("found", [[HEART, SQUARE], [HEART]])
def test_the_other_one_in_front(found) -> None:
    front, back = replace(SQUARE, depth=0.0), replace(HEART, depth=1.0)
    assert known(explained(found, picture(front, back), SPRITES)) == known([front, back])


def test_what_explains_nothing_is_left_out() -> None:
    """A grey square that a detector saw where a ring lies over a black one, which moved a little explains as much."""
    ring = Thing("ring", "grey", "large", (0.326, 0.206, 0.842, 0.722), 0.0)
    square = Thing("square", "black", "medium", (0.496, 0.066, 0.824, 0.394), 1.0)
    found = [replace(square, colour="grey", box=(0.498, 0.07, 0.807, 0.362)), replace(ring, box=(0.322, 0.231, 0.847, 0.729)),
             Thing("fish", "black", "small", (0.49, 0.29, 0.696, 0.41))]  # fmt: skip
    assert known(explained(found, picture(ring, square), SPRITES)) == known([ring, square])


@pytest.mark.parametrize("x", [0.05, 0.3])
def test_what_a_ring_divides_is_one_disc(x: float) -> None:
    """Seen as a larger ring about it and a smaller disc in its hole, which explain the same."""
    ring = Thing("ring", "pink", "medium", (x + 0.08, 0.36, x + 0.36, 0.64), 0.0)
    disc = Thing("circle", "black", "large", (x, 0.3, x + 0.46, 0.76), 1.0)
    seen = [replace(disc, size="small", box=(x + 0.13, 0.41, x + 0.31, 0.59)), replace(disc, name="ring")]
    assert known(explained(seen, picture(ring, disc), SPRITES)) == known([ring, replace(disc, depth=0.0)])


def test_two_of_one_colour_stay_two() -> None:
    """A disc in a ring of its colour, and two discs that overlap."""
    ring = Thing("ring", "black", "large", (0.2, 0.2, 0.7, 0.7), 0.0)
    spot = Thing("circle", "black", "small", (0.37, 0.37, 0.53, 0.53), 0.0)
    assert known(explained([ring, spot], picture(ring, spot), SPRITES)) == known([ring, spot])
    one, two = (replace(spot, size="medium", box=(x, 0.3, x + 0.3, 0.6)) for x in (0.2, 0.38))
    assert [t.name for t in explained([one, two], picture(one, two), SPRITES)] == ["circle", "circle"]


def test_what_lies_in_another_is_found_though_nothing_was_seen_there() -> None:
    inner = Thing("fish", "orange", "small", (0.5, 0.55, 0.68, 0.65))
    assert known(explained([SQUARE], picture(inner, SQUARE), SPRITES)) == known([inner, replace(SQUARE, depth=0.0)])
    assert explained([replace(SQUARE, depth=0.0)], picture(SQUARE), SPRITES) == [replace(SQUARE, depth=0.0)]


def test_things_apart_stay_as_they_were_found() -> None:
    far = replace(MOON, box=(0.06, 0.74, 0.25, 0.94))
    assert explained([far, HEART], picture(MOON, HEART), SPRITES) == [far, HEART]


def test_what_stands_elsewhere_and_signs_do_not_matter() -> None:
    """A thing that the picture shows otherwise than it was found, and a word that nobody explains."""
    scene = Scene((HEART, SQUARE, MOON), (Sign("OPEN", (0.4, 0.05, 0.9, 0.22)),), WHITE)
    shown = render(scene, SPRITES, 64).astype(np.float64)
    star = replace(MOON, name="star")
    sign = Sign("", (0.39, 0.04, 0.91, 0.24))
    told = explained([SQUARE, replace(HEART, name="apple"), star], shown, SPRITES, [sign])
    assert known([t for t in told if t.colour != "green"]) == known([HEART, SQUARE])


def test_where_boxes_overlap_and_things_do_not_neither_is_before_the_other() -> None:
    """A triangle's lower corner and what is free above another's slope: the picture is the same in both orders."""
    a = Thing("triangle", "red", "medium", (0.2, 0.2, 0.53, 0.49), 0.0)
    b = Thing("triangle", "blue", "medium", (0.47, 0.43, 0.8, 0.72), 1.0)
    assert lie_over(a, b)
    assert np.array_equal(picture(a, b), picture(replace(a, depth=1.0), replace(b, depth=0.0)))
    assert [t.depth for t in explained([a, b], picture(a, b), SPRITES)] == [0.0, 0.0]


def test_which_of_several_is_before_which_is_seen_in_the_picture() -> None:
    """Three in a chain, in several orders; the one that is inside another is no deeper for it."""
    boxes = ((0.1, 0.1, 0.4, 0.4), (0.3, 0.3, 0.6, 0.6), (0.5, 0.5, 0.8, 0.8), (0.6, 0.62, 0.78, 0.78))
    names, colours = ("square", "square", "square", "apple"), ("red", "blue", "pink", "black")
    things = [Thing(n, c, "medium", b) for n, c, b in zip(names, colours, boxes)]
    for order in ((0, 1, 2), (1, 2, 0)):
        shown = picture(*(replace(t, depth=float(d)) for t, d in zip(things, (*order, -1))))
        depths = {t.colour: t.depth for t in explained(things, shown, SPRITES)}
        assert depths == {
            "red": float(order[0] > order[1]), "blue": float((order[1] > order[0]) + (order[1] > order[2])),
            "pink": float(order[2] > order[1]), "black": 0.0,
        }  # fmt: skip


ASKED = [p for p in prompts(World(SPRITES), "relation", 1, False, 77) if p.request.relation in OVERLAPPING]


@pytest.mark.parametrize("i", range(len(ASKED)))
def test_pictures_that_are_worn_are_judged_as_they_were_drawn(i) -> None:
    """Blurred, noisy, of other contrast, with boxes a pixel or two off and one name wrong; with the order exchanged, the other
    relation holds and the one that was asked for does not."""
    p, rng = ASKED[i], np.random.Generator(np.random.Philox(key=[77, i]))
    scene = place(p.request, rng, SPRITES)
    depths = [t.depth for t in scene.objects]
    exchanged = replace(scene, objects=tuple(replace(t, depth=d) for t, d in zip(scene.objects, depths[::-1])))
    for truth in (scene, exchanged) if p.request.relation is not Relation.INSIDE else (scene,):
        with drawing_from(i):
            x = worn(torch.tensor(render(truth, SPRITES, 64)).movedim(-1, 0)[None].float() / 127.5 - 1)
        off = [tuple(np.clip(t.box + rng.uniform(-0.03, 0.03, 4), 0, 1)) for t in truth.objects]
        found = [replace(t, box=box) for t, box in zip(truth.objects, off)]
        found[0] = replace(found[0], name="circle")
        seen = explained(found, (x[0].movedim(0, -1).numpy() + 1) * 127.5, SPRITES)
        assert holds(Scene(tuple(seen)), p.request, SLACK) is (truth is scene)


def test_a_sign_that_is_found_on_a_thing_is_none() -> None:
    """Else nothing in the ring would count, and the picture could not tell what lies before what."""
    ring, arrow = (
        Thing("ring", "grey", "medium", (0.48, 0.438, 0.789, 0.748)),
        Thing("arrow", "orange", "medium", (0.347, 0.458, 0.625, 0.692), 1.0),
    )
    sign = Sign("", (0.49, 0.45, 0.78, 0.74))
    assert known(explained([ring, replace(arrow, box=(0.35, 0.46, 0.6, 0.69))], picture(ring, arrow), SPRITES, [sign])) == known(
        [ring, arrow]
    )


def test_a_dark_thing_before_a_dark_one_is_told_and_one_that_peeps_out_below_is_found() -> None:
    cup, fish = (
        Thing("cup", "brown", "medium", (0.22, 0.675, 0.526, 0.962)),
        Thing("fish", "black", "medium", (0.119, 0.584, 0.389, 0.741), 1.0),
    )
    assert known(explained([cup, replace(fish, depth=0.0)], picture(cup, fish), SPRITES)) == known([cup, fish])
    house, moon = (
        Thing("house", "pink", "large", (0.159, 0.02, 0.736, 0.598)),
        Thing("moon", "black", "large", (0.239, 0.447, 0.621, 0.92), 1.0),
    )
    assert known(explained([replace(house, box=(0.174, 0.034, 0.737, 0.577))], picture(house, moon), SPRITES)) == known(
        [house, moon]
    )
