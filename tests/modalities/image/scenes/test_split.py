"""What is held out never shows, is about the share that was asked for, and leaves every thing its colours."""

import math
import string

import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.grammar import parse
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import COLOURS, SHAPES
from unnoise.modalities.image.scenes.world import Relation, Scene


def shows_held_out(split: Split, scene: Scene) -> bool:
    """Said or unsaid: a colour, a count or a word that is never trained on."""
    names = [o.name for o in scene.objects]
    return (
        any(split.held_colour(o.name, o.colour) for o in scene.objects)
        or any(split.held_count(name, names.count(name)) for name in names)
        or any(split.held_word(s.word) for s in scene.signs)
    )


def test_no_row_shows_or_says_what_is_held_out():
    world = World(split=Split(0.3))
    for row in range(150):
        request = world.request(row)
        assert not world.split.holds_out(request)
        assert not shows_held_out(world.split, world.scene(row))
        assert all(parse(text) == request for text in world.captions(row))


def test_the_share_is_what_was_asked_for():
    """Words of three letters, all of them, and relations of all pairs: within five standard deviations of the binomial."""
    split = Split(0.125)
    letters = string.ascii_uppercase
    words = [split.held_word(a + b + c) for a in letters for b in letters for c in letters]
    relations = [split.held_relation(r, a, b) for r in Relation for a in SHAPES for b in SHAPES if a != b]
    for told in (words, relations):
        assert abs(sum(told) / len(told) - 0.125) < 5 * math.sqrt(0.125 * 0.875 / len(told))


def test_every_thing_and_every_colour_is_seen():
    split = Split()
    assert min(len(split.seen_colours(n, tuple(COLOURS))) for n in SHAPES) >= 6
    assert all(sum(not split.held_colour(n, c) for n in SHAPES) >= 8 for c in COLOURS)
    assert any(split.held_colour(n, c) for n in SHAPES for c in COLOURS)
    assert all(any(split.held_count(n, k) for n in SHAPES) for k in range(2, 11))  # each number is asked for unseen
    assert not any(split.held_count(n, 1) for n in SHAPES)


def test_a_larger_share_holds_out_what_a_smaller_one_does():
    small, large = Split(0.1), Split(0.2)
    assert all(large.held_colour(n, c) for n in SHAPES for c in COLOURS if small.held_colour(n, c))


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_a_share_that_leaves_too_little_is_refused(share):
    with pytest.raises(InputError, match=r"0 to 0\.5"):
        Split(share)
