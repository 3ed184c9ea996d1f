"""Two pictures of a run: its loss, and its loss per noise level."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.training.metrics import TIME_BINS, history, mean_by_time


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(run: Path) -> None:
    """Write loss.png and, where the task says its times, loss_by_time.png into a run's folder.

    Raises InputError without matplotlib, or if the pictures cannot be written.
    """
    if not available():
        raise InputError('plots need matplotlib: pip install "unnoise[report]"')
    from matplotlib.figure import Figure  # needed by nothing else, and slow to import

    records = history(run / "metrics.jsonl")
    if not records:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps, losses = [r["step"] for r in records], [r["loss"] for r in records]
    axes.plot(steps, losses, color="0.75", linewidth=1, label="each line of the log")
    axes.plot(steps, _smooth(losses), color="C0", label="smoothed")
    axes.set(xlabel="step", ylabel="loss", title="Training loss")
    if min(losses) > 0:
        axes.set_yscale("log")
    axes.legend()
    _save(figure, run / "loss.png")

    if not any("loss_by_time" in r for r in records):
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    centres = [(i + 0.5) / TIME_BINS for i in range(TIME_BINS)]
    tenth = max(1, len(records) // 10)
    for label, some, colour in (("first tenth", records[:tenth], "0.7"), ("last tenth", records[-tenth:], "C0")):
        points = [(c, v) for c, v in zip(centres, mean_by_time(some)) if v is not None]
        axes.plot([c for c, _ in points], [v for _, v in points], marker="o", color=colour, label=f"{label} of the run")
    axes.set(xlabel="time t (0 data, 1 noise)", ylabel="loss", title="Loss per noise level", xlim=(0, 1))
    axes.legend()
    _save(figure, run / "loss_by_time.png")


def _smooth(values: list[float]) -> list[float]:
    """A running mean with a memory of a twentieth of the run, without the bias of its start."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    out, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        out.append(total / weight)
    return out


def _save(figure: Any, path: Path) -> None:
    with atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
