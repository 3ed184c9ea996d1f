"""Single files with the original names: written by a way back of the tests' own, from networks of diffusers and transformers.

Tiny networks go through real files; `test_foreign_sizes` has the full configurations, by their shapes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foreign_originals as originals
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import UNET_TABLE, translate, unet_config
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.single import open_single, together
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
transformers = pytest.importorskip("transformers", reason="the text encoders to compare with are transformers'")
single_file_utils = pytest.importorskip("diffusers.loaders.single_file_utils")

NETWORK = "model.diffusion_model."


def randomised(network: nn.Module) -> dict[str, Tensor]:
    """Its tensors, random."""
    generator = torch.Generator().manual_seed(len(network.state_dict()))
    network.load_state_dict(
        {k: torch.randn(v.shape, generator=generator) if v.is_floating_point() else v for k, v in network.state_dict().items()}
    )
    return network.state_dict()


def same(part: Part, expected: Mapping[str, Tensor]) -> None:
    """Every tensor of diffusers', and no other, bit for bit."""
    assert set(part.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(part.tensors[name], tensor), name


def written(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata or None)
    return path


UNETS: dict[str, dict] = {
    "SD 1": {},
    "SD 1 for inpainting": {"in_channels": 9},
    "SD 1 for instructions": {"in_channels": 8},
    "SD 2": {"use_linear_projection": True, "attention_head_dim": [1, 2, 2], "block_out_channels": (64, 128, 128)},
    "SDXL": {
        "block_out_channels": (64, 128, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": [1, 2, 2],
        "transformer_layers_per_block": [1, 1, 2],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1600,
    },
    "SDXL refiner": {
        "block_out_channels": (64, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": [1, 1, 2],
        "transformer_layers_per_block": [1, 2, 2],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1344,
    },
}
UNETS |= {
    "BK-SDM": {"mid_block_type": None},
    "KOALA": UNETS["SDXL"] | {"mid_block_type": None},
    "SSD-1B": UNETS["SDXL"]
    | {
        "mid_block_type": "UNetMidBlock2D",
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 1, [2, 1]],
        "reverse_transformer_layers_per_block": [[1, 1, 3], [2, 1, 1], 1],
    },
}
PIPELINES = {
    "BK-SDM": "StableDiffusionPipeline",
    "KOALA": "StableDiffusionXLPipeline",
    "SSD-1B": "StableDiffusionXLPipeline",
    "SD 1": "StableDiffusionPipeline",
    "SD 1 for inpainting": "StableDiffusionInpaintPipeline",
    "SD 1 for instructions": "StableDiffusionInstructPix2PixPipeline",
    "SD 2": "StableDiffusionPipeline",
    "SDXL": "StableDiffusionXLPipeline",
    "SDXL refiner": "StableDiffusionXLImg2ImgPipeline",
}


def unet(name: str) -> nn.Module:
    sizes = {"block_out_channels": (32, 64, 64), "layers_per_block": 1, "cross_attention_dim": 24}
    down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    blocks = {"down_block_types": down, "up_block_types": up, "attention_head_dim": 8}
    return diffusers.UNet2DConditionModel(**{**sizes, **blocks, **UNETS[name]})


def kl() -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
    )


def text_config(**changed: Any) -> Any:
    sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 1}
    return transformers.CLIPTextConfig(**{**sizes, "max_position_embeddings": 11, "projection_dim": 64, **changed})


def clip_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As in published files: below text_model, but for the projection."""
    rest = {k: v for k, v in state.items() if not k.startswith("text_projection") and "position_ids" not in k}
    named = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in rest.items()}
    return named | {k: v for k, v in state.items() if k.startswith("text_projection")}


@pytest.mark.parametrize("name", UNETS)
def test_u_nets(name: str, tmp_path: Path) -> None:
    """The same tensors and configuration, and our network takes them."""
    theirs = unet(name)
    state = randomised(theirs)
    found = open_single(written(tmp_path / "model.safetensors", originals.unet(state, theirs.config.layers_per_block)))
    part = found.parts["unet"]
    assert found.pipeline == PIPELINES[name]
    same(part, state)
    for key, value in part.config.items():
        if key not in ("_class_name", "sample_size"):
            listed = (
                [theirs.config[key]] * 3 if isinstance(value, list) and isinstance(theirs.config[key], int) else theirs.config[key]
            )
            assert value == (list(listed) if isinstance(value, list) else listed), key
    if found.pipeline != "StableDiffusionInstructPix2PixPipeline":
        ours = unet_config(part.config).build()
        ours.load_state_dict(translate(part.tensors, UNET_TABLE, ours.state_dict()))


def test_a_whole_file_of_stable_diffusion_1(tmp_path: Path) -> None:
    """With its autoencoder, its text encoder, and what its trainer left in it; the running mean of the weights is not taken."""
    network, codec, words = unet("SD 1"), kl(), transformers.CLIPTextModel(text_config())
    states = [randomised(m) for m in (network, codec, words)]
    tensors = originals.unet(states[0], 1) | originals.vae(states[1], 2)
    tensors |= {f"cond_stage_model.transformer.{k}": v for k, v in clip_names(states[2]).items()}
    tensors |= {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(11)[None]}
    tensors |= {f"model_ema.{k.removeprefix('model.').replace('.', '')}": v + 1 for k, v in originals.unet(states[0], 1).items()}
    tensors |= {"betas": torch.ones(1000), "model_ema.decay": torch.tensor(0.9), "global_step": torch.tensor(7)}
    found = open_single(written(tmp_path / "sd.safetensors", tensors))
    assert set(found.parts) == {"unet", "vae", "text_encoder"}
    same(found.parts["unet"], states[0])
    same(found.parts["vae"], states[1])
    same(found.parts["text_encoder"], clip_names(states[2]))
    assert found.scheduler["prediction_type"] == "epsilon"
    config = found.parts["vae"].config
    assert config["scaling_factor"] == 0.18215
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        again = diffusers.AutoencoderKL.from_config(config)
        again.load_state_dict(dict(found.parts["vae"].tensors))
        assert torch.equal(again.encode(x).latent_dist.mean, codec.encode(x).latent_dist.mean)
    assert found.parts["text_encoder"].config["hidden_act"] == "quick_gelu"
    bare = {k.replace(".text_model.", "."): v for k, v in tensors.items()}  # as old versions of transformers named them
    same(open_single(written(tmp_path / "old.safetensors", bare)).parts["text_encoder"], clip_names(states[2]))


def test_a_whole_file_of_sdxl(tmp_path: Path) -> None:
    """Two text encoders: OpenAI's as transformers names it, OpenCLIP's under its own names."""
    network, codec, first = unet("SDXL"), kl(), transformers.CLIPTextModel(text_config())
    second = transformers.CLIPTextModelWithProjection(text_config(hidden_size=128, num_attention_heads=2, projection_dim=64))
    states = [randomised(m) for m in (network, codec, first, second)]
    tensors = originals.unet(states[0], 1) | originals.vae(states[1], 2)
    tensors |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in clip_names(states[2]).items()}
    tensors |= originals.open_clip(clip_names(states[3]), "conditioner.embedders.1.model.")
    tensors |= {"conditioner.embedders.1.model.logit_scale": torch.tensor(4.6), "denoiser.sigmas": torch.ones(1000)}
    found = open_single(written(tmp_path / "xl.safetensors", tensors))
    assert set(found.parts) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    same(found.parts["unet"], states[0])
    same(found.parts["text_encoder_2"], clip_names(states[3]))
    assert found.parts["vae"].config["scaling_factor"] == 0.13025
    config = found.parts["text_encoder_2"].config
    told = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
    ids = torch.randint(0, 98, (2, 9))
    with torch.no_grad():
        second.config.hidden_act = "gelu"
        rebuilt = [transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**told)).eval() for _ in range(2)]
        rebuilt[0].load_state_dict(dict(found.parts["text_encoder_2"].tensors))
        rebuilt[1].load_state_dict(states[3])
        assert torch.equal(rebuilt[0](ids).text_embeds, rebuilt[1](ids).text_embeds)
    name = "conditioner.embedders.1.model.text_projection"
    # not turned, as in Playground 2
    other = {k: v for k, v in tensors.items() if k != name} | {f"{name}.weight": tensors[name].T.contiguous()}
    again = open_single(written(tmp_path / "playground.safetensors", other)).parts["text_encoder_2"]
    assert again.config == config
    same(again, clip_names(states[3]))
    oracle = single_file_utils.convert_open_clip_checkpoint(second, tensors, "conditioner.embedders.1.model.")
    assert oracle.keys() <= set(found.parts["text_encoder_2"].tensors)
    for name in set(oracle) - {n for n in oracle if "_proj." in n}:  # they cut queries by the projection's size, not the width
        assert torch.equal(oracle[name], found.parts["text_encoder_2"].tensors[name])


def test_the_text_encoder_of_stable_diffusion_2(tmp_path: Path) -> None:
    """Its last layer is left away, as diffusers' own 23 of 24; the tokens are then those before the last, normalised. A file that
    was written from a folder of diffusers has neither that layer nor the projection, and is read as it is."""
    whole = transformers.CLIPTextModel(text_config(hidden_act="gelu")).eval()
    state = randomised(whole)
    tensors = originals.unet(randomised(unet("SD 2")), 1) | originals.open_clip(clip_names(state), "cond_stage_model.model.")
    tensors |= {"cond_stage_model.model.text_projection": torch.ones(64, 64)}
    found = open_single(written(tmp_path / "sd2.safetensors", tensors))
    part = found.parts["text_encoder"]
    told = {k: v for k, v in part.config.items() if k not in ("architectures", "model_type")}
    cut = transformers.CLIPTextModel(transformers.CLIPTextConfig(**told)).eval()
    own = dict(cut.state_dict())
    cut.load_state_dict({k: part.tensors[f"text_model.{k.removeprefix('text_model.')}"] for k in own})
    ids = torch.randint(0, 98, (2, 9))
    with torch.no_grad():
        hidden = whole(ids, output_hidden_states=True).hidden_states[-2]
        final = getattr(whole, "text_model", whole).final_layer_norm
        torch.testing.assert_close(cut(ids).last_hidden_state, final(hidden), rtol=1e-5, atol=1e-5)
    left = {k: v for k, v in tensors.items() if "text_projection" not in k and ".resblocks.2." not in k}
    again = open_single(written(tmp_path / "converted.safetensors", left)).parts["text_encoder"]
    assert again.config == part.config
    same(again, dict(part.tensors))


@pytest.mark.parametrize(
    ("told", "tensors", "spread", "expected"),
    [
        ({}, {}, 0.05, "epsilon"),
        ({}, {}, 0.2, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, {}, 0.2, "epsilon"),
        ({"modelspec.prediction_type": "v"}, {}, 0.05, "v_prediction"),
        ({}, {"v_pred": torch.zeros(1)}, 0.05, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, {"v_pred": torch.zeros(1)}, 0.05, "v_prediction"),
    ],
)
def test_what_stable_diffusion_2_predicts(told: dict, tensors: dict, spread: float, expected: str, tmp_path: Path) -> None:
    state = randomised(unet("SD 2"))
    state["up_blocks.2.attentions.1.transformer_blocks.0.norm1.bias"] = torch.linspace(-1, 1, 64).sign() * spread
    found = open_single(written(tmp_path / "m.safetensors", originals.unet(state, 1) | tensors, **told))
    assert found.scheduler["prediction_type"] == expected
    assert found.parts["unet"].config["sample_size"] == (96 if expected == "v_prediction" else 64)


def test_a_prediction_that_is_not_known_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", originals.unet(randomised(unet("SD 1")), 1), **{"modelspec.prediction_type": "flow"})
    with pytest.raises(InputError, match=r"m.safetensors: modelspec.prediction_type 'flow': epsilon, v, v_prediction are known"):
        open_single(path)


def test_zero_terminal_snr_is_told_by_a_tensor(tmp_path: Path) -> None:
    tensors = originals.unet(randomised(unet("SDXL")), 1) | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    scheduler = open_single(written(tmp_path / "m.safetensors", tensors)).scheduler
    assert (scheduler["prediction_type"], scheduler["rescale_betas_zero_snr"]) == ("v_prediction", True)


def sd3(**changed: object) -> nn.Module:
    sizes = {"sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 64}
    more = {"num_attention_heads": 1, "joint_attention_dim": 12, "caption_projection_dim": 64, "pooled_projection_dim": 10}
    return diffusers.SD3Transformer2DModel(**{**sizes, **more, "pos_embed_max_size": 12, **changed})


@pytest.mark.parametrize("changed", [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}], ids=["SD3", "SD3.5 medium"])
@pytest.mark.parametrize("prefix", [NETWORK, ""])
def test_stable_diffusion_3(changed: dict, prefix: str, tmp_path: Path) -> None:
    """Ours is diffusers' network, and what its own converter makes of the file."""
    theirs = sd3(**changed)
    state = randomised(theirs)
    tensors = originals.sd3(state, prefix)
    found = open_single(written(tmp_path / "sd3.safetensors", tensors))
    same(found.parts["transformer"], state)
    same(found.parts["transformer"], single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors)))
    again = type(theirs).from_config(found.parts["transformer"].config)
    again.load_state_dict(dict(found.parts["transformer"].tensors))
    assert found.pipeline == "StableDiffusion3Pipeline"


def test_text_encoders_of_stable_diffusion_3(tmp_path: Path) -> None:
    """CLIP-L's projection is the identity, as in Stability's own code, whatever the file has there."""
    clips = [transformers.CLIPTextModelWithProjection(text_config(hidden_act=a)) for a in ("quick_gelu", "gelu")]
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu")
    )
    states = [randomised(m) for m in (sd3(), *clips, t5)]
    names = ("clip_l", "clip_g", "t5xxl")
    tensors = originals.sd3(states[0])
    for name, state in zip(names, states[1:]):
        tensors |= {f"text_encoders.{name}.transformer.{k}": v.clone() for k, v in clip_names_or_t5(state).items()}
    found = open_single(written(tmp_path / "sd3.safetensors", tensors))
    expected = clip_names(states[1]) | {"text_projection.weight": torch.eye(64)}
    same(found.parts["text_encoder"], expected)
    same(found.parts["text_encoder_2"], clip_names(states[2]))
    same(found.parts["text_encoder_3"], {k: v for k, v in states[3].items() if k != "encoder.embed_tokens.weight"})
    told = {k: v for k, v in found.parts["text_encoder_3"].config.items() if k not in ("architectures", "model_type")}
    again = transformers.T5EncoderModel(transformers.T5Config(**told)).eval()
    again.load_state_dict({**found.parts["text_encoder_3"].tensors}, strict=False)
    ids = torch.randint(0, 50, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).last_hidden_state, t5.eval()(ids).last_hidden_state)


def clip_names_or_t5(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(state) if "shared.weight" in state else clip_names(state)


def flux(**changed: object) -> nn.Module:
    sizes = {"in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2}
    more = {"joint_attention_dim": 12, "pooled_projection_dim": 10, "axes_dims_rope": (2, 7, 7)}
    return diffusers.FluxTransformer2DModel(**{**sizes, **more, **changed})


FLUXES: dict[str, tuple[dict, str]] = {
    "schnell": ({}, "FluxPipeline"),
    "dev": ({"guidance_embeds": True}, "FluxPipeline"),
    "fill": ({"guidance_embeds": True, "in_channels": 96, "out_channels": 16}, "FluxFillPipeline"),
    "depth": ({"guidance_embeds": True, "in_channels": 32, "out_channels": 16}, "FluxControlPipeline"),
}


@pytest.mark.parametrize("name", FLUXES)
@pytest.mark.parametrize("prefix", [NETWORK, "transformer.", "module.", ""])
def test_flux(name: str, prefix: str, tmp_path: Path) -> None:
    changed, pipeline = FLUXES[name]
    theirs = flux(**changed)
    state = randomised(theirs)
    found = open_single(written(tmp_path / "flux.safetensors", originals.flux(state, prefix)))
    same(found.parts["transformer"], state)
    assert found.pipeline == pipeline
    config = found.parts["transformer"].config
    assert {k: config[k] for k in config if k != "sample_size" and not k.startswith("_")} == {
        k: list(theirs.config[k]) if k == "axes_dims_rope" else theirs.config[k]
        for k in config
        if k != "sample_size" and not k.startswith("_")
    }
    assert found.scheduler.get("use_dynamic_shifting", False) == (name != "schnell")


def test_files_that_make_a_model_together(tmp_path: Path) -> None:
    """FLUX as ComfyUI's users have it: the transformer, the autoencoder and the text encoders apart."""
    t5 = transformers.T5EncoderModel(transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=3))
    states = [randomised(m) for m in (flux(), kl(), transformers.CLIPTextModel(text_config()), t5)]
    contents = [originals.flux(states[0]), originals.vae(states[1], 2, ""), clip_names(states[2])]
    contents.append({k: v.clone() for k, v in states[3].items() if k != "encoder.embed_tokens.weight"})
    files = [open_single(written(tmp_path / f"{i}.safetensors", c)) for i, c in enumerate(contents)]
    assert [f.pipeline for f in files] == ["FluxPipeline", "", "", ""]
    found = together(files[1], files[0], *files[2:])
    assert set(found.parts) == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    assert (found.parts["vae"].config["scaling_factor"], found.parts["vae"].config["shift_factor"]) == (0.3611, 0.1159)
    assert found.parts["text_encoder_2"].kind == "T5EncoderModel"
    with pytest.raises(InputError, match=r"none of them holds a network"):
        together(files[1], files[2])
    with pytest.raises(InputError, match=r"a second vae"):
        together(*files, files[1])
    unet_file = open_single(written(tmp_path / "sd.safetensors", originals.unet(randomised(unet("SD 1")), 1)))
    with pytest.raises(InputError, match=r"holds a T5, which Stable Diffusion 1 does not read"):
        together(unet_file, files[3])


def test_eight_bit_numbers(tmp_path: Path) -> None:
    """Every one of them is a bfloat16; those with a scale are rounded once."""
    state = randomised(flux())
    tensors = originals.flux(state)
    name, split = "double_blocks.0.img_mlp.0.weight", "double_blocks.1.img_attn.qkv.weight"
    eight = {n: tensors[n].to(torch.float8_e4m3fn) for n in (name, split)}
    scale = torch.tensor(0.0371)
    tensors |= eight | {name.replace(".weight", ".scale_weight"): scale, "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    part = open_single(written(tmp_path / "f8.safetensors", tensors)).parts["transformer"]
    wanted = (eight[name].double() * scale.double()).float().to(torch.bfloat16)
    assert torch.equal(part.tensors["transformer_blocks.0.ff.net.0.proj.weight"], wanted)
    third = part.tensors["transformer_blocks.1.attn.to_v.weight"]
    assert third.dtype == torch.bfloat16
    assert torch.equal(third.double(), eight[split].double()[64:])
    rows = torch.rand(len(eight[split])) + 0.5
    for scales in (rows, rows[:, None]):  # one for each row
        each = tensors | {split.replace(".weight", ".weight_scale"): scales}
        part = open_single(written(tmp_path / "rows.safetensors", each)).parts["transformer"]
        wanted = (eight[split].float() * rows[:, None])[64:].to(torch.bfloat16)
        assert torch.equal(part.tensors["transformer_blocks.1.attn.to_v.weight"], wanted)
    blocks = tensors | {split.replace(".weight", ".weight_scale"): torch.ones(3, 2)}
    part = open_single(written(tmp_path / "blocks.safetensors", blocks)).parts["transformer"]
    with pytest.raises(InputError, match="scaled by blocks, which is not read here"):
        part.tensors["transformer_blocks.1.attn.to_v.weight"]


def test_nothing_is_copied(tmp_path: Path) -> None:
    """Queries, keys and values are read where they lie: one after the other in the map of the file."""
    part = open_single(written(tmp_path / "flux.safetensors", originals.flux(randomised(flux())))).parts["transformer"]
    q, k = (part.tensors[f"transformer_blocks.0.attn.to_{x}.weight"] for x in "qk")
    assert k.data_ptr() - q.data_ptr() == q.numel() * 4
    assert part.tensors["transformer_blocks.0.attn.to_q.weight"].data_ptr() == q.data_ptr()


# -- bad input -------------------------------------------------------------------------------------------------------------


def test_a_file_that_lacks_a_tensor_or_has_one_too_many(tmp_path: Path) -> None:
    tensors = originals.sd3(randomised(sd3()))
    strange = {**tensors, f"{NETWORK}joint_blocks.0.x_block.extra.weight": torch.ones(2)}
    with pytest.raises(InputError, match=r"1 of \d+ tensors have no place in such a network: '.*extra.weight'"):
        open_single(written(tmp_path / "more.safetensors", strange))
    lacking = {k: v for k, v in tensors.items() if "y_embedder" not in k}
    with pytest.raises(InputError, match=r"lacks 'y_embedder.mlp.0.weight'"):
        open_single(written(tmp_path / "less.safetensors", lacking))
    gap = {k: v for k, v in tensors.items() if "joint_blocks.1." not in k}
    with pytest.raises(InputError, match=r"lacks all of joint_blocks.1"):
        open_single(written(tmp_path / "gap.safetensors", gap))


def test_a_truncated_file(tmp_path: Path) -> None:
    path = written(tmp_path / "m.safetensors", originals.sd3(randomised(sd3())))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"m.safetensors: not whole as safetensors"):
        open_single(path)
    with pytest.raises(InputError, match=r"no such file"):
        open_single(tmp_path / "absent.safetensors")


def test_packed_numbers_are_refused(tmp_path: Path) -> None:
    tensors = originals.flux(randomised(flux()))
    tensors["double_blocks.0.img_mlp.0.weight"] = torch.zeros(64, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"'double_blocks.0.img_mlp.0.weight' is packed"):
        open_single(written(tmp_path / "m.safetensors", tensors))


def test_the_upscaler_is_named(tmp_path: Path) -> None:
    """Its U-Net reads a picture beside the codes, and is told a level of noise as a class."""
    tensors = originals.unet(randomised(unet("SD 1")), 1) | {f"{NETWORK}label_emb.weight": torch.randn(5, 128)}
    tensors[f"{NETWORK}input_blocks.0.0.weight"] = torch.randn(32, 7, 3, 3)
    with pytest.raises(InputError, match=r"x4\.safetensors: Stable Diffusion's x4 upscaler: known, but not run here"):
        open_single(written(tmp_path / "x4.safetensors", tensors))
