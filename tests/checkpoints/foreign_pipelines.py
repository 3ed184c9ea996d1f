"""Tiny pipelines of the diffusers library with freshly drawn weights: one of each family that is run here."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from beside_diffusers import randomised
from modalities.words import encoders
from torch import nn
from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

SIDE = 8  # of the states, in codes of 2 x 2 pixels


def vae(channels: int = 4, **changed: Any) -> nn.Module:
    sizes = {"block_out_channels": (8, 16), "latent_channels": channels, "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return randomised(diffusers.AutoencoderKL(**{**sizes, **kinds, "scaling_factor": 0.4, **changed}))


def unet(**changed: Any) -> nn.Module:
    sizes = {"in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    more = {"cross_attention_dim": 16, "attention_head_dim": 2, "sample_size": SIDE}
    return randomised(diffusers.UNet2DConditionModel(**{**sizes, **kinds, **more, **changed}))


def xl_unet(words: int, vector: int, numbers: int, **changed: Any) -> nn.Module:
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True}
    sizes = {"cross_attention_dim": words, "projection_class_embeddings_input_dim": vector + 8 * numbers}
    return unet(**{**told, **sizes, "transformer_layers_per_block": [1, 2], "attention_head_dim": [1, 2], **changed})


def encoder(folder: Path, name: str, **how: Any) -> dict[str, Any]:
    """A CLIP and its tokenizer, by their names in a pipeline."""
    encoders.save_clip(folder / name, len(name), **how)
    kind = CLIPTextModelWithProjection if how.get("projected") else CLIPTextModel
    tokenizer = name.replace("text_encoder", "tokenizer")
    return {name: kind.from_pretrained(folder / name), tokenizer: AutoTokenizer.from_pretrained(folder / tokenizer)}


def t5(folder: Path, name: str) -> dict[str, Any]:
    encoders.save_t5(folder / name, 2)
    tokenizer = name.replace("text_encoder", "tokenizer")
    return {name: T5EncoderModel.from_pretrained(folder / name), tokenizer: AutoTokenizer.from_pretrained(folder / tokenizer)}


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def stable_diffusion(folder: Path, kind: str = "StableDiffusionPipeline", scheduler: Any = None, **changed: Any) -> Any:
    torch.manual_seed(1)
    usual = diffusers.DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    parts = {"vae": vae(), "unet": unet(**changed), "scheduler": scheduler or usual}
    return getattr(diffusers, kind)(**parts, **encoder(folder, "text_encoder"), **NO_CHECKER)


def sdxl(folder: Path, scheduler: Any = None) -> Any:
    torch.manual_seed(2)
    usual = diffusers.EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    parts = {"vae": vae(), "unet": xl_unet(16 + 24, 20, 6), "scheduler": scheduler or usual}
    words = encoder(folder, "text_encoder") | encoder(folder, "text_encoder_2", width=24, projected=True, pad="!")
    return diffusers.StableDiffusionXLPipeline(**parts, **words, add_watermarker=False)


def refiner(folder: Path) -> Any:
    torch.manual_seed(3)
    parts = {"vae": vae(), "unet": xl_unet(24, 20, 5), "text_encoder": None, "tokenizer": None}
    words = encoder(folder, "text_encoder_2", width=24, projected=True, pad="!")
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")
    how = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False, "add_watermarker": False}
    return diffusers.StableDiffusionXLImg2ImgPipeline(**parts, **words, scheduler=scheduler, **how)


def sd3(folder: Path, t5_too: bool = True) -> Any:
    torch.manual_seed(4)
    sizes = {"sample_size": SIDE, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8}
    more = {"num_attention_heads": 2, "joint_attention_dim": 48, "caption_projection_dim": 16, "pos_embed_max_size": 8}
    network = diffusers.SD3Transformer2DModel(**sizes, **more, pooled_projection_dim=12 + 20, qk_norm="rms_norm")
    words = encoder(folder, "text_encoder", projected=True) | encoder(folder, "text_encoder_2", width=24, projected=True, pad="!")
    words |= t5(folder, "text_encoder_3") if t5_too else {"text_encoder_3": None, "tokenizer_3": None}
    parts = {"vae": vae(shift_factor=0.1), "transformer": randomised(network)}
    return diffusers.StableDiffusion3Pipeline(**parts, **words, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))


def flux(folder: Path, guidance: bool = True, kind: str = "FluxPipeline", channels: int = 16) -> Any:
    torch.manual_seed(5)
    sizes = {"in_channels": channels, "out_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
    more = {"num_attention_heads": 2, "joint_attention_dim": 48, "pooled_projection_dim": 16, "axes_dims_rope": (4, 4, 8)}
    network = diffusers.FluxTransformer2DModel(**sizes, **more, guidance_embeds=guidance)
    shifted = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15} if guidance else {}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0 if guidance else 1.0, **shifted)
    parts = {"vae": vae(shift_factor=0.1), "transformer": randomised(network), "scheduler": scheduler}
    return getattr(diffusers, kind)(**parts, **encoder(folder, "text_encoder"), **t5(folder, "text_encoder_2"))


def save(pipeline: Any, folder: Path, **how: Any) -> Path:
    pipeline.save_pretrained(folder, **how)
    pipeline.set_progress_bar_config(disable=True)
    return folder
