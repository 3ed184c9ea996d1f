"""What do bfloat16, step caching, fewer steps and other samplers cost in the picture, and what do they save?

python benchmarks/step_caching.py [MODEL ...] [--pictures 12] [--fine 200] [--minutes 3]

MODEL: folders or names of trained models (stickers and scenes where none is named). Every way to draw is compared with the usual
walk in float32, picture by picture, from the same noise:

    cost      of the usual walk's arithmetic, counting a forecast call as what it is (its share is printed once)
    off       root mean square difference of the pictures, of 0 to 1 (`recipes.speed.difference`): median and largest over pictures
    to fine   median distance from the usual sampler in --fine steps; the usual walk has one, too
    <         the way is cheaper than all others in the table that are off by no more (median): what a planner should pick from
    said      what --budget and --error would say: the largest of 9 other pictures, of the model's own examples; and the share of
              the compared pictures, whose prompts are others, that keeps within it (of 9, 9 of 10 would if prompts were alike)

--minutes: of training for each of a small transformer and a small U-Net of Stable Diffusion's kind on scikit-learn's 8 x 8 digits,
30 steps, guidance 2, for the same table without text. The published networks at the end are there for their arithmetic alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.flop_counter import FlopCounterMode

from unnoise.control.budget import SAMPLERS, STEPS, Precision, Way
from unnoise.control.guidance import classifier_free
from unnoise.control.sampling import Sampling
from unnoise.control.step_caching import CachedDenoiser, Every, StepCaching, Within
from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.preconditioning import Velocity
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams, derive
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.state import Batch
from unnoise.loading import load
from unnoise.model import DiffusionModel
from unnoise.networks.flux import FluxConfig
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.splitting import Splitting
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.speed import SEED, Order, difference, draw
from unnoise.samplers.loop import sample
from unnoise.samplers.registry import find_sampler

TRIALS = 9
PROMPTS = {
    "stickers": (
        "a dog", "a blue house", "pizza, twemoji", "a green frog", "yellow star in front of a red heart", "guitar, fluent 3d",
        "a sad face", "an owl", "umbrella, in the style of noto", "snow mountain", "a purple butterfly", "ship",
    ),
    "scenes": (
        "four green cups", "a blue fish below a red star", "a sign that says HELLO on a mint background", "seven orange moons",
        "one big black tree", "two purple hearts and a yellow house", "a small grey ring inside a pink square", "nine brown stars",
        "a green arrow right of a blue diamond", "three red crosses", "a sign that says KIWI above a yellow cup", "a large flower",
    ),
}  # fmt: skip
CACHINGS = [StepCaching(Every(n), m) for n in (2, 3) for m in (0, 1, 2)]
CACHINGS += [StepCaching(Within(b), 1) for b in (0.01, 0.03, 0.1)]
PROCESS = Gaussian(RectifiedFlow())
DIGITS, DIGIT_STEPS, GUIDANCE = 50, 30, 2.0
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


class Counted:
    """Rows that went through a network's deep part, and through the rest."""

    def __init__(self, network: Any) -> None:
        self.deep = self.entered = 0
        deep, enter = network.deep, network.enter

        def deeper(entered: Any) -> Tensor:
            out: Tensor = deep(entered)
            self.deep += len(out)
            return out

        def entering(x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Any:
            self.entered += len(x)
            return enter(x, noise_level, cond)

        network.deep, network.enter = deeper, entering

    def cost(self, share: float) -> float:
        """Whole calls since the last time, a forecast one counted as its share."""
        out = share * self.entered + (1 - share) * self.deep
        self.deep = self.entered = 0
        return out


def forecast_share(network: Any, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[float, float]:
    """Operations of a whole call, and what a forecast one needs of them."""
    t = torch.full((len(x),), 0.5)
    with FlopCounterMode(display=False) as whole:
        deep = network.deep(network.enter(x, t, cond))
        network.leave(network.enter(x, t, cond), deep)
    with FlopCounterMode(display=False) as forecast:
        network.leave(network.enter(x, t, cond), deep)
    enter_twice = whole.get_total_flops() - forecast.get_total_flops()  # the deep part and one entering
    with FlopCounterMode(display=False) as entering:
        network.enter(x, t, cond)
    total = enter_twice - entering.get_total_flops() + forecast.get_total_flops()
    return float(total), forecast.get_total_flops() / total


def table(rows: list[tuple[str, float, Tensor, Tensor]], said: list[Tensor] | None = None) -> None:
    """rows: (way, cost, off (N,), to fine (N,)); said: for each the errors of the calibrating pictures."""
    print(f"{'way':46}{'cost':>6}{'off':>9}{'largest':>9}{'to fine':>9}{'said  kept within' if said else '':>20}")
    for i, (name, cost, off, fine) in enumerate(rows):
        middle = float(off.median())
        best = all(cost < c or middle < float(o.median()) for j, (_, c, o, _) in enumerate(rows) if j != i)
        told = f"{float(said[i].max()):8.4f}{float((off <= said[i].max()).double().mean()):9.2f}" if said else ""
        print(f"{name:46}{cost:6.2f}{middle:9.4f}{float(off.max()):9.4f}{float(fine.median()):9.4f}{told} {'<' if best else ''}")


def shown(name: str, pictures: int, fine_steps: int) -> None:
    model = load(name)
    network, usual = model.denoiser.network, model.config.sampling
    print(f"\n{name}: {type(network).__name__}, usually {usual.steps} steps of {usual.sampler}, guidance {usual.guidance:g}")
    assert isinstance(network, Splitting)
    share = told_share(model)
    print(f"a forecast call needs {share:.1%} of the arithmetic of a whole one")
    counted = Counted(network)
    prompts = next((p for kind, p in PROMPTS.items() if kind[:-1] in name), model.config.about.examples)
    fresh = tuple(prompts[i % len(prompts)] for i in range(pictures))
    seeds = [derive(7, i) for i in range(pictures)]

    def drawn(way: Way) -> tuple[Tensor, Tensor]:
        """The compared pictures, and those that errors are measured on."""
        how = way.sampling
        named = how.sampler if isinstance(how.sampler, str) else None
        made = model.sample(fresh, 1, sample_seeds=seeds, steps=how.steps, sampler=named, caching=how.caching, bf16=way.bf16)
        measured = draw(model, way, Order(Way(usual), fresh[:1]), [derive(SEED, i) for i in range(TRIALS)])
        return made.data, measured

    whole, measured = drawn(Way(usual))
    full = counted.cost(share)
    fine = model.sample(fresh, 1, sample_seeds=seeds, steps=fine_steps).data
    counted.cost(share)
    rows = [("usual", 1.0, difference(whole, whole), difference(whole, fine))]
    said = [difference(measured, measured)]
    ways = {"bfloat16": Way(usual, Precision.BFLOAT16)}
    ways |= {told(how): Way(replaced(usual, usual.steps, None, how)) for how in CACHINGS}
    for steps in (n for n in STEPS if n < usual.steps):
        ways |= {f"{steps} steps of {s}": Way(replaced(usual, steps, s, None)) for s in SAMPLERS}
        twice = StepCaching(Every(2), 1)
        ways[f"{steps} steps of {SAMPLERS[0]}, {told(twice)}"] = Way(replaced(usual, steps, SAMPLERS[0], twice))
    for label, way in ways.items():
        made, calibrating = drawn(way)
        rows.append((label, counted.cost(share) / full, difference(made, whole), difference(made, fine)))
        print(f"{label}: {rows[-1][1]:.2f}, {float(rows[-1][2].median()):.4f}", file=sys.stderr, flush=True)
        said.append(difference(calibrating, measured))
    table(rows, said)


def told(how: StepCaching) -> str:
    when = how.when
    return (
        f"every {when.n}, order {how.order}"
        if isinstance(when, Every)
        else f"within {getattr(when, 'budget', 0):g}, order {how.order}"
    )


def replaced(usual: Sampling, steps: int, sampler: str | None, caching: StepCaching | None) -> Sampling:
    return Sampling(
        steps, sampler or usual.sampler, usual.grid, usual.guidance, usual.interval, usual.rescale, usual.rule, usual.threshold,
        usual.inner, caching,
    )  # fmt: skip


def told_share(model: DiffusionModel) -> float:
    cond = model.conditioner(model.conditioner.prepare_for(["a red apple"], Streams.of(0, 1)))
    return forecast_share(model.denoiser.network, torch.zeros(1, *model.codec.shape()), cond)[1]


# -- digits --------------------------------------------------------------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 8, 8) of deviation 1, and what they are, one-hot, (N, 11); the last is nothing."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None]
    return (x - x.mean()) / x.std(), one_hot(torch.tensor(found.target), 11).float()


def trained(config: DiffusionTransformerConfig | SDUNetConfig, minutes: float) -> NetworkDenoiser:
    torch.manual_seed(0)
    x, labels = digits()
    net = NetworkDenoiser(config.build(), PROCESS, Velocity())
    optimiser, objective = torch.optim.AdamW(net.parameters(), 1e-3), Denoising(SquaredError())
    end, step = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        rows = torch.randint(len(x), (32,))
        vector = torch.where(torch.rand(32, 1) < 0.1, one_hot(torch.full((32,), 10), 11), labels[rows])
        loss = objective(net, Batch(x[rows], {"vector": vector}), Streams.of(step, 32))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    print(f"{step:,} steps, last loss {float(loss.detach()):.4f}")
    return net.eval().requires_grad_(False)


def drawn_digits(net: Denoiser, steps: int, sampler: str = SAMPLERS[0]) -> Tensor:
    """Deviation 1; clamped to what pictures may be, a range of about 2.7."""
    labels = one_hot(torch.arange(DIGITS) % 10, 11).float()
    nothing = one_hot(torch.full((DIGITS,), 10), 11).float()
    denoise = classifier_free(net, {"vector": labels}, {"vector": nothing}, GUIDANCE)
    chosen, rng = find_sampler(sampler), Streams.of(7, DIGITS)
    out = sample(denoise, PROCESS, PROCESS.prior((1, 8, 8), rng), chosen.grid.times(steps, PROCESS), chosen.sampler, rng)
    assert isinstance(out, Tensor)
    return out


def compare(name: str, minutes: float, fine_steps: int) -> None:
    print(f"\n{name}, digits")
    net = trained(NETWORKS[name], minutes)
    low, high = (float(f(digits()[0])) for f in (torch.min, torch.max))
    share = forecast_share(net.network, torch.zeros(1, 1, 8, 8), {"vector": torch.zeros(1, 11)})[1]
    print(f"a forecast call needs {share:.1%} of the arithmetic of a whole one")
    counted = Counted(net.network)
    whole, full = drawn_digits(net, DIGIT_STEPS), counted.cost(share)
    fine = drawn_digits(net, fine_steps)
    counted.cost(share)

    def row(label: str, walk: Callable[[], Tensor]) -> tuple[str, float, Tensor, Tensor]:
        x = walk()
        off, to_fine = (
            ((x - y).clamp(low - high, high - low) / (high - low)).flatten(1).square().mean(1).sqrt() for y in (whole, fine)
        )
        return label, counted.cost(share) / full, off, to_fine

    rows = [("usual", 1.0, torch.zeros(DIGITS), ((whole - fine) / (high - low)).flatten(1).square().mean(1).sqrt())]
    rows += [row(told(how), lambda how=how: drawn_digits(CachedDenoiser(net, how), DIGIT_STEPS)) for how in CACHINGS]
    for steps in (n for n in STEPS if n < DIGIT_STEPS):
        rows += [row(f"{steps} steps of {s}", lambda n=steps, s=s: drawn_digits(net, n, s)) for s in SAMPLERS]
    table(rows)


def sizes() -> None:
    print(f"\n{'2 pictures of 1024 x 1024':28}{'whole':>10}{'share of a forecast call':>26}")
    for label, (config, channels, side) in PUBLISHED.items():
        with torch.device("meta"):
            network = config.build().requires_grad_(False)
            cond = {"tokens": torch.randn(2, 154, config.token_dim)}
            total, share = forecast_share(network, torch.randn(2, channels, side, side), cond)
        print(f"{label:28}{total / 1e12:10.2f}{share:26.2%}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["stickers", "scenes"])
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--fine", type=int, default=200, help="steps of the fine reference")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, for each network on digits; 0 for none")
    args = parser.parse_args()
    for name in args.models:
        shown(name, args.pictures, args.fine)
    if args.minutes:
        for name in NETWORKS:
            with torch.enable_grad():
                compare(name, args.minutes, args.fine)
    sizes()


if __name__ == "__main__":
    main()
