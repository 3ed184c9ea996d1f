"""Compositions, judged by geometry and colour on stickers whose truth is known: flat discs and squares of one colour."""

from colorsys import rgb_to_hsv

import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.recaption import Facts
from unnoise.modalities.image.recolour import one_hue, recoloured
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import COLOURS, NUMBERS
from unnoise.modalities.image.stickers import Compositions, Sticker, beside, counted, wearing

RED, BLUE, GREEN = (200, 30, 40), (30, 60, 200), (30, 180, 60)
NAMES = ("cup", "pear", "boat", "drum", "kite", "lamp", "shoe", "tent")


def disc(rgb: tuple[int, int, int], name: str, group: str = "objects", size: int = 72) -> Sticker:
    y, x = np.mgrid[:size, :size]
    inside = (x - size / 2 + 0.5) ** 2 + (y - size / 2 + 0.5) ** 2 < (0.42 * size) ** 2
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[inside] = (*rgb, 255)
    return Sticker(pixels, Facts(name, group=group, style="plain"))


def components(mask: np.ndarray) -> int:
    ndimage = pytest.importorskip("scipy.ndimage")
    return int(ndimage.label(mask)[1])


def rng(i: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[5, i]))


def of_two() -> Compositions:
    return Compositions([disc(RED, "cup"), disc(BLUE, "pear")], 64)


def test_a_count_is_the_number_of_things_seen():
    c, seen = Compositions([disc(RED, n) for n in NAMES], 64, split=Split(0)), set()
    for i in range(60):
        made = counted(c, rng(i))
        assert made is not None
        n = NUMBERS.index(made.captions[0].split(" ")[0]) + 1
        assert components(np.asarray(made.draw())[..., 3] > 127) == n
        seen.add(n)
    assert seen == set(range(2, 11))


def test_places_are_as_the_caption_says():
    for i in range(60):
        made = beside(of_two(), rng(i))
        if made is None:
            continue  # the same one twice
        x = np.asarray(made.draw()).astype(int)
        where = {}
        for noun, channel in (("cup", 0), ("pear", 2)):
            rows, columns = np.nonzero((x[..., 3] > 127) & (x[..., channel] > 120))
            where[noun] = columns.min(), rows.min(), columns.max(), rows.max()
        _, first, *relation, _, second = made.captions[0].split(" ")
        a, b = where[first], where[second]
        clear = {
            "left of": a[2] < b[0], "right of": a[0] > b[2], "above": a[3] < b[1], "below": a[1] > b[3],
        }  # fmt: skip
        assert clear[" ".join(relation)]


def test_a_hat_sits_on_top():
    c = Compositions([disc(RED, "cat face", "animals nature"), disc(BLUE, "top hat"), disc(GREEN, "cup")], 64, split=Split(0))
    made = wearing(c, rng(0))
    assert made is not None
    x = np.asarray(made.draw()).astype(int)
    rows = {k: np.nonzero((x[..., 3] > 127) & (x[..., k] > 120))[0] for k in (0, 2)}
    assert rows[2].min() < rows[0].min() < rows[2].max() < rows[0].max()  # it begins above the head and ends on it
    assert made.captions[0] == "a cat wearing a top hat"
    assert "a cat wearing a hat" in made.captions


@pytest.mark.parametrize("colour", [c for c in COLOURS if c not in ("black", "grey")])
def test_recolouring_turns_the_hue_and_leaves_what_has_none(colour):
    sticker = disc(RED, "cup").pixels.copy()
    sticker[:10, :, :] = (90, 90, 90, 255)
    assert one_hue(sticker)
    painted = recoloured(sticker, COLOURS[colour])
    assert np.abs(painted[5, 5].astype(int) - sticker[5, 5]).max() <= 1
    off = rgb_to_hsv(*painted[36, 36, :3] / 255.0)[0] - rgb_to_hsv(*np.array(COLOURS[colour]) / 255)[0]
    assert abs((off + 0.5) % 1 - 0.5) < 0.01  # two roundings to 8 bits of hue
    assert np.array_equal(painted[..., 3], sticker[..., 3])


def test_two_hues_are_not_one():
    x = disc(RED, "cup").pixels.copy()
    x[:, 36:][x[:, 36:, 3] > 0] = (*BLUE, 255)
    assert not one_hue(x)


def test_held_out_combinations_are_never_made():
    split = Split(0.5)
    c = Compositions([disc(RED, n) for n in NAMES], 32, split=split)
    shown = 0
    for i in range(200):
        words = c.captions(i)[0].split(" ")
        if words[0] in NUMBERS and words[1].rstrip("s") in NAMES:
            shown += 1
            assert not split.held_count(words[1].rstrip("s"), NUMBERS.index(words[0]) + 1)
        elif len(words) == 3 and words[1] in COLOURS:
            shown += 1
            assert not split.held_colour(words[2], words[1])
    assert shown > 40


def test_a_number_is_always_the_same_and_fits():
    a, b = of_two().make(17), of_two().make(17)
    assert np.array_equal(a, b)
    assert a.shape == (64, 64, 4)
    assert not a[a[..., 3] == 0].any()
    assert any(not np.array_equal(a, of_two().make(i)) for i in range(3))


def test_nothing_to_compose_is_refused():
    with pytest.raises(InputError, match="at least two"):
        Compositions([disc(RED, "person: dark")], 64)
