"""What lies over what is told from the picture: wrong names, doubled things, shifted boxes and depths come right."""

from dataclasses import replace

import numpy as np
import pytest

from unnoise.evaluation.prompt_suite.overlaps import explained, lie_over
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.world import Backdrop, Scene, Thing

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
        [SQUARE, HEART],
        [HEART, replace(SQUARE, name="tree", box=(0.37, 0.3, 0.78, 0.77))],
        [HEART, replace(SQUARE, name="house"), replace(SQUARE, name="arrow", box=(0.4, 0.35, 0.8, 0.75))],
        [replace(HEART, colour="pink"), replace(SQUARE, colour="purple")],
    ],
)
def test_what_was_found_wrongly_comes_right(found) -> None:
    assert known(explained(found, len(found), picture(HEART, SQUARE), WHITE, SPRITES)) == known([HEART, SQUARE])


def test_the_other_one_in_front() -> None:
    front, back = replace(SQUARE, depth=0.0), replace(HEART, depth=1.0)
    assert known(explained([HEART, SQUARE], 2, picture(front, back), WHITE, SPRITES)) == known([front, back])


def test_guesses_count_where_they_explain_something() -> None:
    shown = picture(HEART, SQUARE, MOON)
    guess = replace(HEART, name="star", colour="black")
    assert known(explained([SQUARE, HEART, MOON], 1, shown, WHITE, SPRITES)) == known(
        [HEART, SQUARE]
    )  # the moon is alone, and unsure
    assert known(explained([SQUARE, HEART, MOON, guess], 3, shown, WHITE, SPRITES)) == known([HEART, SQUARE, MOON])


def test_things_apart_stay_as_they_were_found() -> None:
    far = replace(SQUARE, box=(0.6, 0.6, 0.95, 0.95))
    assert explained([HEART, far], 2, picture(), WHITE, SPRITES) == [HEART, far]
    inner = replace(HEART, box=(0.45, 0.45, 0.6, 0.6))
    assert not lie_over(inner, SQUARE)
    assert explained([inner, SQUARE], 2, picture(), WHITE, SPRITES) == [inner, SQUARE]


def test_which_of_several_is_before_which_is_seen_in_the_picture() -> None:
    """Three in a chain, in several orders; the one that is inside another is no deeper for it."""
    boxes = ((0.1, 0.1, 0.4, 0.4), (0.3, 0.3, 0.6, 0.6), (0.5, 0.5, 0.8, 0.8), (0.62, 0.62, 0.7, 0.7))
    colours = ("red", "blue", "pink", "black")
    things = [Thing("square", c, "medium", b) for c, b in zip(colours, boxes)]
    for order in ((0, 1, 2), (1, 2, 0)):
        shown = picture(*(replace(t, depth=float(d)) for t, d in zip(things, (*order, -1))))
        depths = {t.colour: t.depth for t in explained(things, 4, shown, WHITE, SPRITES)}
        assert depths == {
            "red": float(order[0] > order[1]), "blue": float((order[1] > order[0]) + (order[1] > order[2])),
            "pink": float(order[2] > order[1]), "black": 0.0,
        }  # fmt: skip
