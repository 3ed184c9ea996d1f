"""Our configurations in the terms of the diffusers library: what its config.json and scheduler_config.json say. The way back from
`diffusers_names`, `vae_names` and `scheduler`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unnoise.checkpoints.foreign.scheduler import read_scheduler
from unnoise.control.sampling import Sampling
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import AtTimestep, Data, Noise, Preconditioner, V
from unnoise.core.processes import Gaussian, Process
from unnoise.core.schedules import DiscreteCosine, DiscreteVP, RectifiedFlow, ZeroTerminal
from unnoise.networks.flux import FluxConfig
from unnoise.networks.kl_autoencoder import KLAutoencoderConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.samplers.grids import Grid
from unnoise.samplers.timesteps import ByTokens, FlowSteps, KarrasBetween, Leading, Linspace, Trailing


def unet_theirs(ours: SDUNetConfig, side: tuple[int, int], harmonics: int) -> dict[str, Any]:
    """config.json of a UNet2DConditionModel. side: of the states; harmonics: a number that is told beside the words.

    InputError for a last level whose transformers have another depth than the middle: theirs has one number for both.
    """
    if ours.depths[-1] not in (0, ours.middle):
        raise InputError(f"a U-Net with depths {ours.depths} and {ours.middle} in the middle: diffusers has no way to say so")
    attending = [depth > 0 for depth in ours.depths]
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
        "transformer_layers_per_block": [*(max(1, depth) for depth in ours.depths[:-1]), ours.middle],
        "attention_head_dim": list(ours.heads),  # named wrongly there
        "cross_attention_dim": ours.token_dim,
        "norm_num_groups": ours.groups,
        "use_linear_projection": True,
        **(told if ours.vector_dim else {}),
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


def kl_theirs(ours: KLAutoencoderConfig, mean: Tensor, std: Tensor, side: int, shifted: bool) -> dict[str, Any]:
    """config.json of an AutoencoderKL, with the scale and shift of the codes, which have to be those of all channels.

    shifted: whether the pipeline reads a shift. InputError for statistics that it cannot say.
    """
    if float(mean.max() - mean.min()) > 1e-6 or float(std.max() / std.min()) > 1 + 1e-6 or (not shifted and bool(mean.any())):
        what = "one scale and shift of the codes" if shifted else "one scale of the codes, and no shift"
        raise InputError(f"the codec's mean and deviation differ from channel to channel: pipelines of diffusers know {what}")
    levels = len(ours.widths)
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": side,
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
        "scaling_factor": 1 / float(std[0]),
        **({"shift_factor": float(mean[0])} if shifted else {}),
    }


def scheduler_theirs(process: Process, preconditioner: Preconditioner, sampling: Sampling, pipeline: str) -> dict[str, Any]:
    """scheduler_config.json that is read as these again (see `read_scheduler`). InputError where there is none."""
    schedule = process.schedule if isinstance(process, Gaussian) else None
    if isinstance(schedule, RectifiedFlow):
        config = _flow(sampling.choice().grid)
    elif isinstance(schedule, DiscreteVP | DiscreteCosine | ZeroTerminal) and isinstance(preconditioner, AtTimestep):
        config = {**_betas(schedule), **_predicted(preconditioner), **_walked(sampling)}
    else:
        raise InputError(f"{process} with {preconditioner}: no scheduler of diffusers is trained so; {KNOWN}")
    read = read_scheduler(config, pipeline)
    same = read.process == process and read.preconditioner == preconditioner
    if not same or read.sampling.choice() != sampling.choice():
        raise InputError(
            f"{process}, {preconditioner}, sampled by {sampling.choice()}: no scheduler of diffusers says this; {KNOWN}"
        )
    return config


KNOWN = "models that were read from its layout, and trained on here, can be written"


def _betas(schedule: DiscreteVP | DiscreteCosine | ZeroTerminal) -> dict[str, Any]:
    if isinstance(schedule, ZeroTerminal):
        inner = schedule.discrete
        if not isinstance(inner, DiscreteVP | DiscreteCosine):
            raise InputError(f"{schedule}: no scheduler of diffusers has it; {KNOWN}")
        return {**_betas(inner), "rescale_betas_zero_snr": True}
    if isinstance(schedule, DiscreteCosine):
        return {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": schedule.steps}
    name = "scaled_linear" if schedule.power == 2 else "linear"
    ends = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    return {"beta_schedule": name, "num_train_timesteps": schedule.steps, **ends}


def _predicted(preconditioner: AtTimestep) -> dict[str, Any]:
    names = {Noise: "epsilon", V: "v_prediction", Data: "sample"}
    return {"prediction_type": names.get(type(preconditioner.target), "?")}


CLASSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp-2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpmpp-3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp-2m-sde": ("DPMSolverMultistepScheduler", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
}
"""Our samplers -> their classes, and what must be said beside."""


def _walked(sampling: Sampling) -> dict[str, Any]:
    """The class, and the spacing of its timesteps."""
    name, more = CLASSES.get(str(sampling.sampler), ("?", {}))
    grid = sampling.grid
    if isinstance(grid, KarrasBetween):
        more, grid = {**more, "use_karras_sigmas": True}, grid.ends
    if isinstance(grid, Leading):
        more = {**more, "timestep_spacing": "leading", "steps_offset": grid.offset}
    elif isinstance(grid, Trailing | Linspace):
        more = {**more, "timestep_spacing": type(grid).__name__.lower()}
    if name == "?" or not isinstance(grid, Leading | Trailing | Linspace):
        raise InputError(f"{sampling.sampler} on {grid}: no scheduler of diffusers; {KNOWN}")
    ends = {"set_alpha_to_one": grid.end == 0} if name in ("DDIMScheduler", "PNDMScheduler") else {}
    return {"_class_name": name, **more, **ends}


def _flow(grid: Grid) -> dict[str, Any]:
    config: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    if isinstance(grid, ByTokens):
        line = {"base_shift": grid.least, "max_shift": grid.most}
        return {
            **config, **line, "use_dynamic_shifting": True, "base_image_seq_len": grid.fewest, "max_image_seq_len": grid.many,
        }  # fmt: skip
    return {**config, "shift": grid.shift if isinstance(grid, FlowSteps) else 1.0}
