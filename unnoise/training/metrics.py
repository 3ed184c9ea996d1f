"""What a run writes down: metrics.jsonl always, TensorBoard where it is installed.

A line of metrics.jsonl: {"step", "loss", "grad_norm", "lr", "seconds", "loss_by_time": [...], ...} means since the line
before; or {"step", "event"}. Lines are only ever appended: after a resume or a roll-back a step can come again, and the
later line counts (`history` reads it so).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from unnoise.core.files import explained
from unnoise.training.distributed import World

TIME_BINS = 20
"""Equal parts of t in [0, 1] that the loss per noise level is kept for."""


class Tally:
    """Sums since the last line of the log, kept on the device: no step waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}
        self._bins: Tensor | None = None

    def add(self, values: Mapping[str, Tensor], weight: float) -> None:
        """Numbers of shape (); `weight` is what they count for."""
        for name, value in values.items():
            value = value.detach().float() * weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def add_times(self, time: Tensor, per_sample: Tensor) -> None:
        """time (B,) in [0, 1], per_sample (B,)."""
        place = (time.detach() * TIME_BINS).long().clamp(0, TIME_BINS - 1)
        rows = torch.stack([per_sample.detach().float(), torch.ones_like(per_sample, dtype=torch.float32)], 1)
        if self._bins is None:
            self._bins = torch.zeros(TIME_BINS, 2, device=rows.device)
        self._bins.index_add_(0, place, rows)

    def means(self, world: World) -> dict[str, Any]:
        """The means over all processes; the sums start again."""
        out: dict[str, Any] = {}
        if self._sums:
            means = world.mean(torch.stack([total / self._weights[name] for name, total in self._sums.items()]))
            out = dict(zip(self._sums, means.tolist()))
        if self._bins is not None:
            out["loss_by_time"] = [total / n if n else None for total, n in world.sum(self._bins).tolist()]
        self._sums, self._weights, self._bins = {}, {}, None
        return out


def _board(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import
    except ImportError:
        return None
    return SummaryWriter(str(folder))


class Recorder:
    """Appends to a run's log. Other processes than the first write nothing."""

    def __init__(self, run: Path, world: World) -> None:
        self._path = run / "metrics.jsonl"
        self._board: Any = None
        self._file: BinaryIO | None = None
        if not world.first:
            return
        with explained(self._path):
            run.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
            self._file.seek(0, 2)
            if self._file.tell():  # a line that a kill cut short must not swallow the next
                self._file.seek(-1, 2)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
            self._board = _board(run / "tensorboard")

    @property
    def has_board(self) -> bool:
        return self._board is not None

    def write(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        with explained(self._path):
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            if self._board is not None:
                for name, value in record.items():
                    if isinstance(value, float):
                        self._board.add_scalar(name, value, record["step"])

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with explained(self._path):
            if self._file is not None:
                self._file.close()
            if self._board is not None:
                self._board.close()


def history(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl that count, rising in step; events and lines that a kill cut short are left out."""
    out: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "event" in record:
            continue
        while out and out[-1]["step"] >= record["step"]:
            out.pop()
        out.append(record)
    return out


def mean_by_time(records: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """The mean over lines of the loss in each bin of time; None where no row fell."""
    columns = zip(*(r["loss_by_time"] for r in records if "loss_by_time" in r))
    seen = [[v for v in column if v is not None] for column in columns]
    return [sum(column) / len(column) if column else None for column in seen]
