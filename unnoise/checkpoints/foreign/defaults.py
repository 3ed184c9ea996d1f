"""What diffusers' classes take where a config.json says nothing: files of older versions say less (FLUX.1's names no rotary axes).

Of every class the settings that its reading here needs; what else is left out is read as the families' usual where it is asked for.
"""

from collections.abc import Mapping
from typing import Any

_CROSS, _PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
_UNET = {
    "in_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": (_CROSS, _CROSS, _CROSS, _PLAIN),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 1280,
    "norm_num_groups": 32,
}
_SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 18,
    "num_attention_heads": 18,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 96,
}
_FLUX = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "UNet2DConditionModel": {
        **_UNET,
        "out_channels": 4,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "ControlNetModel": {**_UNET, "conditioning_embedding_out_channels": (16, 32, 96, 256)},
    "ControlNetUnionModel": {**_UNET, "conditioning_embedding_out_channels": (48, 96, 192, 384), "num_control_type": 6},
    "SD3Transformer2DModel": _SD3,
    "FluxTransformer2DModel": _FLUX,
    "FluxControlNetModel": _FLUX,
    "PixArtTransformer2DModel": {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "cross_attention_dim": 1152,
    },
    "SanaTransformer2DModel": {
        "sample_size": 32,
        "patch_size": 1,
        "in_channels": 32,
        "out_channels": 32,
        "num_layers": 20,
        "num_attention_heads": 70,
        "attention_head_dim": 32,
        "num_cross_attention_heads": 20,
        "cross_attention_head_dim": 112,
        "cross_attention_dim": 2240,
        "caption_channels": 2304,
        "mlp_ratio": 2.5,
    },
    "AutoencoderKL": {
        "in_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "norm_num_groups": 32,
    },
    "AutoencoderTiny": {
        "in_channels": 3,
        "latent_channels": 4,
        "encoder_block_out_channels": (64, 64, 64, 64),
        "num_encoder_blocks": (1, 3, 3, 3),
        "num_decoder_blocks": (3, 3, 3, 1),
    },
    "AutoencoderDC": {
        "in_channels": 3,
        "latent_channels": 32,
        "attention_head_dim": 32,
        "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
        "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
        "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
        "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
        "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
        "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
        "downsample_block_type": "pixel_unshuffle",
        "upsample_block_type": "pixel_shuffle",
    },
    "T2IAdapter": {
        "adapter_type": "full_adapter",
        "in_channels": 3,
        "channels": (320, 640, 1280, 1280),
        "num_res_blocks": 2,
        "downscale_factor": 8,
    },
}
"""By their class names."""
