"""Several things by a model that draws one: counted and placed, as boxes of colour tell."""

import numpy as np
import pytest

from unnoise.control.layout.arranged import arranged, counts_or_places, cut, spelled
from unnoise.core.errors import InputError

label = pytest.importorskip("scipy.ndimage").label
COLOURS = {"owl": (200, 30, 30), "violin": (30, 160, 40), "red wolf": (40, 60, 220), "bee": (240, 200, 0)}
SEEDS = (5, 9, 31)


def blobs(channels=4, told=None):
    """A model that draws each thing as an ellipse of its colour, in the middle of nothing; opaque ones on grey."""

    def draw(names, seeds):
        if told is not None:
            told.extend(zip(names, seeds))
        y, x = np.mgrid[:32, :32]
        inside = ((x - 16) / 9) ** 2 + ((y - 15) / 7) ** 2 < 1
        out = np.zeros((len(names), 32, 32, 4), np.uint8)
        for picture, name in zip(out, names):
            picture[inside] = (*COLOURS[name], 255)
            if channels == 3:
                picture[~inside] = (128, 128, 128, 255)
        return out[..., :channels]

    return draw


def found(picture, name):
    """The boxes (x0, y0, x1, y1) of what has a thing's colour."""
    near = np.abs(picture[..., :3].astype(int) - COLOURS[name]).max(-1) < 30
    near &= picture[..., 3] > 127 if picture.shape[-1] == 4 else True
    marks, n = label(near)
    boxes = []
    for k in range(1, n + 1):
        rows, columns = np.nonzero(marks == k)
        if len(rows) > 8:
            boxes.append((columns.min(), rows.min(), columns.max(), rows.max()))
    return boxes


@pytest.mark.parametrize("count", range(1, 11))
@pytest.mark.parametrize("channels", [3, 4])
def test_as_many_as_are_asked_for(count, channels):
    prompt = f"{count} red wolves" if count > 1 else "a red wolf"
    for picture in arranged([prompt] * 3, SEEDS, blobs(channels), 96):
        assert picture.shape == (96, 96, channels)
        assert len(found(picture, "red wolf")) == count


@pytest.mark.parametrize(
    ("prompt", "words", "counts"),
    [
        ("\U0001f431 left of \U0001f436", "a cat face left of a dog face", True),
        ("two \U0001f431, 3 \U0001f989", "two cat faces , 3 owls", True),
        ("a \U0001f431 above a \U0001f989", "a cat face above a owl", True),
        ("\U0001f34e\U0001f34e \U0001f34e", "three red apples", True),
        ("\U0001f34e \U0001f431\U0001f431", "a red apple two cat faces", False),
        ("two \U0001f431\U0001f431", "two cat face cat face", False),
        ("a blue \U0001f34e", "a blue red apple", False),
        ("caf\u00e9, four owls", "caf\u00e9, four owls", False),
    ],
)
def test_emoji_are_counted_and_placed_by_their_names(prompt, words, counts):
    assert spelled(prompt) == words
    assert counts_or_places(prompt) == counts


def test_emoji_are_arranged_as_their_names_are():
    asked = ("two \U0001f989 left of \U0001f989\U0001f989\U0001f989", "two owls left of three owls")
    for emoji, plain in (asked, ("\U0001f989\U0001f989", "two owls")):
        assert np.array_equal(*(arranged([prompt], SEEDS[:1], blobs(), 96) for prompt in (emoji, plain)))


def test_signs_are_drawn_and_stand_where_the_prompt_says():
    """What is seen and is no owl is one board; what has its outline's colour are the outline and four letters."""
    for picture in arranged(["three owls left of a sign that says OPEN"] * 3, SEEDS, blobs(), 256):
        owls = found(picture, "owl")
        assert len(owls) == 3
        board = picture[..., 3] > 200
        for x0, y0, x1, y1 in owls:
            board[y0 - 2 : y1 + 3, x0 - 2 : x1 + 3] = False
        assert label(board)[1] == 1
        rows, columns = np.nonzero(board)
        assert columns.min() > max(x1 for _, _, x1, _ in owls)
        ink = picture[(rows.min() + rows.max()) // 2, columns.min() + 1, :3].astype(int)
        marks, n = label(board & (np.abs(picture[..., :3] - ink).max(-1) < 60))
        assert sum(np.bincount(marks.ravel(), minlength=n + 1)[1:] > 20) == 5


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("left of", 0, 1), ("to the right of", 0, -1), ("above", 1, 1), ("beneath", 1, -1)]
)
def test_they_lie_where_the_prompt_says(relation, axis, sign):
    for picture in arranged([f"three owls {relation} two violins"] * 3, SEEDS, blobs(), 96):
        owls, violins = found(picture, "owl"), found(picture, "violin")
        assert (len(owls), len(violins)) == (3, 2)
        for a in owls:
            for b in violins:
                first, second = (a, b) if sign > 0 else (b, a)
                assert first[axis + 2] < second[axis]


def test_what_is_behind_is_hidden_in_part():
    for picture in arranged(["a bee behind an owl"] * 3, SEEDS, blobs(), 96):
        (x0, y0, x1, y1) = found(picture, "owl")[0]
        whole = np.pi / 4 * (x1 - x0 + 1) * (y1 - y0 + 1)
        owl = (np.abs(picture[..., :3].astype(int) - COLOURS["owl"]).max(-1) < 30) & (picture[..., 3] > 127)
        assert owl.sum() > 0.9 * whole  # of an ellipse
        assert found(picture, "bee")


def test_each_kind_is_drawn_once_from_a_seed_of_its_sample():
    told = []
    arranged(["three owls and a bee", "two owls"], SEEDS[:2], blobs(told=told), 64)
    assert [name for name, _ in told] == ["owl", "bee", "owl"]
    assert len({seed for _, seed in told}) == 3


def test_a_sample_is_the_same_alone_and_in_company():
    prompts = ["three owls left of a bee", "five violins", "two red wolves"]
    together = arranged(prompts, SEEDS, blobs(), 64)
    for prompt, seed, picture in zip(prompts, SEEDS, together):
        assert np.array_equal(arranged([prompt], [seed], blobs(), 64)[0], picture)
    assert not np.array_equal(arranged(["five violins"], [1], blobs(), 64)[0], together[1])


def test_transparent_things_lie_on_nothing_unless_a_background_is_asked_for():
    bare, mint = (arranged([f"two bees{behind}"], [3], blobs(), 64)[0] for behind in ("", " on a mint background"))
    assert bare[0, 0, 3] == 0
    assert tuple(mint[0, 0]) == (220, 246, 228, 255)


def test_a_thing_is_cut_to_what_is_seen_of_it():
    picture = blobs()(["owl"], [0])[0]
    assert cut(picture).shape == (13, 17, 4)  # |y - 15| < 7, |x - 16| < 9
    assert cut(np.zeros((8, 6, 4), np.uint8)).shape == (8, 6, 4)
    assert cut(np.full((8, 6, 1), 9, np.uint8)).shape == (8, 6, 4)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a sign that says OPEN", "has no thing beside its sign"),
        ("an owl and a sign that says EXTRAORDINARY", "1 to 10 capital letters"),
        ("three owls left of", "at the end"),
        ("eleven owls and", "at the end"),
        ("", "a thing is expected"),
        ("(two:1.3) owls", "weights and changes"),
        ("!!!", "a thing is expected"),
    ],
)
def test_what_cannot_be_arranged_is_refused_before_anything_is_drawn(prompt, message):
    def draws(names, seeds):
        raise AssertionError(f"{names} were drawn")

    with pytest.raises(InputError, match=message):
        arranged(["two owls", prompt], [1, 2], draws, 64)


def test_ten_large_things_have_no_room():
    with pytest.raises(InputError, match="no room"):
        arranged(["ten large owls"], [1], blobs(), 64)


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("three cats left of a dog", True), ("a cat behind a tree", True), ("five small cats and a dog", True), ("cats", False),
        ("a cat wearing a hat", False), ("bow and arrow", False), ("man and woman holding hands", False), ("three o'clock", False),
        ("two cats, cartoon style", False), ("two cats, no dogs", False), ("two cats without hats", False), ("nine lives", True),
        ("(a cat:1.3) left of a dog", False), ("[cat:dog:0.5] above a house", False), ("two hundred cats", False),
        ("two cats two dogs", False), ("two women holding hands", False), ("two of hearts", False), ("man under stress", False),
        ("ten cats, ten dogs, ten fish and ten birds", False), ("ten cats and ten dogs", True), ("a bee inside a box", False),
        ("two rings", True), ("three blue fire engines", True), ("", False),
        ("three owls left of a sign that says HI", True), ("an owl and a sign that says A", True), ("a sign that says HI", False),
        ("owl left of a sign that says A", False), ("ten", False),
    ],
)  # fmt: skip
def test_prompts_that_count_or_place(prompt, counts):
    assert counts_or_places(prompt) is counts


def test_emoji_whose_names_are_plurals() -> None:
    assert [spelled(prompt) for prompt in ("5 \U0001f440", "\U0001f440\U0001f440")] == ["5 eyes", "two eyes"]
    assert spelled("two \U0001f453") == "two glasses"
    assert spelled("three \U0001f98a") == "three foxes"
