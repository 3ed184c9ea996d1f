"""scheduler_config.json of the diffusers library -> process, preconditioner, and sampling that makes their default picture.

Their convention: timesteps 0 ... T - 1, the most noise at T - 1. Ours: timestep k of a discrete schedule stands at
t = (k + 1) / T, and t = 0 is the data, one step before timestep 0; a flow's t is its sigma, and its timestep T t. Their Euler and
its kin walk in x / alpha, ours in x: the same points. What their schedulers do differently from the mathematics, and which of it we
follow, is listed in docs/samplers_beside_diffusers.md.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from unnoise.control.sampling import Sampling
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import Affine, AtLogSigma, AtTimestep, Data, Noise, Preconditioner, V, Velocity
from unnoise.core.processes import Gaussian, Process
from unnoise.core.schedules import EDM, Discrete, DiscreteCosine, DiscreteVP, RectifiedFlow, Schedule, ZeroTerminal
from unnoise.samplers.deis_log import LogDEIS
from unnoise.samplers.grids import Grid, Karras, LogSNR
from unnoise.samplers.loop import Sampler
from unnoise.samplers.registry import find
from unnoise.samplers.timesteps import (
    Angles,
    BetaBetween,
    Between,
    ByTokens,
    Distilled,
    ExponentialBetween,
    FlowBetween,
    FlowSteps,
    KarrasBetween,
    Leading,
    Linspace,
    Trailing,
)
from unnoise.samplers.unipc import UniPC

WHERE = "scheduler_config.json"


class Scheduled(NamedTuple):
    """What a scheduler of theirs is to us. sampling: its default sampler, grid, number of steps and guidance."""

    process: Process
    preconditioner: Preconditioner
    sampling: Sampling


@dataclass(frozen=True)
class Solver:
    """One scheduler class of theirs. sampler: our name for it, given the configuration; spacing: theirs where the file says none.

    spare: 1 if it spaces one more timestep than it visits. whole: it rounds its linspace to whole timesteps.
    unit: it starts from noise of variance 1 whatever the schedule's last; else, "leading" spacing aside, from sigma(1).
    to_data: whether its walk ends at the data rather than at timestep 0, given the configuration.
    deaf_to: settings that another class may have left in its file, and that it does not heed.
    """

    sampler: Callable[[Mapping[str, Any]], str | Sampler]
    spacing: str
    spare: int = 0
    whole: bool = True
    unit: bool = True
    to_data: Callable[[Mapping[str, Any]], bool] = lambda config: True
    deaf_to: frozenset[str] = frozenset()


def read_scheduler(config: Mapping[str, Any], pipeline: str = "") -> Scheduled:
    """What `config`, the content of a scheduler_config.json, means; pipeline: their class that runs it, for steps and guidance.

    Raises InputError for schedulers, beta schedules and settings that are unknown or not supported, naming them.
    """
    kind = str(config.get("_class_name", "none")).replace("ParallelScheduler", "Scheduler")  # which walk alike
    config = {**config, "_class_name": kind}
    if kind in UNRUN:
        flow = config.get("prediction_type") == "flow_prediction"
        usual = "FlowMatchEulerDiscreteScheduler" if flow else "EulerDiscreteScheduler"
        raise InputError(f"{WHERE}: a {kind} is not run here; {usual} in its place (_class_name) walks the same noise otherwise")
    find(f"scheduler in {WHERE}", kind, {**SOLVERS, **FLOWS, **OF_SIGMA, "SCMScheduler": None})
    if kind in SOLVERS:
        config = {name: value for name, value in config.items() if name not in SOLVERS[kind].deaf_to}
    for name, usual in REFUSED.items():
        if config.get(name, usual) not in (usual, None) and not (kind in OF_SIGMA and name in ("sigma_min", "sigma_max")):
            raise InputError(f"{WHERE}: {name} {config[name]!r} of a {kind} is not supported; {usual!r} is")
    if kind == "SCMScheduler":
        return _by_angle(config, pipeline)
    if kind in OF_SIGMA:
        return _by_sigma(kind, config, pipeline)
    if kind in FLOWS or config.get("use_flow_sigmas"):
        return _flow(kind, config, pipeline)
    return _discrete(kind, SOLVERS[kind], config, pipeline)


UNRUN = frozenset(
    f"{name}Scheduler"
    for name in (
        "Amused", "CMStochasticIterative", "CogVideoXDDIM", "CogVideoXDPM", "CosineDPMSolverMultistep", "DDIMInverse",
        "DDPMWuerstchen", "DPMSolverMultistepInverse", "IPNDM", "KarrasVe", "LTXEulerAncestralRF", "RePaint", "SASolver",
        "ScoreSdeVe", "UnCLIP", "VQDiffusion",
    )
)  # fmt: skip
"""Classes of diffusers that there is nothing like here."""

TRAINED = 1000
"""Timesteps: the networks here are told t as 1000 t, so that of another number of them they would be told others than theirs."""

REFUSED: Mapping[str, Any] = MappingProxyType(
    {
        "num_train_timesteps": TRAINED,
        "use_lu_lambdas": False,
        "interpolation_type": "linear",
        "timestep_type": "discrete",
        "euler_at_final": False,
        "predict_x0": True,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
        "invert_sigmas": False,
        "time_shift_type": "exponential",
        "lambda_min_clipped": -math.inf,
        "clip_sample_range": 1.0,
        "disable_corrector": [],
        "solver_p": None,
        "timestep_scaling": 10.0,
        "scale_factors": None,
    }
)
"""Settings that change the walk, and the one value of each that is supported."""


# -- discrete schedules ----------------------------------------------------------------------------------------------------------


def _discrete(kind: str, solver: Solver, config: Mapping[str, Any], pipeline: str) -> Scheduled:
    schedule, target = _schedule(config), _target(config)
    grid = _grid(kind, solver, config)
    unit = solver.unit or config.get("timestep_spacing", solver.spacing) == "leading"
    process = Gaussian(schedule, signal_std=1.0 if unit else 0.0)
    preconditioner = AtTimestep(target, first=1 / TRAINED)
    preconditioner.check(process)
    return Scheduled(process, preconditioner, _sampling(solver.sampler(config), grid, config, pipeline))


def _schedule(config: Mapping[str, Any]) -> Schedule:
    """The betas that the network was trained with."""
    if config.get("trained_betas") is not None:
        raise InputError(f"{WHERE}: trained_betas lists betas one by one; only schedules with a name are supported")
    # where the file says nothing, some classes take Stable Diffusion's betas, not all of them spaced as it spaces them
    kind = config.get("_class_name")
    latent = kind in ("LCMScheduler", "TCDScheduler")
    narrow = latent or str(kind).startswith(("HeunDiscrete", "KDPM2", "DPMSolverSDE"))
    first = float(config.get("beta_start", 0.00085 if narrow else 0.0001))
    last = float(config.get("beta_end", 0.012 if narrow else 0.02))
    named: Mapping[str, Discrete] = {
        "linear": DiscreteVP(TRAINED, first, last),
        "scaled_linear": DiscreteVP(TRAINED, first, last, power=2.0),
        "squaredcos_cap_v2": DiscreteCosine(TRAINED),
    }
    name = str(config.get("beta_schedule", "scaled_linear" if latent else "linear"))
    schedule = find(f"beta_schedule in {WHERE}", name, named)
    return ZeroTerminal(schedule) if config.get("rescale_betas_zero_snr") else schedule


def _target(config: Mapping[str, Any]) -> Affine:
    """What the network predicts of unit-variance data."""
    named: Mapping[str, Affine] = {
        "epsilon": Noise(data_std=1.0),
        "v_prediction": V(data_std=1.0),
        "sample": Data(data_std=1.0),
        "flow_prediction": Velocity(data_std=1.0),
    }
    return find(f"prediction_type in {WHERE}", str(config.get("prediction_type", "epsilon")), named)


def _grid(kind: str, solver: Solver, config: Mapping[str, Any]) -> Grid:
    """The times of theirs."""
    end = 0 if solver.to_data(config) else 1
    if kind in ("LCMScheduler", "TCDScheduler"):
        return Distilled(int(config.get("original_inference_steps", 50)), end, TRAINED)
    curve = next((c for name, c in CURVES.items() if config.get(f"use_{name}_sigmas")), None)
    spare = solver.spare if curve is None else 0
    offset = int(config.get("steps_offset", 0))
    spacings: Mapping[str, Grid] = {
        "leading": Leading(offset, spare, end, TRAINED),
        "trailing": Trailing(end, TRAINED),
        "linspace": Linspace(spare, solver.whole, end, TRAINED),
    }
    grid = find(f"timestep_spacing in {WHERE}", str(config.get("timestep_spacing", solver.spacing)), spacings)
    if curve is None:
        return grid
    return curve(Linspace(0, True, end, TRAINED) if solver.spare else grid)  # those that spare one respace all timesteps


CURVES: Mapping[str, Callable[[Grid], Between]] = MappingProxyType(
    {"karras": KarrasBetween, "exponential": ExponentialBetween, "beta": BetaBetween}
)


def _named(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda config: name


def _algorithm(config: Mapping[str, Any]) -> tuple[str, int]:
    """The kind and order of a DPM-Solver; "deis" in its file is what DEIS left there."""
    for name, odd in (("solver_type", "heun"), ("variance_type", "learned"), ("variance_type", "learned_range")):
        if config.get(name) == odd:
            raise InputError(f"{WHERE}: DPM-Solver's {name} {odd!r} is not supported")
    kind = str(config.get("algorithm_type", "dpmsolver++"))
    return "dpmsolver++" if kind == "deis" else kind, int(config.get("solver_order", 2))


def _dpm(config: Mapping[str, Any]) -> str:
    kind, order = _algorithm(config)
    known = {
        ("dpmsolver++", 1): "euler",
        ("dpmsolver++", 2): "dpmpp-2m",
        ("dpmsolver++", 3): "dpmpp-3m",
        ("sde-dpmsolver++", 1): "ancestral",
        ("sde-dpmsolver++", 2): "dpmpp-2m-sde",
        ("sde-dpmsolver++", 3): "dpmpp-3m-sde",
    }
    if (kind, order) not in known:
        raise InputError(f"{WHERE}: algorithm_type {kind!r} of order {order} is not supported; dpmsolver++ and sde-dpmsolver++ are")
    return known[kind, order]


def _dpm_singlestep(config: Mapping[str, Any]) -> str:
    kind, order = _algorithm(config)
    if (kind, order) != ("dpmsolver++", 2):
        raise InputError(f"{WHERE}: singlestep {kind!r} of order {order} is not supported; dpmsolver++ of order 2 is")
    return "dpmpp-2s"


def _unipc(config: Mapping[str, Any]) -> str | Sampler:
    """Their solver_order counts the predictor's; ours is that of the whole, one more."""
    # their B_1 = h is infinite in a step to the data, and they make NaN of it: the weights solved for need no B
    shortcut = config.get("solver_type", "bh2") != "bh1"
    usual = "unipc-bh2" if shortcut else "unipc"
    return _of_order("UniPC", config, {1: UniPC(order=2, shortcut=shortcut), 2: usual, 3: UniPC(order=4, shortcut=shortcut)})


def _deis(config: Mapping[str, Any]) -> str | Sampler:
    return _of_order("DEIS", config, {1: "euler", 2: "deis-log", 3: LogDEIS(order=3)})


def _of_order(who: str, config: Mapping[str, Any], known: Mapping[int, str | Sampler]) -> str | Sampler:
    order = config.get("solver_order", 2)
    if order not in known:
        raise InputError(f"{WHERE}: solver_order {order!r} of {who} is not supported; {', '.join(map(str, known))} are")
    return known[order]


def _plms(config: Mapping[str, Any]) -> str:
    if not config.get("skip_prk_steps", False):
        raise InputError(f"{WHERE}: PNDM that begins with Runge-Kutta steps is not supported; skip_prk_steps true is")
    return "plms"


def _ddpm(config: Mapping[str, Any]) -> str:
    variance = config.get("variance_type", "fixed_small")
    if variance not in ("fixed_small", "fixed_small_log"):
        raise InputError(f"{WHERE}: variance_type {variance!r} is not supported; fixed_small, the posterior's, is")
    return "ddpm"


_CURVED = frozenset(f"use_{name}_sigmas" for name in CURVES)
_STRETCHED = frozenset({"rescale_betas_zero_snr"})
_FLOWS = frozenset({"use_flow_sigmas"})
_SPACED = frozenset({"timestep_spacing"})
_BOUNDED = frozenset({"thresholding"})


def _final_zero(config: Mapping[str, Any]) -> bool:
    return bool(config.get("final_sigmas_type", "zero") == "zero")


def _in_ratios(name: str) -> Solver:
    """A solver after k-diffusion, in sigma / alpha."""
    return Solver(_named(name), "linspace", whole=False, unit=False, deaf_to=_FLOWS | _STRETCHED | _BOUNDED)


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "DDIMScheduler": Solver(
            _named("ddim"), "leading", to_data=lambda config: bool(config.get("set_alpha_to_one", True)), deaf_to=_CURVED | _FLOWS
        ),
        "DDPMScheduler": Solver(_ddpm, "leading", deaf_to=_CURVED | _FLOWS),
        "PNDMScheduler": Solver(
            _plms,
            "leading",
            to_data=lambda config: bool(config.get("set_alpha_to_one", False)),
            deaf_to=_CURVED | _FLOWS | _STRETCHED | _BOUNDED,
        ),
        "EulerDiscreteScheduler": Solver(
            _named("euler"), "linspace", whole=False, unit=False, to_data=_final_zero, deaf_to=_FLOWS | _BOUNDED
        ),
        "EulerAncestralDiscreteScheduler": Solver(
            _named("euler-ancestral"), "linspace", whole=False, unit=False, deaf_to=_CURVED | _FLOWS | _BOUNDED
        ),
        "HeunDiscreteScheduler": _in_ratios("heun"),
        "LMSDiscreteScheduler": _in_ratios("lms"),
        "KDPM2DiscreteScheduler": _in_ratios("dpm-2"),
        "KDPM2AncestralDiscreteScheduler": _in_ratios("dpm-2-ancestral"),
        "DPMSolverSDEScheduler": _in_ratios("dpmpp-sde"),
        "DPMSolverMultistepScheduler": Solver(_dpm, "linspace", spare=1, to_data=_final_zero),
        "DPMSolverSinglestepScheduler": Solver(
            _dpm_singlestep, "linspace", spare=1, to_data=_final_zero, deaf_to=_STRETCHED | _SPACED
        ),
        "UniPCMultistepScheduler": Solver(_unipc, "linspace", spare=1, to_data=_final_zero),
        "DEISMultistepScheduler": Solver(_deis, "linspace", spare=1, to_data=lambda config: False, deaf_to=_STRETCHED),
        "LCMScheduler": Solver(_named("lcm"), "leading", deaf_to=_CURVED | _FLOWS),
        "TCDScheduler": Solver(
            _named("tcd"), "leading", to_data=lambda config: False, deaf_to=_CURVED | _FLOWS | {"timestep_scaling"}
        ),
    }
)
"""By their class names."""


# -- flows -----------------------------------------------------------------------------------------------------------------------


def _flow(kind: str, config: Mapping[str, Any], pipeline: str) -> Scheduled:
    """A rectified flow: its time is sigma, the network is told T sigma and gives the velocity noise - data."""
    matched = kind in FLOWS
    curve = next((c for name, c in CURVES.items() if config.get(f"use_{name}_sigmas")), None)
    if curve and not matched:
        raise InputError(f"{WHERE}: a flow with Karras, exponential or beta sigmas by {kind}; flow matching's own alone do so")
    if kind == "DEISMultistepScheduler":
        raise InputError(f"{WHERE}: a flow sampled by DEIS is not supported; DPM-Solver++, UniPC and flow matching's own are")
    if not matched and not _final_zero(config):
        raise InputError(f"{WHERE}: a flow by {kind} with final_sigmas_type {config['final_sigmas_type']!r}; 'zero' is supported")
    shift = float(config.get("shift" if matched else "flow_shift", 1.0))
    steps = _flow_steps(kind, shift, pipeline, bool(config.get("use_dynamic_shifting")))
    grid: Grid = steps
    if config.get("use_dynamic_shifting"):
        grid = ByTokens(
            replace(steps, shift=1.0),
            float(config.get("base_shift", 0.5)),
            float(config.get("max_shift", 1.15)),
            int(config.get("base_image_seq_len", 256)),
            int(config.get("max_image_seq_len", 4096)),
        )
    if curve and kind != "FlowMatchHeunDiscreteScheduler":  # which does not heed them
        grid = FlowBetween(curve(grid))
    target = Velocity(data_std=1.0) if matched else _target({"prediction_type": "flow_prediction", **config})
    # the solvers that also do flows tell their networks whole timesteps, cut off
    preconditioner = AtTimestep(target, ticks=None if matched else TRAINED)
    sampler = FLOWS[kind](config) if matched else SOLVERS[kind].sampler(config)
    process = Gaussian(RectifiedFlow(), signal_std=1.0)
    preconditioner.check(process)
    return Scheduled(process, preconditioner, _sampling(sampler, grid, config, pipeline))


def _flow_steps(kind: str, shift: float, pipeline: str, dynamic: bool) -> FlowSteps:
    least = 1 / TRAINED
    if kind == "UniPCMultistepScheduler":
        return FlowSteps(shift, 1 - 1e-6, least)  # to them, sigma 1 is no place to start
    if kind not in FLOWS:
        return FlowSteps(shift, 1 - least, 0.0)
    if pipeline.startswith(EVEN_PIPELINES):
        return FlowSteps(shift)
    # their sigma_min is shifted already when it is shifted again with the rest
    return FlowSteps(shift, 1.0, least if dynamic else shift * least / (1 + (shift - 1) * least), spare=0)


def _by_angle(config: Mapping[str, Any], pipeline: str) -> Scheduled:
    """Their TrigFlow for Sana-Sprint is the rectified flow that the network was taught in, in other words: see `Angles`.

    Where their state is cos(a) x0 + sin(a) sigma_data z, ours is that divided by sigma_data (cos(a) + sin(a)), what their pipeline
    tells the network; sigma_data cancels.
    """
    if config.get("prediction_type", "trigflow") != "trigflow":
        raise InputError(f"{WHERE}: prediction_type {config['prediction_type']!r} of a SCMScheduler; 'trigflow' is supported")
    process = Gaussian(RectifiedFlow(), signal_std=1.0)
    return Scheduled(process, AtTimestep(Velocity(data_std=1.0)), _sampling("lcm", Angles(), config, pipeline))


# -- levels of noise ---------------------------------------------------------------------------------------------------------------


def _by_sigma(kind: str, config: Mapping[str, Any], pipeline: str) -> Scheduled:
    """Trained as Karras et al. 2022 (2206.00364) at any level of noise, of which the network is told ln(sigma) / 4."""
    if not _final_zero(config):
        raise InputError(f"{WHERE}: final_sigmas_type {config['final_sigmas_type']!r} of {kind} is not supported; 'zero' is")
    negated = find(
        f"prediction_type in {WHERE}", str(config.get("prediction_type", "epsilon")), {"epsilon": False, "v_prediction": True}
    )
    low, high = float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0))
    if not 0 < low < high < math.inf:
        raise InputError(f"{WHERE}: sigma_min {low} and sigma_max {high}: levels of noise, the least first, are meant")
    curves: Mapping[str, Callable[[], Grid]] = {
        "karras": lambda: Karras(float(config.get("rho", 7.0)), low, high),
        "exponential": lambda: LogSNR(-2 * math.log(high), -2 * math.log(low)),
    }
    grid = find(f"sigma_schedule in {WHERE}", str(config.get("sigma_schedule", "karras")), curves)()
    process = Gaussian(EDM(high), signal_std=1.0)
    preconditioner = AtLogSigma(float(config.get("sigma_data", 0.5)), negated)
    return Scheduled(process, preconditioner, _sampling(OF_SIGMA[kind](config), grid, config, pipeline))


OF_SIGMA: Mapping[str, Callable[[Mapping[str, Any]], str]] = MappingProxyType(
    {"EDMEulerScheduler": _named("euler"), "EDMDPMSolverMultistepScheduler": _dpm}
)

EVEN_PIPELINES = ("Flux",)
"""Pipelines of theirs that give the scheduler u = 1, 1 - 1 / n, ... 1 / n themselves."""

FLOWS: Mapping[str, Callable[[Mapping[str, Any]], str]] = MappingProxyType(
    {
        "FlowMatchEulerDiscreteScheduler": lambda config: "lcm" if config.get("stochastic_sampling") else "euler",
        "FlowMatchHeunDiscreteScheduler": _named("heun-flow"),
        "FlowMatchLCMScheduler": _named("lcm"),
    }
)


# -- how it is sampled -----------------------------------------------------------------------------------------------------------


class Usual(NamedTuple):
    """What a pipeline of theirs takes unless told otherwise."""

    steps: int
    guidance: float


PIPELINES: Mapping[str, Usual] = MappingProxyType(
    {
        "StableDiffusionXLInpaint": Usual(50, 7.5),
        "StableDiffusionXL": Usual(50, 5.0),
        "StableDiffusion3": Usual(28, 7.0),
        "StableDiffusion": Usual(50, 7.5),
        "LatentConsistencyModel": Usual(4, 1.0),
        "FluxFill": Usual(50, 30.0),
        "Flux": Usual(28, 3.5),
        "PixArt": Usual(20, 4.5),
        "SanaSprint": Usual(2, 4.5),
        "Sana": Usual(20, 4.5),
    }
)
"""By the beginnings of their class names, the longer before the shorter."""


def _sampling(sampler: str | Sampler, grid: Grid, config: Mapping[str, Any], pipeline: str) -> Sampling:
    usual = next((u for name, u in PIPELINES.items() if pipeline.startswith(name)), Usual(50, 7.5))
    if sampler in ("lcm", "tcd") and isinstance(grid, Distilled):
        usual = Usual(4, 1.0)
    return Sampling(usual.steps, sampler, grid, usual.guidance, threshold=_threshold(config))


CLIPS: Mapping[str, bool] = MappingProxyType(
    {"DDIMScheduler": True, "DDPMScheduler": True, "LCMScheduler": False, "TCDScheduler": False, "HeunDiscreteScheduler": False}
)
"""The classes that heed clip_sample, and whether they clip where the file does not say."""


def _threshold(config: Mapping[str, Any]) -> float | None:
    """The quantile that bounds x0 in pixels; 0 clips. Their thresholds are kept below sample_max_value: of 1, that is clipping."""
    kind = str(config.get("_class_name"))
    if config.get("thresholding"):
        return float(config.get("dynamic_thresholding_ratio", 0.995)) if config.get("sample_max_value", 1.0) > 1 else 0.0
    return 0.0 if kind in CLIPS and config.get("clip_sample", CLIPS[kind]) else None
