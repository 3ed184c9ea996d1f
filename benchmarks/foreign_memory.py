"""What open checkpoints are estimated to need of memory, and what a process that runs them holds: one step, then one decode.

    python benchmarks/foreign_memory.py [--side 512]

Weights are one number each, for none can be downloaded here: sizes are what counts. Each line is a process of its own, whose
largest resident set (as the kernel has it) is compared with the estimate. Text encoders are left away in both.
"""

import argparse
import resource
import subprocess
import sys

import torch

from unnoise.checkpoints.foreign.memory import Plan, estimate
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.networks.kl_autoencoder import KLAutoencoderConfig
from unnoise.networks.sd_unet import SDUNetConfig

XL = SDUNetConfig(widths=(320, 640, 1280), depths=(0, 2, 10), middle=10, heads=(5, 10, 20), vector_dim=2816, token_dim=2048)
NETWORKS = {"SD 1.5": SDUNetConfig(), "SDXL": XL}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENS = 77
"""One window of CLIP's, on both sides of the comparison."""
LINES = (("SD 1.5", "float32"), ("SD 1.5", "bfloat16"), ("SDXL", "bfloat16"))


@torch.no_grad()
def held(name: str, dtype: str, side: int) -> float:
    """GB that this process has held at most, after a guided step and a decode."""
    config, codec = NETWORKS[name], LatentsConfig(side, side, 3, KLAutoencoderConfig())
    with torch.device("meta"):
        network, latents = config.build(), codec.build()
    for module in (network.to(DTYPES[dtype]), latents.autoencoder.to(DTYPES[dtype])):
        module.to_empty(device="cpu").eval()
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(0.01)
    state = torch.randn(2, *latents.shape())
    network(state, torch.full((2,), 0.5), {"tokens": torch.randn(2, TOKENS, config.token_dim)})
    latents.autoencoder.decode(state[:1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--only", nargs=2, metavar=("NETWORK", "DTYPE"), help="print what one of them holds, and nothing else")
    args = parser.parse_args()
    if args.only:
        print(held(*args.only, args.side))
        return
    print(f"{'network':10} {'precision':10} {'estimated GB':>12} {'held GB':>8} {'ratio':>6}   at {args.side} x {args.side}")
    for name, dtype in LINES:
        plan, codec = Plan(args.side, args.side, DTYPES[dtype]), LatentsConfig(64, 64, 3, KLAutoencoderConfig())
        need = estimate(NETWORKS[name], codec, plan, tokens=TOKENS)
        command = [sys.executable, __file__, "--side", str(args.side), "--only", name, dtype]
        real = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{name:10} {dtype:10} {need.total / 1e9:12.2f} {real:8.2f} {need.total / 1e9 / real:6.2f}", flush=True)


if __name__ == "__main__":
    main()
