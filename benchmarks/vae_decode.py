"""Seconds to decode latents of Stable Diffusion 1 into a picture: our autoencoder beside diffusers', the same random weights.

    python benchmarks/vae_decode.py [--side 64] [--rounds 5] [--threads 2]

--side: of the latent; 64 gives 512 x 512 pixels and takes 2.5 TFLOP. The rows take turns, one picture a round: machines with shared
cores swing by factors within minutes, so compare ratios, which are of pictures a few seconds apart. With one thread the seconds are
of processor time. "error" is the largest difference from the first row's picture, in units of that picture's spread. The first line
is what the processor does at matrix products in the same minute. glibc is told to keep freed memory.
"""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
from throughput import matmul_probe, seconds
from torch import Tensor

from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.vae_names import read_autoencoder
from unnoise.core.allocator import keep_freed_memory

Decode = Callable[[Tensor], Tensor]


def rows(side: int) -> dict[str, Decode]:
    """The reference first."""
    import diffusers

    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=8 * side,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    config, weights = read_autoencoder(Part({**theirs.config, "_class_name": "AutoencoderKL"}, theirs.state_dict(), "-"), 512, 512)
    codec = config.build()
    codec.load_state_dict(weights)
    ours = codec.autoencoder.eval()
    half, last = diffusers.AutoencoderKL.from_config(theirs.config), diffusers.AutoencoderKL.from_config(theirs.config)
    for copy in (half, last):
        copy.load_state_dict(theirs.state_dict())
        copy.eval().bfloat16()
    last.to(memory_format=torch.channels_last)
    ours_half = config.autoencoder.build().eval()
    ours_half.load_state_dict(ours.state_dict())
    ours_half.bfloat16()
    return {
        "diffusers, float32": lambda z: theirs.decode(z).sample,
        "diffusers, bfloat16": lambda z: half.decode(z.bfloat16()).sample,
        "diffusers, bfloat16, channels_last": lambda z: last.decode(z.to(torch.bfloat16, memory_format=torch.channels_last)).sample,
        "unnoise, float32": ours.decode,
        "unnoise, bfloat16": ours_half.decode,
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speeds = ", ".join(f"{k} {v:.3f}" for k, v in matmul_probe().items())
    print(f"{options.threads} threads, {options.side} x {options.side} latents; matmul TFLOP/s: {speeds}")
    decoders, z = rows(options.side), torch.randn(1, 4, options.side, options.side)
    pictures = {name: decode(z).float() for name, decode in decoders.items()}  # kernels are built at the first call
    times: dict[str, list[float]] = {name: [] for name in decoders}
    for i in range(options.rounds):
        for name, decode in decoders.items():
            times[name].append(seconds(lambda decode=decode: decode(z)))
            print(f"round {i + 1}/{options.rounds} {name}: {times[name][-1]:.2f} s", end="\033[K\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    reference = next(iter(decoders))
    print(f"{'seconds a picture':36} {'best':>7} {'median':>7} {'faster':>7} {'error':>9}")
    for name, ts in times.items():
        ratio = statistics.median(r / t for r, t in zip(times[reference], ts))
        error = float((pictures[name] - pictures[reference]).abs().max() / pictures[reference].std())
        print(f"{name:36} {min(ts):7.2f} {statistics.median(ts):7.2f} {ratio:7.2f} {error:9.1e}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
