"""Files of known networks in forms that other tools give them: they answer as diffusers' or transformers' own do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foreign_originals as originals
import numpy as np
import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from modalities.words import encoders
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import UNET_TABLE, translate, unet_config
from unnoise.checkpoints.foreign.adapters import controlnet
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.single import open_single, together
from unnoise.checkpoints.foreign.telling import lent
from unnoise.core.errors import InputError
from unnoise.networks.embedding import size_features
from unnoise.networks.packed import has_packed

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
transformers = pytest.importorskip("transformers", reason="the text encoders to compare with are transformers'")
gguf = pytest.importorskip("gguf", reason="writes some of the files that are read")
from checkpoints.test_foreign_gguf import written as written_gguf  # noqa: E402
from checkpoints.test_foreign_single import UNETS, flux, text_config, unet, written  # noqa: E402

SIZES = torch.tensor([[512.0, 512, 0, 0, 1024, 1024], [480, 640, 12, 0, 896, 1152], [64, 2048, 0, 700, 1536, 640]])


def same_answer(part: Part, theirs: nn.Module) -> None:
    """Of the U-Net that is read and of diffusers', to the same question."""
    ours = unet_config(part.config).build().eval()
    ours.load_state_dict(translate(part.tensors, UNET_TABLE, ours.state_dict()))
    config: Any = theirs.config
    x, tokens = torch.randn(3, 4, 8, 12), torch.randn(3, 5, config.cross_attention_dim)
    told = config.projection_class_embeddings_input_dim or 0
    sizes = SIZES[:, :5] if told == 1344 else SIZES  # the refiner's fifth is a score
    summary = torch.randn(3, told - 256 * sizes.shape[1] if told else 0)
    cond = {"tokens": tokens} | ({"vector": torch.cat([summary, size_features(sizes, 256)], 1)} if told else {})
    with torch.no_grad():
        added = {"text_embeds": summary, "time_ids": sizes} if told else None
        close(ours(x, TIMES, cond), theirs(x, TIMES * 1000, tokens, added_cond_kwargs=added).sample)


def as_convolutions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As stable-diffusion.cpp writes the layers that attention is entered and left by."""
    entrances = (".proj_in.weight", ".proj_out.weight")
    return {k: v.reshape(*v.shape[:2], 1, 1) if k.endswith(entrances) else v for k, v in tensors.items()}


@pytest.mark.parametrize("form", ["safetensors", "GGUF"])
@pytest.mark.parametrize("name", ["SD 1", "SD 2", "SDXL", "SDXL refiner"])
def test_linear_layers_that_are_written_as_convolutions(name: str, form: str, tmp_path: Path) -> None:
    """Heads are the family's all the same: 8 of them in Stable Diffusion 1 alone, of 64 channels in the others."""
    words = {"SD 1": 768, "SD 2": 1024}.get(name, 24)
    theirs = randomised(diffusers.UNet2DConditionModel.from_config(unet(name).config, cross_attention_dim=words), 0)
    tensors = as_convolutions(originals.unet(theirs.state_dict(), 1))
    file = tmp_path / ("m.gguf" if form == "GGUF" else "m.safetensors")
    part = open_single(written_gguf(file, tensors, {}, "sd") if form == "GGUF" else written(file, tensors)).parts["unet"]
    assert part.config["use_linear_projection"] == (name != "SD 1")
    assert {k: tuple(v.shape) for k, v in part.tensors.items()} == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    same_answer(part, theirs)


XL = {k: v for k, v in UNETS["SDXL"].items() if k != "up_block_types"}
UNION = {"num_trans_channel": 64, "num_proj_channel": 64, "num_trans_head": 2, "num_trans_layer": 2, "num_control_type": 8}
SMALL = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D", "cross_attention_dim": None}
CONTROLS: dict[str, tuple[str, dict]] = {
    "SD 1": ("ControlNetModel", {"cross_attention_dim": 768}),
    "SD 2": ("ControlNetModel", {**UNETS["SD 2"], "cross_attention_dim": 1024}),
    "SDXL": ("ControlNetModel", XL),
    "SDXL, small": ("ControlNetModel", {**XL, **SMALL}),
    "SDXL, several kinds": ("ControlNetUnionModel", {**XL, **UNION}),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_net_of_diffusers_without_its_configuration(name: str, tmp_path: Path) -> None:
    """The same as with it, and what diffusers' own class says."""
    kind, changed = CONTROLS[name]
    sizes = {"block_out_channels": (32, 64, 64), "layers_per_block": 2, "conditioning_embedding_out_channels": (4, 6, 8, 10)}
    down = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    usual = {**sizes, "down_block_types": down, "cross_attention_dim": 24, "attention_head_dim": 8}
    theirs = randomised(getattr(diffusers, kind)(**{**usual, **changed}), 0)
    theirs.save_pretrained(tmp_path / "net")
    (tmp_path / "controlnet").mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    mode = (3,) if "kinds" in name else ()
    expected = controlnet(tmp_path / "net", picture, mode=mode).network
    file = (tmp_path / "net/diffusion_pytorch_model.safetensors").rename(tmp_path / "controlnet/canny_full.safetensors")
    ours = controlnet(file, picture, mode=mode).network
    assert ours.config == expected.config
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True))
    if mode:
        return  # beside theirs in test_control_net_for_several_kinds_of_pictures
    x, shown, summary = torch.randn(3, 4, 8, 12), torch.rand(3, 3, 64, 96), torch.randn(3, 64)
    tokens = torch.randn(3, 5, changed.get("cross_attention_dim") or 24)
    cond = {"tokens": tokens, "vector": torch.cat([summary, size_features(SIZES, 256)], 1)} | ours.hint(shown, lambda x: x)
    added = {"text_embeds": summary, "time_ids": SIZES}
    with torch.no_grad():
        down, middle = theirs(x, TIMES * 1000, tokens, shown, added_cond_kwargs=added, return_dict=False)
        said = ours(x, TIMES, cond)
    for a, b in zip([*said["skip"], *said["middle"]], [*down, middle], strict=True):
        close(a, b)


THIRD = {
    "in_channels": 4, "out_channels": 4, "attention_head_dim": 64, "num_attention_heads": 2, "joint_attention_dim": 24,
    "caption_projection_dim": 128, "pooled_projection_dim": 10, "pos_embed_max_size": 12,
}  # fmt: skip
WORDLESS = {"joint_attention_dim": None, "use_pos_embed": False, "pos_embed_type": None, "force_zeros_for_pooled_projection": False}
DEV = {
    "in_channels": 16, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 10,
    "axes_dims_rope": (4, 14, 14),
}  # fmt: skip
TRANSFORMERS: dict[str, tuple[str, dict]] = {
    "SD3": ("SD3ControlNetModel", {**THIRD, "num_layers": 3}),
    "SD3.5 medium": ("SD3ControlNetModel", {**THIRD, "num_layers": 2, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}),
    "SD3.5 large": ("SD3ControlNetModel", {**THIRD, **WORDLESS, "num_layers": 2}),
    "FLUX": ("FluxControlNetModel", {**DEV, "num_layers": 2, "num_single_layers": 0, "guidance_embeds": True}),
    "FLUX, several kinds": ("FluxControlNetModel", {**DEV, "num_layers": 1, "num_single_layers": 2, "num_mode": 7}),
    "FLUX, single blocks alone": ("FluxControlNetModel", {**DEV, "num_layers": 0, "num_single_layers": 1}),
    "FLUX by XLabs": (
        "FluxControlNetModel",
        {**DEV, "num_layers": 2, "num_single_layers": 0, "patch_size": 2, "conditioning_embedding_channels": 4},
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_control_net_for_a_transformer_without_its_configuration(name: str, tmp_path: Path) -> None:
    """The same as with the config.json that diffusers' own class writes."""
    kind, config = TRANSFORMERS[name]
    randomised(getattr(diffusers, kind)(**config), 0).save_pretrained(tmp_path / "net")
    (tmp_path / "controlnet").mkdir()
    picture, mode = np.zeros((16, 16, 3), np.uint8), (3,) if "kinds" in name else ()
    expected = controlnet(tmp_path / "net", picture, mode=mode).network
    file = (tmp_path / "net/diffusion_pytorch_model.safetensors").rename(tmp_path / "controlnet/canny.safetensors")
    ours = controlnet(file, picture, mode=mode).network
    assert type(ours) is type(expected)
    assert ours.config == expected.config
    assert ours.centred == expected.centred
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), expected.state_dict().values(), strict=True))


def test_a_control_net_that_lacks_a_part(tmp_path: Path) -> None:
    tensors = {"controlnet_cond_embedding.conv_in.weight": torch.ones(4, 3, 3, 3), "conv_in.weight": torch.ones(8, 4, 3, 3)}
    tensors["down_blocks.1.resnets.0.conv1.weight"] = torch.ones(8, 8, 3, 3)
    third = {"pos_embed_input.proj.weight": torch.ones(128, 4, 2, 2), "controlnet_x_embedder.weight": torch.ones(64, 16)}
    third |= {"x_embedder.weight": torch.ones(64, 16), "time_text_embed.timestep_embedder.linear_1.weight": torch.ones(64, 256)}
    dev = {k: v for k, v in third.items() if not k.startswith("pos_embed")}
    for lacking, message in (
        (tensors, "lacks all of down_blocks.0"),
        ({k: tensors[k] for k in list(tensors)[:2]}, "lacks 'down_"),
        (third, "lacks 'time_text_embed.text_embedder"),
        (dev, "lacks 'single_transformer_blocks.0.attn.norm_q"),
    ):
        with pytest.raises(InputError, match=f"cut.safetensors: the file {message}.*; it is incomplete"):
            controlnet(written(tmp_path / "cut.safetensors", lacking), np.zeros((8, 8, 3), np.uint8))


def t5_named(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """As llama.cpp names them, by its own table."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, blocks)
    return {names.get_name(k, (".weight",)): v for k, v in state.items() if k != "encoder.embed_tokens.weight"}


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_t5_as_gguf(kind: str, tmp_path: Path) -> None:
    """Beside a FLUX, it is the text encoder that transformers makes of the weights that its numbers stand for."""
    encoders.save_t5(tmp_path / "text_encoder_2", 2)  # for its tokenizer
    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 3}
    theirs = transformers.T5EncoderModel(transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")).eval()
    state = {k: torch.randn(v.shape) * (0.3 if v.ndim > 1 else 1.0) for k, v in theirs.state_dict().items()}
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    packing, packed, meant = gguf.GGMLQuantizationType[kind], {}, dict(state)
    for name, tensor in state.items():
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            data = gguf.quantize(tensor.numpy(), packing)
            packed[next(iter(t5_named({name: tensor}, 2)), "")] = (data, packing)
            meant[name] = torch.from_numpy(gguf.dequantize(data, packing).astype(np.float32))
    theirs.load_state_dict(meant)
    t5 = open_single(written_gguf(tmp_path / "t5.gguf", t5_named(state, 2), packed, "t5encoder"))
    network = open_single(written(tmp_path / "flux.safetensors", originals.flux(flux().state_dict())))
    part = together(network, t5).parts["text_encoder_2"]
    ids = torch.randint(0, 50, (2, 7))
    for half, keep in ((False, False), (False, True), (True, False), (True, True)):
        told = f"{tmp_path}/t5.gguf/text_encoder_2", "T5EncoderModel", part, tmp_path / "tokenizer_2", "", half, keep
        ours = lent(*told).network
        assert has_packed(ours) == (keep and kind == "Q8_0")
        with torch.no_grad():
            expected = theirs.to(torch.bfloat16 if half else torch.float32)(ids).last_hidden_state
            torch.testing.assert_close(ours(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


def test_umt5_is_not_taken_for_t5(tmp_path: Path) -> None:
    """It is as T5 but for positions in every layer."""
    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 3}
    state = dict(transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes)).state_dict())
    state["shared.weight"] = state.pop("encoder.embed_tokens.weight")
    for file in (
        written(tmp_path / "umt5.safetensors", state),
        written_gguf(tmp_path / "umt5.gguf", t5_named(state, 2), {}, "t5encoder"),
    ):
        with pytest.raises(InputError, match=r"umt5.*: this is UMT5, which Wan reads"):
            open_single(file)


def test_the_text_half_of_a_whole_clip(tmp_path: Path) -> None:
    """As openai/clip-vit-large-patch14 is published, given as the CLIP-L of a FLUX; the other half alone is no text encoder."""
    sight = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8}
    words = text_config(hidden_act="quick_gelu").to_dict()
    config = transformers.CLIPConfig(text_config=words, vision_config={**sight, "patch_size": 4}, projection_dim=64)
    theirs = transformers.CLIPModel(config).eval()
    randomised(theirs.text_model, 0)
    state = theirs.state_dict() | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    assert {"logit_scale", "visual_projection.weight", "text_projection.weight", "vision_model.pre_layrnorm.weight"} <= set(state)
    clip = open_single(written(tmp_path / "clip.safetensors", state))
    network = open_single(written(tmp_path / "flux.safetensors", originals.flux(flux().state_dict())))
    part = together(network, clip).parts["text_encoder"]
    encoders.save_clip(tmp_path / "text_encoder", 1)  # for its tokenizer
    ours = lent(f"{tmp_path}/clip.safetensors/text_encoder", "CLIPTextModel", part, tmp_path / "tokenizer", "", False).network
    ids = torch.randint(0, 98, (2, 9))
    with torch.no_grad():
        close(ours(ids).last_hidden_state, theirs.text_model(ids).last_hidden_state)
    alone = {k: v for k, v in state.items() if k.startswith("visi")}
    with pytest.raises(InputError, match="this is CLIP's image encoder"):
        open_single(written(tmp_path / "vision.safetensors", alone))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "without its last layer"])
def test_the_clip_of_stable_diffusion_2_alone(whole: bool, tmp_path: Path) -> None:
    """OpenCLIP's ViT-H under transformers' names (laion/CLIP-ViT-H-14-laion2B-s32B-b79K, and as diffusers writes it), known by its
    width, and read up to the layer before the last."""
    sight = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8}
    sizes = {"hidden_size": 1024, "intermediate_size": 64, "num_attention_heads": 16, "num_hidden_layers": 2}
    words = text_config(hidden_act="gelu", **sizes).to_dict()
    config = transformers.CLIPConfig(text_config=words, vision_config={**sight, "patch_size": 4}, projection_dim=64)
    theirs = transformers.CLIPModel(config).eval()
    state = theirs.state_dict()
    if not whole:
        state = {k: v for k, v in state.items() if k.startswith("text_model.") and ".layers.1." not in k}
    clip = open_single(written(tmp_path / "clip.safetensors", state))
    network = randomised(diffusers.UNet2DConditionModel.from_config(unet("SD 2").config, cross_attention_dim=1024), 0)
    second = open_single(written(tmp_path / "sd2.safetensors", originals.unet(network.state_dict(), 1)))
    part = together(second, clip).parts["text_encoder"]
    encoders.save_clip(tmp_path / "text_encoder", 1)  # for its tokenizer
    ours = lent(f"{tmp_path}/clip.safetensors/text_encoder", "CLIPTextModel", part, tmp_path / "tokenizer", "", False).network
    ids = torch.randint(0, 98, (2, 9))
    with torch.no_grad():
        before = theirs.text_model(ids, output_hidden_states=True).hidden_states[-2]
        close(ours(ids).last_hidden_state, theirs.text_model.final_layer_norm(before))
    with pytest.raises(InputError, match=r"holds a CLIP-H, which FLUX.1 .*does not read"):
        together(open_single(written(tmp_path / "flux.safetensors", originals.flux(flux().state_dict()))), clip)


def test_a_whole_clip_under_its_makers_names(tmp_path: Path) -> None:
    tensors = {"visual.conv1.weight": torch.ones(4, 3, 2, 2), "token_embedding.weight": torch.ones(98, 1024)}
    with pytest.raises(InputError, match=r"open_clip.safetensors: this is a whole CLIP under OpenCLIP's names; its text half is"):
        open_single(written(tmp_path / "open_clip.safetensors", tensors))
