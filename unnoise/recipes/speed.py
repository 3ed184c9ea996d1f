"""A model drawn within a time or an error: what its network's calls cost here, and what every way to draw is off by.

Errors are measured once for a model, a size of picture and the settings beside steps and sampler, and kept in the user's cache.
Beside the model itself one more is in memory at a time (`Models`).
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.control.asking import beside, prepared
from unnoise.control.budget import Costs, Plan, Precision, Way, choose, faster_in_bfloat16, measure, ways
from unnoise.control.guidance import unmasked
from unnoise.control.low_rank import Adapted
from unnoise.core.cache import cache_folder
from unnoise.core.codec import ToldGuidance, within
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams, derive
from unnoise.core.state import State, tree_map
from unnoise.modalities.image.alpha import premultiplied
from unnoise.modalities.image.codec import resized
from unnoise.modalities.image.with_picture import WithPicture
from unnoise.modalities.words.frozen import encoders_of
from unnoise.model import DiffusionModel
from unnoise.networks.splitting import Splitting

SEED = 0xE44
"""Of the samples that errors are measured on: not one that users begin with."""
USUAL_PROMPTS = (
    "a photograph of a cat on a windowsill", "portrait of an old man, oil painting", "a mountain lake at sunrise",
    "a busy street in the rain at night, neon signs", "a bowl of fruit on a wooden table", "isometric drawing of a small house",
    "a knight in ornate armour, highly detailed", "an abstract pattern of blue and gold", "a red sports car, studio lighting",
)  # fmt: skip
"""That errors are measured with where a model has no examples and its text encoder was published: it knows these words."""
FASTER = 0.9
"""Of the least time of a call in other precisions, what one in int8 takes at most to be tried: times vary."""


@dataclass(frozen=True)
class Order:
    """n samples of each prompt, led away from `negative`, `batch` at a time; side: height and width in pixels, None for the model's
    own. usual: how they would be drawn."""

    usual: Way
    prompts: tuple[str, ...] = ()
    n: int = 1
    batch: int = 64
    side: tuple[int, int] | None = None
    negative: str | None = None

    @property
    def samples(self) -> int:
        return self.n * max(1, len(self.prompts))

    @property
    def rows(self) -> int:
        """That go through the network together."""
        return min(self.samples, self.batch)


class Models:
    """A model to draw with in its usual precision, and beside it one at most, opened anew: in bfloat16, or in int8, which is made
    of that in place.

    So never are three in memory, and asked for one precision after the other, then for the one that was picked, it opens two.
    """

    def __init__(self, model: DiffusionModel, usual: Precision, half: Callable[[], DiffusionModel]) -> None:
        """half: opens the model for drawing in bfloat16."""
        self._model, self._usual, self._half = model, usual, half
        self._other: DiffusionModel | None = None

    def of(self, precision: Precision) -> DiffusionModel:
        """What is drawn with in a precision, until another is asked for. InputError where it cannot be opened, or be in int8."""
        if precision is self._usual:
            return self._model
        if self._other is not None and self._other.in_int8 and precision is not Precision.INT8:
            self._other = None  # its memory, before it is opened again
        if self._other is None:
            self._other = self._half()
        return self._other.to_int8() if precision is Precision.INT8 else self._other


def precisions(model: DiffusionModel, usual: Precision) -> tuple[Precision, ...]:
    """Those that ways are looked for in, the more exact first: bfloat16 in place of float32 where products in it are faster on this
    device, by a third at least, and int8 where model and processor are made for it."""
    faster = usual is Precision.OWN and faster_in_bfloat16(model.device)
    first = Precision.BFLOAT16 if faster else usual
    return (first, Precision.INT8) if model.takes_int8 and first is not Precision.INT8 else (first,)


def fitted(
    model: DiffusionModel,
    half: Callable[[], DiffusionModel],
    order: Order,
    among: Sequence[Precision],
    seconds: float | None,
    error: float | None,
    trials: int = 9,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Plan, DiffusionModel]:
    """The plan for an order, and the model to draw it with.

    half: opens the model for drawing in bfloat16, anew where int8 is tried, which changes it. among: precisions, see `precisions`;
    int8 is tried where a call in it was measured to be faster by a tenth, and there is memory for it. trials: pictures that errors
    are measured on. Measuring is not in the seconds. Raises InputError for a model of other data than pictures, and for what
    nothing keeps within.
    """
    if not isinstance(model.config.process, Gaussian):
        raise InputError("--budget and --error are for models that take noise off, as those of pictures are; give --steps here")
    if len(model.attachments):
        raise InputError("--budget and --error measure models alone: leave the adapters out (--control, --picture-prompt)")
    if within(model.conditioner, WithPicture) is not None:
        raise InputError("--budget and --error measure models that are told words alone; say --steps, --sampler, --bf16 here")
    if trials < 1:
        raise InputError(f"errors measured on {trials} pictures: at least 1; on m, m of m + 1 pictures stay within them")
    usual, samples, passes = order.usual, order.samples, -(-order.samples // order.batch)
    costs = {usual.precision: _costs(model, order, usual.precision)}
    plain = Plan(usual, costs[usual.precision].seconds(usual, samples, passes))
    if error is None and seconds is not None and plain.seconds <= seconds:
        return plain, model
    models = Models(model, usual.precision, half)

    def others() -> Iterator[list[Plan]]:
        for precision in among:
            if _timed(models, order, precision, costs, say):
                found = ways(usual, isinstance(model.denoiser.network, Splitting), precision)
                yield [Plan(way, costs[precision].seconds(way, samples, passes)) for way in found]

    whole = cache(lambda: draw(model, usual, order, _seeds(trials)))

    def errors(some: Sequence[Way]) -> list[tuple[float, ...]]:
        file = _file(model, order, trials)
        kept = _read(file)
        if missing := [way for way in some if repr(way) not in kept]:
            drawn = missing if whole.cache_info().currsize else [usual, *missing]
            took = sum(costs[way.precision].seconds(way, trials, -(-trials // order.rows)) for way in drawn)
            say(f"measuring what {len(missing)} ways to draw are off by, on {trials} pictures: about {took:.0f} s, once ({file})")
            for way in tqdm(missing, desc="measuring errors", unit="way", disable=None, file=sys.stderr):
                made = draw(models.of(way.precision), way, order, _seeds(trials))
                kept[repr(way)] = tuple(difference(made, whole()).tolist())
                with atomically(file) as partial:
                    partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        return [kept[repr(way)] for way in some]

    plan = choose(plain, others(), errors, seconds, error)
    return plan, models.of(plan.way.precision)


def _timed(models: Models, order: Order, precision: Precision, costs: dict[Precision, Costs], say: Callable[[str], None]) -> bool:
    """Whether the ways of a precision are tried; its costs are then among those of the others."""
    if precision in costs:
        return True
    try:
        took = _costs(models.of(precision), order, precision)
    except InputError as e:
        if precision is not Precision.INT8:
            raise
        say(f"int8 is not tried: {e}")  # there is memory for one model, say, and not for two
        return False
    if precision is Precision.INT8 and took.call > FASTER * min(cost.call for cost in costs.values()):
        return False
    costs[precision] = took
    return True


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square over pixels and channels, in 0 ... 1: uint8 (B, H, W, C) twice -> (B,). Colours count by their opacity."""
    x, y = (p.permute(0, 3, 1, 2).double() / 255 for p in (a, b))
    if x.shape[1] == 4:
        x, y = premultiplied(x), premultiplied(y)
    return (x - y).flatten(1).square().mean(1).sqrt()


def draw(model: DiffusionModel, way: Way, order: Order, seeds: Sequence[int]) -> Tensor:
    """Pictures (len(seeds), H, W, C) of what errors are measured with, see `_prompts`, in turn. InputError for other data."""
    how = way.sampling
    names = how.named()
    prompts = _prompts(model, order, len(seeds))
    height, width = order.side or (None, None)
    made = model.sample(
        prompts, 1 if prompts else len(seeds), sample_seeds=seeds, steps=how.steps, sampler=names["sampler"], grid=names["grid"],
        guidance=how.guidance, interval=how.interval, rescale=how.rescale, rule=how.rule, threshold=how.threshold,
        inner=how.inner, caching=how.caching, bf16=way.bf16, batch=order.rows, height=height, width=width,
        negative=order.negative, true_guidance=how.true_guidance,
    )  # fmt: skip
    if not isinstance(made.data, Tensor) or made.data.dtype != torch.uint8 or made.data.ndim != 4:
        raise InputError(f"what {model.config.about.name} makes are no pictures, of which alone errors are measured; give --steps")
    return made.data


def _prompts(model: DiffusionModel, order: Order, n: int) -> list[str] | None:
    """What errors are measured with, whose kind is the order's: no prompts, or the model's examples, or usual ones where it can
    read them, or else the order's own."""
    usual = USUAL_PROMPTS if encoders_of(model.conditioner) else order.prompts
    return list(islice(cycle(model.config.about.examples or usual), n)) if order.prompts else None


def _seeds(trials: int) -> list[int]:
    return [derive(SEED, i) for i in range(trials)]


def _file(model: DiffusionModel, order: Order, trials: int) -> Path:
    """Where the errors of this model, drawn like this, are kept."""
    words = [(encoder.identity, sorted(encoder.taught.items())) for encoder in encoders_of(model.conditioner).values()]
    prompts = _prompts(model, order, trials)
    what = (model.hash(), _loras(model), words, model.config.process, order.usual, order.side, prompts, order.negative, trials)
    return cache_folder() / f"errors-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.json"


def _loras(model: DiffusionModel) -> list[tuple[int, float, str]]:
    """Network, weight and hash of what lies beside the weights of network and text encoders: the model's hash does not see it."""
    networks = [model.denoiser.network, *(encoder.opened.network for encoder in encoders_of(model.conditioner).values())]
    return [(i, weight, adapter.hash()) for i, n in enumerate(networks) for adapter, weight in Adapted.of(n).adapters.values()]


def _read(file: Path) -> dict[str, tuple[float, ...]]:
    """The errors that are kept; none where there is no file."""
    if not file.exists():
        return {}
    try:
        return {way: tuple(map(float, off)) for way, off in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, TypeError) as e:
        raise InputError(f"{file}: not the errors that were kept there; remove it, and they are measured anew") from e


@torch.no_grad()
def _costs(model: DiffusionModel, order: Order, precision: Precision) -> Costs:
    """Two calls of the network, a forecast one, and a decoding."""
    codec = model.codec if order.side is None else resized(model.codec, *order.side)
    usual, rows = order.usual.sampling, order.rows
    streams = Streams.of(0, rows)
    said: list[str | None] = [order.prompts[i % len(order.prompts)] if order.prompts else None for i in range(rows)]
    height, width = order.side or (None, None)
    told = {
        **prepared(model.conditioner, said, streams),
        **beside(model.conditioner, None, rows, usual, height, width, None, codec.shape()),
    }
    cond = unmasked(model.conditioner({k: v.to(model.device) for k, v in told.items()}))  # as a walk is told it
    x = model.config.process.prior(codec.shape(), streams, model.device)
    scale = usual.guidance if within(model.conditioner, ToldGuidance) is None else usual.true_guidance
    if order.prompts and scale != 1:  # both sides of guidance go through the network together
        x, cond = tree_map(lambda a: torch.cat([a, a]), x), {k: torch.cat([v, v]) for k, v in cond.items()}
    half = precision is not Precision.OWN and next(model.denoiser.parameters()).dtype != torch.bfloat16

    def decode(x: State) -> Any:  # in the codec's own precision, whatever the network's is
        with torch.autocast(model.device.type, enabled=False):
            return codec.decode(tree_map(lambda a: a[:1], x))

    with torch.autocast(model.device.type, torch.bfloat16) if half else nullcontext():
        return measure(model.denoiser, x, cond, decode)
