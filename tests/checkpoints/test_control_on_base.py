"""ControlNets stored less the U-Net they were made of: beside whole ones, and diffusers' picture by a Control-LoRA."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.adapters import controlnet
from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.checkpoints.foreign.memory import numbers_at
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.model import DiffusionModel

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_originals as originals  # noqa: E402
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import latents, same  # noqa: E402

HINT = {"conditioning_embedding_out_channels": (4, 6, 8, 10)}
RANK = 2
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, DiffusionModel]:
    """With two blocks a level and groups and heads as in the published size, which no tensor says, and codes an eighth as wide."""
    folder = tmp_path_factory.mktemp("sd")
    widths = {"block_out_channels": (32, 64), "norm_num_groups": 32, "attention_head_dim": 8}
    plain = tiny.stable_diffusion(folder / "parts", layers_per_block=2, **widths)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    parts = {**plain.components, "vae": tiny.vae(block_out_channels=(8, 8, 16, 16), **kinds)}
    pipeline = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, unnoise.load(tiny.save(pipeline, folder / "model"))


def original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ControlNet of diffusers' under its makers' names."""
    hints = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    renamed = {f"controlnet_cond_embedding.{h}": f"input_hint_block.{2 * i}" for i, h in enumerate(hints)}
    renamed |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(6)}
    renamed |= {"controlnet_mid_block": "middle_block_out.0"}
    out = originals.unet({k: v for k, v in tensors.items() if not k.startswith("controlnet_")}, 2, "")
    for name, value in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module in renamed:
            out[f"{renamed[module]}.{leaf}"] = value
    assert len(out) == len(tensors)
    return {k: v.contiguous() for k, v in out.items()}


def stored(pipeline: Any, folder: Path, offsets: bool = True) -> tuple[Path, Path, Path]:
    """A Control-LoRA, the differences, and the whole ControlNet that both stand for. offsets: they are others than the U-Net's."""
    torch.manual_seed(8)
    made = diffusers.ControlNetModel.from_unet(pipeline.unet, **HINT)
    base = original({k: v.clone() for k, v in made.state_dict().items()})
    low, whole, differences = {}, {}, {}
    for name, value in base.items():
        module, _, leaf = name.rpartition(".")
        new = name.startswith(("input_hint_block", "zero_convs", "middle_block_out"))
        if leaf == "weight" and value.ndim > 1 and not new:
            up, down = torch.randn(len(value), RANK), 0.1 * torch.randn(RANK, *value.shape[1:])
            low |= {f"{module}.up": up.reshape(len(value), RANK, *[1] * (value.ndim - 2)), f"{module}.down": down}
            whole[name] = value + torch.einsum("or,r...->o...", up, down)
        elif leaf == "bias" and f"{module}.up" in low and not offsets:
            low[name] = whole[name] = value
        else:
            low[name] = whole[name] = 0.3 * torch.randn_like(value) + (leaf == "weight" and value.ndim == 1)
        differences[name] = whole[name] if new else whole[name] - value
    files = folder / "control-lora-canny.safetensors", folder / "difference.safetensors", folder / "whole.safetensors"
    marked = ({**low, "lora_controlnet": torch.zeros(())}, {**differences, "difference": torch.zeros(())}, whole)
    for file, tensors in zip(files, marked):
        save_file(tensors, file)
    return files


def lora_of_one_layer(folder: Path) -> Path:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    tensors = {f"{name}.lora_A.weight": torch.randn(RANK, 32), f"{name}.lora_B.weight": torch.randn(32, RANK)}
    save_file(tensors, folder / "lora.safetensors")
    return folder / "lora.safetensors"


def test_they_are_put_together_with_the_model(stable_diffusion: tuple, tmp_path: Path) -> None:
    """With its own weights, also where LoRAs lie on them, or are merged into them."""
    pipeline, model = stable_diffusion
    lora, differences, whole = stored(pipeline, tmp_path)
    expected = controlnet(whole, PICTURE).network.state_dict()
    assert numbers_at(lora) == numbers_at(whole) + 1, "as large as it will be, and the mark"
    adapted = low_rank(model, {lora_of_one_layer(tmp_path): 0.7})
    for merged in (False, True):
        if merged:
            adapted.merge()
        for file in (lora, differences):
            read = controlnet(file, PICTURE, beside=model.denoiser.network).network
            assert read.config == controlnet(whole, PICTURE).network.config
            assert read.state_dict().keys() == expected.keys()
            for name, value in read.state_dict().items():
                torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    low_rank(model, {})


def test_a_picture_by_a_control_lora(stable_diffusion: tuple, tmp_path: Path) -> None:
    """Of one that leaves the U-Net's offsets as they are: PEFT, through which diffusers reads them, passes over the file's."""
    plain, model = stable_diffusion
    file, _, _ = stored(plain, tmp_path, offsets=False)
    network = diffusers.ControlNetModel.from_unet(plain.unet, **HINT)
    network.load_lora_adapter(load_file(file), prefix=None)
    parts = {**plain.components, "controlnet": network}
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 4, "guidance_scale": 4.0}
    expected = latents(pipeline, model, **how, image=Image.fromarray(PICTURE), controlnet_conditioning_scale=0.8)
    attached = model.attached(controlnet(file, PICTURE, 0.8, beside=model.denoiser.network))
    same(attached, pipeline, expected, steps=4, guidance=4.0)
    assert (latents(plain, model, **how) - expected).abs().max() > 0.1


def test_from_the_command_line(stable_diffusion: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the whole ControlNet draws; in int8, for which weights go once all is attached, too."""
    pipeline, model = stable_diffusion
    lora, _, whole = stored(pipeline, tmp_path)
    Image.fromarray(PICTURE).save(tmp_path / "edges.png")
    made = []
    monkeypatch.setattr("unnoise.networks.int8.LEAST", 32)
    for number, more in enumerate([[], ["--int8"]]):
        for file in (lora, whole, None):
            out = tmp_path / f"{number}-{file and file.stem}"
            control = ["--control", f"{file}:{tmp_path}/edges.png"] if file else []
            main(["sample", str(model.path), "a cat", "-n", "1", "--steps", "2", "--out", str(out), *more, *control])
            made.append(np.asarray(Image.open(next(out.glob("0*.png")))).astype(int))
    assert np.abs(made[0] - made[1]).max() <= 1
    of_low_rank, of_whole, of_none = made[3:]
    assert np.abs(of_low_rank - of_whole).mean() < 0.5 * np.abs(of_low_rank - of_none).mean()  # W_U is in bfloat16 already


def test_what_they_do_not_go_with_is_refused(stable_diffusion: tuple, tmp_path: Path) -> None:
    pipeline, model = stable_diffusion
    lora, differences, _ = stored(pipeline, tmp_path)
    with pytest.raises(InputError, match="a Control-LoRA, a ControlNet less the U-Net it was made of: name the network"):
        controlnet(lora, PICTURE)
    with pytest.raises(InputError, match=r"control-lora-canny.safetensors: this is a Control-LoRA; .*--control"):
        unnoise.load(lora)
    other = tiny.stable_diffusion(tmp_path / "parts", layers_per_block=2)  # of other widths
    narrow = unnoise.load(tiny.save(other, tmp_path / "narrow")).denoiser.network
    for file in (lora, differences):
        with pytest.raises(InputError, match=r"not for this model: .*; the model's"):
            controlnet(file, PICTURE, beside=narrow)
    tensors, name = load_file(lora), "input_blocks.1.0.in_layers.2.down"
    save_file({**tensors, name: tensors[name][:, :-1].contiguous()}, tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match=r"conv1.up' and down make up 32 x 279 numbers; the layer has \(32, 32, 3, 3\)"):
        controlnet(tmp_path / "cut.safetensors", PICTURE, beside=model.denoiser.network)
    for broken, told in (
        ({k: v for k, v in tensors.items() if k != name}, r"in_layers.2.up' stands alone: .*down is missing"),
        ({k: v for k, v in tensors.items() if k != name.replace("down", "up")}, r"in_layers.2.down' stands alone: .*up is missing"),
        (tensors | {"input_hint_block.4.weight": torch.ones(())}, "not whole|not for this model"),
        (tensors | {name.replace("down", "up"): torch.ones(())}, "not whole|not for this model"),
    ):
        save_file(broken, tmp_path / "broken.safetensors")
        numbers_at(tmp_path / "broken.safetensors")
        with pytest.raises(InputError, match=told):
            controlnet(tmp_path / "broken.safetensors", PICTURE, beside=model.denoiser.network)
    with pytest.raises(InputError, match="goes with a U-Net of Stable Diffusion, not with a Linear"):
        controlnet(lora, PICTURE, beside=torch.nn.Linear(1, 1))
