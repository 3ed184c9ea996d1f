"""Where a run's data comes from: what to read, said in a value that a run's file can hold, so that resuming reads it again."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unnoise.control.layout.conditioner import Planned
from unnoise.control.layout.rows import LaidOut
from unnoise.control.sampling import Samples
from unnoise.core.codec import Codec, Conditioner, Following, Unconditional
from unnoise.core.errors import InputError
from unnoise.core.measure import Examples
from unnoise.core.random import Streams
from unnoise.core.state import Cond
from unnoise.modalities.image.data import PictureData, PictureOptions
from unnoise.modalities.image.decode import MODES
from unnoise.modalities.image.measure import Pictures, class_of
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.scenes.source import are_scenes, read_scenes
from unnoise.modalities.image.show import save_png, sheet, to_image
from unnoise.modalities.image.sticker_set import are_stickers, read_stickers, sticker_folders
from unnoise.modalities.table.columns import Table
from unnoise.modalities.table.data import TableData
from unnoise.modalities.table.measure import TableRows
from unnoise.modalities.table.read import read_like, read_table
from unnoise.modalities.table.show import plot_marginals
from unnoise.training.data import DataSet


class Opened(ABC):
    """A data set that was read."""

    @abstractmethod
    def account(self) -> str:
        """One paragraph: what was found and what will be done with it."""

    @abstractmethod
    def glance(self) -> str:
        """Of the names, of what is said and of a few rows: all that the fingerprints of earlier versions were."""

    @abstractmethod
    def contents(self) -> str:
        """Changes when any row does."""

    def fingerprint(self) -> str:
        """Changes when the data does: a resumed run must not go on with other data (`unchanged`)."""
        return f"{self.glance()}-{self.contents()}"

    def skipped(self) -> list[str]:
        """What was left out because it could not be read: a line each."""
        return []

    @abstractmethod
    def training(self, codec: Codec, conditioner: Conditioner) -> DataSet: ...

    @abstractmethod
    def preview(self, samples: Samples, path: Path) -> None:
        """Draw samples into the PNG file `path`, in the way this kind of data is looked at."""

    @abstractmethod
    def split(self, share: float) -> tuple["Opened", "Opened"]:
        """(the rest, about `share` of the rows): always the same ones."""

    @abstractmethod
    def examples(self) -> Examples:
        """Its rows, to be measured."""

    @abstractmethod
    def told(self) -> list[str | None]:
        """For each row one thing that a model may be told of it: a caption, a class, a column's value; None: nothing is known."""

    def before(self, conditioner: Following, n: int, seed: int) -> tuple[list[str | None], Cond]:
        """For at most n rows, evenly spread: what is said of them, and what another model would have made on the way to them.

        InputError for data that no model goes on from.
        """
        raise InputError(f"a {type(conditioner).__name__} goes on from pictures, and a {type(self).__name__} holds none")

    @abstractmethod
    def raw(self, samples: Samples) -> dict[str, Tensor]:
        """What a model made, as tensors with a row axis that can be kept in a file."""

    @abstractmethod
    def made(self, raw: Mapping[str, Tensor], prompts: Sequence[str | None]) -> Examples:
        """What `raw` gave back, to be measured beside this data; what was asked for counts as the rows' class."""

    @abstractmethod
    def read_made(self, path: Path) -> tuple[Examples, str]:
        """Samples that lie in a folder or a file, and a sentence about what was done to make them comparable (or nothing)."""


class Source(ABC):
    """A frozen dataclass. called: what it is, for messages."""

    path: str
    called: ClassVar[str]

    def name(self) -> str:
        """What the data is called, without where it lies."""
        name = Path(self.path).name or Path(self.path).resolve().name
        return os.fsencode(name).decode(errors="backslashreplace")

    @abstractmethod
    def open(self, progress: bool = True) -> Opened:
        """Read it. Raises InputError for data that cannot be used."""


@dataclass(frozen=True)
class PictureSource(Source):
    """Pictures: a folder, a zip or an npz; or `scenes` or `stickers`, which are drawn as they are needed."""

    path: str
    options: PictureOptions = PictureOptions()
    called: ClassVar[str] = "a set of pictures"

    def open(self, progress: bool = True) -> "OpenPictures":
        if are_scenes(self.path):
            return OpenPictures(read_scenes(self.path, self.options))
        if are_stickers(self.path):
            return OpenPictures(read_stickers(sticker_folders(self.path), self.options.size or 64, options=self.options))
        return OpenPictures(read_pictures(self.path, self.options, progress=progress))


@dataclass(frozen=True)
class OpenPictures(Opened):
    pictures: PictureData

    def account(self) -> str:
        return self.pictures.account()

    def glance(self) -> str:
        p = self.pictures
        some = p.pictures([0, len(p) // 2, len(p) - 1])
        return _digest(p.names, p.captions, (p.height, p.width, p.channels), some.tobytes())

    def contents(self) -> str:
        return _digest([(e.name, e.size, e.crc()) for e in self.pictures.files], self.pictures.weights or ())

    def skipped(self) -> list[str]:
        return [str(s) for s in self.pictures.skipped]

    def kept(self) -> PictureData:
        """What is trained on: all pictures, or those that are not held out."""
        share = self.pictures.options.held_out
        return self.pictures.split(share)[0] if share > 0 else self.pictures

    def training(self, codec: Codec, conditioner: Conditioner) -> DataSet:
        if isinstance(conditioner, Planned):  # it is told more than captions
            return LaidOut(self.kept(), codec, conditioner)
        return self.kept().training(codec, conditioner)

    def preview(self, samples: Samples, path: Path) -> None:
        told = [p or "" for p in samples.prompts]
        page: Image.Image = sheet(list(samples.data), told if any(told) else None, smallest=64)
        save_png(path, page, dict(samples.settings))

    def split(self, share: float) -> tuple["OpenPictures", "OpenPictures"]:
        rest, held = self.pictures.split(share)
        return OpenPictures(rest), OpenPictures(held)

    def examples(self) -> Pictures:
        return Pictures.read(self.pictures)

    def told(self) -> list[str | None]:
        return [c[0] if c else None for c in self.pictures.captions]

    def before(self, conditioner: Following, n: int, seed: int) -> tuple[list[str | None], Cond]:
        n = min(n, len(self.pictures))
        rows = [i * len(self.pictures) // n for i in range(n)]
        told = self.told()
        pixels = torch.from_numpy(self.pictures.pictures(rows))
        return [told[i] for i in rows], conditioner.from_data(pixels, Streams.of(seed, n))

    def raw(self, samples: Samples) -> dict[str, Tensor]:
        return {"pixels": samples.data}

    def made(self, raw: Mapping[str, Tensor], prompts: Sequence[str | None]) -> Pictures:
        known = (class_of(prompts, self.pictures.classes),) if self.pictures.classes and any(prompts) else ()
        return Pictures.of(raw["pixels"], known)

    def read_made(self, path: Path) -> tuple[Pictures, str]:
        ours = self.pictures
        theirs = read_pictures(path, PictureOptions(largest=4096, alpha=ours.channels == 4), progress=False)
        array = theirs.pictures(range(len(theirs)))
        note = ""
        if array.shape[1:3] != (ours.height, ours.width):
            note = (
                f"the samples have {theirs.width} x {theirs.height} pixels and were resized to the data's {ours.width} x "
                f"{ours.height}: detail finer or coarser than that is not judged"
            )
        mode, size = MODES[ours.channels], (ours.width, ours.height)
        images = [to_image(a).convert(mode) for a in array]
        same = [i if i.size == size else i.resize(size, Image.Resampling.LANCZOS) for i in images]
        pixels = np.stack([np.asarray(i).reshape(ours.height, ours.width, ours.channels) for i in same])
        told = [c[0] if c else None for c in theirs.captions]
        return self.made({"pixels": torch.from_numpy(pixels)}, told), note


@dataclass(frozen=True)
class TableSource(Source):
    """A csv table; `condition` names a column of categories whose values become prompts."""

    path: str
    condition: str | None = None
    caption_drop: float = 0.1
    """Share of the rows whose prompt is withheld in training, so that guidance works."""
    held_out: float = 0.0
    """Share of the rows kept back from training, chosen by what they hold: the same ones every time."""
    called: ClassVar[str] = "a table"

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out {self.held_out} is a share of the rows: from 0 to below 1")

    def open(self, progress: bool = True) -> "OpenTable":
        return OpenTable(read_table(self.path), self)


@dataclass(frozen=True)
class OpenTable(Opened):
    table: TableData
    source: TableSource = field(repr=False)

    def account(self) -> str:
        return self.table.account()

    def glance(self) -> str:
        return _digest([self.table.name], self.table.table.rows()[:3], len(self.table), repr(self.table.config).encode())

    def contents(self) -> str:
        return _digest(self.table.table.numeric.numpy().tobytes(), self.table.table.categorical.numpy().tobytes())

    def kept(self) -> TableData:
        """What is trained on: all rows, or those that are not held out, and columns that know nothing of the others."""
        share = self.source.held_out
        return self.table.split(share)[0] if share > 0 else self.table

    def training(self, codec: Codec, conditioner: Conditioner) -> DataSet:
        table = self.kept()
        if self.source.condition is None or isinstance(conditioner, Unconditional):
            return table.unconditional()
        return table.told(self.source.condition, conditioner, self.source.caption_drop)

    def preview(self, samples: Samples, path: Path) -> None:
        plot_marginals(self.table.table, samples.data, path)

    def split(self, share: float) -> tuple["OpenTable", "OpenTable"]:
        rest, held = self.table.split(share)
        return replace(self, table=rest), replace(self, table=held)

    def examples(self) -> TableRows:
        return TableRows.read(self.table)

    def told(self) -> list[str | None]:
        return [None] * len(self.table) if self.source.condition is None else self.table.prompts(self.source.condition)

    def raw(self, samples: Samples) -> dict[str, Tensor]:
        return {"numeric": samples.data.numeric, "categorical": samples.data.categorical}

    def made(self, raw: Mapping[str, Tensor], prompts: Sequence[str | None]) -> TableRows:
        return TableRows.of(Table(self.table.table.columns, raw["numeric"], raw["categorical"]))

    def read_made(self, path: Path) -> tuple[TableRows, str]:
        file = next(iter(sorted(path.glob("*.csv"))), path) if path.is_dir() else path
        return TableRows.of(read_like(file, self.table)), ""


def source_of(path: str, picture_options: PictureOptions = PictureOptions(), condition: str | None = None) -> Source:
    """What kind of data lies at `path`. Raises InputError for what does not exist or cannot be read."""
    p = Path(path)
    if are_scenes(path) or are_stickers(path):
        return PictureSource(path, picture_options)
    if not p.exists():
        raise InputError(f"{path} does not exist; give a folder or zip of pictures, an npz of pictures, a csv table, or `scenes`")
    if p.suffix.lower() in (".csv", ".tsv"):
        return TableSource(path, condition)
    if p.is_dir() or p.suffix.lower() in (".zip", ".npz"):
        return PictureSource(path, picture_options)
    raise InputError(
        f"{path}: a {p.suffix or 'nameless'} file is not data that unnoise reads; give pictures (folder, zip, npz) or a csv"
    )


def unchanged(before: str, now: str) -> bool:
    """Whether two fingerprints are of the same data. One of an earlier version knows a glance alone, and is compared by that."""
    return before in (now, glance_of(now))


def glance_of(fingerprint: str) -> str:
    return fingerprint.partition("-")[0]


def _digest(*parts: object) -> str:
    h = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, bytes):
            h.update(part)
        elif isinstance(part, Sequence) and not isinstance(part, str):
            for item in part:
                h.update(repr(item).encode())
        else:
            h.update(repr(part).encode())
    return h.hexdigest()
