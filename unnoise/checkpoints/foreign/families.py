"""The families whose original files are read: what diffusers calls their pipelines, and what files do not say of them.

Schedules and the scale of the latents are those of the published configurations: Stable Diffusion's betas from 0.00085 to 0.012,
linear in their roots, over 1000 times (Rombach et al. 2021); straight flow with time shifted by 3 for SD3 (Esser et al. 2024,
section 5.3.2), and by the picture's size for FLUX.1 dev, not at all for schnell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unnoise.checkpoints.foreign.scheduler import SOLVERS
from unnoise.core.errors import InputError

CLIP_L, CLIP_H, CLIP_G, T5 = "CLIP-L", "CLIP-H", "CLIP-G", "T5"


@dataclass(frozen=True)
class Family:
    """latents: scaling_factor, shift_factor and the like of its autoencoder. encoders: diffusers' name of each text encoder.

    side: of the latents it was trained on. settings: what model_index.json says beside.
    """

    name: str
    pipeline: str
    scheduler: Mapping[str, Any]
    latents: Mapping[str, Any]
    encoders: Mapping[str, str]
    side: int = 128
    settings: Mapping[str, Any] = field(default_factory=dict)


_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
_DDIM = {**_BETAS, "_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False}
_PNDM = {**_BETAS, "_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True}
_EULER = {**_BETAS, "_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "use_karras_sigmas": False}
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
_DEV = {
    **_FLOW,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
_SD = {"scaling_factor": 0.18215}
_XL = {"scaling_factor": 0.13025}
_SD3 = {"scaling_factor": 1.5305, "shift_factor": 0.0609}
_FLUX = {"scaling_factor": 0.3611, "shift_factor": 0.1159}

_UNETS = {4: "", 9: "Inpaint", 8: "InstructPix2Pix"}
"""Input channels -> what the pipeline of Stable Diffusion is called for it."""
_OTHER_UNETS = {5: "Stable Diffusion 2 for depth maps", 7: "Stable Diffusion's x4 upscaler"}


@dataclass(frozen=True)
class ByLevel:
    """An SDXL that was trained at levels of noise (EDM). scheduler: its settings; latents: of its codes, as `Family`."""

    scheduler: Mapping[str, Any]
    latents: Mapping[str, Any] = field(default_factory=lambda: _XL)


def playground(mean: Sequence[float], std: Sequence[float]) -> ByLevel:
    """Playground v2.5 (Li et al. 2024, 2402.17245), of whose codes its file knows every channel's mean and deviation."""
    levels = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0, "prediction_type": "epsilon"}
    scheduler = {"_class_name": "EDMDPMSolverMultistepScheduler", "solver_order": 2, "algorithm_type": "dpmsolver++", **levels}
    return ByLevel(scheduler, {"scaling_factor": 0.5, "latents_mean": list(mean), "latents_std": list(std)})


def cosxl(sigma_min: float, sigma_max: float) -> ByLevel:
    """CosXL, of Stability."""
    levels = {"sigma_min": sigma_min, "sigma_max": sigma_max, "sigma_data": 1.0, "sigma_schedule": "exponential"}
    return ByLevel({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", **levels})


def family_of(
    network: Mapping[str, Any], v_prediction: bool = False, zero_snr: bool = False, by_level: ByLevel | None = None
) -> Family:
    """The family of a network, by its configuration in diffusers' terms. InputError for one that is known but cannot be run.

    v_prediction: it was trained to predict v (Salimans & Ho 2022); zero_snr: down to zero signal (Lin et al. 2023, 2305.08891);
    by_level: how else, of SDXL.
    """
    kind = network["_class_name"]
    if kind == "SD3Transformer2DModel":
        return Family("Stable Diffusion 3", "StableDiffusion3Pipeline", _FLOW, _SD3, _three())
    if kind == "FluxTransformer2DModel":
        out = network["out_channels"] or network["in_channels"]
        pipeline = {out: "FluxPipeline", 6 * out: "FluxFillPipeline", 2 * out: "FluxControlPipeline"}.get(network["in_channels"])
        if pipeline is None:
            raise InputError(f"a FLUX with {network['in_channels']} input channels: {out}, {2 * out} and {6 * out} are known")
        dynamic = network["guidance_embeds"]
        return Family(
            "FLUX.1", pipeline, _DEV if dynamic else {**_FLOW, "shift": 1.0}, _FLUX, {CLIP_L: "text_encoder", T5: "text_encoder_2"}
        )
    return _stable_diffusion(network, v_prediction, zero_snr, by_level)


def trained(scheduler: Mapping[str, Any], v_prediction: bool | None, zero_snr: bool) -> Mapping[str, Any]:
    """A scheduler for another network than its own: what that predicts (None: not said), and whether it was trained down to zero
    signal. DDIM's in place of a class that has no such schedule; noise cannot be predicted where nothing else is."""
    told: dict[str, Any] = {} if v_prediction is None else {"prediction_type": "v_prediction" if v_prediction else "epsilon"}
    if zero_snr:
        told |= _ZERO_SNR
        solver = SOLVERS.get(str(scheduler.get("_class_name")))
        if solver and "rescale_betas_zero_snr" in solver.deaf_to:
            told |= {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, "thresholding": False}
    elif v_prediction is False:
        told |= {"rescale_betas_zero_snr": False}
    return {**scheduler, **told}


def _three() -> Mapping[str, str]:
    return {CLIP_L: "text_encoder", CLIP_G: "text_encoder_2", T5: "text_encoder_3"}


def _stable_diffusion(network: Mapping[str, Any], v_prediction: bool, zero_snr: bool, by_level: ByLevel | None) -> Family:
    channels = network["in_channels"]
    if channels not in _UNETS:
        raise InputError(f"{_OTHER_UNETS.get(channels, f'a U-Net with {channels} input channels')}: known, but not run here")
    told: dict[str, Any] = {"prediction_type": "v_prediction"} if v_prediction else {}
    told |= _ZERO_SNR if zero_snr else {}
    attends = [kind == "CrossAttnDownBlock2D" for kind in network["down_block_types"]]
    if network.get("addition_embed_type") is None:
        if not network["use_linear_projection"]:
            name, scheduler, encoder = "Stable Diffusion 1", _DDIM if v_prediction else _PNDM, CLIP_L
        else:
            name, scheduler, encoder = "Stable Diffusion 2", _DDIM if v_prediction else _PNDM, CLIP_H
        pipeline = f"StableDiffusion{_UNETS[channels]}Pipeline"
        side = 96 if v_prediction and encoder == CLIP_H else 64
        return Family(name, pipeline, {**scheduler, **told}, _SD, {encoder: "text_encoder"}, side)
    if attends[0]:
        raise InputError("Stable unCLIP: known, but not run here")
    if not attends[-1]:
        if channels != 4:
            raise InputError(f"a refiner of SDXL with {channels} input channels: 4 are known")
        pipeline, encoders = "StableDiffusionXLImg2ImgPipeline", {CLIP_G: "text_encoder_2"}
        settings = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
        return Family("SDXL refiner", pipeline, {**_EULER, **told}, _XL, encoders, settings=settings)
    pipeline, encoders = f"StableDiffusionXL{_UNETS[channels]}Pipeline", {CLIP_L: "text_encoder", CLIP_G: "text_encoder_2"}
    if by_level is None:
        return Family("SDXL", pipeline, {**_EULER, **told}, _XL, encoders)
    edits = {"is_cosxl_edit": True} if pipeline.endswith("InstructPix2PixPipeline") else {}
    return Family("SDXL", pipeline, by_level.scheduler, by_level.latents, encoders, settings=edits)
