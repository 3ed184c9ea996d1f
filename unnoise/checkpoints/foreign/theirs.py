"""Our configurations in the terms of the diffusers library: what its config.json and scheduler_config.json say. The way back from
`diffusers_names`, `vae_names` and `scheduler`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor

from unnoise.checkpoints.diffusers_names import Table
from unnoise.checkpoints.foreign.scheduler import CURVES, TRAINED, Scheduled, read_scheduler
from unnoise.checkpoints.foreign.vae_names import DC_TABLE, KL_TABLE, TINY_TABLE
from unnoise.control.sampling import Sampling
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import AtLogSigma, AtTimestep, Data, Noise, Preconditioner, V
from unnoise.core.processes import Gaussian, Process
from unnoise.core.schedules import EDM, DiscreteCosine, DiscreteVP, RectifiedFlow, ZeroTerminal
from unnoise.modalities.image.latents import Latents
from unnoise.networks.dc_autoencoder import DCAutoencoderConfig
from unnoise.networks.flux import FluxConfig
from unnoise.networks.kl_autoencoder import KLAutoencoderConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.tiny_autoencoder import TinyAutoencoderConfig
from unnoise.samplers.grids import Grid, Karras, LogSNR
from unnoise.samplers.timesteps import Angles, Between, ByTokens, Distilled, FlowBetween, FlowSteps, Leading, Linspace, Trailing


def unet_theirs(ours: SDUNetConfig, side: tuple[int, int], harmonics: int) -> dict[str, Any]:
    """config.json of a UNet2DConditionModel. side: of the states; harmonics: a number that is told beside the words.

    InputError for a last level whose transformers have another depth than the middle's: theirs has one number for both.
    """
    last = ours.depths[-1] or ours.middle or 1
    if ours.middle and ours.middle != (last if isinstance(last, int) else last[0]):
        raise InputError(f"a U-Net with depths {ours.depths} and {ours.middle} in the middle: diffusers has no way to say so")
    attending, middle = [depth != 0 for depth in ours.depths], "UNetMidBlock2DCrossAttn" if ours.middle else "UNetMidBlock2D"
    upwards = None if ours.up_depths is None else [d if isinstance(d, int) else list(d) for d in reversed(ours.up_depths)]
    told = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": harmonics,
        "projection_class_embeddings_input_dim": ours.vector_dim,
    }
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": side[0] if side[0] == side[1] else list(side),
        "in_channels": ours.channels + ours.picture_channels,
        "out_channels": ours.channels,
        "block_out_channels": list(ours.widths),
        "layers_per_block": ours.blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attending],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attending)],
        "mid_block_type": None if ours.middle is None else middle,
        "transformer_layers_per_block": [d if isinstance(d, int) else list(d) for d in (*(d or 1 for d in ours.depths[:-1]), last)],
        **({} if upwards is None else {"reverse_transformer_layers_per_block": [d or 1 for d in upwards]}),
        "attention_head_dim": list(ours.heads),  # named wrongly there
        "cross_attention_dim": ours.token_dim,
        "norm_num_groups": ours.groups,
        "use_linear_projection": len(set(ours.heads)) > 1,  # Stable Diffusion 1, alone, has convolutions there
        **(told if ours.vector_dim else {}),
        **({"time_cond_proj_dim": ours.guidance_dim} if ours.guidance_dim else {}),
        **({"upcast_attention": True} if ours.upcast_attention else {}),
    }


def sd3_theirs(ours: SD3Config) -> dict[str, Any]:
    """config.json of an SD3Transformer2DModel."""
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": ours.unit * ours.patch,
        "patch_size": ours.patch,
        "in_channels": ours.channels + ours.picture_channels,
        "out_channels": ours.channels,
        "num_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "attention_head_dim": ours.width // ours.heads,
        "caption_projection_dim": ours.width,
        "joint_attention_dim": ours.token_dim,
        "pooled_projection_dim": ours.vector_dim,
        "pos_embed_max_size": ours.positions,
        "dual_attention_layers": list(ours.dual),
        "qk_norm": "rms_norm" if ours.norm_qk else None,
    }


def flux_theirs(ours: FluxConfig) -> dict[str, Any]:
    """config.json of a FluxTransformer2DModel, whose pictures have been cut into patches of 2 x 2 already."""
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": 4 * (ours.channels + ours.picture_channels),
        "out_channels": 4 * ours.channels,
        "num_layers": ours.joint,
        "num_single_layers": ours.single,
        "num_attention_heads": ours.heads,
        "attention_head_dim": ours.width // ours.heads,
        "joint_attention_dim": ours.token_dim,
        "pooled_projection_dim": ours.vector_dim,
        "guidance_embeds": ours.guidance,
        "axes_dims_rope": list(ours.axes),
    }


Statistics = Literal["scale", "shift", "channels"]
"""What a pipeline reads of its codes: one scale, a shift beside it, or the mean and deviation of every channel."""


def autoencoder_theirs(codec: Latents, statistics: Statistics) -> tuple[dict[str, Any], Table]:
    """config.json of their autoencoder, with the statistics of its codes, and the names of its tensors.

    InputError for one that is none of theirs, and for statistics that the pipeline does not read.
    """
    ours, side = codec.config.autoencoder, max(codec.config.height, codec.config.width)
    scaled = _scaled(codec.mean, codec.std, statistics)
    if isinstance(ours, KLAutoencoderConfig):
        return {**_kl(ours), "sample_size": side, **scaled}, KL_TABLE
    if isinstance(ours, DCAutoencoderConfig):
        return {**_dc(ours), **scaled}, DC_TABLE
    if isinstance(ours, TinyAutoencoderConfig):
        return {**_tiny(ours), **scaled}, TINY_TABLE
    raise InputError(f"a {type(ours).__name__.removesuffix('Config')}: none of diffusers' autoencoders is built so")


def _scaled(mean: Tensor, std: Tensor, statistics: Statistics) -> dict[str, Any]:
    alike = float(mean.max() - mean.min()) <= 1e-6 and float(std.max() / std.min()) <= 1 + 1e-6
    if alike and (statistics == "shift" or not mean.any()):
        return {"scaling_factor": 1 / float(std[0]), **({"shift_factor": float(mean[0])} if statistics == "shift" else {})}
    if statistics == "channels":
        return {"scaling_factor": 1.0, "latents_mean": mean.tolist(), "latents_std": std.tolist()}
    what = "one scale and shift of the codes" if statistics == "shift" else "one scale of the codes, and no shift"
    raise InputError(f"the codec's mean and deviation differ from channel to channel: this pipeline of diffusers knows {what}")


def _kl(ours: KLAutoencoderConfig) -> dict[str, Any]:
    levels = len(ours.widths)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": ours.channels,
        "out_channels": ours.channels,
        "latent_channels": ours.latent_channels,
        "block_out_channels": list(ours.widths),
        "layers_per_block": ours.blocks,
        "norm_num_groups": ours.groups,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "mid_block_add_attention": ours.attention,
        "use_quant_conv": ours.mixed_moments,
        "use_post_quant_conv": ours.mixed_codes,
        "force_upcast": ours.force_upcast,
    }


def _tiny(ours: TinyAutoencoderConfig) -> dict[str, Any]:
    levels = len(ours.encoder)
    return {
        "_class_name": "AutoencoderTiny",
        "in_channels": ours.channels,
        "out_channels": ours.channels,
        "latent_channels": ours.latent_channels,
        "encoder_block_out_channels": [ours.width] * levels,
        "decoder_block_out_channels": [ours.width] * levels,
        "num_encoder_blocks": list(ours.encoder),
        "num_decoder_blocks": list(ours.decoder),
    }


def _dc(ours: DCAutoencoderConfig) -> dict[str, Any]:
    attending = len(ours.widths) - ours.residual
    kinds = ["ResBlock"] * ours.residual + ["EfficientViTBlock"] * attending
    scales: list[list[int]] = [[]] * ours.residual + [list(ours.scales)] * attending
    return {
        "_class_name": "AutoencoderDC",
        "in_channels": ours.channels,
        "latent_channels": ours.latent_channels,
        "attention_head_dim": ours.head_dim,
        **{f"{half}_block_types": kinds for half in ("encoder", "decoder")},
        **{f"{half}_block_out_channels": list(ours.widths) for half in ("encoder", "decoder")},
        **{f"{half}_qkv_multiscales": scales for half in ("encoder", "decoder")},
        "encoder_layers_per_block": list(ours.encoder),
        "decoder_layers_per_block": list(ours.decoder),
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
    }


def scheduler_theirs(process: Process, preconditioner: Preconditioner, sampling: Sampling, pipeline: str) -> dict[str, Any]:
    """scheduler_config.json that is read as these again (see `read_scheduler`): of all their classes, the one for which it is.

    Where several walk alike, it is the one that is read as the sampler's own name. InputError where there is none.
    """
    wanted, choice = (process, preconditioner), sampling.choice()
    read = [(config, found) for config in _candidates(*wanted, choice.grid) if (found := _read(config, pipeline))]
    alike = [(config, found) for config, found in read if found.sampling.choice().sampler == choice.sampler]
    exact = [(c, f) for c, f in alike if (f.process, f.preconditioner) == wanted and f.sampling.choice() == choice]
    named = sampling.sampler if isinstance(sampling.sampler, str) else choice.sampler
    if not alike:
        raise InputError(f"{named}: no scheduler of diffusers walks so; choose another sampler, as ddim, before writing")
    if not exact:
        raise InputError(f"{process}, {preconditioner}, sampled by {choice}: no scheduler of diffusers says this; {KNOWN}")
    return min(exact, key=lambda pair: pair[1].sampling.sampler != sampling.sampler)[0]


KNOWN = "models that were read from its layout, and trained on here, can be written"

_TRAINED_AS_NOISE: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("DDIMScheduler", {"clip_sample": False}),
    ("DDPMScheduler", {"clip_sample": False}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("EulerDiscreteScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("DPMSolverSDEScheduler", {}),
    *(("DPMSolverMultistepScheduler", {"algorithm_type": kind, "solver_order": order})
      for kind in ("dpmsolver++", "sde-dpmsolver++") for order in (1, 2, 3)),
    ("DPMSolverSinglestepScheduler", {"solver_order": 2}),
    *(("UniPCMultistepScheduler", {"solver_type": kind, "solver_order": order}) for kind in ("bh1", "bh2") for order in (1, 2, 3)),
    *(("DEISMultistepScheduler", {"solver_order": order}) for order in (1, 2, 3)),
    ("LCMScheduler", {"clip_sample": False}),
    ("TCDScheduler", {"clip_sample": False}),
)  # fmt: skip
"""Their classes for discrete schedules, and what must be said beside."""

_TRAINED_AS_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
_FOR_BOTH = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")

_ENDS_BY_ALPHA = ("DDIMScheduler", "PNDMScheduler")
_ENDS_BY_SIGMA = (
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
_SPACED_BY_ITSELF = "DPMSolverSinglestepScheduler"


def _candidates(process: Process, preconditioner: Preconditioner, grid: Grid) -> Iterator[dict[str, Any]]:
    """What any of their classes could say of such a model. InputError for a training that none of them knows."""
    schedule = process.schedule if isinstance(process, Gaussian) else None
    if isinstance(schedule, EDM) and isinstance(preconditioner, AtLogSigma):
        spread = _levels(grid)
        data = {"sigma_data": preconditioner.data_std, "prediction_type": "v_prediction" if preconditioner.negated else "epsilon"}
        yield {"_class_name": "EDMEulerScheduler", **data, **spread}
        for kind in ("dpmsolver++", "sde-dpmsolver++"):
            for order in (1, 2, 3):
                solver = {"algorithm_type": kind, "solver_order": order}
                yield {"_class_name": "EDMDPMSolverMultistepScheduler", **data, **spread, **solver}
        return
    if isinstance(schedule, RectifiedFlow):
        if isinstance(grid, Angles):
            yield {"_class_name": "SCMScheduler", "prediction_type": "trigflow"}
        for kind in _TRAINED_AS_FLOWS:
            yield {"_class_name": kind, "num_train_timesteps": 1000, **_shifted(grid)}
        for kind, told in _TRAINED_AS_NOISE:
            if kind in _FOR_BOTH and isinstance(grid, FlowSteps):
                flow = {"use_flow_sigmas": True, "flow_shift": grid.shift, "prediction_type": "flow_prediction"}
                yield {"_class_name": kind, "num_train_timesteps": 1000, **flow, **told}
    elif isinstance(schedule, DiscreteVP | DiscreteCosine | ZeroTerminal) and isinstance(preconditioner, AtTimestep):
        for kind, told in _TRAINED_AS_NOISE:
            yield {"_class_name": kind, **_betas(schedule), **_predicted(preconditioner), **told, **_spaced(kind, grid)}
    else:
        raise InputError(f"{process} with {preconditioner}: no scheduler of diffusers is trained so; {KNOWN}")


def _levels(grid: Grid) -> dict[str, Any]:
    if isinstance(grid, Karras):
        return {"sigma_schedule": "karras", "rho": grid.rho, "sigma_min": grid.sigma_min, "sigma_max": grid.sigma_max}
    if isinstance(grid, LogSNR):
        low, high = (float(f"{math.exp(-log_snr / 2):.12g}") for log_snr in (grid.high, grid.low))  # as they were written
        return {"sigma_schedule": "exponential", "sigma_min": low, "sigma_max": high}
    return {}


def _read(config: Mapping[str, Any], pipeline: str) -> Scheduled | None:
    """None for what no model can be."""
    try:
        return read_scheduler(config, pipeline)
    except InputError:
        return None


def _betas(schedule: DiscreteVP | DiscreteCosine | ZeroTerminal) -> dict[str, Any]:
    if isinstance(schedule, ZeroTerminal):
        inner = schedule.discrete
        if not isinstance(inner, DiscreteVP | DiscreteCosine):
            raise InputError(f"{schedule}: no scheduler of diffusers has it; {KNOWN}")
        return {**_betas(inner), "rescale_betas_zero_snr": True}
    if schedule.steps != TRAINED:
        raise InputError(f"{schedule}: networks of {TRAINED} timesteps are told the same times by diffusers as here; {KNOWN}")
    if isinstance(schedule, DiscreteCosine):
        return {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": schedule.steps}
    name = "scaled_linear" if schedule.power == 2 else "linear"
    ends = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    return {"beta_schedule": name, "num_train_timesteps": schedule.steps, **ends}


def _predicted(preconditioner: AtTimestep) -> dict[str, Any]:
    names = {Noise: "epsilon", V: "v_prediction", Data: "sample"}
    return {"prediction_type": names.get(type(preconditioner.target), "?")}


def _spaced(kind: str, grid: Grid) -> dict[str, Any]:
    """Of their timesteps: the spacing, the curve of sigmas, where the walk ends."""
    told: dict[str, Any] = _curved(grid)
    inner = grid.ends if isinstance(grid, Between) else grid
    if isinstance(inner, Distilled):
        return {**told, "original_inference_steps": inner.taught}
    if not isinstance(inner, Leading | Trailing | Linspace):
        return told
    if kind != _SPACED_BY_ITSELF:
        told["timestep_spacing"] = type(inner).__name__.lower()
    if isinstance(inner, Leading):
        told["steps_offset"] = inner.offset
    if kind in _ENDS_BY_ALPHA:
        told["set_alpha_to_one"] = inner.end == 0
    if kind in _ENDS_BY_SIGMA:
        told["final_sigmas_type"] = "zero" if inner.end == 0 else "sigma_min"
    return told


def _curved(grid: Grid) -> dict[str, Any]:
    return {f"use_{name}_sigmas": True for name, curve in CURVES.items() if curve is type(grid)}


def _shifted(grid: Grid) -> dict[str, Any]:
    """Of a flow's times."""
    if isinstance(grid, FlowBetween):
        return {**_shifted(grid.curve.ends), **_curved(grid.curve)}
    if isinstance(grid, ByTokens):
        line = {"base_shift": grid.least, "max_shift": grid.most}
        return {**line, "use_dynamic_shifting": True, "base_image_seq_len": grid.fewest, "max_image_seq_len": grid.many}
    return {"shift": grid.shift if isinstance(grid, FlowSteps) else 1.0}
