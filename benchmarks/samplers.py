"""Every sampler with an exact denoiser: order of convergence, law at 64 steps, likelihood. Prints three tables; about five minutes.

python benchmarks/samplers.py [--draws 4000]
"""

import argparse
import sys
from pathlib import Path as File

import torch

sys.path.insert(0, str(File(__file__).parents[1] / "tests" / "samplers"))
from worlds import Path, convergence, draws, energy, energy_spectrum, energy_threshold, mixture, oracle

from unnoise.core.oracles import ExactMixture
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import VE, Cosine, LinearVP, RectifiedFlow
from unnoise.samplers.ancestral import Ancestral
from unnoise.samplers.deis import DEIS
from unnoise.samplers.deis_log import LogDEIS
from unnoise.samplers.dpmpp import DPMpp
from unnoise.samplers.dpmpp_2s import DPMppPairs
from unnoise.samplers.euler import Euler
from unnoise.samplers.heun import Heun
from unnoise.samplers.heun_flow import FlowHeun
from unnoise.samplers.likelihood import Exact, Hutchinson, Likelihood
from unnoise.samplers.lms import LMS
from unnoise.samplers.midpoint import Midpoint
from unnoise.samplers.plms import PLMS
from unnoise.samplers.registry import SAMPLERS
from unnoise.samplers.unipc import UniPC

VARIANCES = [0.05, 0.2, 0.1, 0.15]
DETERMINISTIC = {
    "DDIM": (Ancestral(eta=0), 1),
    "Euler": (Euler(), 1),
    "Heun": (Heun(), 2),
    "DPM-Solver++ 2M": (DPMpp(2), 2),
    "DPM-Solver++ 3M": (DPMpp(3), 3),
    "UniPC-2": (UniPC(2), 2),
    "UniPC-3": (UniPC(3), 3),
    "UniPC-4": (UniPC(4), 4),
    "DEIS-2": (DEIS(2), 2),
    "DEIS-3": (DEIS(3), 3),
    "UniPC-3, a = 1/2": (UniPC(3, shortcut=True), 3),
    "DEIS-2, log-SNR": (LogDEIS(2), 2),
    "DEIS-3, log-SNR": (LogDEIS(3), 3),
    "LMS": (LMS(), 4),
    "PLMS": (PLMS(), 2),
    "DPM-Solver++ 2S": (DPMppPairs(), 2),
    "DPM-Solver-2": (Midpoint(), 2),
    "Heun along a flow": (FlowHeun(), 2),
}


def orders() -> None:
    print("\nOrder of convergence of the ODE from t = 0.8 to 0.3, exact history, 80 / 160 / 320 steps")
    print(f"{'':18} {'declared':>8}  " + "  ".join(f"{w:^36}" for w in ("2-D, linear VP", "64-D, rectified flow")))
    paths = [Path.of(2, LinearVP()), Path.of(64, RectifiedFlow())]
    for name, (sampler, order) in DETERMINISTIC.items():
        cells = []
        for path in paths:
            measured, errors = convergence(path, sampler, (80, 160, 320))
            cells.append(f"{measured:6.2f}  ({' '.join(f'{e:.1e}' for e in errors)})")
        print(f"{name:18} {order:8d}  " + "  ".join(f"{c:^36}" for c in cells), flush=True)


def width(model: ExactMixture, x: torch.Tensor) -> float:
    """The variance about the nearest component's mean over that component's own: 1 for exact draws, but for Monte Carlo error."""
    x = x.double()
    k = ((x[:, None] - model.means).square() / model.variance + model.variance.log()).sum(-1).argmin(1)
    return float(((x - model.means[k]).square() / model.variance[k]).mean())


def laws(n: int) -> None:
    print(f"\nLaw at 64 steps with each sampler's own time grid, {n} draws against {n} exact ones")
    print("energy: the statistic nm/(n+m) E; width: variance within a component, over the truth")
    for dims, schedule in ((2, LinearVP()), (2, VE()), (64, LinearVP()), (64, RectifiedFlow())):
        model = mixture(Gaussian(schedule), dims, VARIANCES)
        exact, other = (model.sample(Streams.of(seed, n)) for seed in (100, 102))
        spectrum = energy_spectrum(exact[:1500])
        print(f"\n{dims}-D mixture, {schedule}")
        print(
            f"  equal laws: mean {float(spectrum.sum()):.2f}, above {energy_threshold(spectrum, 1e-4):.1f} less than once in 10^4"
        )
        print(
            f"  {'real against real':20} {'':>5} calls   energy {energy(other, exact):6.2f}   width {width(model, other):.3f}",
            flush=True,
        )
        for name, (sampler, grid) in SAMPLERS.items():
            x = draws(model, sampler, grid.times(64, model.process), n, seed=7)
            figures = f"energy {energy(x, exact):6.2f}   width {width(model, x):.3f}"
            print(f"  {name:20} {sampler.calls(64):5d} calls   {figures}   {type(grid).__name__}", flush=True)


def likelihoods() -> None:
    print("\nLog-likelihood by the ODE less the truth, nats: the largest of 8 samples (Hutchinson: the mean of 64 probes)")
    for dims, schedule in ((2, LinearVP()), (2, Cosine()), (2, RectifiedFlow()), (64, LinearVP()), (64, RectifiedFlow())):
        model = mixture(Gaussian(schedule), dims, VARIANCES)
        x = model.sample(Streams.of(1, 8)).double()
        line = f"  {dims:2d}-D {type(schedule).__name__:14}"
        for steps in (16, 32, 64):
            got = Likelihood(Exact(), steps)(oracle(model), model.process, x, Streams.of(0, 8))
            line += f"  exact, {steps} steps {float((got - model.log_prob(x)).abs().max()):.1e}"
        got = Likelihood(Hutchinson(64), 32)(oracle(model), model.process, x, Streams.of(0, 8))
        print(line + f"  Hutchinson {float((got - model.log_prob(x)).abs().max()):.1e}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000, help="samples of each kind; a multiple of 50")
    arguments = parser.parse_args()
    orders()
    laws(arguments.draws)
    likelihoods()
