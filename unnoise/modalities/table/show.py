"""Write a table as CSV, with the header, types and marks of the data, and beside it what it was made from; plot it beside data."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.modalities.table.columns import Categorical, Numeric, Table
from unnoise.modalities.table.likeness import correlations

_MOST_PLOTTED = 36  # columns; a page of more is not looked at


def to_csv(table: Table, delimiter: str = ",", header: bool = True) -> str:
    """The table as CSV text, lines ended by a newline."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writerow([c.name for c in table.columns])
    writer.writerows(table.rows())
    return out.getvalue()


def write_csv(path: Path, table: Table, meta: Sequence[Mapping[str, Any]], delimiter: str = ",", header: bool = True) -> list[Path]:
    """Write `path` and, beside it, `path`.json: what all rows share, and lists, named in the plural, of what each has of its own.

    Each file is complete or not there. Raises InputError where the folder cannot be written.
    """
    notes = path.with_name(path.name + ".json")
    _write(path, to_csv(table, delimiter, header))
    _write(notes, json.dumps(_shared(meta), indent=1, ensure_ascii=False) + "\n")
    return [path, notes]


def _shared(meta: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{seed: 7, ..., sample_seeds: [...]}: one value for what all rows have in common, else a list with one for every row."""
    keys = dict.fromkeys(k for m in meta for k in m)
    columns = {k: [m.get(k) for m in meta] for k in keys}
    same = {k: all(v == values[0] for v in values) for k, values in columns.items()}
    return {k if same[k] else k + "s": values[0] if same[k] else values for k, values in columns.items()}


def _write(path: Path, text: str) -> None:
    with atomically(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def plot_marginals(real: Table, fake: Table, path: Path) -> None:
    """The PNG file `path` of `marginals`, whole or not at all."""
    png = marginals(real, fake)
    with atomically(path) as partial:
        partial.write_bytes(png)


def marginals(real: Table, fake: Table) -> bytes:
    """A PNG of the first 36 columns' histograms, data and samples, and of the numbers' correlations and their difference."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise InputError('plots need matplotlib: pip install "unnoise[report]"') from e
    columns = [c for c in real.columns if isinstance(c, Numeric | Categorical)][:_MOST_PLOTTED]
    numbers = [c for c in real.columns if isinstance(c, Numeric)]
    rows = -(-len(columns) // 6)
    figure = Figure(figsize=(15, 1.9 * rows + 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(
        2 if len(numbers) > 1 else 1, 1, squeeze=False, height_ratios=[1.9 * rows, 3.6][: 1 + (len(numbers) > 1)]
    )
    axes = parts[0, 0].subplots(rows, 6, squeeze=False).flatten()
    for ax in axes[len(columns) :]:
        ax.axis("off")
    for ax, c in zip(axes, columns):
        r, f = real.of(c).numpy(), fake.of(c).numpy()
        bins = np.arange(c.size + 1) - 0.5 if isinstance(c, Categorical) else np.linspace(np.nanmin(r), np.nanmax(r), 31)
        for values, colour, name in ((r, "0.6", "data"), (f, "tab:red", "samples")):
            ax.hist(values, bins, density=True, histtype="stepfilled" if colour == "0.6" else "step", color=colour, label=name)
        ax.set_title(c.name, fontsize=8)
        ax.tick_params(labelsize=6)
        ax.set_yticks([])
        if isinstance(c, Categorical):
            names = [*c.categories, *([] if c.missing is None else ["missing"])]
            ax.set_xticks(range(c.size) if c.size <= 6 else [], names if c.size <= 6 else [])
    axes[0].legend(fontsize=6)
    if len(numbers) > 1:
        _plot_correlations(parts[1, 0], correlations(real, numbers), correlations(fake, numbers))
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()


def _plot_correlations(figure: Any, real: np.ndarray, fake: np.ndarray) -> None:
    axes = figure.subplots(1, 3)
    for ax, matrix, name in zip(axes, (real, fake, fake - real), ("correlations, data", "correlations, samples", "difference")):
        image = ax.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        ax.set_title(name, fontsize=8)
        ax.tick_params(labelsize=6)
    figure.colorbar(image, ax=list(axes))
