"""Drawings of a report as the bytes of PNG files: curves, bars with intervals, histograms, and sheets of rows.

The plots need matplotlib (its Agg canvas, and none of pyplot's global state); sheets need nothing.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.evaluation.section import Drawing

_INK, _PAPER, _GAP, _FONT = (40, 40, 40), (255, 255, 255), 8, 13


def attempt(title: str, about: str, make: Callable[[], bytes]) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    """The drawing, or the sentence that says why there is none: a report without matplotlib still has its figures."""
    try:
        return (Drawing(title, make(), about),), ()
    except InputError as e:
        return (), (f"{title} is not drawn: {e}.",)


@dataclass(frozen=True)
class Panel:
    """One curve over a common axis: `values`, their intervals if known, and a level to compare with (a floor, a ceiling)."""

    label: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    level: float | None = None
    level_label: str = ""


def curves(x: Sequence[float], panels: Sequence[Panel], xlabel: str) -> bytes:
    """One panel beside the other, each with its own axis of values."""
    figure = _figure(3.6 * len(panels), 3.2)
    for i, (panel, axes) in enumerate(zip(panels, _row(figure, len(panels)))):
        colour = f"C{i}"
        axes.plot(x, panel.values, marker="o", color=colour)
        if panel.low is not None and panel.high is not None:
            axes.fill_between(x, panel.low, panel.high, color=colour, alpha=0.2, linewidth=0)
        if panel.level is not None:
            axes.axhline(panel.level, color="0.5", linestyle="--", linewidth=1, label=panel.level_label)
            axes.legend(fontsize=8)
        axes.set(xlabel=xlabel, title=panel.label)
    return _png(figure)


def path(x: Sequence[float], y: Sequence[float], names: Sequence[str], xlabel: str, ylabel: str) -> bytes:
    """Points in the plane, in order, each with its name."""
    figure = _figure(5, 4)
    axes = figure.subplots()
    axes.plot(x, y, marker="o", color="C0")
    for a, b, name in zip(x, y, names):
        axes.annotate(name, (a, b), textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return _png(figure)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    ylabel: str,
    targets: Sequence[float] | None = None,
    target_label: str = "target",
) -> bytes:
    """A bar a name with its interval, and a mark where it should be."""
    figure = _figure(max(4.5, min(14.0, 0.6 * len(names) + 1.5)), 3.6)
    axes, places = figure.subplots(), range(len(names))
    doubt = [[max(0.0, v - a) for v, a in zip(values, low)], [max(0.0, b - v) for v, b in zip(values, high)]]
    axes.bar(places, values, yerr=doubt, color="C0", alpha=0.7, capsize=3, error_kw={"linewidth": 1})
    if targets is not None:
        axes.scatter(places, targets, marker="_", s=260, color="C3", linewidth=2, zorder=3, label=target_label)
        axes.legend(fontsize=8)
    long = max(map(len, names)) > 6 or len(names) > 12
    axes.set_xticks(list(places), [n if len(n) <= 24 else n[:23] + "…" for n in names], rotation=45 if long else 0)
    if long:
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_ylabel(ylabel)
    return _png(figure)


def histograms(samples: Sequence[tuple[str, Tensor]], xlabel: str, bins: int = 40) -> bytes:
    """Densities over each other. samples: (name, values (n,))."""
    figure = _figure(5.5, 3.4)
    axes = figure.subplots()
    lowest, highest = (f(float(f_(v)) for _, v in samples) for f, f_ in ((min, Tensor.min), (max, Tensor.max)))
    for i, (name, values) in enumerate(samples):
        kind = {"histtype": "stepfilled", "alpha": 0.45} if i == 0 else {"histtype": "step", "linewidth": 1.6}
        axes.hist(values.double().numpy(), bins=bins, range=(lowest, max(highest, lowest + 1e-9)), density=True, label=name, **kind)
    axes.set(xlabel=xlabel, ylabel="density")
    axes.legend(fontsize=8)
    return _png(figure)


def sheet(rows: Sequence[Sequence[Image.Image]], heads: Sequence[str], captions: Sequence[str], smallest: int = 72) -> bytes:
    """Rows of pictures: heads[j] over column j, captions[i] under row i. Small pictures are enlarged by whole factors."""
    if not rows or not rows[0]:
        raise InputError("a sheet needs at least one picture")
    largest = max(max(im.size) for row in rows for im in row)
    scale = max(1, round(smallest / largest))
    font = ImageFont.load_default(_FONT)
    named = {j: round(font.getlength(head)) for j, head in enumerate(heads[:-1])}  # the last has room to its right
    wide = [max([*(row[j].width * scale for row in rows if j < len(row)), named.get(j, 0)]) for j in range(max(map(len, rows)))]
    tall, line = [max(im.height for im in row) * scale for row in rows], _FONT + 6
    width = max(sum(wide) + _GAP * (len(wide) + 1), *(round(font.getlength(c)) + 2 * _GAP for c in captions))
    page = Image.new("RGB", (width, line + _GAP + sum(tall) + len(rows) * (line + _GAP)), _PAPER)
    draw = ImageDraw.Draw(page)
    lefts = [_GAP + sum(wide[:j]) + _GAP * j for j in range(len(wide))]
    for left, head in zip(lefts, heads):
        draw.text((left, _GAP // 2), head, fill=_INK, font=font)
    top = line + _GAP
    for row, height, caption in zip(rows, tall, captions):
        for left, im in zip(lefts, row):
            page.paste(im.convert("RGB").resize((im.width * scale, im.height * scale), Image.Resampling.NEAREST), (left, top))
        draw.text((_GAP, top + height + 2), caption, fill=_INK, font=font)
        top += height + line + _GAP
    return _bytes(page)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise InputError('the plots of a report need matplotlib: pip install "unnoise[report]"') from e
    return Figure(figsize=(width, height), layout="constrained")


def _row(figure: Any, n: int) -> list[Any]:
    return list(figure.subplots(1, n, squeeze=False)[0])


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _bytes(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
