"""The fingerprint of data: any row that changes is noticed, and what an earlier version wrote is still gone on with."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from unnoise.core.errors import InputError
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.modalities.image.sources import entries
from unnoise.networks.autoencoder import AutoencoderConfig
from unnoise.networks.bottlenecks import KLConfig
from unnoise.recipes.latent_cache import cached_latents
from unnoise.recipes.sources import source_of
from unnoise.recipes.train import resume, train

N = 12


@pytest.fixture(autouse=True)
def undrawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unnoise.training.plot.available", lambda: False)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    place.mkdir()
    for i in range(N):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(place / f"{i:02}.png")
    return place


def fingerprint(path: Path) -> str:
    return source_of(str(path)).open(progress=False).fingerprint()


def black(file: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)


def test_every_picture_counts(folder: Path, tmp_path: Path) -> None:
    """Those in the middle too, and of zips and arrays as well as of folders; a copy elsewhere is the same."""
    seen = {fingerprint(folder)}
    for i in range(N):
        (tmp_path / str(i)).mkdir()
        copy = Path(shutil.copytree(folder, tmp_path / str(i) / "set"))
        assert fingerprint(copy) in seen
        Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(copy / f"{i:02}.png")
        seen.add(fingerprint(copy))
    assert len(seen) == N + 1

    for picture in (3, 4):
        with zipfile.ZipFile(tmp_path / f"{picture}.zip", "w") as z:
            for i in range(N):
                z.write(folder / ("00.png" if i == picture else f"{i:02}.png"), f"{i:02}.png")
    pixels = np.stack([np.full((8, 8, 3), 20 * i, np.uint8) for i in range(N)])
    np.savez(tmp_path / "a.npz", images=pixels)
    pixels[4] = 0
    np.savez(tmp_path / "b.npz", images=pixels)
    assert len({fingerprint(tmp_path / f) for f in ("3.zip", "4.zip", "a.npz", "b.npz")}) == 4


def test_every_cell_of_a_table_counts(tmp_path: Path) -> None:
    """Every column has the values that it had; two of them have changed places."""
    rows = [f"{i},{'ab'[i % 2]}" for i in range(40)]
    swapped = [*rows[:20], "20,b", "21,a", *rows[22:]]
    for name, lines in (("x", rows), ("y", swapped)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.csv").write_text("\n".join(["n,c", *lines]) + "\n")
    assert fingerprint(tmp_path / "x" / "t.csv") != fingerprint(tmp_path / "y" / "t.csv")


def test_the_checksums_are_of_the_bytes(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for file in sorted(folder.iterdir()):
            z.write(file, file.name)
    expected = [zlib.crc32(file.read_bytes()) for file in sorted(folder.iterdir())]
    assert [e.crc() for e in entries(folder)] == [e.crc() for e in entries(tmp_path / "set.zip")] == expected
    gone = entries(folder)[0]
    gone.where.unlink()
    with pytest.raises(InputError, match="cannot be read any more"):
        gone.crc()


def test_a_run_goes_on_with_its_own_pictures_alone(folder: Path, tmp_path: Path) -> None:
    """A run of an earlier version, whose fingerprint knows a glance of the data, goes on as it did."""
    out = tmp_path / "run"
    train(folder, out, steps=2, batch=4, width=16, depth=1)
    said = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(said | {"data": said["data"].partition("-")[0]}))
    resume(out, progress=False)
    (out / "run.json").write_text(json.dumps(said))
    resume(out, progress=False)
    for i in range(1, N - 1):
        if i != N // 2:
            black(folder / f"{i:02}.png")
    with pytest.raises(InputError, match="set has changed since"):
        resume(out, progress=False)


def test_latents_of_an_earlier_version_are_used_again(folder: Path, tmp_path: Path) -> None:
    codec = LatentsConfig(8, 8, 1, AutoencoderConfig(1, KLConfig(2), 2, (8, 8), (1, 1))).build()
    opened = source_of(str(folder)).open(progress=False)
    file, now = tmp_path / "latents.safetensors", opened.fingerprint()
    cached_latents(codec, opened.pictures, now.partition("-")[0], file, progress=False)
    with safe_open(file, "pt") as f:
        made = f.metadata()
    assert cached_latents(codec, opened.pictures, now, file, progress=False).parts[0].shape[1] == N
    with safe_open(file, "pt") as f:
        assert f.metadata() == made
    black(folder / "03.png")
    file.unlink()
    cached_latents(codec, opened.pictures, now, file, progress=False)
    with pytest.raises(InputError, match="remove it, and they are made anew"):
        cached_latents(codec, opened.pictures, fingerprint(folder), file, progress=False)
