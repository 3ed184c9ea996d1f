"""A metric must earn its place: which one sees which fault, and from how many samples on?

    python benchmarks/metrics.py [--data SET.npz] [--other SET.npz] [--sizes 500 2000] [--repeats 10] [--faults blur noise]

SET.npz: uint8 pictures x (N, H, W) or (N, H, W, C), and labels y if there are; by default Fashion-MNIST and, to contaminate it
with, MNIST from the folder in UNNOISE_DATA. Real rows get one known fault at a time:

    blur            a Gaussian filter of half a pixel            duplicates   a fifth of the rows, five times each
    noise           of 3 % of the range, in every pixel          1 %, 5 %     so many rows from the other set
    colour          channels times 0.95 ... 1.05 (grey: 0.95)    memorised    drawn with replacement from as many training rows
    dropped mode    the second class never comes

Each repetition draws disjoint held-out and made rows at random, of equal numbers; of the largest size as many are held out as the
made ones leave. `power`: the share of repetitions in which a figure lies beyond the 95 % bound of its own no-fault draws, which is
mean -+ t s sqrt(1 + 1 / R) of R of them (a prediction limit); on the bad side, or on both for density and the Vendi score.
Blindness gets about 0.05. Feature networks, one of each kind, have learned from 4,000 of the rows; all rows' features, with every
fault, are computed once, and repetitions draw from them. As in `unnoise evaluate`, 2,000 rows of each go into the two-sample
measures and 4,000 into the pairwise feature metrics at most. Figures are kept in --folder as they are found: a run that was stopped
goes on, and one with other sizes or faults adds to them.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from unnoise.core.intervals import student
from unnoise.core.measure import Attribute
from unnoise.evaluation.classifier_test import classifier_test
from unnoise.evaluation.distances import DIRECTIONS, drawn
from unnoise.evaluation.encoders import Encoder, train_classifier, train_self_supervised
from unnoise.evaluation.memorisation import closeness
from unnoise.evaluation.neighbours import EXACT, Vectors, nearest
from unnoise.evaluation.quality import METRICS, of_metric
from unnoise.evaluation.two_sample import MMD, Energy, SlicedWasserstein
from unnoise.modalities.image.measure import Pictures

LEARNED_FROM, TWO_SAMPLE_MOST, PAIRWISE_MOST, DROPPED = 4000, 2000, 4000, 1
NONE = "no fault"


@dataclass(frozen=True)
class Made:
    """Rows that a model with some fault would have made: of which variant of the pictures, and which row of it."""

    variants: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Draw:
    """One repetition's rows. pool: those that faultless made rows are the first n of."""

    n: int
    pool: np.ndarray
    train: np.ndarray
    labels: np.ndarray
    others: int
    rng: np.random.Generator

    def of(self, variant: str, rows: np.ndarray) -> Made:
        return Made(np.full(len(rows), variant, dtype=object), rows)

    def contaminated(self, share: float) -> Made:
        made = self.of("real", self.pool[: self.n].copy())
        which = self.rng.permutation(self.n)[: max(1, round(share * self.n))]
        made.variants[which], made.rows[which] = "other", self.rng.integers(self.others, size=len(which))
        return made


FAULTS: dict[str, Callable[[Draw], Made]] = {
    NONE: lambda d: d.of("real", d.pool[: d.n]),
    "blur": lambda d: d.of("blur", d.pool[: d.n]),
    "noise": lambda d: d.of("noise", d.pool[: d.n]),
    "colour": lambda d: d.of("colour", d.pool[: d.n]),
    "dropped mode": lambda d: d.of("real", d.pool[d.labels[d.pool] != DROPPED][: d.n]),
    "duplicates": lambda d: d.of("real", np.resize(d.pool[: math.ceil(d.n / 5)], d.n)),
    "1 %": lambda d: d.contaminated(0.01),
    "5 %": lambda d: d.contaminated(0.05),
    "memorised": lambda d: d.of("real", d.rng.choice(d.train, d.n)),
}
BAD = {"precision": -1, "recall": -1, "coverage": -1, "density": 0, "Vendi score": 0}  # 1, the default: high is bad; 0: both are


def variants(x: np.ndarray, other: np.ndarray | None) -> dict[str, Pictures]:
    """Every picture with every fault that is one of single pictures; x: uint8 (N, H, W, C)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    scale = np.linspace(0.95, 1.05, x.shape[-1])
    noisy = np.concatenate([part + rng.normal(0, 0.03 * 255, part.shape) for part in np.array_split(x, 50)])
    if other is None or other.shape[1:] != x.shape[1:]:
        other = rng.integers(0, 256, (1000, *x.shape[1:]), dtype=np.uint8)
    return {
        "real": Pictures.of(x),
        "blur": Pictures.of(gaussian_filter(x, (0, 0.5, 0.5, 0))),
        "noise": Pictures.of(noisy.round().clip(0, 255).astype(np.uint8)),
        "colour": Pictures.of((x * scale).round().clip(0, 255).astype(np.uint8)),
        "other": Pictures.of(other[:3000]),
    }


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with np.load(path) as f:
        x = f["x"]
        return (x[..., None] if x.ndim == 3 else x), f.get("y")


def clusters(x: np.ndarray) -> np.ndarray:
    """Ten of them stand in for classes that nobody told."""
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(10, random_state=0, n_init=3).fit_predict(x.reshape(len(x), -1).astype(np.float32))


def features(encoder: Encoder, pictures: dict[str, Pictures], folder: Path) -> dict[str, Tensor]:
    """Of every variant; kept in `folder`."""
    file = folder / f"features-{encoder.hash}.safetensors"
    if not file.is_file():
        found = {}
        for name, p in pictures.items():
            print(f"features of {len(p):,} pictures ({name}) by {encoder.name}", flush=True)
            found[name] = encoder.features(p, pictures["real"])
        half = file.with_suffix(".partial")
        save_file(found, half)
        half.rename(file)
    return load_file(file)


def measured(
    pictures: dict[str, Pictures], banks: dict[str, dict[str, Tensor]], held: np.ndarray, train: np.ndarray | None, made: Made
) -> dict[str, float]:
    """Every figure of made rows against held-out ones. train: rows of neither, for the figures of memorisation; or None."""
    some_held, some_made = drawn(len(held), TWO_SAMPLE_MOST, 0, "held"), drawn(len(made.rows), TWO_SAMPLE_MOST, 0, "made")
    x = pictures["real"].tensor(pictures["real"], held[some_held].tolist()).flatten(1)
    y = gathered(Made(made.variants[some_made], made.rows[some_made]), lambda v, rows: vectors(pictures, v, rows))
    out = {"classifier": classifier_test(x, y).accuracy.value}
    for name, distance in (("MMD", MMD()), ("energy distance", Energy()), ("sliced Wasserstein", SlicedWasserstein(DIRECTIONS))):
        out[name] = distance(x, y)
    for kind, bank in banks.items():
        real, fake = bank["real"][held], gathered(made, lambda v, rows, b=bank: b[v][rows])
        for metric in METRICS:
            if len(real) < 3 * real.shape[1] and "infinite" in metric.figures[0].name:
                continue
            for figure, value in zip(metric.figures, of_metric(metric, real, fake, PAIRWISE_MOST)):
                out[f"{figure.name} ({kind})"] = value.value
        if train is not None:
            count = min(len(train), len(held))
            near_train, near_held = (nearest(Vectors.of(fake), Vectors.of(bank["real"][r[:count]]), EXACT) for r in (train, held))
            out[f"closer to training ({kind})"] = closeness(near_train, near_held, count).share.value
    return out


def vectors(pictures: dict[str, Pictures], variant: str, rows: np.ndarray) -> Tensor:
    return pictures[variant].tensor(pictures["real"], rows.tolist()).flatten(1)


def gathered(made: Made, of: Callable[[str, np.ndarray], Tensor]) -> Tensor:
    """(n, ...), each row from its variant; rows of one variant lie together."""
    return torch.cat([of(str(v), made.rows[made.variants == v]) for v in np.unique(made.variants)])


def run(
    pictures: dict[str, Pictures],
    banks: dict[str, dict[str, Tensor]],
    labels: np.ndarray,
    plan: Sequence[tuple[int, str, int]],
    kept: Path,
) -> None:
    """Every (size, fault, repetition) of the plan, one line of json each, those that are there already left out."""
    done = (
        {(f["size"], f["fault"], f["repeat"]) for f in map(json.loads, kept.read_text().splitlines())} if kept.exists() else set()
    )
    left = [p for p in plan if p not in done]
    with kept.open("a") as file:
        for size, fault, repeat in tqdm(left, unit="run", mininterval=10):
            rng = np.random.default_rng([size, repeat, sorted(FAULTS).index(fault)])
            order = rng.permutation(len(labels))
            share = float((labels == DROPPED).mean())
            held = min(size, len(labels) - math.ceil(1.02 * size / (1 - share)))
            if held < 50:
                raise SystemExit(f"{len(labels):,} pictures are too few for {size:,} made ones and as many held out")
            beyond = order[held + size :]
            train = beyond[-size:] if len(beyond) >= 2 * size else None
            pool = order[held:] if train is None else order[held : len(order) - size]
            draw = Draw(size, pool, order[held : held + size] if train is None else train, labels, len(pictures["other"]), rng)
            began = time.perf_counter()
            figures = measured(pictures, banks, order[:held], train, FAULTS[fault](draw))
            line = {"size": size, "fault": fault, "repeat": repeat, "seconds": time.perf_counter() - began, "figures": figures}
            file.write(json.dumps(line) + "\n")
            file.flush()


def powers(kept: Path) -> dict[str, dict[str, dict[int, float]]]:
    """{figure: {fault: {size: power}}}"""
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    out: dict[str, dict[str, dict[int, float]]] = {}
    for name in dict.fromkeys(name for line in lines for name in line["figures"]):
        for size in sorted({line["size"] for line in lines}):
            values = {
                fault: np.array(
                    [f["figures"][name] for f in lines if (f["size"], f["fault"]) == (size, fault) and name in f["figures"]]
                )
                for fault in FAULTS
            }
            null = values.pop(NONE)
            if len(null) < 3:
                continue
            reach = null.std(ddof=1) * math.sqrt(1 + 1 / len(null))
            side = BAD.get(name.split(" (")[0], 1)
            # one side: 95 % below; the two-sided quantile of Student's t at 90 % is found from the normal ones' ratio
            t = student(len(null) - 1) * (1.0 if side == 0 else one_sided(len(null) - 1))
            for fault, v in values.items():
                if len(v):
                    away = (v - null.mean()) * side if side else np.abs(v - null.mean())
                    out.setdefault(name, {}).setdefault(fault, {})[size] = float((away > t * reach).mean())
    return out


def one_sided(freedom: int) -> float:
    """The 95 % quantile of Student's t over its 97.5 % one."""
    from scipy.stats import t

    return float(t.ppf(0.95, freedom) / t.ppf(0.975, freedom))


def counted(kept: Path) -> str:
    """How many draws there are, by size."""
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    out = []
    for size in sorted({line["size"] for line in lines}):
        faults = [line["fault"] for line in lines if line["size"] == size]
        each = [faults.count(f) for f in FAULTS if f != NONE and f in faults]
        out.append(f"{size:,}: {faults.count(NONE)} draws without a fault, {min(each, default=0)} with each")
    return "; ".join(out)


def table(found: dict[str, dict[str, dict[int, float]]], counts: str) -> str:
    sizes = sorted({s for faults in found.values() for by_size in faults.values() for s in by_size})
    faults = [f for f in FAULTS if any(f in by_fault for by_fault in found.values())]

    def cell(by_size: dict[int, float]) -> str:
        return " ".join("  - " if s not in by_size else f"{by_size[s]:4.2f}" for s in sizes)

    width = max(len(name) for name in found)
    lines = [
        f"Power at {', '.join(f'{s:,}' for s in sizes)} samples. About 0.05 is blindness, - not measured. {counts}.",
        "",
        f"| {'':<{width}} | " + " | ".join(f"{f:<{5 * len(sizes) - 1}}" for f in faults) + " |",
        f"|{'-' * (width + 2)}|" + "|".join("-" * (max(len(f), 5 * len(sizes) - 1) + 2) for f in faults) + "|",
    ]
    for name, by_fault in found.items():
        lines.append(f"| {name:<{width}} | " + " | ".join(f"{cell(by_fault.get(f, {})):<{len(f)}}" for f in faults) + " |")
    lines.append("")
    for fault in faults:
        seen = [f"{name} ({best:.1f})" for name, f in found.items() if (best := max(f.get(fault, {0: 0.0}).values())) >= 0.5]
        lines.append(f"{fault}: seen by {', '.join(seen) or 'nothing'}.")
    blind = [name for name, f in found.items() if max(max(s.values()) for s in f.values()) < 0.5]
    lines.append(f"See none of these faults at any of these sizes: {', '.join(blind) or 'none'}.")
    return "\n".join(lines)


def main() -> None:
    home = Path(os.environ.get("UNNOISE_DATA", "."))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=home / "fashion_mnist" / "fashion_mnist_train_20k.npz")
    parser.add_argument("--other", type=Path, default=home / "mnist" / "mnist_train_20k.npz", help="not there: uniform noise")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 10000])
    parser.add_argument("--repeats", type=int, default=10, help="with each fault; of 10,000 and more a third")
    parser.add_argument("--nulls", type=int, default=20, help="without a fault; of 10,000 and more a third")
    parser.add_argument("--faults", nargs="+", choices=[f for f in FAULTS if f != NONE], default=[f for f in FAULTS if f != NONE])
    parser.add_argument("--folder", type=Path, default=Path("runs/metrics"), help="where networks, features and figures are kept")
    arguments = parser.parse_args()
    x, y = read(arguments.data)
    labels = clusters(x) if y is None else np.asarray(y).ravel().astype(np.int64)
    pictures = variants(x, read(arguments.other)[0] if arguments.other.is_file() else None)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(1).permutation(len(x))[:LEARNED_FROM]
    real, networks = pictures["real"].take(rows.tolist()), arguments.folder / "networks"
    kinds = Attribute("class", tuple(map(str, range(int(labels.max()) + 1))), torch.from_numpy(labels[rows]))
    encoders = {
        "classifier": train_classifier(real, kinds, folder=networks, progress=True).encoder(),
        "self-supervised": train_self_supervised(real, folder=networks, progress=True),
    }
    banks = {kind: features(e, pictures, arguments.folder) for kind, e in encoders.items()}
    kept = arguments.folder / f"figures-{'-'.join(e.hash for e in encoders.values())}.jsonl"
    plan = [
        (size, fault, i)
        for size in arguments.sizes
        for fault in (NONE, *arguments.faults)
        for i in range(math.ceil((arguments.nulls if fault == NONE else arguments.repeats) / (3 if size >= 10000 else 1)))
    ]
    run(pictures, banks, labels, plan, kept)
    print(table(powers(kept), counted(kept)))


if __name__ == "__main__":
    main()
