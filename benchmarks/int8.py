"""What do whole numbers of eight bits save in time, and what do they cost in the picture, beside bfloat16?

    python benchmarks/int8.py [--rounds 5] [--threads 1] [--pictures 12] [MODEL ...]

First the layers of Stable Diffusion 1.5 at 512 x 512, batch 2, in milliseconds: bfloat16 as torch has it; int8 as `networks.int8`
computes it, with the product alone beside it; `_int_mm`, torch's own product, whose weights are not laid out beforehand (its
scales not applied); and int8 weights that are turned into bfloat16 at every call, which only saves memory. They take turns, one
call a round, after one that warms; "faster" is the median of the rounds' ratios, bfloat16 to int8; with one thread time is the
processor's. "error" is the difference from float32, in the L2 norm.
Then MODELs (trained; stickers where none is named, for scenes has no layers that are wide enough): root mean square difference of
their pictures, of 0 to 1, from those in float32: median and largest. The whole U-Net, and what torchao and OpenVINO make of it in
int8, are rows of `stable_diffusion.py --compile`.
"""

import argparse
import os
from collections.abc import Callable
from statistics import median

import torch
from step_caching import PROMPTS
from throughput import matmul_probe, seconds
from torch import Tensor, nn
from torch.nn.functional import linear

from unnoise.core.allocator import keep_freed_memory
from unnoise.core.random import derive
from unnoise.loading import load
from unnoise.networks.int8 import Int8Conv2d, Int8Linear, available, quantised, quantised_weights
from unnoise.recipes.speed import difference

LINEAR = [(4096, 320, 320), (4096, 320, 2560), (4096, 1280, 320), (1024, 640, 640), (1024, 640, 5120), (256, 1280, 1280)]
LINEAR += [(256, 1280, 10240), (256, 5120, 1280)]
"""Tokens, channels in and out."""
CONVOLUTIONS = [
    (320, 64, 320, 1),
    (640, 64, 320, 1),
    (320, 64, 320, 2),
    (640, 32, 640, 1),
    (1280, 16, 1280, 1),
    (2560, 16, 1280, 1),
]
"""Channels in, side, channels out, stride."""
COLUMNS = ("bfloat16", "int8", "product", "_int_mm", "weights alone")


def taken(works: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round, in turn, after one that warms."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            times[name].append(1000 * seconds(lambda work=work: work()))
    return {name: ts[1:] for name, ts in times.items()}


def row(what: str, layer: nn.Linear | nn.Conv2d, x: Tensor, rounds: int) -> None:
    expected, half = layer(x), layer.to(torch.bfloat16)
    x = x.bfloat16()
    eight = Int8Linear(half) if isinstance(half, nn.Linear) else Int8Conv2d(half.to(memory_format=torch.channels_last))
    q, _ = quantised(x)
    op = torch.ops.onednn.qlinear_pointwise if isinstance(eight, Int8Linear) else torch.ops.onednn.qconv2d_pointwise
    how = () if isinstance(eight, Int8Linear) else eight.how
    told = (q, 1.0, 128, eight.weights, eight.scale, eight.zero, None, *how, 1.0, 0, torch.bfloat16, "none", [], "")
    works: dict[str, Callable[[], Tensor]] = {"bfloat16": lambda: half(x), "int8": lambda: eight(x), "product": lambda: op(*told)}
    if isinstance(half, nn.Linear):
        weights, scale = quantised_weights(half.weight)
        whole, scale, bias = quantised(x)[0].view(torch.int8).flatten(0, 1), scale.bfloat16()[:, None], half.bias
        works["_int_mm"] = lambda: torch._int_mm(whole, weights.t())
        works["weights alone"] = lambda: linear(x, weights.bfloat16() * scale, bias)
    errors = [float((works[k]().float() - expected).norm() / expected.norm()) for k in ("bfloat16", "int8")]
    ms = taken(works, rounds)
    shown = "".join(f"{median(ms[k]):9.2f}{min(ms[k]):8.2f}" if k in ms else f"{'':17}" for k in COLUMNS)
    faster = median(a / b for a, b in zip(ms["bfloat16"], ms["int8"]))
    print(f"{what:34}{shown}{faster:8.2f}{errors[0]:9.1e}{errors[1]:9.1e}", flush=True)


def layers(rounds: int) -> None:
    print(f"\n{'milliseconds, median and best':34}{''.join(f'{k:>17}' for k in COLUMNS)}{'faster':>8}{'error':>9}{'of int8':>9}")
    for tokens, c_in, c_out in LINEAR:
        row(f"linear {tokens} x {c_in} -> {c_out}", nn.Linear(c_in, c_out), torch.randn(2, tokens, c_in), rounds)
    for c_in, side, c_out, stride in CONVOLUTIONS:
        x = torch.randn(2, c_in, side, side).to(memory_format=torch.channels_last)
        what = f"3 x 3 {c_in} -> {c_out}, {side} x {side}" + (f" / {stride}" if stride > 1 else "")
        row(what, nn.Conv2d(c_in, c_out, 3, stride, 1), x, rounds)


def pictures(name: str, n: int) -> None:
    model = load(name)
    asked = PROMPTS.get(name, model.config.about.examples)
    prompts, seeds = [asked[i % len(asked)] for i in range(n)], [derive(7, i) for i in range(n)]

    def drawn(bf16: bool) -> Tensor:
        made = model.sample(prompts, 1, sample_seeds=seeds, bf16=bf16).data
        assert isinstance(made, Tensor)
        return made

    whole, half = drawn(False), drawn(True)
    model.to_int8()
    for what, made in (("bfloat16", half), ("int8, else float32", drawn(False)), ("int8, else bfloat16", drawn(True))):
        off = difference(made, whole)
        print(f"{name:12}{what:24} off by {float(off.median()):.4f}, at most {float(off.max()):.4f}", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=["stickers"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if not available():
        raise SystemExit("this processor has neither VNNI nor AMX: whole numbers of eight bits are no faster here")
    speeds = ", ".join(f"{k} {v:.3f}" for k, v in matmul_probe().items())
    print(f"{options.threads} threads, load {os.getloadavg()[0]:.1f}; matmul TFLOP/s: {speeds}", flush=True)
    layers(options.rounds)
    print()
    for name in options.models:
        pictures(name, options.pictures)


if __name__ == "__main__":
    keep_freed_memory()
    main()
