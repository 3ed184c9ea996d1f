"""The samplers by name, each with the time grid that suits it. A new sampler is one file and one line here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from unnoise.core.errors import InputError, nearest
from unnoise.samplers.ancestral import Ancestral
from unnoise.samplers.deis import DEIS
from unnoise.samplers.deis_log import LogDEIS
from unnoise.samplers.dpmpp import DPMpp
from unnoise.samplers.dpmpp_2s import DPMppPairs
from unnoise.samplers.dpmpp_sde import DPMppSDE
from unnoise.samplers.euler import Euler
from unnoise.samplers.euler_maruyama import EulerMaruyama
from unnoise.samplers.grids import Grid, Karras, LogSNR, Quadratic, Shifted, Uniform, Walk
from unnoise.samplers.heun import Heun
from unnoise.samplers.heun_flow import FlowHeun
from unnoise.samplers.lcm import LCM
from unnoise.samplers.lms import LMS
from unnoise.samplers.loop import Sampler
from unnoise.samplers.midpoint import Midpoint
from unnoise.samplers.plms import PLMS
from unnoise.samplers.predictor_corrector import PredictorCorrector
from unnoise.samplers.restart import Restart
from unnoise.samplers.tcd import TCD
from unnoise.samplers.unipc import UniPC

T = TypeVar("T")


class Choice(NamedTuple):
    """A sampler and the times that it walks by default."""

    sampler: Sampler[Any]
    grid: Grid = Uniform()


SAMPLERS: Mapping[str, Choice] = MappingProxyType(
    {
        "ancestral": Choice(Ancestral(eta=1)),
        "ddpm": Choice(Ancestral(eta=1)),
        "ddim": Choice(Ancestral(eta=0)),
        "euler": Choice(Euler(), Karras()),
        "euler-ancestral": Choice(Ancestral(eta=1), Karras()),  # in sigma / alpha, the bridge is k-diffusion's ancestral step
        "heun": Choice(Heun(), Karras()),
        "heun-flow": Choice(FlowHeun()),
        "heun-churn": Choice(Heun(churn=0.2, churn_min=0.05, churn_max=50, churn_noise=1.003), Karras()),
        "dpmpp-2m": Choice(DPMpp(order=2), LogSNR()),
        "dpmpp-3m": Choice(DPMpp(order=3), LogSNR()),
        "dpmpp-2s": Choice(DPMppPairs(), LogSNR()),
        "dpmpp-sde": Choice(DPMppSDE(), LogSNR()),
        "dpmpp-2m-sde": Choice(DPMpp(order=2, eta=1), LogSNR()),
        "dpmpp-3m-sde": Choice(DPMpp(order=3, eta=1), LogSNR()),
        "unipc": Choice(UniPC(order=3), LogSNR()),
        "unipc-2": Choice(UniPC(order=2), LogSNR()),
        "unipc-4": Choice(UniPC(order=4), LogSNR()),
        "unipc-bh2": Choice(UniPC(order=3, shortcut=True), LogSNR()),
        "deis": Choice(DEIS(order=3), Quadratic()),
        "deis-log": Choice(LogDEIS(order=2), LogSNR()),
        "dpm-2": Choice(Midpoint(), Karras()),
        "dpm-2-ancestral": Choice(Midpoint(eta=1), Karras()),
        "lms": Choice(LMS(), Karras()),
        "plms": Choice(PLMS()),
        "lcm": Choice(LCM()),
        "tcd": Choice(TCD()),
        "euler-maruyama": Choice(EulerMaruyama(), LogSNR()),
        "pc": Choice(PredictorCorrector(Ancestral(eta=1)), LogSNR()),
        "restart": Choice(Restart(Heun()), Karras()),
    }
)

WALKS: Mapping[str, Walk] = MappingProxyType(
    {
        "ddim": Walk(ends=None),
        "plms": Walk(ends=None),
        **dict.fromkeys(("dpmpp-2m", "dpmpp-3m", "dpmpp-2s", "dpmpp-2m-sde", "dpmpp-3m-sde"), Walk(spare=1)),
        **dict.fromkeys(("unipc", "unipc-2", "unipc-4", "unipc-bh2"), Walk(spare=1)),
        **dict.fromkeys(("deis", "deis-log"), Walk(spare=1, ends=1)),
        "lcm": Walk(student=True),
        "tcd": Walk(ends=1, student=True),
    }
)
"""Of the samplers whose walk of a model's timesteps is not `Walk()`."""

GRIDS: Mapping[str, Grid] = MappingProxyType(
    {"uniform": Uniform(), "karras": Karras(), "log-snr": LogSNR(), "quadratic": Quadratic(), "shifted": Shifted()}
)


def find_sampler(name: str) -> Choice:
    """The sampler of that name and its grid. Raises InputError, with the nearest names, if there is none."""
    return find("sampler", name, SAMPLERS)


def find_grid(name: str) -> Grid:
    """The time grid of that name. Raises InputError, with the nearest names, if there is none."""
    return find("time grid", name, GRIDS)


def find(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of that name. Raises InputError, with the nearest names, if there is none; `kind` says what they name."""
    if name in table:
        return table[name]
    near = nearest(name, table)
    advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(table)}"
    raise InputError(f"unknown {kind} {name!r}; {advice}")
