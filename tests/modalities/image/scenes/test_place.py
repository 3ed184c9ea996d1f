"""Every scene is what was asked for, and everything in it can be seen: over many requests, and over all pairs that overlap."""

from itertools import permutations

import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.draw import visible
from unnoise.modalities.image.scenes.place import EDGE, GAP, HEIGHT, LEAST_HIDDEN, MOST_HIDDEN, PITCH, has_room, place
from unnoise.modalities.image.scenes.requests import draw_request
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.world import (
    LONGEST,
    MOST,
    OVERLAPPING,
    SIZES,
    Group,
    Relation,
    Request,
    Saying,
    contains,
    holds,
)  # fmt: skip

SPRITES = Shapes()


def apart(a, b):
    """The gap between two boxes along the axis where it is wider."""
    return max(max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3]))


def check(scene, request):
    """Of any scene: it is as asked, inside the picture, of the sizes it claims; nothing meets unasked; letters are large."""
    assert holds(scene, request)
    boxes = [t.box for t in scene.objects] + [s.box for s in scene.signs]
    for box in boxes:
        assert contains((EDGE, EDGE, 1 - EDGE, 1 - EDGE), box, 1e-9)
    for t in scene.objects:
        low, high = SIZES[t.size]
        assert low - 1e-9 <= max(t.box[2] - t.box[0], t.box[3] - t.box[1]) <= high + 1e-9
    for s in scene.signs:
        assert (s.box[2] - s.box[0]) / len(s.word) >= PITCH[0] - 1e-9
        assert s.box[3] - s.box[1] >= HEIGHT[0] - 1e-9
    if request.relation not in OVERLAPPING:
        assert all(apart(a, b) >= GAP - 1e-6 for i, a in enumerate(boxes) for b in boxes[:i])


def test_scenes_of_random_requests():
    rng = np.random.default_rng(1)
    for _ in range(400):
        request = draw_request(rng, SPRITES)
        scene = place(request, rng, SPRITES)
        check(scene, request)
        assert min(visible(scene, SPRITES), default=1.0) >= 0.6 - 0.05  # a picture of 128 pixels is counted to that


@pytest.mark.parametrize("relation", [Relation.BEHIND, Relation.IN_FRONT_OF])
def test_of_every_pair_one_hides_enough_of_the_other_and_not_too_much(relation):
    rng = np.random.default_rng(2)
    for a, b in permutations(SPRITES.vocabulary.names, 2):
        request = Request((Group(a), Group(b)), relation)
        scene = place(request, rng, SPRITES)
        check(scene, request)
        seen = visible(scene, SPRITES)
        deep = 0 if relation is Relation.BEHIND else 1
        assert 1 - MOST_HIDDEN <= seen[deep] <= 1 - LEAST_HIDDEN
        assert seen[1 - deep] == 1
        assert scene.objects[0].colour != scene.objects[1].colour


def test_what_is_inside_lies_where_its_container_is_seen_around_it():
    rng = np.random.default_rng(3)
    for a, b in permutations(SPRITES.vocabulary.names, 2):
        request = Request((Group(a), Group(b)), Relation.INSIDE)
        if SPRITES.room(b) is None:
            with pytest.raises(InputError, match="inside"):
                place(request, rng, SPRITES)
            continue
        scene = place(request, rng, SPRITES)
        check(scene, request)
        inner, outer = visible(scene, SPRITES)
        assert inner == 1
        assert outer >= 0.6


def test_what_has_room_finds_it():
    """All counts, sizes and kinds; all lengths of words beside things; the most of one kind on each side of a sign."""
    rng = np.random.default_rng(4)
    asked = [
        Request((Group(n, c, None, s),)) for n in ("fish", "tree", "square") for c in range(1, MOST + 1) for s in (None, *SIZES)
    ]
    sides = [r for r in Relation if r not in OVERLAPPING]
    asked += [
        Request((Group("fish", c), Saying("W" * n)), r) for n in range(1, LONGEST + 1) for c in (1, 6, MOST) for r in (*sides, None)
    ]
    fits = [has_room(r, SPRITES) for r in asked]
    assert 40 < sum(fits) < len(fits)
    for request in (r for r, fit in zip(asked, fits) if fit):
        check(place(request, rng, SPRITES), request)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request((Group("circle", 10, None, "large"),)), "no room"),
        (Request((Group("banana"),)), "'banana' is no thing"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(request_, says):
    with pytest.raises(InputError, match=says):
        place(request_, np.random.default_rng(0), SPRITES)


def test_unsaid_colours_are_seen_ones():
    rng, split = np.random.default_rng(5), Split(0.4)
    for name in SPRITES.vocabulary.names:
        scene = place(Request((Group(name, 6),)), rng, SPRITES, split)
        assert not any(split.held_colour(name, t.colour) for t in scene.objects)
