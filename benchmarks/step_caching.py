"""What does step caching cost in the picture, and what does it save?

python benchmarks/step_caching.py [--minutes 3]        as long as the two networks may train, and a minute

A small transformer and a small U-Net of Stable Diffusion's kind learn scikit-learn's 8 x 8 digits, told the digit; then the same
samples are drawn with and without caching, 30 steps, guidance 2. The published networks are there for their arithmetic alone.

    run       the share of samples' calls for which the whole network ran
    picture   root mean square difference from the picture without caching, over the pictures' deviation; "fewer steps" is the same
              network, uncached, in as many steps as its share buys: what caching has to beat
    share     of the arithmetic of a call (in units of 10^12 operations, counted with nothing allocated) that a forecast one needs
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.flop_counter import FlopCounterMode

from unnoise.control.guidance import classifier_free
from unnoise.control.step_caching import CachedDenoiser, Every, StepCaching, Within
from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.preconditioning import Velocity
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.state import Batch
from unnoise.networks.flux import FluxConfig
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.samplers.loop import sample
from unnoise.samplers.registry import find_sampler

PROCESS = Gaussian(RectifiedFlow())
STEPS, SAMPLES, GUIDANCE = 30, 50, 2.0
NETWORKS = {
    "transformer": DiffusionTransformerConfig(1, 2, 64, 5, 2, 16, 11),
    "U-Net": SDUNetConfig(1, (16, 32), 1, (1, 1), 1, (2, 2), 11, 8, groups=8),
}
PUBLISHED: Mapping[str, tuple[Any, int, int]] = {
    "Stable Diffusion 1.5": (SDUNetConfig(), 4, 128),
    "SDXL": (SDUNetConfig(4, (320, 640, 1280), 2, (0, 2, 10), 10, (5, 10, 20), 2816, 2048), 4, 128),
    "Stable Diffusion 3 medium": (SD3Config(), 16, 128),
    "FLUX.1": (FluxConfig(), 16, 128),
    "PixArt-Sigma": (PixArtConfig(), 4, 128),
    "Sana": (SanaConfig(), 32, 32),
}
"""Channels and side of their states."""
CACHINGS = {
    **{f"every {n}, order {m}": StepCaching(Every(n, first=m + 1), m) for n in (2, 3, 5) for m in (0, 1, 2)},
    **{f"within {b:g}, order {m}": StepCaching(Within(b), m) for b in (0.01, 0.03, 0.1) for m in (0, 1)},
}


def digits() -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 8, 8) of deviation 1, and what they are, one-hot, (N, 11); the last is nothing."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None]
    return (x - x.mean()) / x.std(), one_hot(torch.tensor(found.target), 11).float()


def trained(config: DiffusionTransformerConfig | SDUNetConfig, minutes: float) -> Denoiser:
    torch.manual_seed(0)
    x, told = digits()
    net = NetworkDenoiser(config.build(), PROCESS, Velocity())
    optimiser, objective = torch.optim.AdamW(net.parameters(), 1e-3), Denoising(SquaredError())
    end, step = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        rows = torch.randint(len(x), (32,))
        vector = torch.where(torch.rand(32, 1) < 0.1, one_hot(torch.full((32,), 10), 11), told[rows])
        loss = objective(net, Batch(x[rows], {"vector": vector}), Streams.of(step, 32))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    print(f"{step:,} steps, last loss {float(loss.detach()):.4f}")
    return net.eval().requires_grad_(False)


def drawn(net: Denoiser, steps: int) -> Tensor:
    told = one_hot(torch.arange(SAMPLES) % 10, 11).float()
    denoise = classifier_free(net, {"vector": told}, {"vector": one_hot(torch.full((SAMPLES,), 10), 11).float()}, GUIDANCE)
    chosen, rng = find_sampler("dpmpp-2m"), Streams.of(7, SAMPLES)
    x = PROCESS.prior((1, 8, 8), rng, torch.device("cpu"))
    out = sample(denoise, PROCESS, x, chosen.grid.times(steps, PROCESS), chosen.sampler, rng)
    assert isinstance(out, Tensor)
    return out


def compare(name: str, minutes: float) -> None:
    print(f"\n{name}")
    net = trained(NETWORKS[name], minutes)
    whole = drawn(net, STEPS)

    def off(x: Tensor) -> float:
        return float((x - whole).square().mean().sqrt() / whole.std())

    print(f"{'caching':24}{'run':>6}{'picture':>10}{'fewer steps':>14}")
    for label, how in CACHINGS.items():
        cached = CachedDenoiser(net, how)
        picture = drawn(cached, STEPS)
        share = cached.computed / cached.asked
        print(f"{label:24}{share:6.2f}{off(picture):10.4f}{off(drawn(net, max(1, round(share * STEPS)))):14.4f}")


def sizes() -> None:
    print(f"\n{'2 pictures of 1024 x 1024':28}{'whole':>10}{'forecast':>10}{'share':>8}")
    for label, (config, channels, side) in PUBLISHED.items():
        with torch.device("meta"):
            network = config.build().requires_grad_(False)
            cond = {"tokens": torch.randn(2, 154, config.token_dim)}
            x, t = torch.randn(2, channels, side, side), torch.full((2,), 0.5)
        with FlopCounterMode(display=False) as whole:
            network(x, t, cond)
        deep = network.deep(network.enter(x, t, cond))
        with FlopCounterMode(display=False) as forecast:
            network.leave(network.enter(x, t, cond), deep)
        a, b = whole.get_total_flops(), forecast.get_total_flops()
        print(f"{label:28}{a / 1e12:10.2f}{b / 1e12:10.3f}{b / a:8.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, for each network")
    args = parser.parse_args()
    for name in NETWORKS:
        compare(name, args.minutes)
    with torch.no_grad():
        sizes()


if __name__ == "__main__":
    main()
