"""Aspect-ratio buckets: sizes as published, least cropping by trying all, every picture as often as without buckets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.core.codec import UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.image.buckets import bucket_sizes, nearest, one_bucket
from unnoise.modalities.image.data import PictureData, PictureOptions
from unnoise.modalities.image.reading import read_pictures

from .make import noise, png


def test_the_sizes_of_sdxl() -> None:
    """For each shorter side, the largest of appendix I's sizes."""
    longer = {512: 2048, 576: 1792, 640: 1600, 704: 1472, 768: 1344, 832: 1216, 896: 1152, 960: 1088, 1024: 1024}
    sizes = bucket_sizes(1024, 64, ratio=4)
    assert set(sizes) == {s for pair in longer.items() for s in (pair, pair[::-1])}
    assert list(sizes) == sorted(sizes, key=lambda s: s[0] / s[1])
    with pytest.raises(InputError, match="divisible"):
        bucket_sizes(100, 64)


def test_unasked_no_size_is_more_than_twice_as_long_as_wide() -> None:
    """Of a side of 8 steps: 6 x 10 = 60 of 64 and 7 x 9 = 63 remain; 5 x 12 and 4 x 16 are too long."""
    assert bucket_sizes(64, 8) == ((48, 80), (56, 72), (64, 64), (72, 56), (80, 48))


def test_the_nearest_size_crops_least() -> None:
    sizes = bucket_sizes(64, 8)
    rng = np.random.default_rng(0)
    for h, w in rng.integers(4, 500, (200, 2)):
        kept = [min(h, w * s[0] / s[1]) * min(w, h * s[1] / s[0]) for s in sizes]  # the largest part of that shape
        assert kept[nearest(int(h), int(w), sizes)] == pytest.approx(max(kept))


@pytest.mark.parametrize("weighted", [False, True])
def test_every_picture_comes_up_as_often_as_without_buckets(weighted: bool) -> None:
    """The last row of each of 3000 batches: counts of 9 pictures, each a binomial, within 5.5 standard deviations."""
    buckets = np.array([0, 0, 0, 0, 0, 1, 1, 2, 0])
    weights = np.array([1, 1, 0.2, 1, 0.5, 1, 0.3, 1, 1.0]) if weighted else np.ones(9)
    p, n = weights / weights.sum(), 3000
    counts = np.zeros(9)
    drawn = np.random.default_rng(1).choice(9, (n, 3), p=p)
    for k, rows in enumerate(drawn):
        out = one_bucket(rows.tolist(), buckets, weights if weighted else None, Streams.of(2, 3, first=3 * k))
        assert len({int(buckets[r]) for r in out}) == 1
        assert all(a == b for a, b in zip(rows, out) if buckets[a] == buckets[rows[0]])  # who belongs there stays
        counts[out[-1]] += 1
    # two-sided normal tail 4e-8 a count, 18 counts: false alarm below 1e-6, and the binomials are near enough to normal
    assert (np.abs(counts - n * p) < 5.5 * np.sqrt(n * p * (1 - p))).all()


SHAPES = {"flat": (20, 40), "tall": (30, 15), "square": (24, 24)}


def read(folder: Path, options: PictureOptions) -> PictureData:
    return read_pictures(folder, options, progress=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, (name, (h, w)) in enumerate(SHAPES.items()):
        for j in range(4):
            png(tmp_path / f"{name}-{j}.png", noise(10 * i + j, h, w))
    return tmp_path


@pytest.mark.parametrize("memory", [2.0, 0.0], ids=["in memory", "on disk"])
def test_pictures_are_trained_on_in_their_own_shapes(folder: Path, memory: float) -> None:
    """They are Pillow's, fitted to the nearest shape; alone, in any batch, and after some have been taken away."""
    data = read(folder, PictureOptions(size=16, buckets=4, memory=memory))
    assert (data.height, data.width) == (16, 16)
    sizes = {"flat": (12, 20), "tall": (20, 12), "square": (16, 16)}  # 8 x 32 is over twice as long as wide
    some = data.take([i for i, name in enumerate(data.names) if not name.endswith("-1.png")])
    for source in (data, some):
        training = source.training(source.codec().build(), UnconditionalConfig().build())
        seen = set()
        for k in range(12):
            rows, rng = [k % len(source), (5 * k + 1) % len(source), 0], Streams.of(3, 3, first=3 * k)
            drawn = source.drawn(rows, rng)
            x = training.batch(rows, rng)["x"]
            assert isinstance(x, torch.Tensor)
            for row, state in zip(drawn, x):
                name = source.names[row]
                h, w = sizes[name.split("-")[0]]
                with Image.open(folder / name) as im:
                    scale = max(h / im.height, w / im.width)
                    box = ((im.width - w / scale) / 2, (im.height - h / scale) / 2)
                    box = (*box, im.width - box[0], im.height - box[1])
                    expected = np.asarray(im.resize((w, h), Image.Resampling.LANCZOS, box))
                assert np.abs((state.permute(1, 2, 0).numpy() + 1) * 127.5 - expected).max() < 1e-3
                seen.add(name.split("-")[0])
            assert torch.equal(x, training.batch(rows, rng)["x"])
        assert seen == set(SHAPES)
    assert data.pictures(range(12)).shape == (12, 16, 16, 3)


def test_buckets_that_cannot_be_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="divisible"):
        read(folder, PictureOptions(size=18, buckets=4))
    with pytest.raises(InputError, match="4 at least"):
        PictureOptions(buckets=2)


def test_pictures_of_one_shape_are_left_as_they_are(folder: Path) -> None:
    for file in folder.glob("[ft]*.png"):
        file.unlink()
    plain, bucketed = (read(folder, PictureOptions(size=16, buckets=b)) for b in (None, 4))
    assert np.array_equal(plain.pictures(range(4)), bucketed.pictures(range(4)))
    assert replace(plain, notes=(), options=bucketed.options) == replace(bucketed, notes=(), pixels=plain.pixels)
