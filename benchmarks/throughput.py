"""Training samples a second (forward, backward, AdamW step) of our networks beside diffusers' and lucidrains', in one run.

    python benchmarks/throughput.py [--batch 16] [--rounds 5] [--threads 2] [--bfloat16 auto|yes|no]

Every row trains on 32 x 32 colour pictures with the same loss, the same fused AdamW and no dropout. The rows take turns, one step
a round, because machines with shared cores swing by factors within minutes: compare ratios, which are of steps a few seconds
apart. The first line is what the processor does at matrix products in the same minute; where bfloat16 is slower than float32 there,
its rows are left out. glibc is told to keep freed memory (worth 4 to 15 % to everybody).
"""

import argparse
import contextlib
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unnoise.core.allocator import keep_freed_memory
from unnoise.networks import transformer, unet
from unnoise.training.compiled import compile_repeated

Step = Callable[[], None]


@dataclass(frozen=True)
class Row:
    name: str
    network: Callable[[], nn.Module]
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]  # (network, x, noise level in [0, 1]) -> output
    bfloat16: str = ""  # "", "autocast" or "weights": bfloat16 weights whose float32 master the optimiser steps
    compiled: bool = False  # its blocks, as --train.compile does


def ours(network: nn.Module, x: Tensor, level: Tensor) -> Tensor:
    return network(x, level, {})


def diffusers_ddpm() -> nn.Module:
    """google/ddpm-cifar10-32, from its published configuration."""
    import diffusers

    return diffusers.UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None, downsample_padding=0, norm_eps=1e-6, freq_shift=1, flip_sin_to_cos=False,
    )  # fmt: skip


def lucidrains() -> nn.Module:
    """The U-Net of the README of denoising-diffusion-pytorch: another architecture, of the same size."""
    if "torchvision" not in sys.modules:  # it imports torchvision for saving grids, which would pull another build of torch
        stub = types.ModuleType("torchvision")
        vars(stub).update(transforms=types.ModuleType("unused"), utils=types.ModuleType("unused"))
        sys.modules["torchvision"] = stub
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=64, dim_mults=(1, 2, 4, 8))


DDPM = replace(unet.ddpm_cifar10(), dropout=0.0)
ROWS = [
    Row("U-Net 35.7M: unnoise", DDPM.build, ours),
    Row("U-Net 35.7M: diffusers", diffusers_ddpm, lambda n, x, t: n(x, 1000 * t).sample),
    Row("U-Net 35.7M: lucidrains", lucidrains, lambda n, x, t: n(x, 1000 * t)),
    Row("U-Net 35.7M: unnoise, bf16 autocast", DDPM.build, ours, "autocast"),
    Row("U-Net 35.7M: unnoise, bf16 autocast, compiled", DDPM.build, ours, "autocast", compiled=True),
    Row("U-Net 35.7M: unnoise, bf16 weights", DDPM.build, ours, "weights"),
    Row("U-Net 35.7M: diffusers, bf16 autocast", diffusers_ddpm, lambda n, x, t: n(x, 1000 * t).sample, "autocast"),
    Row("transformer 10M", transformer.small(3).build, ours),
    Row("transformer 10M, bf16 autocast", transformer.small(3).build, ours, "autocast"),
    Row("transformer 10M, bf16 autocast, compiled", transformer.small(3).build, ours, "autocast", compiled=True),
    Row("transformer 10M, bf16 weights", transformer.small(3).build, ours, "weights"),
    Row("transformer 33M", transformer.medium(3).build, ours),
    Row("transformer 33M, bf16 autocast", transformer.medium(3).build, ours, "autocast"),
    Row("transformer 33M, bf16 autocast, compiled", transformer.medium(3).build, ours, "autocast", compiled=True),
    Row("transformer 33M, bf16 weights", transformer.medium(3).build, ours, "weights"),
]


def training_step(row: Row, batch: int) -> tuple[Step, int]:
    """One whole step, and the number of parameters. Ours and every bfloat16 row are channels_last, others as they come."""
    torch.manual_seed(0)
    network = row.network().train()
    x, target, level = torch.randn(batch, 3, 32, 32), torch.randn(batch, 3, 32, 32), torch.rand(batch)
    if row.bfloat16 or row.call is ours:
        network.to(memory_format=torch.channels_last)
        x, target = (t.contiguous(memory_format=torch.channels_last) for t in (x, target))
    if row.bfloat16 == "weights":
        network.bfloat16()
    if row.compiled:
        compile_repeated(network, torch.device("cpu"))
    used = list(network.parameters())
    master = [p.detach().float().clone() for p in used] if row.bfloat16 == "weights" else used
    optimiser = torch.optim.AdamW(master, lr=1e-4, fused=True)
    precision = torch.autocast("cpu", torch.bfloat16) if row.bfloat16 == "autocast" else contextlib.nullcontext()

    def step() -> None:
        with precision:
            out = row.call(network, x, level)
        (out.float() - target).square().mean().backward()
        if master is not used:
            for m, p in zip(master, used):
                m.grad = None if p.grad is None else p.grad.float()
        optimiser.step()
        if master is not used:
            with torch.no_grad():
                torch._foreach_copy_(used, master)
        for p in (*used, *master):
            p.grad = None

    return step, sum(p.numel() for p in used)


def seconds(f: Step) -> float:
    """Of the clock on the wall; of one thread, the processor time it got, which other people's work disturbs less."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    f()
    return clock() - start


def matmul_probe() -> dict[torch.dtype, float]:
    """Best TFLOP/s of five products of 2048 x 2048 matrices."""
    speeds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, 2048, 2048).to(dtype)
        speeds[dtype] = 2 * 2048**3 / min(seconds(lambda a=a, b=b: a @ b) for _ in range(5)) / 1e12
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bfloat16", choices=["auto", "yes", "no"], default="auto")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speeds = matmul_probe()
    print(
        f"{options.threads} threads, batch {options.batch}; matmul TFLOP/s: " + ", ".join(f"{k} {v:.3f}" for k, v in speeds.items())
    )
    wanted = options.bfloat16 == "yes" or (options.bfloat16 == "auto" and speeds[torch.bfloat16] > speeds[torch.float32])
    if not wanted:
        print("bfloat16 is no faster than float32 here: its rows are left out (--bfloat16 yes shows them)")

    steps: dict[str, Step] = {}
    sizes: dict[str, int] = {}
    for row in ROWS:
        if options.rows in row.name and (wanted or not row.bfloat16):
            try:
                steps[row.name], sizes[row.name] = training_step(row, options.batch)
            except ImportError as e:
                print(f"{row.name}: not installed ({e})")
    for step in steps.values():
        step()  # allocations, kernels built at the first call
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(options.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
            note = f"round {i + 1}/{options.rounds} {name}: {options.batch / times[name][-1]:.2f} samples/s"
            print(note, end="\033[K\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)

    reference = next((k for k in times if k.endswith("diffusers")), next(iter(times), ""))
    print(f"{'samples a second in training':44} {'parameters':>10} {'best':>7} {'median':>7}   over {reference or '-'}")
    for name, ts in times.items():
        ratio = statistics.median(r / t for r, t in zip(times[reference], ts))
        best, median = options.batch / min(ts), options.batch / statistics.median(ts)
        print(f"{name:44} {sizes[name] / 1e6:9.1f}M {best:7.2f} {median:7.2f}   {ratio:.2f}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
