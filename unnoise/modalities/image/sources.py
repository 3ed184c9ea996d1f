"""Where pictures lie: files of a folder, members of a zip, or of several zips in one folder. Nothing is ever unpacked to disk."""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from unnoise.core.errors import InputError
from unnoise.modalities.image.show import SHEET, is_sheet

LARGEST_FILE = 256 * 2**20
"""Bytes; a larger picture file, or a zip member that unpacks to more, is not read."""


@dataclass(frozen=True)
class Entry:
    """One file. `name` is its path within the set, with "/"; `where` is the file itself or the zip that holds `member`."""

    name: str
    where: Path
    member: str | None
    size: int

    @staticmethod
    def of(file: Path) -> "Entry":
        """A file by itself."""
        return Entry(file.name, file, None, file.stat().st_size)

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """The name without its extension."""
        return str(PurePosixPath(self.name).with_suffix(""))

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()

    def open(self) -> IO[bytes]:
        """A seekable stream of the bytes; OSError or BadZipFile if they cannot be had."""
        if self.member is None:
            return self.where.open("rb")
        # a process of its own: a forked worker that shared the handle would move the others' place in the file
        return _archive(self.where, os.getpid()).open(self.member)

    def read(self) -> bytes:
        with self.open() as f:
            return f.read()

    def crc(self) -> int:
        """The CRC-32 of the bytes; of a zip's member as the zip has it. InputError if the file cannot be read any more."""
        if self.member is not None:
            return _archive(self.where, os.getpid()).getinfo(self.member).CRC
        crc = 0
        try:
            with self.open() as f:
                while block := f.read(1 << 20):
                    crc = zlib.crc32(block, crc)
        except OSError as e:
            raise InputError(f"{self.where} cannot be read any more ({e.strerror}); bring it back") from None
        return crc

    def text(self) -> str:
        """The file as text; InputError if it is not UTF-8."""
        try:
            return self.read().decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise InputError(f"{self.name} in {self.where} is not UTF-8 text (byte {e.start}); save it as UTF-8") from None


@lru_cache(maxsize=64)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def entries(path: Path) -> list[Entry]:
    """All files under a folder (links are followed) or in a zip, by name; hidden ones and what systems leave behind (`__MACOSX`)
    are left out, and so is what unnoise itself wrote there that is no data: folders of training runs, contact sheets.

    Zips that lie in a folder are read as sub-folders. Raises InputError for a zip that is damaged, locked, or has members
    that point outside it.
    """
    found: list[Entry] = []
    if path.is_dir():
        for file in _files(path):
            name = file.relative_to(path).as_posix()
            if file.suffix.lower() == ".zip":
                found += _members(file, prefix=name[: -len(".zip")] + "/")
            else:
                found.append(Entry(name, file, None, file.stat().st_size))
    else:
        found = _members(path, prefix="")
    return _named_once(path, sorted(found, key=lambda e: (e.name, str(e.where))))


def _named_once(path: Path, found: list[Entry]) -> list[Entry]:
    """Of two members of one zip the later one, as unpacking would leave it. InputError where a folder and a zip clash."""
    once: dict[str, Entry] = {}
    for e in found:
        other = once.get(e.name)
        if other is not None and (e.where != other.where or e.member != other.member):
            raise InputError(
                f"{path} holds {e.name} twice, in {other.where} and in {e.where}: a zip beside the folder that it was made of? "
                "Rename or remove one of them"
            )
        once[e.name] = e
    return list(once.values())


def _files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """above: the folders that this one lies in, by their real places: a link to one of them would lead round and round."""
    above |= {folder.resolve()}
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        place = folder / name
        if _clutter(name):
            continue
        if place.is_dir():
            if place.resolve() not in above and not _is_run(place):
                yield from _files(place, above)
        elif place.is_file() and not is_sheet(name, place):  # not a dangling link, a pipe or a socket
            yield place


def _members(path: Path, prefix: str) -> list[Entry]:
    try:
        infos = _archive(path, os.getpid()).infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as e:
        raise InputError(f"{path} is not a readable zip ({e}); make it again, or give the folder that it was made of") from None
    found = []
    for info in infos:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0:1]:
            raise InputError(
                f"{path} holds {info.filename!r}, which points outside the archive; refused: make the zip from one folder"
            )
        if info.flag_bits & 1:
            raise InputError(f"{path} is locked with a password ({info.filename!r}); give an unlocked zip, or the folder")
        if not info.is_dir() and not any(_clutter(p) for p in name.parts):
            if name.name == SHEET and is_sheet(SHEET, _archive(path, os.getpid()).open(info)):
                continue
            found.append(Entry(prefix + str(name), path, info.filename, info.file_size))
    return found


def _is_run(folder: Path) -> bool:
    """Whether a folder is a training run's."""
    try:
        said = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and {"unnoise", "run"} <= said.keys()


def _clutter(part: str) -> bool:
    return part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini")
