"""Whole models as GGUF, as stable-diffusion.cpp writes them: what the safetensors file that they were made of is, number by number.

It renames what is OpenCLIP's (model.cpp, `convert_tensor_name`), makes matrices of some linear layers 1 x 1 convolutions and packs
what has rows of whole blocks; ggml drops the first sizes of a shape that are 1.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import foreign_originals as originals
import numpy as np
import pytest
import torch
from beside_diffusers import randomised
from safetensors.torch import save_file
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.opening import open_foreign
from unnoise.checkpoints.foreign.original_configs import clip_by_width
from unnoise.checkpoints.foreign.original_names import pieces
from unnoise.checkpoints.foreign.parts import Foreign
from unnoise.checkpoints.foreign.pieces import Shapes
from unnoise.checkpoints.foreign.single import open_single
from unnoise.core.errors import InputError
from unnoise.modalities.words import source
from unnoise.networks.packed import PackedLinear

gguf = pytest.importorskip("gguf", reason="writes the files that are read")
diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
transformers = pytest.importorskip("transformers", reason="the text encoders to compare with are transformers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_forms import t5_named  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, noise, same  # noqa: E402
from checkpoints.test_foreign_single import clip_names, flux, kl, sd3, text_config, unet  # noqa: E402

Kind = gguf.GGMLQuantizationType
RESBLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1"}
RESBLOCK |= {"mlp.c_proj": "mlp.fc2", **{f"attn.in_proj_{x}": f"self_attn.in_proj.{x}" for x in ("weight", "bias")}}
AS_KERNELS = re.compile(r"model\.diffusion_model\..*proj_(in|out)\.weight|first_stage_model\..*attn_1\..*weight")
OUTSIDE = {"ln_final": "final_layer_norm", "positional_embedding": "embeddings.position_embedding.weight"}
OUTSIDE |= {"token_embedding": "embeddings.token_embedding"}
SIZE = {"steps": 3, "height": 16, "width": 16}


def renamed(name: str) -> str:
    """As stable-diffusion.cpp calls a tensor; of one that it cuts in three, the whole."""
    for before, now in (("conditioner.embedders.0.", "cond_stage_model."), ("conditioner.embedders.1.", "cond_stage_model.1.")):
        name = name.replace(before, now)
    name = re.sub(r"transformer\.text_projection\.weight$", "transformer.text_model.text_projection", name)
    if name.startswith("cond_stage_model") and ".model." in name:
        stem, _, leaf = name.partition("model.model." if "stage_model.model." in name else "1.model.")
        stem += "model." if "stage_model.model." in name else "1."
        block = re.sub(r"^transformer\.resblocks\.(\d+)\.", r"encoder.layers.\1.", leaf)
        for a, b in (RESBLOCK if block != leaf else OUTSIDE).items():
            block = block.replace(a, b)
        name = f"{stem}transformer.text_model.{block}"
    return name


def as_written(tensors: Mapping[str, Tensor], joined: bool) -> dict[str, Tensor]:
    """Names and shapes. joined: queries, keys and values of OpenCLIP stay one, as in newer versions."""
    out = {}
    for name, value in tensors.items():
        new = renamed(name)
        if AS_KERNELS.search(new) and value.ndim == 2:
            value = value[:, :, None, None]
        while value.ndim > 1 and len(value) == 1:
            value = value[0]
        if ".in_proj." in new and not joined:
            cuts = zip("qkv", value.chunk(3))
            out |= {new.replace(".in_proj.", f".{x}_proj."): cut.contiguous() for x, cut in cuts}
        elif name != "cond_stage_model.model.text_projection":
            out[new] = value.contiguous()
    return out


def convert(tensors: Mapping[str, Tensor], kind: str, path: Path, vectors: bool = True, joined: bool = False) -> dict[str, Tensor]:
    """Write the file, and say what numbers it means, by the names that were there. vectors: they are packed too, as in older
    versions."""
    writer, meant = gguf.GGUFWriter(path, "sd"), {}
    packing = Kind[kind]
    for name, value in as_written(tensors, joined).items():
        block = gguf.GGML_QUANT_SIZES[packing][0]
        chosen = packing if value.shape[-1] % block == 0 else Kind.F16
        chosen = Kind.F32 if value.ndim == 1 and not vectors else chosen
        data = gguf.quantize(value.numpy(), chosen)
        writer.add_tensor(name, data, raw_dtype=chosen)
        numbers = gguf.dequantize(data, chosen) if chosen not in (Kind.F32, Kind.F16) else data
        meant[name] = torch.from_numpy(np.asarray(numbers)).reshape(value.shape)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    out = {}
    for name, value in tensors.items():
        new = renamed(name)
        if new in meant:
            out[name] = meant[new].reshape(value.shape).contiguous()
        elif (first := new.replace(".in_proj.", ".q_proj.")) in meant:
            out[name] = torch.cat([meant[first.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"])
    return out


def equal(ours: Foreign, theirs: Foreign) -> None:
    """All parts, their configurations and their numbers."""
    assert (ours.pipeline, ours.scheduler, ours.settings) == (theirs.pipeline, theirs.scheduler, theirs.settings)
    assert set(ours.parts) == set(theirs.parts)
    for name, part in theirs.parts.items():
        assert ours.parts[name].config == part.config
        assert set(ours.parts[name].tensors) == set(part.tensors)
        for key, tensor in part.tensors.items():
            assert torch.equal(ours.parts[name].tensors[key].float(), tensor.float()), (name, key)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    """Stable Diffusion 1 under its original names; the folder of its tokenizer and, whole/, of diffusers' pipeline."""
    folder = tmp_path_factory.mktemp("first")
    torch.manual_seed(6)
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    sizes = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 64, "attention_head_dim": 8}
    codec = {"block_out_channels": (32, 64), "norm_num_groups": 32, "scaling_factor": 0.18215}
    words = tiny.encoder(folder, "text_encoder", width=64, heads=1)
    scheduler = diffusers.PNDMScheduler(**tiny.BETAS, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False)
    network = randomised(diffusers.UNet2DConditionModel(**sizes, **kinds))
    parts = {"vae": tiny.vae(**codec), "unet": network, "scheduler": scheduler, **words, **tiny.NO_CHECKER}
    tiny.save(diffusers.StableDiffusionPipeline(**parts), folder / "whole")
    tensors = originals.unet(network.state_dict(), 1) | originals.vae(parts["vae"].state_dict(), 2)
    for name, tensor in words["text_encoder"].state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    return tensors, folder


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_stable_diffusion_1(kind: str, first: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    """The picture of diffusers, in float32; packed, that of the safetensors file that holds the numbers that are meant."""
    tensors, folder = first
    meant = convert(tensors, kind, tmp_path / "whole.gguf")
    save_file(meant, tmp_path / "whole.safetensors")
    equal(open_single(tmp_path / "whole.gguf"), open_single(tmp_path / "whole.safetensors"))
    if kind in ("F16", "Q4_0"):
        return
    ours, theirs = (unnoise.load(tmp_path / f"whole.{end}", beside=[folder]) for end in ("gguf", "safetensors"))
    drawn = ours.sample("a red cat", 1, 7, **SIZE).data
    assert torch.equal(drawn, theirs.sample("a red cat", 1, 7, **SIZE).data)
    if kind == "F32":
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder / "whole")
        pipeline.set_progress_bar_config(disable=True)
        x, size = noise(ours, (4, 8, 8)), {"height": 16, "width": 16}
        expected = pipeline(PROMPTS, latents=x, output_type="latent", num_inference_steps=5, guidance_scale=3.0, **size).images
        same(ours, pipeline, expected, steps=5, guidance=3.0, **size)
    if kind == "Q8_0":
        kept = unnoise.load(tmp_path / "whole.gguf", beside=[folder], packed=True)
        assert torch.equal(kept.sample("a red cat", 1, 7, **SIZE).data, drawn)
        packed = [type(m) is PackedLinear for m in kept.denoiser.network.modules()]
        assert sum(packed) > 12


def test_a_saved_model_finds_its_words_in_the_file(first: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    tensors, folder = first
    convert(tensors, "Q8_0", tmp_path / "whole.gguf")
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    model = unnoise.load(tmp_path / "whole.gguf")
    model.save(tmp_path / "ours")
    source._LENT.clear()  # as in another process
    again = unnoise.load(tmp_path / "ours")
    assert torch.equal(*(m.sample("a red cat", 1, 7, **SIZE).data for m in (model, again)))


def open_clip(width: int, out: int, where: str) -> dict[str, Tensor]:
    sizes = {
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "projection_dim": out,
        "num_hidden_layers": 2,
    }
    words = randomised(transformers.CLIPTextModelWithProjection(text_config(**sizes)), 3)
    return originals.open_clip(clip_names(words.state_dict()), where)


def others(name: str) -> dict[str, Tensor]:
    """A file of each family, with every way in which they name text encoders."""
    codec = originals.vae(randomised(kl(), 1).state_dict(), 2)
    clip_l = clip_names(randomised(transformers.CLIPTextModel(text_config()), 2).state_dict())
    if name == "SDXL":
        first = {f"conditioner.embedders.0.transformer.{k}": v for k, v in clip_l.items()}
        words = first | open_clip(128, 64, "conditioner.embedders.1.model.")
        return originals.unet(randomised(unet(name), 0).state_dict(), 1) | codec | words
    if name == "SDXL refiner":
        words = open_clip(1280, 1280, "conditioner.embedders.0.model.")
        return originals.unet(randomised(unet(name), 0).state_dict(), 1) | codec | words
    if name == "SD 2":
        wide = diffusers.UNet2DConditionModel.from_config(unet(name).config, cross_attention_dim=1024)
        words = open_clip(1024, 1024, "cond_stage_model.model.")
        return originals.unet(randomised(wide, 0).state_dict(), 1) | codec | words
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    t5 = randomised(transformers.T5EncoderModel(transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")), 5).state_dict()
    clip_g = randomised(transformers.CLIPTextModelWithProjection(text_config(hidden_act="gelu")), 4).state_dict()
    encoders = {"clip_l": clip_l, "t5xxl": t5} | ({"clip_g": clip_names(clip_g)} if name == "SD3" else {})
    t5.pop("encoder.embed_tokens.weight", None)
    words = {f"text_encoders.{n}.transformer.{k}": v for n, state in encoders.items() for k, v in state.items()}
    if name == "SD3":
        return originals.sd3(randomised(sd3(), 6).state_dict()) | codec | words
    codec = {k.replace("first_stage_model.", "vae."): v for k, v in codec.items()}
    return originals.flux(randomised(flux(), 7).state_dict(), "model.diffusion_model.") | codec | words


@pytest.mark.parametrize(
    ("name", "joined"),
    [("SDXL", False), ("SDXL", True), ("SDXL refiner", True), ("SD 2", False), ("SD3", False), ("FLUX", True)],
)
def test_other_families(name: str, joined: bool, tmp_path: Path) -> None:
    """As older and newer versions write them."""
    meant = convert(others(name), "Q8_0", tmp_path / "whole.gguf", not joined, joined)
    save_file(meant, tmp_path / "whole.safetensors")
    ours, theirs = open_single(tmp_path / "whole.gguf"), open_single(tmp_path / "whole.safetensors")
    assert len(ours.parts) == {"SDXL": 4, "SD3": 5, "FLUX": 4}.get(name, 3)
    equal(ours, theirs)


def test_t5_under_llama_cpps_names(tmp_path: Path) -> None:
    """In a whole file as it came, when it was GGUF before."""
    tensors, prefix = others("FLUX"), "text_encoders.t5xxl.transformer."
    t5 = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    rest = {k: v.contiguous() for k, v in tensors.items() if not k.startswith(prefix)}
    convert(rest | {f"{prefix}{k}": v for k, v in t5_named(t5, 1).items()}, "F32", tmp_path / "whole.gguf")
    save_file(rest | {f"{prefix}{k}": v for k, v in t5.items()}, tmp_path / "whole.safetensors")
    equal(open_single(tmp_path / "whole.gguf"), open_single(tmp_path / "whole.safetensors"))


def test_the_last_layer_of_stable_diffusion_2s_words() -> None:
    """It is left away where the whole of OpenCLIP's 24 are there, whose projection stable-diffusion.cpp drops."""
    one = text_config(hidden_size=1024, num_attention_heads=16, num_hidden_layers=1)
    named = clip_names(transformers.CLIPTextModel(one).state_dict())
    layers = {k.replace(".0.", f".{i}."): tuple(v.shape) for i in range(24) for k, v in named.items()}
    config, layout = clip_by_width(Shapes(layers))
    assert (config["num_hidden_layers"], config["hidden_act"]) == (23, "gelu")
    assert not any(".23." in name for name in pieces(Shapes(layers), layout, ""))


def test_matrices_that_are_kernels(tmp_path: Path) -> None:
    """1 x 1 convolutions whose sizes of 1 a tool has dropped, those that attention is entered by in Stable Diffusion 1 too."""
    narrow = diffusers.UNet2DConditionModel.from_config(unet("SD 1").config, cross_attention_dim=768)
    tensors = originals.unet(randomised(narrow, 0).state_dict(), 1) | originals.vae(randomised(kl(), 1).state_dict(), 2)
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "usual.safetensors")
    flat = {k: v.flatten(1) if v.shape[2:] == (1, 1) else v for k, v in tensors.items()}
    assert sum(flat[k].ndim != v.ndim for k, v in tensors.items()) > 20
    save_file({k: v.contiguous() for k, v in flat.items()}, tmp_path / "flat.safetensors")
    equal(*(open_single(tmp_path / f"{name}.safetensors") for name in ("flat", "usual")))


# -- a network alone, and what a whole model has beside it -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["gguf", "safetensors"])
def test_a_network_takes_the_rest_from_a_whole_model(form: str, first: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    """Of its family, which has a network of its own; the same as all in one file."""
    tensors, folder = first
    other = {k: v.flip(0) if k.startswith("model.diffusion_model.") else v for k, v in tensors.items()}
    alone = {k: v.contiguous() for k, v in other.items() if k.startswith("model.diffusion_model.")}
    save_file(tensors, tmp_path / "base.safetensors")
    numbers = convert(alone, "Q8_0", tmp_path / "alone.gguf") if form == "gguf" else alone
    save_file(alone, tmp_path / "alone.safetensors")
    save_file({**other, **numbers}, tmp_path / "both.safetensors")
    ours = unnoise.load(tmp_path / f"alone.{form}", beside=[tmp_path / "base.safetensors", folder])
    theirs = unnoise.load(tmp_path / "both.safetensors", beside=[folder])
    assert torch.equal(*(m.sample("a red cat", 1, 7, **SIZE).data for m in (ours, theirs)))
    vae = {k: v.flip(0).contiguous() for k, v in tensors.items() if k.startswith("first_stage_model.")}
    save_file(vae, tmp_path / "vae.safetensors")  # what is given by itself comes first, in any order
    for beside in (["vae.safetensors", "base.safetensors"], ["base.safetensors", "vae.safetensors"]):
        found = open_foreign(tmp_path / f"alone.{form}", beside=[tmp_path / name for name in beside])
        assert found is not None
        assert found.parts["vae"].where == str(tmp_path / "vae.safetensors")
        assert found.parts["text_encoder"].where == str(tmp_path / "base.safetensors")


def test_a_whole_model_that_gives_nothing(first: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    tensors, _ = first
    save_file(tensors, tmp_path / "base.safetensors")
    alone = {k: v for k, v in tensors.items() if k.startswith("model.diffusion_model.")}
    save_file(alone, tmp_path / "alone.safetensors")
    save_file({k: v.contiguous() for k, v in others("FLUX").items()}, tmp_path / "flux.safetensors")
    for file, beside, message in (
        ("base", "alone", r"alone.safetensors: holds nothing that base.safetensors lacks, which has a network of its own"),
        ("base", "base", r"base.safetensors: holds nothing that base.safetensors lacks"),
        ("alone", "flux", r"flux.safetensors: a whole FLUX.1, where .*alone.safetensors is Stable Diffusion 1: made for another"),
    ):
        with pytest.raises(InputError, match=message):
            open_foreign(tmp_path / f"{file}.safetensors", beside=[tmp_path / f"{beside}.safetensors"])
