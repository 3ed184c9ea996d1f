"""Guidance: Denoise -> Denoise. The scale is 1 = conditional, 0 = unconditional, above 1 = further than the condition asks.

    D_w = D_away + w (D_cond - D_away)                      Ho & Salimans 2022 (2207.12598, eq. 6); APG and CFG-Zero*: `rules`
    of two conditions: `classifier_free_twice`              Brooks et al. 2023 (2211.09800)
    outside an interval of times w = 1                      Kynkaanniemi et al. 2024 (2404.07724)
    rescale phi: D <- phi D std(D_cond) / std(D) + (1 - phi) D     Lin et al. 2023 (2305.08891, eq. 15-16)

D is any Prediction: means, tangents and logits all combine linearly. A negative prompt is its condition in place of the null
condition. Wrappers compose from the inside out: `bind` or `classifier_free` first (they own the network call), then whatever
changes a prediction: `guided` with a weaker model (autoguidance), a threshold, the correction of an inverse problem.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from unnoise.control.rules import Combine, linear
from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.predictions import Fields, Mean, Prediction
from unnoise.core.state import Cond, State, batch_size, expand, tree_map

Conditional = Callable[[State, Tensor, Cond], Prediction]
"""A denoiser, or anything that is called like one: (x_t (B, ...), t (B,), cond with B rows)."""

Interval = tuple[float, float]
"""(lo, hi): guidance acts at times lo < t <= hi. From noise levels: the schedule's `time(log_snr)`."""


def bind(denoiser: Conditional, cond: Cond) -> Denoise:
    """The denoiser with its condition (B rows) filled in."""
    return lambda x_t, t: denoiser(x_t, t, cond)


def classifier_free(
    denoiser: Conditional,
    cond: Cond,
    away: Cond,
    scale: float | Tensor,
    interval: Interval = (0.0, 1.0),
    rescale: float = 0.0,
    combine: Combine = linear,
) -> Denoise:
    """Guidance towards `cond` and away from `away` (the null condition, or a negative prompt's), in one network call a step.

    cond, away: B rows each, with the same entries. scale: one number, or (B,), one a sample. combine: a rule, started for this
    walk. Only samples that need the second half are in it: none where the scale is 1 or the time is outside the interval, and
    where the scale is 0 for all, `away` alone is called. Raises InputError for a scale that is not finite, an empty interval, or
    rescale outside [0, 1].
    """
    w = check(scale, interval, rescale)
    if bool((w == 0).all()) and rescale == 0 and interval[0] <= 0 and interval[1] >= 1 and combine is linear:
        return bind(denoiser, away)

    def denoise(x_t: State, t: Tensor) -> Prediction:
        n = batch_size(x_t)
        weight = _weights(w, t, interval)
        rows = (weight != 1).nonzero()[:, 0]
        if len(rows) == 0:
            return denoiser(x_t, t, cond)
        both = tree_map(lambda a: torch.cat([a, a[rows]]), x_t)
        said = denoiser(both, torch.cat([t, t[rows]]), concatenate(cond, {k: v[rows.to(v.device)] for k, v in away.items()}))
        towards = said[:n]
        from_there = towards.map(lambda a, b: a.index_copy(0, rows, b), said[n:])
        return _guide(towards, from_there, weight, x_t, t, rescale, combine)

    return denoise


def classifier_free_twice(
    denoiser: Conditional,
    cond: Cond,
    away: Cond,
    nothing: Cond,
    scale: float | Tensor,
    picture_scale: float,
    interval: Interval = (0.0, 1.0),
    rescale: float = 0.0,
    combine: Combine = linear,
) -> Denoise:
    """Guidance of two conditions, in one network call a step: cond has words and a picture, away the picture, nothing neither.

        D = D_nothing + s (D_away - D_nothing) + w (D_cond - D_away)          Brooks et al. 2023 (2211.09800, eq. 3)

    w: scale, which acts within the interval; s: picture_scale, of 1 as in `classifier_free`. The rest and errors as there: the rule
    leads from D_away to D_cond, both moved by (s - 1) (D_away - D_nothing); the result is rescaled to the spread of D_cond.
    """
    if picture_scale == 1:
        return classifier_free(denoiser, cond, away, scale, interval, rescale, combine)
    w = check(scale, interval, rescale)
    s = float(check(picture_scale, interval))
    every = concatenate(concatenate(cond, away), nothing)

    def denoise(x_t: State, t: Tensor) -> Prediction:
        n = batch_size(x_t)
        said = denoiser(tree_map(lambda a: torch.cat([a, a, a]), x_t), t.repeat(3), every)
        towards, from_there, from_nothing = said[:n], said[n : 2 * n], said[2 * n :]
        moved = [p.map(lambda d, a, b: d + (s - 1) * (a - b), from_there, from_nothing) for p in (towards, from_there)]
        led = _guide(moved[0], moved[1], _weights(w, t, interval), x_t, t, 0.0, combine)
        return led if rescale == 0 else _rescaled(led, towards, rescale)

    return denoise


def guided(
    towards: Denoise,
    away: Denoise,
    scale: float | Tensor,
    interval: Interval = (0.0, 1.0),
    rescale: float = 0.0,
    combine: Combine = linear,
) -> Denoise:
    """Guidance between any two: with a weaker model as `away`, autoguidance (Karras et al. 2024, 2406.02507). Two calls a step."""
    w = check(scale, interval, rescale)

    def denoise(x_t: State, t: Tensor) -> Prediction:
        weight = _weights(w, t, interval)
        said = towards(x_t, t)
        return said if bool((weight == 1).all()) else _guide(said, away(x_t, t), weight, x_t, t, rescale, combine)

    return denoise


def unmasked(cond: Cond) -> Cond:
    """Without a `mask` that hides nothing, for attention without one is faster. Waits for the device, so once a walk."""
    return {k: v for k, v in cond.items() if k != "mask"} if "mask" in cond and bool(cond["mask"].all()) else cond


def concatenate(first: Cond, second: Cond) -> Cond:
    """Two conditions, one batch. Sequences of `tokens` of different lengths are padded, and `mask` says where they end.

    Raises InputError if they do not have the same entries.
    """
    first, second = _same_length(first, second)
    if set(first) != set(second):
        raise InputError(f"conditions of one batch need the same entries; these have {sorted(first)} and {sorted(second)}")
    return {k: torch.cat([v, second[k].to(v.device)]) for k, v in first.items()}


def _same_length(*conds: Cond) -> list[Cond]:
    if not all("tokens" in c for c in conds):
        return list(conds)
    longest = max(c["tokens"].shape[1] for c in conds)
    if all(c["tokens"].shape[1] == longest for c in conds) and len({"mask" in c for c in conds}) == 1:
        return list(conds)
    out: list[Cond] = []
    for c in conds:
        tokens = c["tokens"]
        mask = c["mask"] if "mask" in c else torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        more = longest - tokens.shape[1]
        out.append({**c, "tokens": pad(tokens, (0, 0, 0, more)), "mask": pad(mask, (0, more))})
    return out


def check(scale: float | Tensor, interval: Interval, rescale: float = 0.0) -> Tensor:
    """The scale as float64, () or (B,). Raises InputError for what cannot guide."""
    w = torch.as_tensor(scale, dtype=torch.float64)
    if w.ndim > 1 or not bool(w.isfinite().all()):
        raise InputError(f"guidance {scale} must be a finite number, or one for each sample (1 = conditional, 0 = unconditional)")
    if not (math.isfinite(interval[0]) and math.isfinite(interval[1]) and interval[0] < interval[1]):
        raise InputError(f"guidance interval {interval} must rise: (lo, hi) in time, where 0 is data and 1 is noise")
    if not 0 <= rescale <= 1:
        raise InputError(f"guidance rescale {rescale} must lie in [0, 1]")
    return w


def _weights(w: Tensor, t: Tensor, interval: Interval) -> Tensor:
    """The scale of every sample at its time: (B,)."""
    if w.ndim == 1 and len(w) != len(t):
        raise InputError(f"{len(w)} guidance scales for {len(t)} samples")
    inside = (interval[0] < t) & (t <= interval[1])
    return torch.where(inside, w.to(device=t.device, dtype=t.dtype), 1)


def _guide(towards: Prediction, away: Prediction, w: Tensor, x_t: State, t: Tensor, rescale: float, combine: Combine) -> Prediction:
    out = combine(towards, away, w, x_t, t)
    out = out if rescale == 0 else _rescaled(out, towards, rescale)
    return towards.map(lambda a, b: torch.where(expand(w == 1, a).bool(), a, b), out)  # bit by bit where nothing was asked


def _rescaled(said: Prediction, like: Prediction, phi: float) -> Prediction:
    """Means brought to the standard deviation of `like`, each sample by itself; other predictions have no such scale."""
    if isinstance(said, Fields) and isinstance(like, Fields):
        return Fields({k: _rescaled(p, like.fields[k], phi) if isinstance(p, Mean) else p for k, p in said.fields.items()})
    if not isinstance(said, Mean) or not isinstance(like, Mean):
        raise InputError(f"guidance rescale acts on the mean of continuous data; this model predicts {type(said).__name__}")
    had, has = (p.x0.flatten(1).std(1, correction=0) for p in (like, said))
    ratio = torch.where((had > 0) & (has > 0), had / has.clamp(min=1e-12), 1)  # one number alone has no spread
    return Mean(said.x0 * expand(phi * ratio + (1 - phi), said.x0))
