"""Pictures to be measured, and what is measured of pictures alone: their colours, and how their power falls with frequency."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.measure import Attribute, Examples, Measure
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import InMemory, PictureData, Pixels
from unnoise.modalities.image.show import sheet, to_image


@dataclass(frozen=True)
class Pictures(Examples):
    """pixels: uint8 by row number. rows: which of them, in this order. known: attributes of these rows."""

    pixels: Pixels = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)
    shape: tuple[int, int, int]
    """(H, W, C)"""
    known: tuple[Attribute, ...] = field(default=(), repr=False)

    kind = "pictures"

    @staticmethod
    def of(array: np.ndarray | Tensor, known: tuple[Attribute, ...] = ()) -> "Pictures":
        """From uint8 (N, H, W, C)."""
        array = np.asarray(array)
        if array.dtype != np.uint8 or array.ndim != 4:
            raise InputError(f"pictures to be measured are uint8 (N, H, W, C); these are {array.dtype} {array.shape}")
        n, height, width, channels = array.shape
        return Pictures(InMemory(array), tuple(range(n)), (height, width, channels), known)

    @staticmethod
    def read(data: PictureData) -> "Pictures":
        """A set of pictures that was read; its classes, if there are any, are its one attribute."""
        known: tuple[Attribute, ...] = ()
        if data.classes:
            known = (class_of([c[0] if c else None for c in data.captions], data.classes),)
        return Pictures(data.pictures, tuple(range(len(data))), (data.height, data.width, data.channels), known)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Sequence[int]) -> "Pictures":
        which = torch.as_tensor(rows, dtype=torch.int64)
        known = tuple(replace(a, codes=a.codes[which]) for a in self.known)
        return replace(self, rows=tuple(self.rows[i] for i in rows), known=known)

    def array(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """uint8 (n, H, W, C)"""
        return self.pixels(self.rows if rows is None else [self.rows[i] for i in rows])

    def tensor(self, reference: Examples, rows: Sequence[int] | None = None) -> Tensor:
        """(n, C, H, W) in [-1, 1], as the pixels' codec encodes them: colours of transparent pictures premultiplied."""
        if not isinstance(reference, Pictures) or reference.shape != self.shape:
            theirs = "x".join(map(str, reference.shape)) + " pixels" if isinstance(reference, Pictures) else f"a {reference.kind}"
            raise InputError(
                f"pictures of {'x'.join(map(str, self.shape))} (height, width, channels) cannot be compared with {theirs}; "
                "make or read them at one size"
            )
        return PixelsConfig(*self.shape).build().encode(self.array(rows))

    def attributes(self) -> tuple[Attribute, ...]:
        return self.known

    def draw(self, rows: Sequence[int]) -> list[Image.Image]:
        return [to_image(picture) for picture in self.array(rows)]

    def look(self, made: Examples) -> tuple[Image.Image, str]:
        """Six made ones on the left of every row, six of these on the right; evenly spread over both, not chosen."""
        if not isinstance(made, Pictures):
            raise InputError("pictures are looked at beside pictures")
        n = min(48, len(self), len(made))
        real, new = (p.array([i * len(p) // n for i in range(n)]) for p in (self, made))
        rows = [[*new[i : i + 6], *real[i : i + 6]] for i in range(0, n - n % 6, 6)] or [[*new, *real]]
        page = sheet([picture for row in rows for picture in row], columns=len(rows[0]), smallest=64)
        return page, "made on the left, real on the right"

    def measures(self, held: Examples, made: Examples, seed: int = 0) -> list[Measure]:
        if not isinstance(held, Pictures) or not isinstance(made, Pictures):
            raise InputError("pictures are compared with pictures")
        return [
            Measure(
                "colour", _colour(held, made), floor=_colour(self, held), note="Wasserstein-1 of the channels' values, 0 ... 255"
            ),
            Measure(
                "spectrum", _spectrum(held, made), floor=_spectrum(self, held), note="rms difference of log10 power by frequency"
            ),
        ]


def class_of(told: Sequence[str | None], classes: Sequence[str]) -> Attribute:
    """The attribute "class" of rows that are, or were asked to be, of these classes."""
    place = {c: i for i, c in enumerate(classes)}
    return Attribute("class", tuple(classes), torch.tensor([place.get(c, -1) if c else -1 for c in told], dtype=torch.int64))


_SOME = 4000  # pictures are enough for a mean over all pixels


def _some(pictures: Pictures) -> np.ndarray:
    n = len(pictures)
    return pictures.array(np.linspace(0, n - 1, min(n, _SOME)).astype(int).tolist())


def _colour(a: Pictures, b: Pictures) -> float:
    """Mean over the channels of the area between the distribution functions of their values."""
    shares = [
        np.stack([np.bincount(x[..., c].ravel(), minlength=256) / x[..., c].size for c in range(x.shape[-1])])
        for x in (_some(a), _some(b))
    ]
    return float(np.abs((shares[0] - shares[1]).cumsum(1)).sum(1).mean())


def _spectrum(a: Pictures, b: Pictures) -> float:
    x, y = (_power(p) for p in (a, b))
    return float(np.sqrt(((x - y) ** 2).mean()))


def _power(pictures: Pictures) -> np.ndarray:
    """log10 of the mean power in rings of equal radial frequency, from one cycle a picture to the finest both axes hold."""
    grey = _some(pictures).astype(np.float32).mean(-1)
    power = (np.abs(np.fft.fft2(grey)).astype(np.float64) ** 2).mean(0)
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) * min(grey.shape[1:]) for n in grey.shape[1:]), indexing="ij"))
    ring = radius.round().astype(int).ravel()
    last = min(grey.shape[1:]) // 2
    total = np.bincount(ring, power.ravel())[1 : last + 1] / np.bincount(ring)[1 : last + 1]
    return np.log10(total + 1e-12 * power.max())
