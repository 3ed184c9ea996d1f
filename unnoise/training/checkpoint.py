"""Checkpoints: folders of safetensors shards and JSON, written atomically, checked by hash when read. Never pickle.

    step-00001000/
      shard-00000-of-00002.safetensors   the rows of every tensor that process 0 of 2 held
      shard-00000-of-00002.json          for each: the whole shape and its first row here; the file's SHA-256
      state.json                         the numbers of the run, and a SHA-256 of this file and of the shards' JSON

The folder is written under another name, synced and renamed, so one that has its name is complete; a reader with any
number of processes takes the rows that it needs from whichever shards have them. (torch.distributed.checkpoint pickles
its metadata; its safetensors writer neither hashes nor syncs, and cannot say which file is at fault.)
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from unnoise.core.errors import InputError
from unnoise.core.files import explained, remove, sync
from unnoise.training.distributed import World

FORMAT = 1


class Damaged(Exception):
    """A checkpoint that cannot be used, and why."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    sync(path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise Damaged(f"{path.name} cannot be read: {e}") from e


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that passed all checks."""

    path: Path
    state: Mapping[str, Any]
    pieces: Mapping[str, list[tuple[Path, int]]]
    """For every tensor, the files that hold rows of it, and their first row."""
    shapes: Mapping[str, tuple[int, ...]]

    @staticmethod
    def open(path: Path) -> "Checkpoint":
        """Read and check; raises Damaged."""
        state = _read_json(path / "state.json")
        try:
            body = {k: v for k, v in state.items() if k != "sha256"}
            if state["sha256"] != _digest_of(body):
                raise Damaged("state.json does not match its own SHA-256")
            if state["format"] != FORMAT:
                raise Damaged(f"it is in format {state['format']}, this version reads {FORMAT}; update unnoise")
            pieces: dict[str, list[tuple[Path, int]]] = {}
            shapes: dict[str, tuple[int, ...]] = {}
            for name, digest in state["shards"].items():
                table = _read_json(path / f"{name}.json")
                if _digest_of(table) != digest:
                    raise Damaged(f"{name}.json does not match its SHA-256")
                file = path / f"{name}.safetensors"
                if not file.exists() or _digest(file) != table["sha256"]:
                    raise Damaged(f"{file.name} is missing or does not match its SHA-256")
                for tensor, (shape, first) in table["tensors"].items():
                    pieces.setdefault(tensor, []).append((file, first))
                    shapes[tensor] = tuple(shape)
        except (KeyError, TypeError, AttributeError, OSError) as e:
            raise Damaged(f"it lacks {e}") from e
        return Checkpoint(path, state, pieces, shapes)

    @torch.no_grad()
    def read(self, name: str, into: Tensor, world: World) -> None:
        """Fill this process's rows of a tensor. Raises InputError if the checkpoint's tensor has another shape."""
        if self.shapes.get(name) != tuple(into.shape):
            had = self.shapes.get(name, "no such tensor")
            raise InputError(f"{self.path}: {name} is {had} there and {tuple(into.shape)} here; resume with the run's own settings")
        mine, begin = world.local(into), world.first_row(into)
        for path, first in self.pieces[name]:
            try:
                with safe_open(path, framework="pt") as file:
                    if into.ndim == 0:
                        mine.copy_(file.get_tensor(name))
                        continue
                    piece = file.get_slice(name)
                    start, stop = max(first, begin), min(first + piece.get_shape()[0], begin + len(mine))
                    if start < stop:
                        mine[start - begin : stop - begin].copy_(piece[start - first : stop - first])
            except SafetensorError as e:
                raise InputError(f"{path}: cannot be read ({e})") from e


class Checkpoints:
    """The checkpoints of a run. Every process calls every method, in the same order."""

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self._folder, self._world, self._keep = folder, world, keep

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, rising."""
        names = [re.fullmatch(r"step-(\d{8,})", p.name) for p in self._folder.glob("step-*")]
        return sorted(int(n[1]) for n in names if n is not None)

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint and remove the oldest beyond `keep`.

        Raises InputError if it cannot be written; then nothing is left of it, and the earlier ones are as they were.
        """
        world, final = self._world, self.path(step)
        partial = self._folder / f".{final.name}.partial"
        stages = (
            (world.first, lambda: self._empty(partial)),
            (True, lambda: self._write_shard(partial, tensors)),
            (world.first, lambda: self._complete(partial, final, state)),
        )
        for mine, work in stages:  # after each, all processes know whether it worked for every one of them
            failure: InputError | None = None
            try:
                with explained(final):
                    if mine:
                        work()
            except InputError as e:
                failure = e
            if world.any(failure is not None):
                if world.first:
                    with suppress(OSError):
                        remove(partial)
                raise failure or InputError(f"{final}: another process could not write its share; see its message")
        if world.first:
            for old in self.steps()[: -self._keep]:
                remove(self.path(old))

    def _empty(self, partial: Path) -> None:
        remove(partial)
        partial.mkdir(parents=True)

    def _write_shard(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        world = self._world
        # what is not sharded is everyone's, and the first process writes it
        mine = {n: t for n, t in tensors.items() if world.first or isinstance(t, DTensor)}
        mine = {n: t for n, t in mine.items() if t.ndim == 0 or t.shape[0] == 0 or len(world.local(t))}
        shard = folder / f"shard-{world.rank:05d}-of-{world.size:05d}"
        file = shard.with_suffix(".safetensors")
        save_file({n: world.local(t).detach().contiguous() for n, t in mine.items()}, file)
        sync(file)
        table = {n: (tuple(t.shape), world.first_row(t)) for n, t in mine.items()}
        _write_json(shard.with_suffix(".json"), {"sha256": _digest(file), "tensors": table})

    def _complete(self, partial: Path, final: Path, state: Mapping[str, Any]) -> None:
        shards = {p.stem: _digest_of(_read_json(p)) for p in sorted(partial.glob("shard-*.json"))}
        body = {"format": FORMAT, "shards": shards, **state}
        _write_json(partial / "state.json", {**body, "sha256": _digest_of(json.loads(json.dumps(body)))})
        sync(partial)
        if final.exists():  # written again after a roll-back
            remove(final)
        partial.rename(final)
        sync(self._folder)

    def newest(self, skip: int = 0) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole (or the one `skip` before it, or the oldest), and what was wrong with newer ones.

        None if nothing was saved yet. Raises InputError if every checkpoint is damaged.
        """
        for partial in self._folder.glob(".step-*.partial") if self._world.first else ():
            remove(partial)  # a save that was cut short
        whole, complaints = [], []
        for step in reversed(self.steps()) if self._world.first else ():
            try:
                whole.append(Checkpoint.open(self.path(step)))
            except Damaged as e:
                complaints.append(f"{self.path(step)} is damaged ({e}); it is not used")
                continue
            if len(whole) > skip:
                break
        step = self._world.agree(int(whole[-1].state["step"]) if whole else -1)
        if step < 0 and self.steps():
            raise InputError(f"{self._folder}: no checkpoint is whole ({'; '.join(complaints)}); start another run")
        if step < 0:
            return None, complaints
        return (whole[-1] if self._world.first else Checkpoint.open(self.path(step))), complaints

    def forget_after(self, step: int) -> None:
        """Remove what came after a step that the run was rolled back to, so that no resume picks it up."""
        for later in self.steps() if self._world.first else ():
            if later > step:
                remove(self.path(later))
        self._world.any(False)
