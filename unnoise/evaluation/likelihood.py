"""How well a model predicts rows that it has not seen, in bits per dimension, for every process that has a bound or an ODE.

    Gaussian       the variational bound (`core.bound`), or the probability-flow ODE (`samplers.likelihood`) where asked for;
                   8-bit pixels: bits of the discrete picture, the ODE's through uniform dequantisation (Theis et al. 2016,
                   1511.01844, eq. 2); other data: of the density
    categorical    the continuous-time bound (`core.losses`), in bits of the categories themselves
    product        the fields' bounds, each with the whole x_t in sight, summed: given x_0 the fields are destroyed independently,
                   so the bound on the joint path is the sum of theirs
A bound is an upper bound of -log2 p; the ODE is exact up to its step and its trace estimate.

A few noise levels a row leave the Gaussian bound's integral over l = log_snr very uncertain, for its integrand climbs from 0 to 1/2
nat a dimension. That of normal data of variance c, g(l) = c e^l / (2 (1 + c e^l)), climbs alike and has the integral
(log(1 + c e^high) - log(1 + c e^low)) / 2: it is subtracted at the levels drawn and added as a whole (a control variate; the
mean stays).

It is a bound wherever the path ends and pixels are read off, at log_snr_max. A network that knows the 256 levels gains from going
on until their distance is 6 sigma (VDM); one that does not takes the last noise away badly, and the bound is tighter where the path
ends earlier and pixels are read off what the network makes of them, as far off as it usually is. `tightest` finds out, on
training rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.core import intervals
from unnoise.core.bound import Levels, VariationalBound
from unnoise.core.codec import Codec
from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.losses import CategoricalBound
from unnoise.core.measure import Examples, Measure
from unnoise.core.objectives import Denoising
from unnoise.core.predictions import Fields, Prediction
from unnoise.core.processes import Gaussian, Masked, Product, UniformCategorical, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import Batch, Cond, State, fields_of, leaf, tree_map
from unnoise.core.times import LowDiscrepancy, UniformTimes
from unnoise.evaluation import plots
from unnoise.evaluation.section import Drawing, Section
from unnoise.modalities.image.codec import Pixels
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.table.codec import TableCodec
from unnoise.modalities.table.columns import Table, modelled
from unnoise.modalities.table.measure import TableRows
from unnoise.model import DiffusionModel
from unnoise.samplers.likelihood import Likelihood

PIXELS = Levels(256, -1.0, 1.0)
"""What `Pixels` encodes."""
CONTINUOUS = VariationalBound(None, log_snr_max=15.0)
"""For data without levels: tight from there on, and float32 still sound."""
ENDS = tuple(VariationalBound(PIXELS, -2 * math.log(sigma * 2 / 255)) for sigma in (32, 16, 8, 4, 2, 1, 1 / 2, 1 / 3, 1 / 6))
"""For pixels: sigma in distances of levels where the path ends."""
_TRIED = 64  # rows to find the tightest on


# -- one batch ------------------------------------------------------------------------------------------------------------------


class _Field(Denoiser):
    """The denoiser as one field of a product sees it: the other fields of the clean data are noised to the same time."""

    def __init__(self, whole: Denoiser, name: str, clean: Mapping[str, Tensor], rng: Streams) -> None:
        super().__init__()
        assert isinstance(whole.process, Product)
        self.process = whole.process.fields[name]
        self.others = {k: p for k, p in whole.process.fields.items() if k != name}
        self.whole, self.name, self.clean, self.rng = whole, name, clean, rng.scoped(f"beside {name}")

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        beside = {k: tensor(p.corrupt(self.clean[k], t, self.rng.scoped(k)).x_t) for k, p in self.others.items()}
        said = self.whole({self.name: tensor(x_t), **beside}, t, cond)
        if not isinstance(said, Fields):
            raise InputError(f"a product needs a denoiser that predicts Fields; this one predicts {type(said).__name__}")
        return said.fields[self.name]


def bound_nats(denoiser: Denoiser, batch: Batch, rng: Streams, bound: VariationalBound, std: float = 1.0) -> Tensor:
    """One draw of the bound on -log p(x), summed over dimensions: (B,) float64 nats.

    bound: for Gaussian data, in levels or not. std: their standard deviation, roughly; the truer, the surer the draw.
    """
    process = denoiser.process
    if isinstance(process, Product):
        x = fields_of(batch.x)
        views = {k: _Field(denoiser, k, x, rng) for k in process.fields}
        return torch.stack([bound_nats(v, Batch(x[k], batch.cond), rng.scoped(k), bound, std) for k, v in views.items()]).sum(0)
    dims = tensor(batch.x)[0].numel()
    if isinstance(process, Gaussian):
        bits, t = bound.losses(denoiser, batch, rng)
        return (bits.double() * math.log(2) + _steadying(bound, process, t, std**2).to(bits.device)) * dims
    if isinstance(process, Masked | UniformCategorical):
        return Denoising(CategoricalBound(), LowDiscrepancy(UniformTimes())).losses(denoiser, batch, rng)[0].double() * dims
    raise InputError(f"a likelihood of data under a process of type {type(process).__name__} is not known here")


def _steadying(bound: VariationalBound, process: Gaussian, t: Tensor, c: float) -> Tensor:
    """The integral of g less its estimate from the levels at times t: (B,) float64, 0 in the mean."""
    low = process.schedule.log_snr(torch.ones((), dtype=torch.float64)).clamp(min=-20.0)  # where `bound` stops
    high = torch.full((), bound.log_snr_max, dtype=torch.float64)
    inside = c * process.schedule.log_snr(t.cpu().double()).exp()
    whole = 0.5 * (torch.log1p(c * high.exp()) - torch.log1p(c * low.exp()))
    return whole - (high - low) * 0.5 * inside / (1 + inside)


def ode_nats(denoiser: Denoiser, batch: Batch, rng: Streams, levels: Levels | None, ode: Likelihood) -> Tensor:
    """-log p(x) (B,) float64 nats by the probability-flow ODE of a Gaussian process; data in levels are dequantised."""
    x = tensor(batch.x)
    dims = x[0].numel()
    shift = 0.0
    if levels is not None:
        step = (levels.high - levels.low) / (levels.count - 1)
        x = x + step * (rng.uniform("dequantise", x.shape[1:], device=x.device) - 0.5).to(x.dtype)
        shift = -dims * math.log(step)  # the density is of levels one apart
    nats = ode(lambda x_t, t: denoiser(x_t, t, batch.cond), denoiser.process, x, rng)
    return shift - nats


# -- a model and its data -------------------------------------------------------------------------------------------------------

Encode = Callable[[Sequence[int], Streams], State]
"""Rows by number -> their state, with one stream a row for what is drawn in it."""


def encode_with(model: DiffusionModel, examples: Examples) -> Encode:
    """The rows as the model's codec encodes them. InputError for a kind of data that this does not know."""
    if isinstance(examples, Pictures):
        return lambda rows, rng: model.codec.encode(examples.array(rows))
    if isinstance(examples, TableRows):
        return _encode_table(model.codec, examples.table)
    raise InputError(f"the likelihood of {examples.kind} is not measured")


def _encode_table(codec: Codec, table: Table) -> Encode:
    if not isinstance(codec, TableCodec):
        raise InputError("the rows are of a table, and the model is of something else")
    modelled(Table(codec.config.columns, table.numeric[:0], table.categorical[:0]), table)  # the same columns, or an InputError
    if bool((table.numeric.isnan() & ~codec.gappy).any()):
        raise InputError("numbers are missing in a column of which the model knows none to be missing")

    def encode(rows: Sequence[int], rng: Streams) -> State:
        within = rng.uniform("within", table.numeric.shape[1:], dtype=torch.float64)
        return codec.encode(table[torch.as_tensor(rows, dtype=torch.int64)], within)

    return encode


def bits_per_dimension(
    model: DiffusionModel,
    examples: Examples,
    prompts: Sequence[str | None] | None = None,
    seed: int = 0,
    draws: int = 8,
    method: VariationalBound | Likelihood | None = None,
    batch: int = 128,
    progress: bool = False,
) -> Tensor:
    """Of every row: (N,) float64, at most this many bits per dimension (exactly, up to the ODE's error, with a `Likelihood`).

    prompts: what the model is told of each row; None: nothing. draws: noise levels a row, spread evenly. method: the bound for
    Gaussian data (None: VDM's for pixels, `CONTINUOUS` for others), or the ODE, for Gaussian processes, at hundreds of calls a row.
    A row's value depends on its number and the seed, not on `batch`.
    Raises InputError for a process without a likelihood, and for rows that the model cannot encode.
    """
    if prompts is not None and len(prompts) != len(examples):
        raise InputError(f"{len(prompts)} prompts for {len(examples)} rows: one each is needed")
    if draws < 1 or batch < 1:
        raise InputError(f"draws {draws} and batch {batch}: at least 1 of each")
    encode = encode_with(model, examples)
    usual, std = (ENDS[-1], model.codec.config.data_std) if isinstance(model.codec, Pixels) else (CONTINUOUS, 1.0)
    how = method or usual
    model.parts.eval()
    out = []
    for first in tqdm(range(0, len(examples), batch), desc="likelihood", unit="batch", disable=not progress, leave=False):
        rows = range(first, min(first + batch, len(examples)))
        rng = Streams.of(seed, len(rows), first=first)
        told = [None] * len(rows) if prompts is None else [prompts[i] for i in rows]
        with torch.no_grad():
            prepared = {k: v.to(model.device) for k, v in model.conditioner.prepare(told).items()}
            x = tree_map(lambda v: v.to(model.device), encode(list(rows), rng.scoped("encode")))
            data = Batch(x, model.conditioner(prepared))
            if isinstance(how, Likelihood):
                nats = ode_nats(model.denoiser, data, rng, usual.levels, how)
            else:
                nats = torch.stack([bound_nats(model.denoiser, data, rng.at(j), how, std) for j in range(draws)]).mean(0)
        out.append(nats.cpu() / (_dims(x) * math.log(2)))
    return torch.cat(out) if out else torch.zeros(0, dtype=torch.float64)


def tightest(
    model: DiffusionModel, train: Examples, prompts: Sequence[str | None] | None = None, seed: int = 0
) -> VariationalBound | None:
    """Of the bounds for pixels that with the least mean over some training rows; None for other data: there is but one."""
    if not isinstance(model.codec, Pixels) or len(train) == 0:
        return None
    rows = Streams.of(seed, len(train)).uniform("tried", dtype=torch.float64).argsort()[:_TRIED].tolist()
    some, told = train.take(rows), None if prompts is None else [prompts[i] for i in rows]
    found: list[tuple[float, VariationalBound]] = []
    for end in ENDS:
        both = (end, replace(end, width=_error(model, some, told, seed, end.log_snr_max)))
        bits = [float(bits_per_dimension(model, some, told, seed, 4, e).mean()) for e in both]
        if found and min(bits) > min(b for b, _ in found) + 1:  # it only gets worse from here
            break
        found += zip(bits, both)
    return min(found, key=lambda f: f[0])[1]


@torch.no_grad()
def _error(model: DiffusionModel, rows: Examples, told: Sequence[str | None] | None, seed: int, log_snr: float) -> float:
    """Root mean square of what the denoiser is off by at this noise level."""
    every, rng = list(range(len(rows))), Streams.of(seed, len(rows)).scoped("error")
    process = gaussian(model.config.process, "the bound for pixels")
    x = tensor(encode_with(model, rows)(every, rng)).to(model.device)
    prepared = model.conditioner.prepare([None] * len(rows) if told is None else told)
    t = process.schedule.time(torch.full((len(rows),), log_snr, dtype=torch.float64)).to(x)
    cond = model.conditioner({k: v.to(model.device) for k, v in prepared.items()})
    said = mean(model.denoiser(process.corrupt(x, t, rng).x_t, t, cond))
    return max(float((said - x).double().square().mean().sqrt()), 1e-6)


def _dims(x: State) -> int:
    return leaf(x)[0].numel() if isinstance(x, Tensor) else sum(v[0].numel() for v in x.values())


# -- the section ----------------------------------------------------------------------------------------------------------------


def likelihood_section(held: Tensor, train: Tensor | None = None, about: str = "") -> Section:
    """held, train: bits per dimension of each held-out row (n,) and of (as many, say) training rows.

    about: how they were found: a bound or the ODE, of a density or of discrete data.
    """
    measures, drawings, notes = [], [], [about] if about else []
    try:
        h = intervals.mean(held)
        measures.append(Measure("bits per dimension", h.value, h.low, h.high, note=f"mean over {len(held)} held-out rows"))
        if train is not None and len(train) > 0:
            t, gap = intervals.mean(train), intervals.difference(held, train)
            told = f"mean over {len(train)} training rows"
            measures.append(Measure("bits per dimension, training rows", t.value, t.low, t.high, note=told))
            told = "held-out less training rows, in bits per dimension: what was learnt of the rows and not of their distribution"
            measures.append(Measure("train-held-out gap", gap.value, gap.low, gap.high, 0.0, best=0.0, note=told))
            png = plots.histograms([("training", train), ("held out", held)], "bits per dimension")
            drawings.append(
                Drawing("Bits per dimension of every row", png, "Rows to the right are those the model finds unlikely.")
            )
    except InputError as e:
        notes.append(f"The likelihood: {e}.")
    return Section("Likelihood", tuple(measures), tuple(drawings), tuple(notes))
