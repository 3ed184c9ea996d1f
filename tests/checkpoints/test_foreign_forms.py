"""Files of known networks in forms that other tools give them: they answer as diffusers' or transformers' own do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foreign_originals as originals
import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import UNET_TABLE, translate, unet_config
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.single import open_single
from unnoise.networks.embedding import size_features

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
gguf = pytest.importorskip("gguf", reason="writes some of the files that are read")
from checkpoints.test_foreign_gguf import written as written_gguf  # noqa: E402
from checkpoints.test_foreign_single import unet, written  # noqa: E402

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
