"""Every setting of the networks of diffusers changes what is built here, is refused, or computes nothing."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from beside_diffusers import TIMES, randomised

from unnoise.checkpoints.diffusers_names import flux_config, sd3_config, unet_config
from unnoise.checkpoints.foreign.adapter_names import STEERING
from unnoise.checkpoints.foreign.dit_names import pixart_config, sana_config
from unnoise.checkpoints.foreign.scheduler import FLOWS, OF_SIGMA, SOLVERS, read_scheduler
from unnoise.checkpoints.foreign.vae_names import dc_config, kl_config, latents_statistics, tiny_config
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="the settings are those of diffusers' classes")
from samplers.foreign_walks import of_class  # noqa: E402

Config = Mapping[str, Any]


def with_codes(read: Callable[[Config], Any]) -> Callable[[Config], object]:
    """An autoencoder, and the statistics of its codes, by channel and as a shift of all."""

    def both(config: Config) -> object:
        shifted = {k: v for k, v in config.items() if k not in ("latents_mean", "latents_std")}
        said = [latents_statistics(each, config["latent_channels"], 1.0) for each in (config, shifted)]
        return read(config), [each.tolist() for pair in said for each in pair]

    return both


TOLD = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}
MEAN, STD = [0.5, 0.25, 0.5, 0.25], [1.5, 1.0, 1.5, 2.0]
KINDS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
SANA = {
    "encoder_block_types": KINDS, "decoder_block_types": KINDS, "downsample_block_type": "conv",
    "upsample_block_type": "interpolate", "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu",
}  # fmt: skip
READ: dict[str, tuple[Callable[[Config], object], Config]] = {
    "UNet2DConditionModel": (unet_config, TOLD),
    "SD3Transformer2DModel": (sd3_config, {}),
    "FluxTransformer2DModel": (flux_config, {}),
    "PixArtTransformer2DModel": (pixart_config, {"caption_channels": 4096}),
    "SanaTransformer2DModel": (sana_config, {"interpolation_scale": 1.0}),
    "AutoencoderKL": (with_codes(kl_config), {"latents_mean": MEAN, "latents_std": STD}),
    "AutoencoderTiny": (with_codes(tiny_config), {}),
    "AutoencoderDC": (with_codes(dc_config), SANA),
    "ControlNetModel": (STEERING["ControlNetModel"][0], TOLD),
    "ControlNetUnionModel": (STEERING["ControlNetUnionModel"][0], TOLD),
    "SD3ControlNetModel": (STEERING["SD3ControlNetModel"][0], {}),
    "FluxControlNetModel": (STEERING["FluxControlNetModel"][0], {}),
    "T2IAdapter": (STEERING["T2IAdapter"][0], {}),
}
"""By class: how it is read, and settings beside its own defaults, so that what belongs to them counts."""

OTHER: Config = {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "controlnet_conditioning_channel_order": "bgr",
    "downsample_block_type": "pixel_unshuffle",  # all but this means "conv"
    "dropout": 0.5,
    "num_attention_heads": 4,
    "latents_mean": MEAN[::-1],
    "latents_std": STD[::-1],
}
"""Other values where not any would do."""

SCHEDULES: Config = {"lambda_min_clipped": -5.1, "solver_type": "bh1"}

NOTHING = {
    "UNet2DConditionModel": {
        "dropout", "use_linear_projection", "cross_attention_norm", "mid_block_only_cross_attention",
        "addition_embed_type_num_heads",
    },
    "PixArtTransformer2DModel": {"dropout", "upcast_attention", "norm_num_groups", "num_embeds_ada_norm"},
    "SanaTransformer2DModel": {"dropout"},
    "AutoencoderKL": {"sample_size"},
    "AutoencoderTiny": {"latent_magnitude", "latent_shift", "force_upcast"},
    "ControlNetModel": {"use_linear_projection", "addition_embed_type_num_heads"},
    "ControlNetUnionModel": {"use_linear_projection", "addition_embed_type_num_heads", "num_trans_head"},
    "SD3ControlNetModel": {"pos_embed_type"},
}  # fmt: skip
"""What computes nothing in the networks that are read: dropout at rest; precisions that float32 has; parts of other blocks; the
heads of one token's attention to itself; how codes are shown."""

ELSEWHERE = {
    "UNet2DConditionModel": {"sample_size", "addition_time_embed_dim"},  # the codec's size, what is told
    "ControlNetModel": {"addition_time_embed_dim"},  # the model's
    "SanaTransformer2DModel": {"guidance_embeds_scale"},  # of Sprint: test_sana_sprint
    # of the tensors' shapes
    "SD3Transformer2DModel": {"caption_projection_dim"},
    "SD3ControlNetModel": {"caption_projection_dim", "extra_conditioning_channels"},
    "FluxTransformer2DModel": {"patch_size"},
    "FluxControlNetModel": {"patch_size"},
}
"""What is read, or refused, in another place."""


def other(value: object) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return 2 * value + 2
        case str():
            return "other"
        case list() | tuple():
            return [*value, *value[-1:]] if value else [1]
    return 8


@pytest.mark.parametrize("kind", READ)
def test_every_setting_is_read_or_refused_or_computes_nothing(kind: str) -> None:
    """Each of their class's own, one after another, at another value."""
    read, more = READ[kind]
    parameters = inspect.signature(getattr(diffusers, kind)).parameters
    whole = {**{k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}, **more}
    usual, passed_over = read(whole), set()
    for name, value in whole.items():
        try:
            if read({**whole, name: OTHER.get(name, other(value))}) == usual:
                passed_over.add(name)
        except (InputError, ValueError):
            pass
    assert passed_over == NOTHING.get(kind, set()) | ELSEWHERE.get(kind, set())


THRESHOLDS = {"dynamic_thresholding_ratio", "sample_max_value"}
UNBOUNDED = {"clip_sample", "thresholding", *THRESHOLDS}
EVEN = {"steps_offset"}  # of leading timesteps alone
STUDENT = {"set_alpha_to_one", "steps_offset", "timestep_spacing", *THRESHOLDS}
LAST = {"lower_order_final", "solver_type", "flow_shift", "use_dynamic_shifting", *THRESHOLDS}
SAID: Mapping[str, Config] = {
    "PNDMScheduler": {"skip_prk_steps": True},
    "FlowMatchEulerDiscreteScheduler": {"use_dynamic_shifting": True},
    "FlowMatchLCMScheduler": {"use_dynamic_shifting": True},
}
NOT_WALKED: Mapping[str, set[str]] = {
    "DDIMScheduler": UNBOUNDED - {"clip_sample"},
    "DDPMScheduler": UNBOUNDED - {"clip_sample"},
    "EulerDiscreteScheduler": EVEN,
    "EulerAncestralDiscreteScheduler": EVEN,
    "HeunDiscreteScheduler": EVEN,
    "LMSDiscreteScheduler": EVEN,
    "KDPM2DiscreteScheduler": EVEN,
    "KDPM2AncestralDiscreteScheduler": EVEN,
    "DPMSolverSDEScheduler": EVEN | {"noise_sampler_seed"},
    "DPMSolverMultistepScheduler": EVEN | LAST | {"variance_type"},
    "DPMSolverSinglestepScheduler": LAST | {"variance_type"},
    "UniPCMultistepScheduler": EVEN | LAST - {"solver_type"},
    "DEISMultistepScheduler": EVEN | LAST | {"algorithm_type"},
    "EDMDPMSolverMultistepScheduler": LAST - {"flow_shift", "use_dynamic_shifting"},
    "LCMScheduler": STUDENT,
    "TCDScheduler": STUDENT | {"timestep_scaling"},
    "FlowMatchEulerDiscreteScheduler": {"shift"},  # mu takes its place
    "FlowMatchLCMScheduler": {"shift", "upscale_mode"},
}
"""What does not change a walk: thresholds where none is asked for, or where clipping is the same; the order of the last steps, of
which docs/samplers_beside_diffusers.md tells; other names of one solver; what belongs to flows."""


@pytest.mark.parametrize("kind", [*SOLVERS, *FLOWS, *OF_SIGMA])
def test_every_setting_of_a_scheduler(kind: str) -> None:
    parameters = inspect.signature(of_class(kind)).parameters
    usual = {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}
    usual = {**usual, "_class_name": kind, "prediction_type": "v_prediction", **SAID.get(kind, {})}
    read, passed_over = read_scheduler(usual), set()
    for name in parameters:
        try:
            if read_scheduler({**usual, name: SCHEDULES.get(name, other(usual[name]))}) == read:
                passed_over.add(name)
        except InputError:
            pass
    assert passed_over == NOT_WALKED.get(kind, set())


@torch.no_grad()
def test_what_computes_nothing_in_a_u_net() -> None:
    """Their own, with the same weights and another value."""
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    sizes = {"down_block_types": down, "up_block_types": up, "block_out_channels": (8, 16), "attention_head_dim": 2}
    usual = {**sizes, "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 12}
    theirs = randomised(diffusers.UNet2DConditionModel(**usual), 0)
    x, tokens = torch.randn(3, 4, 8, 8), torch.randn(3, 5, 12)
    wanted = theirs(x, TIMES * 1000, tokens).sample
    parameters = inspect.signature(diffusers.UNet2DConditionModel).parameters
    for name in NOTHING["UNet2DConditionModel"]:
        changed = diffusers.UNet2DConditionModel(**usual, **{name: OTHER.get(name, other(parameters[name].default))}).eval()
        like = changed.state_dict()
        changed.load_state_dict({k: v.reshape(like[k].shape) for k, v in theirs.state_dict().items()})
        torch.testing.assert_close(changed(x, TIMES * 1000, tokens).sample, wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mid_block_scale_factor", 2.0), ("timestep_post_act", "silu"), ("time_embedding_act_fn", "silu"), ("conv_in_kernel", 5)],
)
def test_what_computes_something_in_a_u_net_is_refused(name: str, value: object) -> None:
    parameters = inspect.signature(diffusers.UNet2DConditionModel).parameters
    whole = {k: p.default for k, p in parameters.items()}
    with pytest.raises(InputError, match=f"^{name} {value!r}: a U-Net of Stable Diffusion has {parameters[name].default!r} there"):
        unet_config({**whole, name: value})
