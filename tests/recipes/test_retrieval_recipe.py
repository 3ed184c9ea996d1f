"""The recipe: what is a hard wrong answer, and a small run that learns colours it was never shown in that shape."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.evaluation.retrieval import RetrievalConfig, load_retrieval, save_retrieval
from unnoise.modalities.image.data import InMemory, PictureData, PictureOptions
from unnoise.modalities.image.measure import Pictures
from unnoise.recipes.options import Options
from unnoise.recipes.retrieval import Pairs, near_names, retrieval
from unnoise.recipes.sections import SECTIONS, Subject
from unnoise.recipes.sections import Options as Asked
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.recipes.train import train


def test_near_names_share_words_and_rare_ones_count_more() -> None:
    names = ["red book", "blue book", "green book", "red sock", "cat"]
    near = near_names(names, 3)
    assert near[0][0] == 3  # two names have "red", three have "book"
    assert set(near[0][1:]) == {1, 2}
    assert near[3] == [0, 0, 0]
    assert near[4] == [0, 0, 0]  # shares nothing: the next one stands in
    assert all(i not in several for i, several in enumerate(near))


def data(captions: list[tuple[str, ...]]) -> PictureData:
    pixels = InMemory(np.random.default_rng(0).integers(0, 256, (len(captions), 8, 8, 3), dtype=np.uint8))
    return PictureData(pixels, 8, 8, 3, tuple(map(str, range(len(captions)))), tuple(captions), None, (), ())


def test_pairs_tell_names_that_are_alike_and_skip_pictures_without_a_caption() -> None:
    set_ = data([("Red  book", "a book that is red"), (), ("red book",), ("blue book",)])
    run = retrieval(OpenPictures(set_), PictureSource("x"), Options())
    pairs = Pairs.of(set_, run.network)
    assert len(pairs) == 3
    batch = pairs.batch([0, 1, 2], Streams.of(0, 3))
    assert batch["name"].tolist() == [0, 0, 1]
    assert batch["wrong_name"].tolist() == [1, 1, 0]
    torch.testing.assert_close(batch["wrong"], batch["wrong"][[0, 0, 2]])
    with pytest.raises(InputError, match="two different captions"):
        retrieval(OpenPictures(data([("same",), ("same", "other"), ()])), PictureSource("x"), Options())


def test_names_that_speak_of_sides_are_not_mirrored_and_rows_are_drawn_by_weight() -> None:
    names = ["cat"] * 30 + ["left arrow"] * 30 + ["cat facing right"] * 30 + ["copyright", "never"]
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), 8, 8, 3), dtype=np.uint8)
    weights = tuple([1.0] * (len(names) - 1) + [1e-6])
    set_ = PictureData(
        InMemory(pixels), 8, 8, 3, tuple(map(str, range(len(names)))), tuple((n,) for n in names), None, (), (),
        PictureOptions(flip=True), weights=weights,
    )  # fmt: skip
    pairs = Pairs.of(set_, retrieval(OpenPictures(set_), PictureSource("x"), Options()).network)
    assert pairs.mirrored.tolist() == [True] * 30 + [False] * 60 + [True, True]
    rows, rng = list(range(90)), Streams.of(0, 90)
    plain, batch = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, pairs.batch(rows, rng)
    which = set_.drawn(rows, rng)
    turned = [torch.allclose(x, plain[i].flip(-1), atol=1e-5) for x, i in zip(batch["pixels"], which)]
    assert all(t or torch.allclose(x, plain[i], atol=1e-5) for t, x, i in zip(turned, batch["pixels"], which))
    assert {names[i] for i, t in zip(which, turned) if t} <= {"cat", "copyright"}
    assert any(turned)
    assert len(names) - 1 not in set_.drawn([len(names) - 1] * 90, rng)  # false alarm: 90 times 1e-8


COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "black": (10, 10, 10)}


def test_it_learns_to_tell_colours_of_unseen_pictures(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "set").mkdir()
    for i in range(120):
        name = list(COLOURS)[i % 4]
        x = np.full((16, 16, 3), 255, dtype=np.uint8)
        a, b = rng.integers(1, 8, 2)
        x[a : a + 8, b : b + 8] = COLOURS[name]
        Image.fromarray(x).save(tmp_path / "set" / f"{i}.png")
        rows.append({"file": f"{i}.png", "caption": f"a {name} square"})
    (tmp_path / "set" / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = train(tmp_path / "set", tmp_path / "run", recipe="retrieval", steps=40, batch=32, width=32)
    fresh = np.full((4, 16, 16, 3), 255, dtype=np.uint8)
    for x, colour in zip(fresh, COLOURS.values()):
        x[2:14, 3:15] = colour
    agreement = found.pictures(fresh) @ found.texts([f"a {c} square" for c in COLOURS]).T
    assert agreement.argmax(1).tolist() == [0, 1, 2, 3]
    assert found.hash == load_retrieval(tmp_path / "run").hash


class Copier:
    """Makes the first picture of that name."""

    name = "copier"

    def __init__(self, rows: Pictures, names: list[str]) -> None:
        self.rows, self.names = rows, names

    def make(self, prompts, seed, guidance=None):
        return self.rows.take([self.names.index(p) for p in prompts])


def test_the_section_of_an_evaluation(tmp_path: Path) -> None:
    """A generator that copies real rows gets what the rows that it copies get."""
    captions = [(f"thing {i % 5}",) for i in range(20)]
    pictures = data(captions)
    config = RetrievalConfig(retrieval(OpenPictures(pictures), PictureSource("x"), Options()).network, "a test")
    torch.manual_seed(0)
    save_retrieval(tmp_path / "net", config, config.network.build())
    rows, told = Pictures.read(pictures), [c[0] for c in captions]
    first = rows.take(range(5))
    told_first: list[str | None] = list(told[:5])
    it = Subject(
        rows,
        first,
        rows,
        (list(told), told_first),
        Asked(retrieval=tmp_path / "net", n=30),
        tmp_path,
        Copier(first, told),
        None,
        False,
    )
    section = SECTIONS["agreement"](it)
    made, real = section.measures
    assert made.name == "recall@1 among 5"
    assert made.value == pytest.approx(real.value) == made.floor
    it.options = Asked()
    assert SECTIONS["agreement"](it) == []
    it.options = Asked(only=("agreement",))
    with pytest.raises(InputError, match="--retrieval FOLDER"):
        SECTIONS["agreement"](it)
