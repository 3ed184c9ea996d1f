"""Plans against the world's own geometry: what was asked for holds."""

import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from unnoise.control.layout.planner import fragments, plan, sound, spoken, understood
from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.world import Group, Relation, Request, Saying, Scene, Sign, Thing, holds

SPRITES = Shapes()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def thing(name: str, x: float, y: float, colour: str = "red", side: float = 0.2) -> Thing:
    return Thing(name, colour, "small", (x, y, x + side, y + side))


def test_prompts_that_are_understood_are_planned_right() -> None:
    """In every wording of 80 requests, by the world's own test of what was asked for."""
    world = World(seed=11)
    for row in range(80):
        for caption in world.captions(row):
            scene = plan(caption, SPRITES, rng(row))
            assert holds(scene, world.request(row)), caption


def test_a_plan_is_a_function_of_its_generator() -> None:
    prompt = "five blue fish above a house"
    assert plan(prompt, SPRITES, rng(1)) == plan(prompt, SPRITES, rng(1)) != plan(prompt, SPRITES, rng(2))


def test_the_longest_pieces_that_are_understood() -> None:
    found = fragments("Please paint me three red apples, next to a huge tree somewhere", SPRITES)
    assert found == (Request((Group("apple", 3, "red"),)), Request((Group("tree", 1, None, "large"),)))
    whole = "two cups left of a sign that says TEA"
    assert fragments(whole, SPRITES) == (Request((Group("cup", 2), Saying("TEA")), Relation.LEFT_OF),)
    assert fragments("nothing that anybody knows", SPRITES) == ()
    assert understood("three red apples, please", SPRITES) is None
    for prompt in ("twelve red stars", "some stars", "a hundred stars", "no apples", "0 apples"):
        assert fragments(prompt, SPRITES) == (), prompt
    assert fragments("kindly an apple without a star", SPRITES) == (Request((Group("apple"),)),)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a photo of a star inside a ring", Request((Group("star"), Group("ring")), Relation.INSIDE)),
        ("a photo of three red apples left of five stars", Request((Group("apple", 3, "red"), Group("star", 5)), Relation.LEFT_OF)),
        ("a red star next to a blue star", Request((Group("star", 1, "red"), Group("star", 1, "blue")))),
        ("a star next to a star", Request((Group("star", 2),))),
        ("a photo of a red star and a blue star", Request((Group("star", 1, "red"), Group("star", 1, "blue")))),
    ],
)
def test_prompts_that_are_understood_in_part(prompt: str, wanted: Request) -> None:
    for seed in range(4):
        assert holds(plan(prompt, SPRITES, rng(seed)), wanted)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("eleven red apples and a blue star", "how many apples, one to ten"),
        ("a red apple and eleven blue stars", "how many stars, one to ten"),
        ("two red and green apples", "how many apples, one to ten"),
        ("thirty two apples", "'thirty two' is more than a scene holds, one to ten"),
        ("a star, and a hundred and two apples", "'hundred and two' is more"),
        ("120 two apples", "'120 two' is more"),
        ("1,5 apples", "how many apples, one to ten"),
        ("a star and 3.5 apples", "how many apples, one to ten"),
        ("a sign that says ABCDEFGHIJKL", "'ABCDEFGHIJKL': 1 to 10 capital letters"),
        ('a star and a sign reading "H3LLO"', "'H3LLO': 1 to 10 capital letters"),
        ("the word ÉTÉ on a sign beside a star", "'ÉTÉ': 1 to 10 capital letters"),
    ],
)
def test_what_no_scene_holds_is_refused(prompt: str, wanted: str) -> None:
    """Though the rest is understood: a drawing with another count is not what was asked for."""
    with pytest.raises(InputError, match=wanted):
        plan(prompt, SPRITES, rng(), lambda n: pytest.fail("drawn"))


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("five pink elephants and a red circle", '"five pink elephants"'),
        ("a red star next to a blue star, and grass", '"next to" and "grass"'),
        ("Please paint me a star, and an apple without stars", None),
        ("a star and no apples", None),
        ("a star without any red apples, but two houses", None),
        ("in 1999, two stars", '"in 1999"'),
        ("a star in 1999 a house", '"in 1999"'),
        ("a star at 50% two houses", '"at 50%"'),
        ("a star, not an apple 3 houses", None),
    ],
)
def test_what_is_not_understood_is_said(prompt: str, left: str | None) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        plan(prompt, SPRITES, rng())
    assert [str(w.message).rpartition("by chance: ")[2] for w in told] == ([] if left is None else [left])


@pytest.mark.parametrize(
    "prompt",
    [
        "a star without an apple and two houses",
        "a star and no apples, no houses",
        "not an apple and a house, but a star",
        "a star without any apples",
        "a star and no red apples",
        "a star and no sign that says SUPERCALIFRAGILISTIC",
    ],
)
def test_what_is_denied_is_not_refused(prompt: str) -> None:
    scene = plan(prompt, SPRITES, rng())
    assert [t.name for t in scene.objects] == ["star"]
    assert not scene.signs


def test_words_that_signs_are_to_say() -> None:
    assert spoken('write "hello" and GO over it', ()) == ("HELLO", "GO")
    assert spoken("a sign saying TEA by the door", (Request((Saying("TEA"),)),)) == ("TEA",)
    assert spoken("AVERYLONGWORDINDEED and a", ()) == ()


def drawing(scenes: Sequence[Scene]) -> tuple[list[int], object]:
    asked: list[int] = []

    def draw(n: int) -> Sequence[Scene]:
        asked.append(n)
        return scenes

    return asked, draw


def test_drawn_layouts_are_checked() -> None:
    prompt = "kindly show two red apples next to a tree"
    apples = (thing("apple", 0.0, 0.0), thing("apple", 0.4, 0.0))
    right = Scene((*apples, thing("tree", 0.7, 0.7)))
    wrong = [Scene(), Scene(apples), Scene((*apples, thing("tree", 0.41, 0.05))), Scene((*right.objects, thing("apple", 0.0, 0.7)))]
    asked, draw = drawing([*wrong, right])
    assert plan(prompt, SPRITES, rng(), draw) == right
    _, draw = drawing(wrong)
    scene = plan(prompt, SPRITES, rng(), draw)  # the grammar's own
    assert scene not in wrong
    assert holds(scene, Request((Group("apple", 2, "red"), Group("tree"))))
    larger = Scene((*apples, thing("tree", 0.65, 0.65, side=0.35)))
    far = Scene((thing("apple", 0.0, 0.0, side=0.3), thing("apple", 0.4, 0.0, side=0.3), thing("tree", 0.65, 0.4, side=0.3)))
    _, draw = drawing([right, larger, far, right])
    assert plan(prompt, SPRITES, rng(), draw) == far, "whose least thing is the largest"
    asked, draw = drawing([right])
    for understood_whole in ("two red apples", "Please draw two red apples, and a tree"):
        plan(understood_whole, SPRITES, rng(), draw)
    assert not asked  # understood: nothing is drawn


def test_a_relation_holds_beside_other_things_without_a_generator() -> None:
    pieces = fragments("three apples left of two stars, and a house", SPRITES)
    assert len(pieces) == 2
    for seed in range(20):
        scene = plan("three apples left of two stars, and a house", SPRITES, rng(seed), lambda n: pytest.fail("drawn"))
        assert all(holds(scene, piece) for piece in pieces)
        assert sound(scene)


def test_what_can_be_a_picture() -> None:
    assert not sound(Scene())
    assert sound(Scene((thing("cup", 0.0, 0.0), thing("cup", 0.2, 0.0))))
    assert not sound(Scene((thing("cup", 0.0, 0.0), thing("cup", 0.15, 0.0))))
    assert not sound(Scene((thing("cup", 0.0, 0.0), thing("cup", 0.5, 0.0, side=0.1)))), "a speck"
    assert sound(Scene((), (Sign("LONG", (0.1, 0.1, 0.5, 0.3)),)))
    assert not sound(Scene((), (Sign("MUCHLONGER", (0.1, 0.1, 0.5, 0.3)),)))


def test_a_prompt_of_which_nothing_is_understood_is_refused() -> None:
    with pytest.raises(InputError, match=r"'seven unicorns'.*circle, square"):
        plan("seven unicorns", SPRITES, rng())
    _, draw = drawing([Scene((thing("star", 0.1, 0.1),))])
    with pytest.raises(InputError, match="'something that twinkles'"):  # nobody could say whether the drawing is right
        plan("something that twinkles", SPRITES, rng(), draw)


def test_a_relation_outlives_what_is_not_understood() -> None:
    for seed in range(10):
        scene = plan("kindly draw a cup left of two stars, whatever, and by them a tree", SPRITES, rng(seed))
        assert holds(scene, Request((Group("cup"), Group("star", 2)), Relation.LEFT_OF))
        assert holds(scene, Request((Group("tree"),)))
    with pytest.raises(InputError, match="ask for less at once"):  # nothing that is placed apart lies inside
        plan("kindly draw a star inside a ring, and a cup", SPRITES, rng())
