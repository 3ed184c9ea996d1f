"""What bias does each guidance bring? Exact denoisers of a Gaussian mixture against exact draws of the law that guidance names.

python benchmarks/guidance.py [--draws 2000]        about five minutes of one core

Three classes, of 3, 2 and 1 normal components, in 2 dimensions, and the same turned into 64 with noise of equal width in the other
62. Class 0 is asked for. Guidance of scale w is said to sample p_w ~ p(x) p(c | x)^w ~ p(x | c) p(c | x)^(w-1); with a weaker model
as its other side, p(x | c)^w / p_weak(x | c)^(w-1), here the class with twice the variance. Draws of the first by rejection, of the
second by resampling. No network has learnt anything: what is off is the method's own doing, not an error of learning; so nothing
speaks here for what makes methods robust to such errors. Internal guidance is autoguidance whose weaker model is the middle head,
here of a network whose heads are the two exact denoisers.

Smoothed attention: an exact denoiser of normal components is attention, of x to them (softmax of its likenesses) over their own
posterior means. Averaged over x, as smoothed attention of unlimited width averages queries, the weights are the components' own,
and what is left is the exact denoiser of one normal component in their middle. So its law is p(x | c)^w / N(middle)^(w-1).

    shift     distance of the means over the target's deviation      width    deviation about modes' own means over the target's
    asked     share whose likeliest class is the asked one           modes    half the sum of |share of component - target's|
    off       deviation in the 62 other dimensions over the truth    1000 E   energy distances to p_w, and to p(x | c)

Perturbed attention: the exact denoiser of patches that share a normal mean is self-attention, of equal weights. Each patch seeing
itself alone, as the identity has it, is the exact denoiser of independent patches as wide as the shared mean is. So its law is
p(x)^w / N(independent)^(w-1), which is normal. The last table, 16 patches of 2 numbers:

    shared    deviation of the patches' mean over the law's     apart    deviation about it over the law's (over what was asked for)

And of a mixture: 16 patches about one of the six centres, the same for all. The exact attention gives each patch the mean
of what all say for every component; as the identity, 16 times what it says itself: each patch then speaks for all. This is the
denoiser of no law, so that what is drawn is held against what was asked for, p(x), alone:

    apart     deviation of patches about the centre that all but a few agree on, over the truth's
    alone     share of patches that are nearest to another centre
    modes, E  as above
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unnoise.control.guidance import bind, guided
from unnoise.control.rules import Linear, Projected, Rule, ZeroStar
from unnoise.control.self_guidance import Internal, PerturbedAttention, SelfGuidance, SmoothedAttention
from unnoise.control.thresholding import thresholded
from unnoise.core.denoisers import Denoise, NetworkDenoiser
from unnoise.core.oracles import ExactMixture
from unnoise.core.preconditioning import Data
from unnoise.core.processes import Gaussian
from unnoise.core.processes.gaussian import mean
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.state import Cond
from unnoise.evaluation.two_sample import Energy
from unnoise.networks.attention import SelfAttending
from unnoise.samplers.dpmpp import DPMpp
from unnoise.samplers.grids import LogSNR
from unnoise.samplers.loop import sample

CENTRES = torch.tensor([[-0.6, 0.5], [0.1, 0.35], [0.6, -0.5], [0.25, 0.0], [-0.5, -0.4], [0.8, 0.2]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.12, 0.08, 0.2, 0.2, 0.2], dtype=torch.float64)
ASKED, VARIANCE, BROADER, STEPS = 3, 0.02, 2.0, 64  # the first three components are the asked class
PROCESS = Gaussian(RectifiedFlow())


@dataclass(frozen=True)
class World:
    whole: ExactMixture
    asked: ExactMixture
    weak: ExactMixture
    axes: Tensor
    """(dims, 2): the plane that the centres lie in."""

    @staticmethod
    def of(dims: int) -> "World":
        g = torch.Generator().manual_seed(0)
        axes = torch.linalg.qr(torch.randn(dims, dims, generator=g, dtype=torch.float64))[0][:, :2]
        axes = torch.eye(2, dtype=torch.float64) if dims == 2 else axes
        means = CENTRES @ axes.T
        asked = means[:ASKED], [VARIANCE] * ASKED
        return World(
            ExactMixture(PROCESS, WEIGHTS, means, [VARIANCE] * len(means)),
            ExactMixture(PROCESS, WEIGHTS[:ASKED], *asked),
            ExactMixture(PROCESS, WEIGHTS[:ASKED], asked[0], [BROADER * VARIANCE] * ASKED),
            axes,
        )

    def components(self, x: Tensor) -> Tensor:
        """p(component | x): (n, 6)."""
        squared = torch.cdist(x.double(), self.whole.means).square()
        return (WEIGHTS.log() - squared / (2 * VARIANCE)).softmax(-1)

    def tilted(self, w: float, n: int, seed: int) -> Tensor:
        """p(x | c) p(c | x)^(w-1), w >= 1, by rejection."""
        rng = Streams.of(seed, 6 * n)
        x = self.asked.sample(rng)
        accepted = x[rng.uniform("accept").double() < self.components(x)[:, :ASKED].sum(1) ** (w - 1)]
        assert len(accepted) >= n, "rejection kept too few"
        return accepted[:n]

    def sharpened(self, w: float, n: int, seed: int) -> Tensor:
        """p(x | c)^w / p_weak(x | c)^(w-1), from a proposal that has its width, n of 20 n by their weights."""
        width = VARIANCE / (w - (w - 1) / BROADER)
        near, rng = ExactMixture(PROCESS, WEIGHTS[:ASKED], self.asked.means, [width] * ASKED), Streams.of(seed, 20 * n)
        x = near.sample(rng)
        weight = (w * self.asked.log_prob(x) - (w - 1) * self.weak.log_prob(x) - near.log_prob(x)).softmax(0)
        assert 1 / float(weight.square().sum()) > 4 * n, "the proposal is too far from the target"
        return x[torch.multinomial(weight, n, generator=torch.Generator().manual_seed(seed))]

    @property
    def merged(self) -> ExactMixture:
        """The asked class under averaged attention."""
        middle = (WEIGHTS[:ASKED] / WEIGHTS[:ASKED].sum()) @ self.asked.means
        return ExactMixture(PROCESS, [1.0], middle[None], [VARIANCE])

    def pushed(self, w: float, n: int, seed: int) -> Tensor:
        """p(x | c)^w / N(middle)^(w-1), from components that are moved away from the middle as it moves them, by their weights."""
        moved = self.asked.means + (w - 1) * (self.asked.means - self.merged.means)
        heights = self.asked.log_prob(moved) * w - (w - 1) * self.merged.log_prob(moved)
        near, rng = ExactMixture(PROCESS, heights.softmax(0), moved, [VARIANCE] * ASKED), Streams.of(seed, 20 * n)
        x = near.sample(rng)
        weight = (w * self.asked.log_prob(x) - (w - 1) * self.merged.log_prob(x) - near.log_prob(x)).softmax(0)
        assert 1 / float(weight.square().sum()) > 4 * n, "the proposal is too far from the target"
        return x[torch.multinomial(weight, n, generator=torch.Generator().manual_seed(seed))]


class TwoHeads(nn.Module):
    """A network whose heads say what two exact denoisers do."""

    has_middle = True

    def __init__(self, strong: ExactMixture, weak: ExactMixture) -> None:
        super().__init__()
        self.strong, self.weak = strong, weak

    def both(self, x: Tensor, noise_level: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """x brought to unit variance, and log_snr / 4, as `Data(1)` has them."""
        t = PROCESS.schedule.time(4 * noise_level.double())
        x_t = x * torch.hypot(PROCESS.schedule.alpha(t), PROCESS.schedule.sigma(t))[:, None].to(x)
        return mean(self.strong(x_t, t, cond)), mean(self.weak(x_t, t, cond))


Method = Callable[[World, float], Denoise]


def classes(rule: Rule = Linear(), interval: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0) -> Method:
    def method(world: World, w: float) -> Denoise:
        return guided(bind(world.asked, {}), bind(world.whole, {}), w, interval, rescale, rule.start(PROCESS))

    return method


def autoguidance(world: World, w: float) -> Denoise:
    return guided(bind(world.asked, {}), bind(world.weak, {}), w)


def internal(world: World, w: float) -> Denoise:
    return bind(Internal(w).sharpen(NetworkDenoiser(TwoHeads(world.asked, world.weak), PROCESS, Data(1.0))), {})


def averaged_attention(world: World, w: float) -> Denoise:
    return guided(bind(world.asked, {}), bind(world.merged, {}), w)


def threshold(world: World, w: float) -> Denoise:
    bound = float(world.whole.sample(Streams.of(9, 2000)).abs().flatten().quantile(0.999))
    return thresholded(classes()(world, w), 0.995, bound)


METHODS: dict[str, Method] = {
    "classifier-free": classes(),
    "  in times 0.3 - 0.8": classes(interval=(0.3, 0.8)),
    "  rescale 0.7": classes(rescale=0.7),
    "  threshold 0.995": threshold,
    "APG, orthogonal part": classes(Projected()),
    "APG, momentum -0.5": classes(Projected(1.0, -0.5)),
    "APG, norm 0.06": classes(Projected(1.0, 0.0, 0.06)),
    "APG, all three": classes(Projected(0.0, -0.5, 0.06)),
    "CFG-Zero*": classes(ZeroStar()),
    "CFG-Zero*, init 0.04": classes(ZeroStar(0.04)),
}
SHARPENING: dict[str, Method] = {"autoguidance": autoguidance, "internal": internal}
PUSHING: dict[str, Method] = {"averaged attention": averaged_attention}


def draws(denoise: Denoise, shape: tuple[int, ...], n: int) -> Tensor:
    rng = Streams.of(1, n)
    x = sample(denoise, PROCESS, PROCESS.prior(shape, rng), LogSNR().times(STEPS, PROCESS), DPMpp(2), rng)
    assert isinstance(x, Tensor)
    return x


def line(name: str, world: World, x: Tensor, target: Tensor, plain: Tensor) -> str:
    """One row of the table: x against the target's and the condition's exact draws."""
    x, target = x.double(), target.double()

    def shares(of: Tensor) -> Tensor:
        return world.components(of)[:, :ASKED].argmax(1).bincount(minlength=ASKED) / len(of)

    def within(of: Tensor) -> float:
        """About the mean of what lies nearest to each component: guidance moves modes, the law it names does too."""
        near = world.components(of)[:, :ASKED].argmax(1)
        inside = [(some - some.mean(0)) @ world.axes for some in (of[near == i] for i in near.unique())]
        return float(torch.cat(inside).square().mean().sqrt())

    shift = float((x.mean(0) - target.mean(0)).norm() / target.var(0).sum().sqrt())
    asked = float((world.components(x).argmax(1) < ASKED).double().mean())
    modes = float((shares(x) - shares(target)).abs().sum() / 2)
    beside = x - (x @ world.axes) @ world.axes.T
    off = float(beside.square().sum(1).mean().sqrt()) / math.sqrt(VARIANCE * max(1, x.shape[1] - 2))
    energy = [1000 * Energy()(x, y.double()) for y in (target, plain)]
    figures = f"{shift:7.3f} {within(x) / within(target):7.2f} {asked:7.3f} {modes:7.3f}"
    return f"{name:24}{figures} " + (f"{off:7.2f}" if x.shape[1] > 2 else f"{'':7}") + f" {energy[0]:9.1f} {energy[1]:9.1f}"


def table(dims: int, scales: list[float], n: int, only: str) -> None:
    world = World.of(dims)
    plain = world.asked.sample(Streams.of(20, n))
    print(f"\n{dims} dimensions, {n} draws, DPM-Solver++ 2M in {STEPS} steps")
    print(f"{'':24}{'shift':>7} {'width':>7} {'asked':>7} {'modes':>7} {'off':>7} {'E to p_w':>9} {'to p(x|c)':>9}")
    print(line("w 1: real against real", world, world.asked.sample(Streams.of(21, n)), plain, plain))
    print(line("w 1: sampled", world, draws(bind(world.asked, {}), (dims,), n), plain, plain), flush=True)
    for w in scales:
        for methods, law in ((METHODS, world.tilted), (SHARPENING, world.sharpened), (PUSHING, world.pushed)):
            methods = {name: method for name, method in methods.items() if only in name}
            if not methods:
                continue
            target = law(w, n, 22)
            print(line(f"w {w:g}: real against real", world, law(w, n, 23), target, plain))
            for name, method in methods.items():
                print(line(f"  {name}", world, draws(method(world, w), (dims,), n), target, plain), flush=True)


PATCHES, SHARED, APART = 16, 1.0, 0.2
"""How many, the variance of what they share, and of each about it."""
TOGETHER = PATCHES * SHARED + APART
"""The variance along the direction in which all are equal: the patches' mean has a PATCHES-th of it."""


class Patches(nn.Module):
    """The exact denoiser of patches: its self-attention, whose queries say nothing, gives each the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([SelfAttending()])

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (n, patches, 2) brought to unit variance, and log_snr / 4, as `Data(1)` has them. Wiener's filter of each part."""
        t = PROCESS.schedule.time(4 * noise_level.double())
        alpha, sigma = (a[:, None, None] for a in (PROCESS.schedule.alpha(t), PROCESS.schedule.sigma(t)))
        x_t = x.double() * torch.hypot(alpha, sigma)
        silent = torch.zeros_like(x_t)[:, None]
        block = self.blocks[0]
        assert isinstance(block, SelfAttending)
        mean = block.attend(silent, silent, x_t[:, None])[:, 0]
        together, apart = (alpha * v / (alpha**2 * v + sigma**2) for v in (TOGETHER, APART))
        return (apart * x_t + (together - apart) * mean).to(x)


def patches(scales: list[float], n: int, only: str) -> None:
    """Away from each patch by itself: exact draws are of normal laws along the patches' mean and across it."""

    def law(apart: float, seed: int) -> Tensor:
        z = Streams.of(seed, n).normal("patches", (PATCHES, 2)).double()
        middle = z.mean(1, keepdim=True)
        return math.sqrt(apart) * (z - middle) + math.sqrt(TOGETHER) * middle

    print(f"\n{PATCHES} patches, {n} draws\n{'':24}{'shared':>7} {'apart':>15} {'E to law':>9} {'to p(x)':>9}")
    plain, network = law(APART, 20), NetworkDenoiser(Patches(), PROCESS, Data(1.0))
    for w in (1.0, *scales):
        width = 1 / (w / APART - (w - 1) / TOGETHER)
        target = law(width, 22)
        ways: dict[str, SelfGuidance] = {"perturbed attention": PerturbedAttention(w), "smoothed attention": SmoothedAttention(w)}
        made = {f"w {w:g}: real against real": law(width, 23)}
        made |= {f"  {k}": draws(bind(how.sharpen(network), {}), (PATCHES, 2), n).double() for k, how in ways.items() if only in k}
        for name, x in made.items():
            middle = x.mean(1, keepdim=True)
            shared, apart = float(middle.square().mean()), float((x - middle).square().mean()) * PATCHES / (PATCHES - 1)
            told = (
                f"{math.sqrt(shared * PATCHES / TOGETHER):7.2f} {math.sqrt(apart / width):7.2f} ({math.sqrt(apart / APART):4.2f})"
            )
            energy = [1000 * Energy()(x.flatten(1), y.flatten(1)) for y in (target, plain)]
            print(f"{name:24}{told} {energy[0]:9.1f} {energy[1]:9.1f}", flush=True)


class MixedPatches(nn.Module):
    """The exact denoiser of patches about one of the centres, the same for all: attention gives each the mean evidence of all."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([SelfAttending()])

    def forward(self, x: Tensor, noise_level: Tensor, cond: Cond) -> Tensor:
        """x (n, patches, 2) and log_snr / 4, as `Patches`."""
        t = PROCESS.schedule.time(4 * noise_level.double())
        alpha, sigma = (a[:, None, None] for a in (PROCESS.schedule.alpha(t), PROCESS.schedule.sigma(t)))
        x_t = x.double() * torch.hypot(alpha, sigma)
        width = alpha**2 * VARIANCE + sigma**2
        apart = x_t[:, :, None] - (alpha * CENTRES)[:, None]  # (n, patches, components, 2)
        evidence = -apart.square().sum(-1) / (2 * width)
        block, silent = self.blocks[0], torch.zeros_like(evidence)[:, None]
        assert isinstance(block, SelfAttending)
        shares = (WEIGHTS.log() + PATCHES * block.attend(silent, silent, evidence[:, None])[:, 0]).softmax(-1)
        each = CENTRES + (alpha * VARIANCE / width)[..., None] * apart
        return (shares[..., None] * each).sum(2).to(x)


def mixed(scales: list[float], n: int) -> None:
    """Perturbed attention on patches that share a component, against exact draws."""

    def truth(seed: int) -> Tensor:
        rng = Streams.of(seed, n)
        which = torch.searchsorted(WEIGHTS.cumsum(0), rng.uniform("which", dtype=torch.float64)).clamp(max=len(WEIGHTS) - 1)
        return CENTRES[which][:, None] + math.sqrt(VARIANCE) * rng.normal("patches", (PATCHES, 2)).double()

    print(f"\n{PATCHES} patches of a mixture, {n} draws\n{'':24}{'apart':>7} {'alone':>7} {'modes':>7} {'E to p(x)':>10}")
    target, network = truth(22), NetworkDenoiser(MixedPatches(), PROCESS, Data(1.0))
    made = {"real against real": truth(23)}
    for w in (1.0, *scales):
        denoise = bind(PerturbedAttention(w).sharpen(network), {})
        made[f"perturbed attention, w {w:g}"] = draws(denoise, (PATCHES, 2), n).double()
    for name, x in made.items():
        nearest = torch.cdist(x, CENTRES.expand(n, -1, -1)).argmin(-1)
        agreed = nearest.mode(1).values
        alone = nearest != agreed[:, None]
        apart = (x - CENTRES[agreed][:, None])[~alone].square().mean().sqrt() / math.sqrt(VARIANCE)
        modes = (torch.bincount(agreed, minlength=len(WEIGHTS)) / n - WEIGHTS).abs().sum() / 2
        energy = 1000 * Energy()(x.flatten(1), target.flatten(1))
        print(f"{name:26}{apart:5.2f} {alone.double().mean():7.4f} {modes:7.3f} {energy:10.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--scales", type=float, nargs="*", default=[1.5, 3.0, 7.0])
    parser.add_argument("--only", default="", help="methods whose name has this in it")
    arguments = parser.parse_args()
    with torch.no_grad():
        for dims in (2, 64):
            table(dims, arguments.scales, arguments.draws, arguments.only)
        patches(arguments.scales, arguments.draws, arguments.only)
        if arguments.only in "perturbed attention":
            mixed(arguments.scales, arguments.draws)
