"""Where a run's data comes from: what to read, said in a value that a run's file can hold, so that resuming reads it again."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from unnoise.core.codec import Codec, Conditioner, Unconditional
from unnoise.core.errors import InputError
from unnoise.modalities.image.data import PictureData, PictureOptions
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.show import save_png, sheet
from unnoise.modalities.table.data import TableData
from unnoise.modalities.table.read import read_table
from unnoise.modalities.table.show import plot_marginals
from unnoise.model import Samples
from unnoise.training.data import DataSet


class Opened(ABC):
    """A data set that was read."""

    @abstractmethod
    def account(self) -> str:
        """One paragraph: what was found and what will be done with it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the data does: a resumed run must not go on with other data."""

    def skipped(self) -> list[str]:
        """What was left out because it could not be read: a line each."""
        return []

    @abstractmethod
    def training(self, codec: Codec, conditioner: Conditioner) -> DataSet: ...

    @abstractmethod
    def preview(self, samples: Samples, path: Path) -> None:
        """Draw samples into the PNG file `path`, in the way this kind of data is looked at."""


class Source(ABC):
    """A frozen dataclass."""

    path: str

    def name(self) -> str:
        """What the data is called, without where it lies."""
        return Path(self.path).name or Path(self.path).resolve().name

    @abstractmethod
    def open(self, progress: bool = True) -> Opened:
        """Read it. Raises InputError for data that cannot be used."""


@dataclass(frozen=True)
class PictureSource(Source):
    """Pictures: a folder, a zip or an npz."""

    path: str
    options: PictureOptions = PictureOptions()

    def open(self, progress: bool = True) -> "OpenPictures":
        return OpenPictures(read_pictures(self.path, self.options, progress=progress))


@dataclass(frozen=True)
class OpenPictures(Opened):
    pictures: PictureData

    def account(self) -> str:
        return self.pictures.account()

    def fingerprint(self) -> str:
        p = self.pictures
        some = p.pictures([0, len(p) // 2, len(p) - 1])
        return _digest(p.names, p.captions, (p.height, p.width, p.channels), some.tobytes())

    def skipped(self) -> list[str]:
        return [str(s) for s in self.pictures.skipped]

    def training(self, codec: Codec, conditioner: Conditioner) -> DataSet:
        share = self.pictures.options.held_out
        return (self.pictures.split(share)[0] if share > 0 else self.pictures).training(codec, conditioner)

    def preview(self, samples: Samples, path: Path) -> None:
        told = [p or "" for p in samples.prompts]
        page: Image.Image = sheet(list(samples.data), told if any(told) else None, smallest=64)
        save_png(path, page, dict(samples.settings))


@dataclass(frozen=True)
class TableSource(Source):
    """A csv table; `condition` names a column of categories whose values become prompts."""

    path: str
    condition: str | None = None
    caption_drop: float = 0.1
    """Share of the rows whose prompt is withheld in training, so that guidance works."""

    def open(self, progress: bool = True) -> "OpenTable":
        return OpenTable(read_table(self.path), self)


@dataclass(frozen=True)
class OpenTable(Opened):
    table: TableData
    source: TableSource = field(repr=False)

    def account(self) -> str:
        return self.table.account()

    def fingerprint(self) -> str:
        return _digest([self.table.name], self.table.table.rows()[:3], len(self.table), repr(self.table.config).encode())

    def training(self, codec: Codec, conditioner: Conditioner) -> DataSet:
        if self.source.condition is None or isinstance(conditioner, Unconditional):
            return self.table.unconditional()
        return self.table.told(self.source.condition, conditioner, self.source.caption_drop)

    def preview(self, samples: Samples, path: Path) -> None:
        plot_marginals(self.table.table, samples.data, path)


def source_of(path: str, picture_options: PictureOptions = PictureOptions(), condition: str | None = None) -> Source:
    """What kind of data lies at `path`. Raises InputError for what does not exist or cannot be read."""
    p = Path(path)
    if not p.exists():
        raise InputError(f"{path} does not exist; give a folder or zip of pictures, an npz of pictures, or a csv table")
    if p.suffix.lower() in (".csv", ".tsv"):
        return TableSource(path, condition)
    if p.is_dir() or p.suffix.lower() in (".zip", ".npz"):
        return PictureSource(path, picture_options)
    raise InputError(
        f"{path}: a {p.suffix or 'nameless'} file is not data that unnoise reads; give pictures (folder, zip, npz) or a csv"
    )


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
