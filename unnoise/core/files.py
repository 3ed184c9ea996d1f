"""Writing files so that a crash or a full disk never harms what was there before."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from unnoise.core.errors import InputError


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a failure to write into an InputError of one line."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e).splitlines()[0]
        raise InputError(
            f"{path}: cannot be written ({reason}); what was there before is whole; make room, or choose another place, and go on"
        ) from e


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file to; it becomes `path` when it is complete and on the disk, or vanishes.

    InputError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            remove(temporary)
        raise
