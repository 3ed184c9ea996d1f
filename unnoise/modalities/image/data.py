"""A set of pictures of one size, with what is said of them; and the same as batches to train on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from unnoise.core.codec import Codec, Conditioner, Following, Unconditional
from unnoise.core.errors import InputError
from unnoise.core.random import Streams, place_of
from unnoise.core.state import State
from unnoise.modalities.image.annotations import Captions
from unnoise.modalities.image.buckets import Bucketed, one_bucket
from unnoise.modalities.image.codec import PixelsConfig, resized
from unnoise.modalities.image.decode import Target, Unreadable, decode
from unnoise.modalities.image.recaption import Recaption
from unnoise.modalities.image.sizes import Sized, Told
from unnoise.modalities.image.sources import Entry


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are read, and what is varied about them in training."""

    size: int | None = None
    """Side of the training pictures in pixels; None: the pictures' own size, or what suits the set, up to `largest`."""
    shape: tuple[int, int] | None = None
    """Height and width of the training pictures in pixels, in place of a square of `size`."""
    largest: int = 64
    """The largest side that is chosen without being asked for."""
    pad: bool = False
    """Pad other shapes with the background; otherwise they are cropped about the centre."""
    background: str = "white"
    """What lies behind transparent parts: a CSS colour name or #rrggbb."""
    alpha: bool = False
    """Keep transparency: where any picture has some, all become RGBA, and nothing is laid behind them."""
    buckets: int | None = None
    """Train each picture at the nearest of several shapes of one area, whose sides are multiples of this; None: all at one size."""
    flip: bool = False
    """Mirror every other picture left to right; wrong for letters, digits, and captions that say "left"."""
    caption_drop: float = 0.1
    """Share of the pictures whose caption or class is withheld: guidance needs a model that also draws untold."""
    caption_bytes: int = 160
    """Longer captions are cut at a word."""
    held_out: float = 0.0
    """Share of the pictures kept back from training, chosen by their names: the same ones every time."""
    recaption: Recaption | None = None
    """Make several captions of different lengths for each picture, of the name, keywords, group and style that the set gives it."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """How often pictures of a group are drawn in training, against the others; `variants` (skin tones) are a group of their own."""
    memory: float = 2.0
    """GiB that decoded pictures may fill; larger sets are decoded again each time they are read."""
    threads: int = 4
    """Threads that decode."""

    def __post_init__(self) -> None:
        if self.size is not None and not 4 <= self.size <= 4096:
            raise InputError(f"picture size {self.size} is outside 4 to 4096 pixels")
        if self.shape is not None and (self.size is not None or not all(4 <= side <= 4096 for side in self.shape)):
            raise InputError(f"picture shape {self.shape}: a height and a width of 4 to 4096 pixels, in place of a size")
        if not 4 <= self.largest <= 4096:
            raise InputError(f"largest picture size {self.largest} is outside 4 to 4096 pixels")
        if self.buckets is not None and self.buckets < 4:
            raise InputError(f"buckets in steps of {self.buckets} pixels: the sides are multiples of this, which is 4 at least")
        if not 0 <= self.caption_drop <= 1:
            raise InputError(f"caption_drop {self.caption_drop} is a share of the pictures: 0 to 1")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out {self.held_out} is a share of the pictures: from 0 to below 1")
        for group, weight in self.weights.items():
            if not 0 < weight <= 100:
                raise InputError(f"weight {weight} of the group {group!r}: above 0, and 100 at most; 1 is as often as any other")
        if self.caption_bytes < 8 or self.threads < 1 or not self.memory >= 0:
            raise InputError("caption_bytes must be at least 8, threads at least 1, and memory not negative")


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Pixels(Protocol):
    """Decoded pictures by row number."""

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        """-> uint8 (len(rows), H, W, C)"""


@dataclass(frozen=True)
class InMemory:
    array: np.ndarray  # uint8 (N, H, W, C)

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        return self.array[np.asarray(rows, dtype=np.int64)]


@dataclass(frozen=True)
class OnDisk:
    """Decoded each time. In place of a picture that turns out to be broken stands the next that is not: always the same one."""

    entries: tuple[Entry, ...]
    target: Target

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        return np.stack([self._one(int(r)) for r in rows])

    def _one(self, row: int) -> np.ndarray:
        for i in range(len(self.entries)):
            try:
                with self.entries[(row + i) % len(self.entries)].open() as f:
                    return decode(f, self.target)
            except (Unreadable, OSError, BadZipFile):
                continue
        raise InputError(f"none of {len(self.entries)} pictures can be decoded any more, from {self.entries[row].name} on")


@dataclass(frozen=True)
class PictureData:
    """N pictures of one size.

    captions: for each picture, none, one or several. classes: the class names, where each caption is one of them; None for free
    text and for pictures of which nothing is said.
    """

    pixels: Pixels = field(repr=False)
    height: int
    width: int
    channels: int
    names: tuple[str, ...] = field(repr=False)
    captions: Sequence[Captions] = field(repr=False)
    classes: tuple[str, ...] | None
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    options: PictureOptions = PictureOptions()
    rows: tuple[int, ...] | None = field(default=None, repr=False)
    weights: tuple[float, ...] | None = field(default=None, repr=False)
    """How often each picture is drawn, against the others; None: all alike."""
    sizes: tuple[Told, ...] | None = field(default=None, repr=False)
    """How large each picture was, and what became of it; None: nothing worth telling."""
    files: tuple[Entry, ...] = field(default=(), repr=False)
    """What the pictures of the whole set were read from; none where they are drawn."""

    def __len__(self) -> int:
        return len(self.names)

    def pictures(self, rows: Sequence[int]) -> np.ndarray:
        """uint8 (len(rows), H, W, C): those of other shapes are cropped or padded."""
        return self.pixels(self._stored(rows))

    def shaped(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures of one shape as they are trained on: uint8 (len(rows), h, w, C)."""
        return self.pixels.shaped(self._stored(rows)) if isinstance(self.pixels, Bucketed) else self.pictures(rows)

    def by_shape(self) -> list[list[int]]:
        """The rows of each shape that pictures are trained on in."""
        if not isinstance(self.pixels, Bucketed):
            return [list(range(len(self)))]
        buckets = self.pixels.buckets[list(self._stored(range(len(self))))]
        return [np.flatnonzero(buckets == bucket).tolist() for bucket in np.unique(buckets)]

    def drawn(self, rows: Sequence[int], rng: Streams) -> Sequence[int]:
        """Rows drawn evenly -> rows drawn by their weights, and all of one shape; rng: one stream a row."""
        weights = None if self.weights is None else np.asarray(self.weights)
        if weights is not None:
            rows = reweighted(rows, weights, rng)
        if isinstance(self.pixels, Bucketed):
            rows = one_bucket(rows, self.pixels.buckets[list(self._stored(range(len(self))))], weights, rng)
        return rows

    def _stored(self, rows: Sequence[int]) -> Sequence[int]:
        return rows if self.rows is None else [self.rows[int(r)] for r in rows]

    def account(self) -> str:
        """One paragraph: what was found and what will be done with it."""
        return " ".join(f"{n[0].upper()}{n[1:]}." for n in (*self.notes, *self._skips()))

    def _skips(self) -> list[str]:
        if not self.skipped:
            return []
        few = "; ".join(map(str, self.skipped[:3])) + ("; ..." if len(self.skipped) > 3 else "")
        return [f"{len(self.skipped):,} file{'s were' if len(self.skipped) > 1 else ' was'} skipped ({few})"]

    def data_std(self) -> float:
        """Standard deviation of the pictures in [-1, 1], from at most 1024 of them, spread evenly."""
        x = self.pictures(np.linspace(0, len(self) - 1, min(len(self), 1024)).astype(int).tolist())
        if self.channels == 4:  # premultiplied, as they are encoded
            x = np.where(np.arange(4) < 3, x * (x[..., 3:] / np.float32(255)), x)
        return max(float(x.std(dtype=np.float64)) / 127.5, 1e-3)

    def codec(self) -> PixelsConfig:
        return PixelsConfig(self.height, self.width, self.channels, self.data_std())

    def take(self, rows: Sequence[int]) -> "PictureData":
        """Some of the pictures."""
        return replace(
            self,
            names=tuple(self.names[i] for i in rows),
            captions=tuple(self.captions[i] for i in rows),
            rows=tuple(i if self.rows is None else self.rows[i] for i in rows),
            weights=None if self.weights is None else tuple(self.weights[i] for i in rows),
            sizes=None if self.sizes is None else tuple(self.sizes[i] for i in rows),
        )

    def split(self, share: float) -> tuple["PictureData", "PictureData"]:
        """(the rest, about `share` of the pictures). By a hash of each name, so pictures that are added later move no other."""
        held = [place_of(n) < share for n in self.names]
        parts = [[i for i, h in enumerate(held) if h == which] for which in (False, True)]
        if share > 0 and not all(parts):
            raise InputError(
                f"holding out {share:g} of {len(self):,} pictures leaves one side empty; hold out another share, or none"
            )
        return self.take(parts[0]), self.take(parts[1])

    def training(self, codec: Codec, conditioner: Conditioner) -> "TrainingPictures":
        return TrainingPictures(self, codec, conditioner)


@dataclass(frozen=True)
class KeptStates:
    """What a codec makes of every picture. parts: for each shape (1, n, ...), or (2, n, ...) with the mirrored pictures'; which and
    place (N,): the part that a picture is in, and where."""

    parts: tuple[Tensor, ...]
    which: Tensor
    place: Tensor

    @staticmethod
    def of(parts: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> "KeptStates":
        """rows: of the pictures in each part."""
        which, place = (torch.empty(sum(map(len, rows)), dtype=torch.long) for _ in range(2))
        for i, some in enumerate(rows):
            which[list(some)], place[list(some)] = i, torch.arange(len(some))
        return KeptStates(tuple(parts), which, place)

    def __call__(self, rows: Sequence[int], mirrored: Tensor) -> Tensor:
        """float32 (B, ...) of rows of one shape; mirrored: bool (B,)."""
        chosen = torch.as_tensor(rows)
        (part,) = self.which[chosen].unique().tolist()
        return self.parts[part][mirrored.long(), self.place[chosen]].float()


@dataclass(frozen=True)
class TrainingPictures:
    """What the training loop reads. A row's flip, caption and withheld caption come from its own stream alone, and so does what
    stands in its place where rows have weights; where pictures have several shapes, all of a batch have that of its first row."""

    data: PictureData
    codec: Codec
    conditioner: Conditioner
    states: KeptStates | None = field(default=None, repr=False)
    """What the codec makes of every picture, where that was done before."""

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, rows: Sequence[int], rng: Streams) -> dict[str, State | dict[str, Tensor]]:
        """{"x": encoded pictures (B, C, H, W), "cond": prepared conditions}; rng has one stream a row."""
        rows = self.data.drawn(rows, rng)
        cond = dict(self.conditioner.prepare(self._told(rows, rng)))
        if isinstance(self.conditioner, Sized) and self.data.sizes is not None:
            cond.update(self.conditioner.told([self.data.sizes[int(r)] for r in rows]))
        mirrored = rng.uniform("flip") < 0.5 if self.data.options.flip else torch.zeros(len(rows), dtype=torch.bool)
        x: State
        if self.states is not None:
            x = self.states(rows, mirrored)
        if self.states is None or isinstance(self.conditioner, Following):
            pixels = torch.from_numpy(self.data.shaped(rows))
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-2), pixels)
        if self.states is None:  # mirrored before they are encoded: a codec need not know mirrors
            x = self._codec(pixels).encode(pixels)
        if isinstance(self.conditioner, Following):
            cond.update(self.conditioner.from_data(pixels, rng))
        return {"x": x, "cond": cond}

    def _codec(self, pixels: Tensor) -> Codec:
        height, width = pixels.shape[1:3]
        alike = (height, width) == (self.data.height, self.data.width)
        return self.codec if alike else resized(self.codec, height, width)

    def _told(self, rows: Sequence[int], rng: Streams) -> list[str | None]:
        if isinstance(self.conditioner, Unconditional):
            return [None] * len(rows)
        which = rng.uniform("caption").tolist()
        dropped = (rng.uniform("caption_drop") < self.data.options.caption_drop).tolist()
        told: list[str | None] = []
        for row, u, drop in zip(rows, which, dropped):
            texts = self.data.captions[int(row)]
            told.append(texts[int(u * len(texts))] if texts and not drop else None)
        return told


def reweighted(rows: Sequence[int], weights: np.ndarray, rng: Streams) -> list[int]:
    """Rows that were drawn evenly -> rows drawn in proportion to weights (N,), all positive.

    With the largest weight 1: row i stays with probability w_i, and gives way otherwise to one that is drawn by weight. So row i
    comes up with probability w_i / N + (1 - mean w) w_i / sum w = w_i / sum w.
    """
    w = weights / weights.max()
    ends = w.cumsum() / w.sum()
    stay, place = (rng.uniform(f"weights/{name}", dtype=torch.float64).numpy() for name in ("stay", "place"))
    others = np.searchsorted(ends, place, side="right").clip(max=len(w) - 1)
    return np.where(stay < w[np.asarray(rows)], rows, others).tolist()
