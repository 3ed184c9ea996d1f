"""Captions made of what a set says, and rows drawn by weight."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.image.data import PictureOptions, reweighted
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.recaption import VARIANTS, Facts, Recaption, row_weights

from .make import png

APPLE = Facts("red apple", ("apple", "fruit", "ripe", "red"), "food drink", "noto")


def test_facts_of_a_row_of_the_emoji() -> None:
    row = {
        "file": "1f44b-1f3fb.png", "vendor": "fluent_3d", "name": "waving hand", "keywords": ["hand", "Waving Hand", " wave "],
        "codepoint": "1f44b-1f3fb", "base": "1f44b", "group": "people-body", "caption": "waving hand, fluent 3d emoji",
    }  # fmt: skip
    assert Facts.of(row) == Facts("waving hand", ("hand", "wave"), "people body", "fluent 3d", variant=True)
    assert Facts.of({"title": "a  cat", "tags": "pet, animal;pet"}) == Facts("a cat", ("pet", "animal"))
    assert Facts.of({"caption": "nothing is named"}) is None
    assert Facts.of({"name": None, "keywords": 3}) is None


@pytest.mark.parametrize(
    "facts", [APPLE, Facts("cat"), Facts("cat", ("pet",)), Facts("cat", (), "animals"), Facts("x", (), "", "s")]
)
def test_every_caption_says_the_name_and_nothing_that_the_set_does_not(facts: Facts) -> None:
    words = {"picture", "of", "in", "the", "style", "from", "showing"}
    said = " ".join((facts.name, *facts.keywords, facts.group, facts.style)).split()
    for i in range(50):
        for caption in Recaption(20, 0.1).captions(facts, f"{i}.png"):
            assert facts.name in caption
            assert set(caption.replace(",", "").replace(":", "").split()) <= words | set(said)
            assert caption == caption.strip(" ,:")
            assert "  " not in caption
            assert ", ," not in caption


def test_the_mix_is_exact_and_the_same_every_time() -> None:
    mix = Recaption(20, 0.15)
    captions = mix.captions(APPLE, "a.png")
    assert captions[:3] == ("red apple",) * 3
    assert len(captions) == 20
    assert all(len(c) > len("red apple") for c in captions[3:])
    assert captions == mix.captions(APPLE, "a.png") != mix.captions(APPLE, "b.png")


def test_half_of_the_long_captions_have_all_keywords() -> None:
    """The number drawn is uniform on 0 ... 2n, of which n + 1 of 2n + 1 give all of them: here 5 / 9, and 1/9 + 1/9 give one."""
    n, captions = 0, []
    for i in range(200):
        captions += Recaption(10, 0.1).captions(Facts("thing", ("alpha", "beta", "gamma", "delta")), str(i))[1:]
    had = Counter(sum(k in c for k in ("alpha", "beta", "gamma", "delta")) for c in captions)
    for count, share in {4: 5 / 9, 3: 1 / 9, 2: 1 / 9, 1: 2 / 9}.items():  # |z| > 4.4: 1e-5, four times
        n = len(captions)
        assert abs(had[count] - n * share) < 4.4 * (n * share * (1 - share)) ** 0.5


def test_rows_are_drawn_in_proportion_to_their_weights() -> None:
    weights = np.array([1.0, 0.25, 2.0, 0.5, 0.01])
    n = 40_000
    rows = [i % 5 for i in range(n)]
    counts = np.bincount(reweighted(rows, weights, Streams.of(3, n)), minlength=5)
    expected = n * weights / weights.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 23.5  # chi-squared of 4: P = 1e-4; stratified rows vary less
    assert (
        reweighted([4, 2], weights, Streams.of(3, n)[slice(7, 9)])
        == reweighted(
            [2, 4, 2], weights, Streams(*(tuple(s[i] for i in (1, 7, 8)) for s in (Streams.of(3, n).seeds, Streams.of(3, n).steps)))
        )[1:]
    )


def test_weights_multiply_and_unknown_groups_are_refused() -> None:
    facts = (APPLE, Facts("flag: x", (), "flags"), Facts("hand", (), "people", variant=True), None)
    assert row_weights(facts, {"flags": 0.25, VARIANTS: 0.5, "people": 0.8}) == (1.0, 0.25, 0.4, 1.0)
    with pytest.raises(InputError, match=r"'flagz'.*flags, food drink, people, variants"):
        row_weights(facts, {"flagz": 0.5})
    with pytest.raises(InputError, match="'variants'"):
        row_weights(facts[:2], {VARIANTS: 0.5})


def folder(at: Path) -> Path:
    rows = []
    for i in range(6):
        png(at / f"{i}.png", i)
        rows.append({"file": f"{i}.png", "name": f"thing {i}", "keywords": ["k"], "group": "flags" if i < 3 else "animals"})
    (at / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return at


def test_read_with_captions_and_weights(tmp_path: Path) -> None:
    data = read_pictures(folder(tmp_path), PictureOptions(recaption=Recaption(4, 0.25), weights={"flags": 0.1}), progress=False)
    assert [len(c) for c in data.captions] == [4] * 6
    assert [c[0] for c in data.captions] == [f"thing {i}" for i in range(6)]
    assert data.weights == (0.1, 0.1, 0.1, 1.0, 1.0, 1.0)
    assert data.take([0, 5]).weights == (0.1, 1.0)
    assert "4 captions made for each of 6 pictures, 25% of them short" in data.account()


def test_what_cannot_be_recaptioned_or_weighted_is_refused(tmp_path: Path) -> None:
    png(tmp_path / "a" / "x.png", 0)
    with pytest.raises(InputError, match="no picture has a name"):
        read_pictures(tmp_path / "a", PictureOptions(recaption=Recaption()), progress=False)
    np.savez(tmp_path / "x.npz", x=torch.randint(0, 255, (4, 8, 8, 3), dtype=torch.uint8).numpy())
    with pytest.raises(InputError, match="npz"):
        read_pictures(tmp_path / "x.npz", PictureOptions(weights={"flags": 0.1}), progress=False)
    for bad in (lambda: Recaption(0), lambda: Recaption(short=1.5), lambda: PictureOptions(weights={"flags": 0.0})):
        with pytest.raises(InputError):
            bad()
