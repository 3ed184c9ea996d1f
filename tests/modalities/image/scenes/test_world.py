"""What a scene is checked for: against scenes laid out by hand, where every answer is plain."""

import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.world import (
    SIZES,
    Backdrop,
    Group,
    Relation,
    Request,
    Saying,
    Scene,
    Sign,
    Thing,
    holds,
    size_of,
)  # fmt: skip


def thing(name="star", colour="red", size="small", box=(0.1, 0.1, 0.3, 0.3), depth=0.0):
    return Thing(name, colour, size, box, depth)


LEFT, RIGHT, LOW = (0.0, 0.4, 0.2, 0.6), (0.5, 0.4, 0.7, 0.6), (0.5, 0.7, 0.7, 0.9)
ROW = Scene((thing(box=LEFT), thing("cup", "blue", box=RIGHT), thing("cup", "green", box=LOW)), (Sign("OPEN", (0, 0, 0.4, 0.2)),))


@pytest.mark.parametrize(
    ("parts", "relation", "answer"),
    [
        ((Group("star"),), None, True),
        ((Group("star", 2),), None, False),
        ((Group("star", 1, "red", "small"),), None, True),
        ((Group("star", 1, "blue"),), None, False),
        ((Group("star", 1, None, "large"),), None, False),
        ((Group("cup", 2),), None, True),
        ((Group("cup", 1, "blue"),), None, False),  # there is another cup
        ((Group("moon"),), None, False),
        ((Saying("OPEN"),), None, True),
        ((Saying("OPE"),), None, False),
        ((Group("star"), Group("cup", 2)), Relation.LEFT_OF, True),
        ((Group("cup", 2), Group("star")), Relation.LEFT_OF, False),
        ((Group("cup", 2), Group("star")), Relation.RIGHT_OF, True),
        ((Group("star"), Group("cup", 2)), Relation.ABOVE, False),  # beside one of them
        ((Saying("OPEN"), Group("cup", 2)), Relation.ABOVE, True),
        ((Group("star"), Saying("OPEN")), Relation.BELOW, True),
        ((Group("star"), Group("cup", 2), Saying("OPEN")), None, True),
    ],
)
def test_counts_words_and_sides(parts, relation, answer):
    assert holds(ROW, Request(parts, relation)) is answer


OUTER = (0.2, 0.2, 0.8, 0.8)


@pytest.mark.parametrize(
    ("box", "depth", "true_of"),
    [
        ((0.3, 0.3, 0.5, 0.5), 0.0, {Relation.INSIDE}),
        ((0.0, 0.3, 0.3, 0.5), 0.0, {Relation.IN_FRONT_OF}),
        ((0.0, 0.3, 0.3, 0.5), 2.0, {Relation.BEHIND}),
        ((0.0, 0.3, 0.15, 0.5), 0.0, {Relation.LEFT_OF}),
        ((0.1, 0.1, 0.9, 0.9), 2.0, set()),  # around it: neither behind nor inside
    ],
)
def test_of_two_boxes_each_relation_holds_where_it_should(box, depth, true_of):
    scene = Scene((thing(box=box, depth=depth), thing("cup", box=OUTER, depth=1.0)))
    said = {r for r in Relation if holds(scene, Request((Group("star"), Group("cup")), r))}
    assert said == true_of


def test_slack_forgives_what_a_detector_is_wrong_by():
    scene = Scene((thing(box=(0.0, 0.0, 0.51, 0.2)), thing("cup", box=(0.5, 0.0, 0.7, 0.2))))
    request = Request((Group("star"), Group("cup")), Relation.LEFT_OF)
    assert not holds(scene, request)
    assert holds(scene, request, slack=0.011)


def test_a_backdrop_counts_where_it_is_asked_for():
    scene = Scene((thing(),), (), Backdrop("mint"))
    assert holds(scene, Request((Group("star"),)))
    assert holds(scene, Request((Group("star"),), None, "mint"))
    assert not holds(scene, Request((Group("star"),), None, "white"))


def test_every_size_is_read_off_its_own_range():
    for size, (low, high) in SIZES.items():
        for side in (low, high):
            assert size_of((0.1, 0.1, 0.1 + side, 0.1 + side / 2)) == size


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Group("star", 0), "1 to 10"),
        (lambda: Group("star", 11), "1 to 10"),
        (lambda: Group("star", 1, None, "vast"), "small, medium, large"),
        (lambda: Saying("open"), "capital"),
        (lambda: Saying("ÉTÉ"), "capital"),
        (lambda: Saying(""), "1 to 10"),
        (lambda: Saying("ABCDEFGHIJK"), "1 to 10"),
        (lambda: Request(()), "at least one"),
        (lambda: Request((Group("star"),), Relation.ABOVE), "joins two"),
        (lambda: Request((Group("star", 2), Group("cup")), Relation.INSIDE), "one thing and one other"),
        (lambda: Request((Group("star"), Saying("A")), Relation.BEHIND), "one thing and one other"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
