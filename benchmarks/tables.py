"""Tables: our default recipe beside CTGAN, TVAE and a Gaussian copula, on small medical tables.

    python benchmarks/tables.py [--data FOLDER] [--only NAME ...] [--steps N] [--seeds 2] [--out table.md]

FOLDER: csv tables ($UNNOISE_DATA/med_tabular by default); scikit-learn's breast cancer is always first. Each seed splits a table
anew: all models learn from the same 80 % and make as many rows; columns are of the same kinds for all, and numbers are rounded to
the column's decimals for all. Everything but the privacy columns compares with the 20 % that none has seen.

    real          training rows themselves: the floor, and what a model that only copies would get
    independent   every column of the training rows shuffled by itself: what columns alone are worth
    unnoise       the recipe `tables` as it stands (or with --steps)
    ctgan, tvae   the package ctgan (Xu et al. 2019, 1907.00503) with its own settings, 300 epochs
    ctgan+, tvae+ the same for as many epochs as take the processor seconds that unnoise took
    copula        the package copulas: a Gaussian copula over marginals chosen by fit, categories as uniform draws of their interval
                  of the cumulative frequencies (as SDV does)

The baselines need packages that are in no extra of ours, as they pin others: pip install --no-deps -c constraints.txt ctgan rdt
copulas pandas faker plotly pytz, best in an environment of its own. A model that is not installed is left out, saying so.

shapes, trends  likeness to held-out rows, higher is better
LR, GB          area of a logistic regression, of gradient boosting, that tell made rows from held-out ones; 0.5 is best
AUC, lost, lin  area of gradient boosting that has learnt the target from made rows, on held-out ones (R2 for a target of numbers);
                how far that is below what it has from real rows; the same area for logistic regression
DCR             as if there were as many of both, the share of made rows closer to training than to held-out ones: 0.5 is best, 1
                are copies
close, copies   the 5 % quantile of made rows' distance to the closest training row over that of held-out rows: 1 is best; the
                share of made rows that equal a training row
seconds         of the processor, to train and to make the rows
Means over the seeds; in brackets their standard deviation.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unnoise.core.errors import InputError
from unnoise.core.measure import Measure
from unnoise.modalities.table.columns import Categorical, Numeric, Table, modelled
from unnoise.modalities.table.data import TableData
from unnoise.modalities.table.examples import write_breast_cancer
from unnoise.modalities.table.measure import TableRows
from unnoise.modalities.table.read import read_table
from unnoise.recipes.options import Options
from unnoise.recipes.sources import OpenTable, TableSource
from unnoise.recipes.tables import tables
from unnoise.recipes.train import Plan, start

HELD_OUT = 0.2
EPOCHS = 300  # of ctgan and tvae, their own default

Make = Callable[[TableData, int], Table]
"""(training rows, seed) -> as many made rows."""


# -- the models --------------------------------------------------------------------------------------------------------------


def independent(train: TableData, seed: int) -> Table:
    rng = np.random.default_rng(seed)
    t = train.table
    numbers, codes = (np.array(a) for a in (t.numeric, t.categorical))
    for a in (numbers, codes):
        for j in range(a.shape[1]):
            a[:, j] = a[rng.permutation(len(a)), j]
    return Table(t.columns, torch.from_numpy(numbers), torch.from_numpy(codes))


def ours(steps: int | None) -> Make:
    def make(train: TableData, seed: int) -> Table:
        source = TableSource(train.name)
        opened = OpenTable(train, source)
        run = tables(opened, source, Options(steps=steps, seed=seed))
        last = run.train.steps  # no sheets are drawn on the way
        run = replace(run, train=replace(run.train, sample_every=last, checkpoint_every=last), preview=replace(run.preview, n=2))
        with tempfile.TemporaryDirectory() as folder:
            model = start(Plan("tables", run, opened), Path(folder) / "run")
        return model.sample(n=len(train), seed=seed, batch=1024).data

    return make


def neural(name: str, epochs: int) -> Make:
    """ctgan's two models."""

    def make(train: TableData, seed: int) -> Table:
        import ctgan

        torch.manual_seed(seed)
        np.random.seed(seed)
        model = {"ctgan": ctgan.CTGAN, "tvae": ctgan.TVAE}[name](epochs=epochs, enable_gpu=False)
        model.set_random_state(seed)
        categories = [c.name for c in modelled(train.table) if isinstance(c, Categorical)]
        model.fit(frame(train.table), categories)
        return table_of(model.sample(len(train)), train.table)

    return make


def copula(train: TableData, seed: int) -> Table:
    from copulas.multivariate import GaussianMultivariate

    rng = np.random.default_rng(seed)
    data, edges = frame(train.table), {}
    for c in modelled(train.table):
        if isinstance(c, Categorical):
            codes = train.table.of(c).numpy()
            edges[c.name] = np.concatenate([[0], np.bincount(codes, minlength=c.size).cumsum() / len(codes)])
            low, high = edges[c.name][codes], edges[c.name][codes + 1]
            data[c.name] = low + (high - low) * rng.random(len(codes))
    model = GaussianMultivariate(random_state=seed)
    model.fit(data)
    made = model.sample(len(train))
    for name, e in edges.items():
        made[name] = (np.searchsorted(e, made[name], "right") - 1).clip(0, len(e) - 2).astype(str)
    return table_of(made, train.table)


def frame(table: Table) -> Any:
    """As pandas has it: numbers as floats, categories as the texts of their codes."""
    import pandas

    columns = {}
    for c in modelled(table):
        values = table.of(c).numpy()
        if isinstance(c, Numeric) and np.isnan(values).any():
            raise InputError(f"column {c.name!r} has missing numbers, which the baselines do not take")
        columns[c.name] = values if isinstance(c, Numeric) else values.astype(str).astype(object)
    return pandas.DataFrame(columns)


def table_of(made: Any, like: Table) -> Table:
    """The way back; numbers are rounded as the data is, and kept within its range."""
    numbers, codes = [], []
    for c in modelled(like):
        values = made[c.name].to_numpy()
        if isinstance(c, Numeric):
            numbers.append(c.snap(torch.from_numpy(values.astype(float))))
        else:
            codes.append(torch.from_numpy(values.astype(np.int64)))
    return Table(
        like.columns,
        torch.stack(numbers, 1) if numbers else like.numeric[:, :0],
        torch.stack(codes, 1) if codes else like.categorical[:, :0],
    )


# -- the table ---------------------------------------------------------------------------------------------------------------

COLUMNS = ("shapes", "trends", "LR", "GB", "AUC", "lost", "lin", "DCR", "close", "copies", "seconds")


@dataclass(frozen=True)
class Result:
    table: str
    model: str
    figures: dict[str, float]


def figures(measures: Sequence[Measure], seconds: float, floor: bool) -> dict[str, float]:
    """What is printed of one model; or the floor of all."""

    def value(start: str, end: str = "") -> float:
        m = next((m for m in measures if m.name.startswith(start) and m.name.endswith(end)), None)
        found = None if m is None else m.floor if floor else m.value
        return math.nan if found is None else found

    def score(learner: str, end: str) -> float:
        found = [value("efficacy", f"{learner} model: {what}{end}") for what in ("AUC", "R2")]
        return found[0] if math.isnan(found[1]) else found[1]

    closest = next(m for m in measures if m.name.startswith("distance to the closest"))
    return {
        "shapes": value("column shapes"), "trends": value("pair trends"),
        "LR": value("detection by logistic"), "GB": value("detection by gradient"),
        "AUC": score("boosted", ""), "lost": score("boosted", " lost"), "lin": score("linear", ""),
        "DCR": value("closer to training"),
        "close": (closest.floor if floor else closest.value) / closest.floor if closest.floor else math.nan,
        "copies": value("exact copies"), "seconds": seconds,
    }  # fmt: skip


def tried(name: str, make: Make, train: TableData, seed: int) -> tuple[Table, float] | None:
    """The made rows and the processor seconds; None where the model is not installed or does not take the data."""
    began = time.process_time()
    try:
        made = make(train, seed)
    except ImportError as e:
        print(f"{name} is left out: {e}; see the head of this file for what to install", flush=True)
        return None
    except InputError as e:
        print(f"{name} is left out of {train.name}: {e}", flush=True)
        return None
    return made, time.process_time() - began


def measured(path: Path, seed: int, steps: int | None, models: Sequence[str]) -> list[Result]:
    train, held = read_table(path).split(HELD_OUT, seed)
    print(f"{path.stem}, seed {seed}: {len(train)} rows to learn from, {len(held)} held out", flush=True)
    rows, others = TableRows.read(train), TableRows.read(held)
    out: list[Result] = []
    took: dict[str, float] = {}

    def run(name: str, make: Make) -> None:
        if models and name not in models:
            return
        found = tried(name, make, train, seed)
        if found is None:
            return
        took[name] = found[1]
        measures = rows.measures(others, TableRows.of(found[0]), seed)
        if not out:
            out.append(Result(path.stem, "real", figures(measures, 0.0, floor=True)))
        out.append(Result(path.stem, name, figures(measures, found[1], floor=False)))
        print(line(out[-1].model, [out[-1].figures]), flush=True)

    run("independent", independent)
    run("copula", copula)
    run("unnoise", ours(steps))
    for name in ("ctgan", "tvae"):
        run(name, neural(name, EPOCHS))
        if name in took and "unnoise" in took:
            epochs = round(EPOCHS * took["unnoise"] / took[name])
            if epochs > EPOCHS:
                run(f"{name}+", neural(name, epochs))
    return out


def line(model: str, found: Sequence[dict[str, float]]) -> str:
    cells = []
    for c in COLUMNS:
        values = np.array([f[c] for f in found])
        digits = 0 if c == "seconds" else 2 if c in ("close",) else 3
        text = "-" if np.isnan(values).all() else f"{np.nanmean(values):.{digits}f}"
        if len(values) > 1 and c != "seconds" and text != "-":
            text += f" ({np.nanstd(values, ddof=1):.{digits}f})"
        cells.append(text)
    return f"| {model:<11} | " + " | ".join(cells) + " |"


def printed(results: Sequence[Result]) -> str:
    parts = [f"| model | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    models = list(dict.fromkeys(r.model for r in results))
    for table in dict.fromkeys(r.table for r in results):
        parts.append(f"| **{table}** |" + " |" * len(COLUMNS))
        for model in models:
            found = [r.figures for r in results if (r.table, r.model) == (table, model)]
            if found:
                parts.append(line(model, found))
    parts.append("| **mean of tables** |" + " |" * len(COLUMNS))
    for model in models:
        mine = [r for r in results if r.model == model]
        parts.append(line(model, [{c: float(np.nanmean([r.figures[c] for r in mine])) for c in COLUMNS}]))
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("UNNOISE_DATA", "data")) / "med_tabular")
    parser.add_argument("--only", nargs="*", default=(), help="names of tables")
    parser.add_argument("--models", nargs="*", default=())
    parser.add_argument("--steps", type=int, help="of unnoise; the recipe's by default")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_breast_cancer(Path(folder) / "breast-cancer-diagnostic.csv"), *sorted(args.data.glob("*.csv"))]
        for path in paths:
            for seed in range(args.seeds):
                if not args.only or path.stem in args.only:
                    results += measured(path, seed, args.steps, args.models)
                    if args.out and results:
                        args.out.write_text(printed(results), encoding="utf-8")
    if results:
        print(printed(results))


if __name__ == "__main__":
    main()
