"""--budget: what a call of this model's network costs here, and the walk that fits."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from unnoise.control.asking import beside, prepared
from unnoise.control.budget import Plan, measure, plan
from unnoise.core.errors import InputError
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.state import tree_map
from unnoise.modalities.image.codec import resized
from unnoise.model import DiffusionModel


@torch.no_grad()
def budgeted(
    model: DiffusionModel, seconds: float, prompts: Sequence[str], n: int, batch: int, side: tuple[int, int] | None,
    guidance: float | None, bf16: bool,
) -> Plan:  # fmt: skip
    """For n samples of each prompt, `batch` at a time; side: height and width in pixels, None for the model's own. The measuring
    takes two calls of the network and a decoding, which the seconds do not pay for.

    Raises InputError for a model of other data than pictures and the like, and for a budget that nothing fits into.
    """
    process, usual = model.config.process, model.config.sampling
    if not isinstance(process, Gaussian):
        raise InputError("--budget is for models that take noise off, as those of pictures are; give --steps here")
    codec = model.codec if side is None else resized(model.codec, *side)
    total = n * max(1, len(prompts))
    rows = min(total, batch)
    streams = Streams.of(0, rows)
    led = bool(prompts) and (usual.guidance if guidance is None else guidance) != 1
    said: list[str | None] = [prompts[i % len(prompts)] if prompts else None for i in range(rows)]
    height, width = side or (None, None)
    told = {
        **prepared(model.conditioner, said, streams),
        **beside(model.conditioner, None, rows, usual, height, width, None, codec.shape()),
    }
    cond = model.conditioner({k: v.to(model.device) for k, v in told.items()})
    x = process.prior(codec.shape(), streams, model.device)
    if led:  # both sides of guidance go through the network together
        x, cond = torch.cat([x, x]), {k: torch.cat([v, v]) for k, v in cond.items()}
    half = bf16 and next(model.denoiser.parameters()).dtype != torch.bfloat16
    with torch.autocast(model.device.type, torch.bfloat16) if half else nullcontext():
        costs = measure(model.denoiser, x, cond, lambda x: codec.decode(tree_map(lambda a: a[:1], x)))
    return plan(seconds, usual, costs, total, -(-total // batch))
