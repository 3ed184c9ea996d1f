import numpy as np
import torch
from numpy.testing import assert_array_equal

from unnoise.core.codec import Unconditional
from unnoise.core.random import Streams
from unnoise.modalities.conditioning import LabelsConfig
from unnoise.modalities.image.annotations import Captions
from unnoise.modalities.image.data import InMemory, PictureData, PictureOptions

from .make import noise

N = 40


def pictures(captions: list[Captions] | None = None, classes: tuple[str, ...] | None = None, **options: object) -> PictureData:
    array = np.stack([noise(i, 6, 5) for i in range(N)])
    names = tuple(f"{i}.png" for i in range(N))
    said = tuple(captions) if captions is not None else ((),) * N
    return PictureData(InMemory(array), 6, 5, 3, names, said, classes, (), ("notes",), PictureOptions(**options))  # type: ignore[arg-type]


def names_told(data: PictureData, row: int, n: int, seed: int = 0) -> list[str | None]:
    """What one picture is said to be in n draws."""
    names = tuple(sorted({t for ts in data.captions for t in ts}))
    batch = data.training(data.codec().build(), LabelsConfig(names, 4).build()).batch([row] * n, Streams.of(seed, n))
    return [(*names, None)[i] for i in batch["cond"]["ids"].tolist()]


def test_a_batch_is_the_encoded_pictures_in_the_order_asked_for() -> None:
    data = pictures()
    codec = data.codec().build()
    rows = [7, 3, 3, 39]
    batch = data.training(codec, Unconditional()).batch(rows, Streams.of(0, 4))
    assert_array_equal(codec.decode(batch["x"]), data.pictures(rows))
    assert batch["cond"] == {}


def test_without_flips_a_row_does_not_depend_on_the_stream() -> None:
    data = pictures()
    training = data.training(data.codec().build(), Unconditional())
    assert torch.equal(training.batch([5], Streams.of(0, 1))["x"], training.batch([5], Streams.of(1, 1))["x"])


def binomial_bound(n: int, p: float) -> float:
    """Counts of n draws stray from n p by more than this less often than 2 exp(-10) < 1e-4 (Bernstein's inequality)."""
    u = 10.0
    return (2 * n * p * (1 - p) * u) ** 0.5 + 2 * u / 3


def test_half_are_flipped() -> None:
    data = pictures(flip=True)
    n = 2000
    codec = data.codec().build()
    x = codec.decode(data.training(codec, Unconditional()).batch([0] * n, Streams.of(3, n))["x"]).numpy()
    straight = (x == noise(0, 6, 5)).all((1, 2, 3))
    mirrored = (x == noise(0, 6, 5)[:, ::-1]).all((1, 2, 3))
    assert (straight ^ mirrored).all()
    assert abs(mirrored.sum() - n / 2) < binomial_bound(n, 0.5)


def test_captions_are_drawn_evenly_and_withheld_as_often_as_said() -> None:
    data = pictures([("a", "b", "c"), *[("d",)] * (N - 1)], caption_drop=0.25)
    n = 4000
    told = names_told(data, 0, n)
    for name, p in (("a", 0.25), ("b", 0.25), ("c", 0.25), (None, 0.25), ("d", 0)):
        assert abs(told.count(name) - n * p) < binomial_bound(n, p)
    assert "d" not in told


def test_flips_captions_and_withheld_captions_are_independent() -> None:
    data = pictures([("a", "b")] * N, flip=True, caption_drop=0.5)
    n = 4000
    names = ("a", "b")
    codec = data.codec().build()
    batch = data.training(codec, LabelsConfig(names, 4).build()).batch([0] * n, Streams.of(1, n))
    flipped = (codec.decode(batch["x"]).numpy() != noise(0, 6, 5)).any((1, 2, 3))
    ids = batch["cond"]["ids"].numpy()
    for name, p in ((0, 1 / 8), (1, 1 / 8), (2, 1 / 4)):
        for flip in (True, False):
            assert abs(((ids == name) & (flipped == flip)).sum() - n * p) < binomial_bound(n, p)


def test_never_and_always_withheld_and_pictures_without_a_caption() -> None:
    captions: list[Captions] = [("a",), (), *[("b",)] * (N - 2)]
    assert set(names_told(pictures(captions, caption_drop=0.0), 0, 50)) == {"a"}
    assert set(names_told(pictures(captions, caption_drop=1.0), 0, 50)) == {None}
    assert set(names_told(pictures(captions, caption_drop=0.0), 1, 50)) == {None}


def test_split_is_stable_disjoint_and_complete() -> None:
    data = pictures([(str(i),) for i in range(N)])
    rest, held = data.split(0.3)
    assert set(rest.names) | set(held.names) == set(data.names)
    assert not set(rest.names) & set(held.names)
    fewer = data.take(range(0, N, 2))
    assert set(fewer.split(0.3)[1].names) == set(held.names) & set(fewer.names)  # other pictures move none
    assert set(held.names) <= set(data.split(0.5)[1].names)
    for part in (rest, held, held.take([1, 0])):
        for i in range(len(part)):
            number = int(part.names[i].removesuffix(".png"))
            assert_array_equal(part.pictures([i])[0], noise(number, 6, 5))
            assert part.captions[i] == (str(number),)


def test_the_share_that_is_held_out() -> None:
    n = 20_000
    array = np.zeros((1, 4, 4, 1), np.uint8)
    many = PictureData(InMemory(array), 4, 4, 1, tuple(map(str, range(n))), ((),) * n, None, (), ())
    assert abs(len(many.split(0.05)[1]) - n * 0.05) < binomial_bound(n, 0.05)  # a hash has no seed: this holds for good


def test_data_std_is_that_of_the_encoded_pictures() -> None:
    data = pictures()
    codec = data.codec()
    encoded = codec.build().encode(data.pictures(range(N)))
    torch.testing.assert_close(torch.tensor(codec.data_std), encoded.std(correction=0), rtol=1e-5, atol=0)
