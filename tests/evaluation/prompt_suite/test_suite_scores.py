"""The suite itself: prompts are what they claim, real renders pass, renders of others do not, shares are counted right."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.core.intervals import share
from unnoise.evaluation.prompt_suite.lists import ASPECTS, Prompt, prompts
from unnoise.evaluation.prompt_suite.score import by_level, exchanged, oracle, right, shuffled, weathered
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.emoji import PictureSprites
from unnoise.modalities.image.scenes.grammar import parse
from unnoise.modalities.image.scenes.place import place
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.world import Group, Request, holds

WORLD = World()


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("unseen", [False, True])
def test_prompts_say_what_they_ask_and_keep_to_their_side_of_the_split(aspect, unseen):
    asked = prompts(WORLD, aspect, 12, unseen)
    levels = [v for v in ASPECTS[aspect].levels if (aspect, v, unseen) != ("count", "1", True)]  # one is always trained on
    assert Counter(p.level for p in asked) == dict.fromkeys(levels, 12)
    for p in asked:
        assert parse(p.text) == p.request
        assert WORLD.split.holds_out(p.request) is unseen
    assert asked == prompts(WORLD, aspect, 12, unseen)
    assert asked != prompts(WORLD, aspect, 12, unseen, seed=1)


class Seeing:
    """A judge that is told what was drawn: the renders' own scenes, by the same random numbers."""

    def __init__(self, wanted, seed=1):
        self.wanted, self.seed, self.first = wanted, seed, 0

    def scenes(self, pictures):
        some = self.wanted[self.first : self.first + len(pictures)]
        rngs = [np.random.Generator(np.random.Philox(key=[self.seed, self.first + i])) for i in range(len(some))]
        self.first += len(some)
        return [place(p.request, rng, WORLD.sprites, WORLD.split) for p, rng in zip(some, rngs)]


def test_real_renders_are_right_and_those_of_other_prompts_seldom_are():
    asked = [p for aspect in ("count", "relation", "spelling") for p in prompts(WORLD, aspect, 3, False)]
    assert all(right(Seeing(asked), asked, oracle(WORLD, 32), batch=7))
    told = right(Seeing(asked[::-1]), asked, oracle(WORLD, 32))
    assert told == [holds(Seeing([q]).scenes(np.zeros(1))[0], p.request, 2.5 / 64) for p, q in zip(asked, asked[::-1])]
    assert sum(told) < len(told) / 4


def test_shuffled_pictures_are_the_same_pictures_in_another_order():
    asked = prompts(WORLD, "spelling", 2, False)
    draw = shuffled(WORLD, asked, 32)
    together = draw(asked, 0)
    assert np.array_equal(np.concatenate([draw(asked[:5], 0), draw(asked[5:], 5)]), together)
    truth = oracle(WORLD, 32)
    order = np.random.Generator(np.random.Philox(key=[1, len(asked)])).permutation(len(asked))
    assert sorted(order) == list(range(len(asked)))
    assert np.array_equal(together[3], truth([asked[order[3]]], 3)[0])


def test_exchanged_pictures_have_the_back_in_front():
    asked = [p for p in prompts(WORLD, "relation", 2, False) if p.level in ("behind", "in front of")]
    pictures, truth = exchanged(WORLD, 32)(asked, 3), oracle(WORLD, 32)(asked, 3)
    for i, p in enumerate(asked):
        scene = place(p.request, np.random.Generator(np.random.Philox(key=[1, 3 + i])), WORLD.sprites, WORLD.split)
        front, back = sorted(scene.objects, key=lambda t: t.depth)
        other = replace(scene, objects=(replace(back, depth=0.0), replace(front, depth=1.0)))
        assert np.array_equal(pictures[i], render(other, WORLD.sprites, 32))
        assert not np.array_equal(pictures[i], truth[i])
        assert not holds(other, p.request)


def test_weathered_pictures_are_the_same_ones_each_worn_by_a_draw_of_its_own():
    asked = prompts(WORLD, "size", 4, False)
    draw = oracle(WORLD, 32)
    worse = weathered(draw)(asked, 0)
    off = np.abs(worse.astype(float) - draw(asked, 0)).mean((1, 2, 3))
    assert np.array_equal(worse, weathered(draw)(asked, 0))
    assert off.min() > 0.1
    assert off.max() < 30  # contrast and brightness by a tenth, noise of an eighth of the range at most
    assert len(set(off.tolist())) == len(asked)


def test_shares_are_counted_level_by_level():
    request = Request((Group("star"),))
    asked = [Prompt("count", level, False, "a star", request) for level in ("1", "1", "2", "1", "2")]
    assert by_level(asked, [True, False, True, True, True]) == {"1": share(2, 3), "2": share(2, 2), "all": share(4, 5)}


def test_sprites_without_colours_are_not_asked_for_them():
    square = np.full((8, 8, 4), 255, np.uint8)
    world = World(PictureSprites.of([(n, square) for n in ("cat", "dog", "cow")]))
    with pytest.raises(InputError, match="colours of their own"):
        prompts(world, "colour", 1, False)
