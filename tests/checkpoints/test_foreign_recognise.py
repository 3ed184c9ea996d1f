"""Files that are not run: named by the names that diffusers itself tells them by, and by networks of its own classes."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_originals as originals
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unnoise
from unnoise.checkpoints.foreign.adapters import controlnet, face_prompt, picture_prompt
from unnoise.checkpoints.foreign.folder import read_part
from unnoise.checkpoints.foreign.lora_file import read_tensors
from unnoise.checkpoints.foreign.recognise import OTHERS, class_family, other_family
from unnoise.checkpoints.foreign.single import open_single
from unnoise.cli.main import main
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="the families to recognise are diffusers'")
single_file_utils = pytest.importorskip("diffusers.loaders.single_file_utils")
peft = pytest.importorskip("diffusers.loaders.peft")
attention = pytest.importorskip("diffusers.models.attention_processor")
redux = pytest.importorskip("diffusers.pipelines.flux.modeling_flux")
import checkpoints.foreign_pipelines as tiny  # noqa: E402

MARKED = {
    "a ControlNet": (
        "controlnet",
        "animatediff_scribble",
        "animatediff_rgb",
        "z-image-turbo-controlnet",
        "z-image-turbo-controlnet-2.x",
    ),
    "AnimateDiff": ("animatediff", "animatediff_v2", "animatediff_sdxl_beta"),
    "AuraFlow": ("auraflow",),
    "Chroma": ("chroma",),
    "Cosmos": ("cosmos-1.0", "cosmos-2.0"),
    "FLUX.2": ("flux2",),
    "FLUX.3": ("flux3", "flux3-distilled"),
    "HiDream": ("hidream",),
    "HunyuanVideo": ("hunyuan-video",),
    "Krea 2": ("krea2",),
    "LTX-Video": ("ltx-video", "ltx2"),
    "Lumina": ("lumina2",),
    "Mochi": ("mochi-1-preview",),
    "Qwen-Image": ("qwen-image-2.1",),
    "Sana under its original names": ("sana",),
    "Stable Cascade": ("stable_cascade_stage_b", "stable_cascade_stage_c"),
    "Wan": ("wan", "wan_vae", "wan_vace", "wan_animate"),
    "Z-Image": ("z-image-turbo",),
    "a deep-compression autoencoder under its original names": ("autoencoder-dc",),
}
"""Ours -> what diffusers calls the names by which it tells a family in a single file."""


@pytest.mark.parametrize("name", MARKED)
def test_families_by_the_names_that_diffusers_tells_them_by(name: str) -> None:
    for theirs in MARKED[name]:
        if (names := single_file_utils.CHECKPOINT_KEY_NAMES.get(theirs)) is not None:
            found = other_family([names] if isinstance(names, str) else names)
            assert found is not None, theirs
            assert found.name == name, theirs


def test_a_control_net_lllite() -> None:
    names = [f"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.{n}.0.weight" for n in ("conditioning1", "down", "mid")]
    found = other_family(names)
    assert found is not None
    assert found.name == "a ControlNet-LLLite"


@pytest.mark.parametrize(
    "theirs", ["v1", "v2", "xl_base", "xl_refiner", "sd3", "sd35_large", "flux", "clip", "open_clip", "inpainting"]
)
def test_families_that_are_run_are_none_of_them(theirs: str) -> None:
    names = single_file_utils.CHECKPOINT_KEY_NAMES[theirs]
    assert other_family([names] if isinstance(names, str) else names) is None


SMALL = {"block_out_channels": (32, 32)}
CLASSES = {
    "ControlNetModel": ({}, "a ControlNet"),
    "FluxControlNetModel": ({"num_layers": 1, "num_single_layers": 1}, "a ControlNet"),
    "T2IAdapter": ({}, "a T2I-Adapter"),
    "MotionAdapter": (SMALL, "AnimateDiff"),
    "UNet2DConditionModel": ({}, "a network of diffusers"),
    "SD3Transformer2DModel": ({"num_layers": 1}, "a network of diffusers"),
    "FluxTransformer2DModel": ({"num_layers": 1, "num_single_layers": 1}, "a network of diffusers"),
    "AutoencoderKL": ({}, "a network of diffusers"),
    "AutoencoderTiny": ({}, "a network of diffusers"),
    "WanTransformer3DModel": ({"num_layers": 1}, "a network of diffusers"),
    "QwenImageTransformer2DModel": ({"num_layers": 1}, "Qwen-Image"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_networks_of_diffusers_without_their_folder(kind: str) -> None:
    config, name = CLASSES[kind]
    with torch.device("meta"):
        names = getattr(diffusers, kind)(**config).state_dict()
    found = other_family(names)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "names",
    [
        ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"],
        ["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"],
        ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"],
        ["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"],
        ["lycoris_transformer_blocks_0_attn_to_q.lokr_w1"],
    ],
)
def test_a_lora_in_place_of_a_model(names: list[str], tmp_path: Path) -> None:
    save_file({n: torch.ones(1) for n in names}, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match=r"lora.safetensors: this is a LoRA; it is no model; give it with"):
        open_single(tmp_path / "lora.safetensors")


def test_a_control_lora(tmp_path: Path) -> None:
    """By the tensor that diffusers, too, knows it by."""
    names = ["lora_controlnet", "input_blocks.0.0.bias", "time_embed.0.up", "time_embed.0.down", "input_hint_block.0.weight"]
    assert '"lora_controlnet" in state_dict' in inspect.getsource(peft.PeftAdapterMixin.load_lora_adapter)
    save_file({n: torch.ones(1) for n in names}, tmp_path / "canny.safetensors")
    with pytest.raises(InputError, match=r"canny.safetensors: this is a Control-LoRA; .* \(--lora, --control,"):
        open_single(tmp_path / "canny.safetensors")


def test_picture_prompts_of_other_families(tmp_path: Path) -> None:
    """Of FLUX by InstantX: in one line, as a model and as what they are."""
    names = ["image_proj.proj.0.weight", *(f"ip_adapter.{i}.to_k_ip.weight" for i in range(3))]
    save_file({n: torch.ones(1) for n in names}, tmp_path / "ip.safetensors")
    for read in (open_single, lambda file: picture_prompt(file, [np.zeros((8, 8, 3), np.uint8)])):
        with pytest.raises(
            InputError,
            match=r"ip.safetensors: this is an IP-Adapter for FLUX by InstantX; not run here; for FLUX.1 XLabs' IP-Adapters are",
        ):
            read(tmp_path / "ip.safetensors")


STREAM = "double_blocks.0.processor.ip_adapter_double_stream"


@pytest.mark.parametrize(
    ("called", "names"),
    [
        ("an IP-Adapter for FLUX", ["ip_adapter_proj_model.proj.weight", f"{STREAM}_k_proj.weight", f"{STREAM}_v_proj.bias"]),
        ("an IP-Adapter for FLUX", ["image_proj.proj.weight", "ip_adapter.0.to_k_ip.weight", "ip_adapter.0.to_k_ip.bias"]),
        ("FLUX.1 Redux, a picture prompt for FLUX", [*redux.ReduxImageEncoder(8, 8).state_dict()]),
        (
            "an IP-Adapter for Stable Diffusion 3.5",
            [f"ip_adapter.0.{n}" for n in attention.SD3IPAdapterJointAttnProcessor2_0(8, 8, 8, 8).state_dict()],
        ),
    ],
    ids=["XLabs", "diffusers", "Redux", "SD3.5"],
)
def test_picture_prompts_in_place_of_a_model(called: str, names: list[str], tmp_path: Path) -> None:
    save_file({n: torch.ones(1) for n in names}, tmp_path / "ip.safetensors")
    with pytest.raises(InputError, match=rf"ip.safetensors: this is {called}; it is no model; give it with"):
        open_single(tmp_path / "ip.safetensors")


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("AnimateDiffPipeline", "AnimateDiff"), ("WanPipeline", "Wan"), ("HunyuanVideoPipeline", "HunyuanVideo"),
        ("CogVideoXPipeline", "CogVideoX"), ("LTXPipeline", "LTX-Video"), ("MochiPipeline", "Mochi"),
        ("StableAudioPipeline", "Stable Audio"), ("AudioLDM2Pipeline", "AudioLDM"), ("KandinskyV22Pipeline", "Kandinsky"),
        ("WuerstchenCombinedPipeline", "Würstchen"), ("IFPipeline", "DeepFloyd IF"),
        ("StableCascadeCombinedPipeline", "Stable Cascade"), ("QwenImagePipeline", "Qwen-Image"), ("ZImagePipeline", "Z-Image"),
        ("HiDreamImagePipeline", "HiDream"), ("Lumina2Pipeline", "Lumina"), ("AuraFlowPipeline", "AuraFlow"),
        ("ChromaPipeline", "Chroma"), ("StableVideoDiffusionPipeline", "Stable Video Diffusion"), ("Flux2Pipeline", "FLUX.2"),
        ("StableUnCLIPPipeline", "Stable unCLIP"), ("StableDiffusionUpscalePipeline", "Stable Diffusion's x4 upscaler"),
        ("StableDiffusionPipeline", None), ("StableDiffusionXLPipeline", None), ("StableDiffusion3Pipeline", None),
        ("FluxPipeline", None), ("PixArtSigmaPipeline", None), ("PixArtAlphaPipeline", None), ("SanaPipeline", None),
    ],
)  # fmt: skip
def test_families_by_the_class_of_their_pipeline(kind: str, family: str | None) -> None:
    assert hasattr(diffusers, kind), "no class of diffusers'"
    assert class_family(kind) == family


OURS = (
    "UNet2DConditionModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "PixArtTransformer2DModel",
    "SanaTransformer2DModel",
)
AS_OURS = ("StableDiffusion", "Flux", "PixArt", "Sana", "LatentConsistencyModel", "SemanticStableDiffusion", "CycleDiffusion")
"""Pipelines that run such networks as we do, or only differently, unless they are named below."""
NOT_AS_OURS = {"Depth2Img", "GLIGEN", "GLIGENTextImage", "ImageVariation", "LDM3D", "LatentUpscale", "Upscale"}


def test_pipelines_that_use_networks_of_ours_for_other_things() -> None:
    """Of all pipelines of diffusers that may hold a network of a class that is run here."""
    named = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Pipeline")}
    nets = {name: [str(p.annotation) for p in inspect.signature(kind.__init__).parameters.values()] for name, kind in named.items()}
    using = {name for name, types in nets.items() if any(ours in t for ours in OURS for t in types)}
    assert {"MarigoldDepthPipeline", "VisualClozePipeline", "FluxPipeline"} < using
    known = {name for name in using if name.startswith(AS_OURS)} - {f"StableDiffusion{other}Pipeline" for other in NOT_AS_OURS}
    assert {name for name in using if class_family(name) is None} == known


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "MarigoldDepthPipeline",
            r"Marigold, which measures pictures \(UNet2DConditionModel of a MarigoldDepthPipeline\) is not run",
        ),
        (
            "GeometryPipeline",
            r"a GeometryPipeline does unknown things with 4 channels more; known are those of diffusers for StableDiffusion",
        ),
    ],
)
def test_a_known_network_of_another_pipeline(kind: str, message: str, tmp_path: Path) -> None:
    """Of eight channels: those of InstructPix2Pix have the picture in the last four, Marigold in the first."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts", "StableDiffusionInstructPix2PixPipeline", in_channels=8)
    index = tiny.save(pipeline, tmp_path / "model") / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": kind}))
    with pytest.raises(InputError, match=message):
        unnoise.load(tmp_path / "model")


def test_an_unknown_architecture_is_told_with_the_nearest(tmp_path: Path) -> None:
    """A FLUX whose queries and keys go by other names, and something like nothing."""
    with torch.device("meta"):
        theirs = diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2)
    names = [n.replace("img_attn.qkv", "img_attn.query_key_value") for n in originals.flux(theirs.state_dict())]
    save_file({n: torch.ones(1) for n in names}, tmp_path / "odd.safetensors")
    wanted = (
        rf"nearest is FLUX.1, which has no place for 4 of its {len(names)} tensors: 'double_blocks.0.img_attn.query_key_value.bias'"
    )
    with pytest.raises(InputError, match=wanted):
        open_single(tmp_path / "odd.safetensors")
    save_file({"linear.weight": torch.ones(1), "linear.bias": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"near none that is run here; its tensors are called 'linear.bias', 'linear.weight'"):
        open_single(tmp_path / "other.safetensors")


def test_a_packed_model_is_no_lora(tmp_path: Path) -> None:
    """As Nunchaku writes a FLUX: four bits, and low-rank pairs of what they lack."""
    names = [f"transformer_blocks.0.qkv_proj.{leaf}" for leaf in ("qweight", "wscales", "lora_down", "lora_up", "bias")]
    save_file({n: torch.ones(1) for n in names}, tmp_path / "svdq.safetensors")
    with pytest.raises(
        InputError, match=r"svdq.safetensors: this is a model whose weights are packed .*; take the same one in bfloat16"
    ):
        open_single(tmp_path / "svdq.safetensors")


def test_one_file_of_several(tmp_path: Path) -> None:
    """A FLUX under its original names less the first of its blocks."""
    with torch.device("meta"):
        theirs = diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2)
    names = [n for n in originals.flux(theirs.state_dict()) if not n.startswith("double_blocks.0.")]
    save_file({n: torch.ones(1) for n in names}, tmp_path / "second.safetensors")
    with pytest.raises(
        InputError, match=r"second.safetensors: holds only some of the tensors of FLUX.1 \('double_blocks.1.* one file of several"
    ):
        open_single(tmp_path / "second.safetensors")


@pytest.mark.parametrize("name", ["model.ckpt", "disguised.safetensors"])
def test_a_pickle_is_refused_and_the_way_to_convert_it_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"a.weight": torch.randn(3, 4).T, "b": torch.arange(5)}
    torch.save({"state_dict": weights | {"tied": weights["b"]}, "global_step": 3}, tmp_path / name)
    with pytest.raises(InputError, match=r"a pickle, which may run anything") as refused:
        open_single(tmp_path / name)
    (command,) = re.findall(r'python -c "(.*)"', str(refused.value))
    if name.endswith("ckpt"):
        monkeypatch.chdir(tmp_path)
        exec(command, {})
        converted = load_file(tmp_path / "model.safetensors")
        assert set(converted) == {"a.weight", "b", "tied"}
        assert torch.equal(converted["a.weight"], weights["a.weight"])


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("m.safetensors", open_single),
        ("m.gguf", open_single),
        ("m.ckpt", open_single),
        ("lora.safetensors", read_tensors),
        ("unet/diffusion_pytorch_model.safetensors", lambda file: read_part(file.parent)),
        ("text_encoder/model.safetensors", lambda file: read_part(file.parent)),
        ("controlnet.safetensors", lambda file: controlnet(file, np.zeros((8, 8, 3), np.uint8))),
        ("ip-adapter.safetensors", lambda file: face_prompt(file, torch.zeros(1, 8))),
        ("info.safetensors", lambda file: main(["info", str(file)])),
    ],
)
def test_a_pointer_of_git_lfs(name: str, opened: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it stands for, in one line."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.with_name("config.json").write_text("{}")
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 4265146304\n")
    with pytest.raises((InputError, SystemExit)) as refused:
        opened(file)
    said = str(refused.value) if isinstance(refused.value, InputError) else capsys.readouterr().err.strip()
    assert said.removeprefix("unnoise: ") == f"{file}: only points to the file, which git-lfs has not fetched: git lfs pull"


def test_every_message_is_one_line() -> None:
    for other in OTHERS:
        assert "\n" not in other.name + other.instead
