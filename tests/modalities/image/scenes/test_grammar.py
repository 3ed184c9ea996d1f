"""All wordings are read back as what they say, and nothing else is understood."""

import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.grammar import caption, parse, vocabulary_of
from unnoise.modalities.image.scenes.requests import draw_request
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import DRAWN, plural, singular
from unnoise.modalities.image.scenes.world import Group, Relation, Request, Saying


def every_wording(request):
    """Walks the tree of choices: the last choice that can go on goes on, those after it start again."""
    path: list[int] = []
    while True:
        sizes: list[int] = []

        def choose(n, sizes=sizes, path=tuple(path)):
            sizes.append(n)
            return path[len(sizes) - 1] if len(sizes) <= len(path) else 0

        yield caption(request, choose)
        path = (path + [0] * len(sizes))[: len(sizes)]
        while path and path[-1] + 1 == sizes[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1


@pytest.mark.parametrize(
    "request_",
    [
        Request((Group("apple", 3, "red"),)),
        Request((Saying("OPEN"),), None, "mint"),
        Request((Group("fish"), Group("ring")), Relation.INSIDE),
        Request((Group("cup", 2), Saying("AND")), Relation.LEFT_OF),
    ],
    ids=str,
)
def test_every_single_wording_is_read_back(request_):
    said = list(every_wording(request_))
    assert len(set(said)) > 20
    for text in said:
        assert parse(text) == request_, text
        assert parse(text.upper()) == request_, text


def test_wordings_of_random_requests_are_read_back():
    rng, sprites = np.random.default_rng(0), Shapes()
    kinds = set()
    for _ in range(900):
        request = draw_request(rng, sprites, Split(0.0))
        text = caption(request, lambda n: int(rng.integers(n)))
        assert parse(text) == request, text
        kinds.add((request.relation, len(request.parts), bool(request.words)))
    assert len(kinds) > 12


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        (
            "three red apples left of a sign that says OPEN",
            Request((Group("apple", 3, "red"), Saying("OPEN")), Relation.LEFT_OF),
        ),
        ("There are 2 tiny gray fish.", Request((Group("fish", 2, "grey", "small"),))),
        ("red circle inside blue square", Request((Group("circle", 1, "red"), Group("square", 1, "blue")), Relation.INSIDE)),
        ("a violet moon, a tree and a sign reading “Hello”", Request((Group("moon", 1, "purple"), Group("tree"), Saying("HELLO")))),
        ("the fish is to the left of the house", Request((Group("fish"), Group("house")), Relation.LEFT_OF)),
        ("a sign that says 'open'", Request((Saying("OPEN"),))),
        ("a sign that says ‘OPEN’", Request((Saying("OPEN"),))),
        ("a sign that says „OPEN“", Request((Saying("OPEN"),))),
    ],
)  # fmt: skip
def test_a_person_is_understood(text, request_):
    assert parse(text) == request_


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at the end"),
        ("!!! ???", "at the end"),
        ("a purple banana", "'banana'.*a thing such as"),
        ("three", "a thing such as"),
        ("11 circles", "11 circles"),
        ("red stars", "how many stars .one to ten., before them, is expected there"),
        ("a moon and the stars", "how many stars"),
        ("a circle frobs a cup", "at 'frobs a cup'"),
        ("a sign that says", "the word of the sign"),
        ("a sign that says ÜBER", "capital letters"),
        ("two cups inside a ring", "one thing and one other"),
        ("a circle on a pink background", "white, cream"),
        ("a circle " * 2000, "\\.\\.\\."),
    ],
)
def test_the_rest_is_refused_in_one_line_that_names_the_place(text, says):
    with pytest.raises(InputError, match=says) as error:
        parse(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_no_two_names_have_a_form_in_common():
    forms = [f for n in DRAWN.names for f in {n, plural(n)}]
    assert len(forms) == len(set(forms))
    assert [plural(n) for n in ("berry", "toy", "box", "bush", "teddy bear", "leaf")] == [
        "berries", "toys", "boxes", "bushes", "teddy bears", "leaves",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "noun",
    [
        "cat", "house", "bus", "rose", "box", "cherry", "cookie", "pie", "wolf", "leaf", "mouse", "glass", "watch", "dish",
        "octopus", "honey bee", "axe", "quiz", "tie", "person", "key", "blouse", "horse", "strawberry", "potato chip", "sheep",
        "tomato", "shoe", "scarf", "glove", "olive", "lens", "snowman", "deer", "avalanche", "magpie", "pants", "sunglasses",
    ],
)  # fmt: skip
def test_the_singular_of_a_plural(noun):
    assert singular({"pants": noun, "sunglasses": noun}.get(noun) or plural(noun)) == noun


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("three strawberries", ("strawberry",)),
        ("a picture of five cats and two houses on a white background", ("cat", "house")),
        ("there are two small blue bananas to the left of three wolves", ("blue banana", "wolf")),
        ("a sign that says OPEN and three cats", ("cat",)),
        ("an owl with two bees above it", ("owl", "bee")),
        ("a fire engine, ten huge red hearts, and the moon", ("fire engine", "red heart", "moon")),
        ("", ()),
    ],
)
def test_the_things_of_any_caption(text, names):
    assert vocabulary_of(text).names == names
    if names:
        assert {g.name for g in parse(text, vocabulary_of(text)).groups} == set(names)
