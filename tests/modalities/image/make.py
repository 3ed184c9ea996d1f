"""Tiny real files for the tests of pictures."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 16, width: int = 16, channels: int = 3) -> np.ndarray:
    """uint8 (height, width, channels)"""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(path: Path, pixels: np.ndarray | int, **options: object) -> Path:
    """Writes pixels, or noise of that seed, in the format of the name; returns the path."""
    pixels = noise(pixels) if isinstance(pixels, int) else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, **options)
    return path


def bomb(path: Path) -> Path:
    """A black 20,000 x 20,000 PNG of one bit, whole and valid: 50 kB that unpack to 400 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_000 * (1 + 20_000 // 8)), 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def zipped(folder: Path, archive: Path) -> Path:
    """All files of a folder in a zip, which lies elsewhere."""
    assert folder not in archive.parents, "a zip that holds itself never ends"
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    with zipfile.ZipFile(archive, "w") as z:
        for file in files:
            z.write(file, file.relative_to(folder).as_posix())
    return archive
