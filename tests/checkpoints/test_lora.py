"""LoRA files under every naming, against diffusers' pipelines with PEFT, diffusers' converters, and the dense sum W + s B A."""

import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from modalities.words import encoders
from safetensors.torch import save_file
from test_diffusers_names import TIMES, UNETS, close, flux, randomised, sd3, unet
from test_dit_names import pixart, sana
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import (
    FLUX_TABLE,
    SD3_TABLE,
    SD3_UNUSED,
    UNET_TABLE,
    flux_config,
    sd3_config,
    translate,
    unet_config,
)
from unnoise.checkpoints.foreign.dit_names import PIXART_TABLE, SANA_SPRINT_TABLE, SANA_TABLE, pixart_config, sana_config
from unnoise.checkpoints.foreign.lora import low_rank, parse_lora, save_low_rank
from unnoise.checkpoints.foreign.lora_names import names_of_network, places_of
from unnoise.control.low_rank import Adapted, Adapter, LowRank, Place, Whole
from unnoise.core.codec import UnconditionalConfig
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import Velocity
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow
from unnoise.modalities.words.frozen import read_encoder
from unnoise.modalities.words.joined import sdxl
from unnoise.networks.embedding import size_features
from unnoise.networks.flux import where
from unnoise.networks.layers import patchify, unpatchify

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft", reason="diffusers applies LoRA files through PEFT")
from diffusers.loaders import lora_conversion_utils as converters  # noqa: E402

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Module of theirs -> A (r, in, ...), B (rows, r, ...)."""


# -- networks, theirs and ours -----------------------------------------------------------------------------------------------


def made(kind: str) -> tuple[nn.Module, nn.Module]:
    if kind == "SD3":
        theirs = randomised(sd3(qk_norm="rms_norm", dual_attention_layers=(0,)))
        ours = sd3_config(theirs.config).build()
        weights = translate(theirs.state_dict(), SD3_TABLE, ours.state_dict(), SD3_UNUSED)
    elif kind == "FLUX":
        theirs = randomised(flux(guidance_embeds=True))
        ours = flux_config(theirs.config).build()
        weights = translate(theirs.state_dict(), FLUX_TABLE, ours.state_dict())
    else:
        theirs = randomised(unet(**UNETS[kind]))
        ours = unet_config(theirs.config).build()
        weights = translate(theirs.state_dict(), UNET_TABLE, ours.state_dict())
    ours.load_state_dict(weights)
    return theirs, ours.eval()


@pytest.fixture(scope="module")
def networks() -> Callable[[str], tuple[nn.Module, nn.Module]]:
    """Theirs and ours with the same weights, made once; every test takes away what it adds."""
    known: dict[str, tuple[nn.Module, nn.Module]] = {}
    return lambda kind: known.setdefault(kind, known.get(kind) or made(kind))


def model_of(network: nn.Module, conditioner: nn.Module | None = None) -> SimpleNamespace:
    denoiser = NetworkDenoiser(network, Gaussian(RectifiedFlow()), Velocity())
    return SimpleNamespace(denoiser=denoiser, conditioner=conditioner or UnconditionalConfig().build())


def asked() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A picture, words, a summary of them, guidance scales."""
    torch.manual_seed(3)
    return torch.randn(3, 4, 8, 12), torch.randn(3, 5, 12), torch.randn(3, 10), torch.tensor([1.0, 3.5, 7.0])


SIZES = torch.tensor([[512.0, 512, 0, 0, 1024, 1024]]).expand(3, -1)


@torch.no_grad()
def ours_says(kind: str, ours: nn.Module) -> Tensor:
    x, tokens, vector, scale = asked()
    cond = {"tokens": tokens, "vector": vector, "guidance": scale}
    if kind not in ("SD3", "FLUX"):
        cond["vector"] = torch.cat([vector, size_features(SIZES, 6)], 1)
    return ours(x, TIMES, cond)


@torch.no_grad()
def theirs_says(kind: str, theirs: nn.Module) -> Tensor:
    x, tokens, vector, scale = asked()
    if kind == "SD3":
        return theirs(x, tokens, vector, TIMES * 1000).sample
    if kind == "FLUX":
        places = where(5, 4, 6, x.device)
        return unpatchify(theirs(patchify(x, 2), tokens, vector, TIMES, places[5:], places[:5], scale).sample, 4, 6, 2)
    added = {"text_embeds": vector, "time_ids": SIZES} if kind == "SDXL" else None
    return theirs(x, TIMES * 1000, tokens, added_cond_kwargs=added).sample


# -- LoRA files --------------------------------------------------------------------------------------------------------------


def pairs(network: nn.Module, which: str, rank: int = 3, seed: int = 5) -> Pairs:
    """Of every linear layer and convolution whose name `which` finds, as large as the layer itself."""
    rng = torch.Generator().manual_seed(seed)
    out = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.search(which, name):
            rows, *inputs = layer.weight.shape
            a = torch.randn(rank, *inputs, generator=rng) / layer.weight[0].numel() ** 0.5
            out[name] = a, torch.randn(rows, rank, *(1,) * (len(inputs) - 1), generator=rng) / rank**0.5
    assert out
    return out


def peft(some: Pairs, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{m}.lora_{x}.weight": t for m, pair in some.items() for x, t in zip("AB", pair)}


def kohya(some: Pairs, prefix: str = "lora_unet_", rename: Callable[[str], str] = str, alpha: float = 2.0) -> dict[str, Tensor]:
    out = {}
    for m, (a, b) in some.items():
        name = prefix + rename(m).replace(".", "_")
        out |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(alpha)}
    return out


def before_2023(some: Pairs, prefix: str) -> dict[str, Tensor]:
    """Attention alone; to_out lacks its number."""
    out = {}
    for m, pair in some.items():
        block, layer = m.removesuffix(".0").rsplit(".", 1)
        out |= {f"{prefix}{block}.processor.{layer}_lora.{x}.weight": t for x, t in zip(("down", "up"), pair)}
    return out


def merged(network: nn.Module, some: Pairs, scale: float) -> nn.Module:
    """The oracle: a copy with W + scale B A."""
    network = copy.deepcopy(network)
    for m, (a, b) in some.items():
        weight = network.get_submodule(m).weight
        weight.data += scale * (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    return network


def written(folder: Path, tensors: Mapping[str, Tensor], name: str = "lora", metadata: dict[str, str] | None = None) -> Path:
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / f"{name}.safetensors", metadata)
    return folder / f"{name}.safetensors"


UNET_LAYERS = r"attn\d\.to|ff\.net|proj_in|proj_out|conv1|conv_shortcut|samplers|time_emb_proj|conv_in|time_embedding"
JOINT_LAYERS = r"blocks\.\d\.(attn2?\.(to|add)|ff|norm|proj)|x_embedder|context_embedder|proj_out|norm_out|pos_embed"


@pytest.mark.parametrize(
    ("kind", "layers", "naming", "scale"),
    [
        ("SD 1", UNET_LAYERS, lambda p: peft(p, "unet."), 1.0),
        ("SD 1", r"attn\d\.to", lambda p: before_2023(p, "unet."), 1.0),
        ("SD 1", r"attn\d\.to", lambda p: before_2023(p, ""), 1.0),
        ("SD 1", UNET_LAYERS, kohya, 2 / 3),
        ("SD 2", UNET_LAYERS, kohya, 2 / 3),
        ("SDXL", UNET_LAYERS, kohya, 2 / 3),
        ("SDXL", UNET_LAYERS, lambda p: peft(p, "base_model.model."), 1.0),
        ("SD3", JOINT_LAYERS, lambda p: peft(p, "transformer."), 1.0),
        ("SD3", JOINT_LAYERS, kohya, 2 / 3),
        ("FLUX", JOINT_LAYERS, lambda p: peft(p, "transformer."), 1.0),
        ("FLUX", JOINT_LAYERS, lambda p: kohya(p, "lora_transformer_"), 2 / 3),
        ("FLUX", r"single_transformer_blocks\.1\.attn\.to_k", lambda p: peft(p, "transformer."), 1.0),
        ("SD 1", r"attn2\.to_v", lambda p: peft(p, "unet."), 1.0),
    ],
)
def test_names_of_diffusers(networks: Callable, tmp_path: Path, kind: str, layers: str, naming: Callable, scale: float) -> None:
    theirs, ours = networks(kind)
    some = pairs(theirs, layers)
    model, file = model_of(ours), written(tmp_path, naming(some))
    plain = ours_says(kind, ours)
    adapted = low_rank(model, {file: 0.7})
    expected, got = theirs_says(kind, merged(theirs, some, 0.7 * scale)), ours_says(kind, ours)
    close(got, expected)
    adapted.merge()
    close(ours_says(kind, ours), expected)
    low_rank(model, {})
    assert torch.equal(ours_says(kind, ours), plain)


def joined(some: Pairs, table: Mapping[str, list[str]]) -> tuple[Pairs, Pairs]:
    """LoRAs of the original network's layers, one where diffusers has several, and the same as theirs: A for each, B cut."""
    rng = torch.Generator().manual_seed(7)
    originals, theirs = {}, {}
    for original, modules in table.items():
        a = some[modules[0]][0]
        b = [torch.randn(len(some[m][1]), len(a), generator=rng) / len(a) ** 0.5 for m in modules]
        originals[original] = a, torch.cat(b)
        theirs |= {m: (a, x) for m, x in zip(modules, b)}
    return originals, theirs


def flux_originals(depth: int, singles: int) -> dict[str, list[str]]:
    """As in the published file."""
    out = {"img_in": ["x_embedder"], "txt_in": ["context_embedder"], "final_layer.linear": ["proj_out"]}
    for theirs, ours in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")):
        out |= {f"{theirs}.{x}_layer": [f"time_text_embed.{ours}_embedder.linear_{i}"] for x, i in (("in", 1), ("out", 2))}
    for i in range(depth):
        for short, norm, ff, q, o in (
            ("img", "norm1", "ff", "to_{}", "to_out.0"),
            ("txt", "norm1_context", "ff_context", "add_{}_proj", "to_add_out"),
        ):
            at, to = f"double_blocks.{i}.{short}", f"transformer_blocks.{i}"
            out |= {f"{at}_attn.qkv": [f"{to}.attn.{q.format(x)}" for x in "qkv"], f"{at}_attn.proj": [f"{to}.attn.{o}"]}
            out |= {
                f"{at}_mod.lin": [f"{to}.{norm}.linear"],
                f"{at}_mlp.0": [f"{to}.{ff}.net.0.proj"],
                f"{at}_mlp.2": [f"{to}.{ff}.net.2"],
            }
    for i in range(singles):
        at, to = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        out |= {f"{at}.linear1": [*(f"{to}.attn.to_{x}" for x in "qkv"), f"{to}.proj_mlp"], f"{at}.linear2": [f"{to}.proj_out"]}
        out[f"{at}.modulation.lin"] = [f"{to}.norm.linear"]
    return out


@pytest.mark.parametrize(
    ("naming", "scale"),
    [(lambda p: peft(p, "diffusion_model."), 1.0), (lambda p: peft(p, "base_model.model."), 1.0), (peft, 1.0), (kohya, 2 / 3)],
    ids=["ComfyUI", "fal", "Black Forest Labs", "kohya"],
)
def test_original_names_of_flux(networks: Callable, tmp_path: Path, naming: Callable, scale: float) -> None:
    theirs, ours = networks("FLUX")
    originals, cut = joined(pairs(theirs, "."), flux_originals(2, 2))
    last_a, last_b = pairs(theirs, r"norm_out\.linear")["norm_out.linear"]
    shift, scale_ = last_b.chunk(2)
    originals["final_layer.adaLN_modulation.1"] = last_a, last_b
    cut["norm_out.linear"] = last_a, torch.cat([scale_, shift])  # the other way round in diffusers
    file = written(tmp_path, naming(originals))
    low_rank(model_of(ours), {file: 1.0})
    expected, got = theirs_says("FLUX", merged(theirs, cut, scale)), ours_says("FLUX", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


def test_names_of_xlabs(networks: Callable, tmp_path: Path) -> None:
    theirs, ours = networks("FLUX")
    table = {}
    for i in range(2):
        block = f"transformer_blocks.{i}.attn"
        table |= {f"double_blocks.{i}.processor.qkv_lora1": [f"{block}.to_{x}" for x in "qkv"]}
        table |= {f"double_blocks.{i}.processor.qkv_lora2": [f"{block}.add_{x}_proj" for x in "qkv"]}
        table |= {f"double_blocks.{i}.processor.proj_lora1": [f"{block}.to_out.0"]}
        table |= {f"double_blocks.{i}.processor.proj_lora2": [f"{block}.to_add_out"]}
    originals, _ = joined(pairs(theirs, "."), table)
    tensors = {f"{m}.{x}.weight": t for m, pair in originals.items() for x, t in zip(("down", "up"), pair)}
    low_rank(model_of(ours), {written(tmp_path, tensors): 1.0})
    converted = converters._convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    expected, got = theirs_says("FLUX", merged(theirs, unpacked(converted, "transformer."), 1.0)), ours_says("FLUX", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


def unpacked(tensors: Mapping[str, Tensor], prefix: str) -> Pairs:
    """The way back from `peft`."""
    names = {k.removeprefix(prefix).removesuffix(".lora_A.weight") for k in tensors if k.endswith(".lora_A.weight")}
    return {m: (tensors[f"{prefix}{m}.lora_A.weight"], tensors[f"{prefix}{m}.lora_B.weight"]) for m in names}


def test_joined_layers_of_sd3_are_cut_where_the_last_words_ask_nothing(networks: Callable, tmp_path: Path) -> None:
    theirs, ours = networks("SD3")
    table = {f"joint_blocks.{i}.x_block.attn.qkv": [f"transformer_blocks.{i}.attn.to_{x}" for x in "qkv"] for i in range(3)}
    table |= {
        f"joint_blocks.{i}.context_block.attn.qkv": [f"transformer_blocks.{i}.attn.add_{x}_proj" for x in "qkv"] for i in range(3)
    }
    table |= {"joint_blocks.0.x_block.attn2.qkv": [f"transformer_blocks.0.attn2.to_{x}" for x in "qkv"]}
    originals, cut = joined(pairs(theirs, "."), table)
    low_rank(model_of(ours), {written(tmp_path, kohya(originals)): 1.0})
    expected, got = theirs_says("SD3", merged(theirs, cut, 2 / 3)), ours_says("SD3", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


# -- diffusers' own converters, and its pipelines with PEFT --------------------------------------------------------------------


def sgm(module: str) -> str:
    """The original name of a module of the tiny SDXL U-Net: three levels of two blocks, the last without a halving."""
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", module):
        side, level, kind, block, rest = found.groups()
        first = 1 + 3 * int(level) if side == "down" else 3 * int(level)
        attends = level != "0" if side == "down" else level != "2"
        at = {"downsamplers": first + 2, "upsamplers": first + 2}.get(kind, first + int(block))
        inner = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1 + attends}[kind]
        head, rest = f"{'input' if side == 'down' else 'output'}_blocks.{at}.{inner}", "op" if kind == "downsamplers" else rest
    elif found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", module):
        head, rest = f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}", found[3]
    else:
        at = {"conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0"}
        return {**at, "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0"}.get(
            module, "label_emb.0.2"
        )
    block = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    return f"{head}.{block.get(rest, rest)}"


def test_original_names_of_sdxl_as_diffusers_converts_them(networks: Callable, tmp_path: Path) -> None:
    theirs, ours = networks("SDXL")
    some = pairs(theirs, ".")
    tensors = kohya(some, rename=sgm)
    low_rank(model_of(ours), {written(tmp_path, tensors): 1.0})
    expected, got = theirs_says("SDXL", merged(theirs, some, 2 / 3)), ours_says("SDXL", ours)
    low_rank(model_of(ours), {})
    close(got, expected)
    # and diffusers says the same of the names
    state, config = {k: v for k, v in tensors.items() if "conv_out" not in k}, SimpleNamespace(layers_per_block=2)
    converted, alphas = converters._convert_non_diffusers_lora_to_diffusers(
        converters._maybe_map_sgm_blocks_to_diffusers(dict(state), config)
    )
    from diffusers.utils import convert_unet_state_dict_to_peft

    names = convert_unet_state_dict_to_peft({k.replace(".processor", ""): v for k, v in converted.items()})
    for m, (a, b) in unpacked(names, "unet.").items():
        assert torch.equal(a, some[m][0])
        assert torch.equal(b, some[m][1])
    assert len(unpacked(names, "unet.")) == len(some)
    assert set(alphas.values()) == {2.0}


def test_every_name_of_kohyas_flux_as_diffusers_converts_it() -> None:
    """At full size, nothing of the network allocated: where each pair lies, and with what factor."""
    with torch.device("meta"):
        theirs = diffusers.FluxTransformer2DModel(guidance_embeds=True)
        ours = flux_config(theirs.config).build()
    table = {k: m for k, m in flux_originals(19, 38).items() if k != "final_layer.linear"}
    rows = {name: layer.weight.shape[0] for name, layer in theirs.named_modules() if isinstance(layer, nn.Linear)}
    originals = {k: (torch.randn(1, 4), torch.randn(sum(rows[m] for m in modules), 1)) for k, modules in table.items()}
    tensors = kohya(originals, alpha=0.5)
    places, names = places_of(ours), names_of_network(ours)
    converted = converters._convert_kohya_flux_lora_to_diffusers(dict(tensors))
    converted = {k.removeprefix("transformer."): v for k, v in converted.items()}
    assert len(unpacked(converted, "")) == sum(len(m) for m in table.values())
    for original, modules in table.items():
        (a, b), start = originals[original], 0
        where = names[original.replace(".", "_")]
        assert where == tuple(places[m] for m in modules)
        for m, place in zip(modules, where):
            assert isinstance(place, Place)
            theirs_a, theirs_b = unpacked({k: v for k, v in converted.items() if k.startswith(f"{m}.")}, "")[m]
            torch.testing.assert_close(theirs_b[:9] @ theirs_a, 0.5 * b[start : start + 9] @ a)
            start += place.rows
            assert len(theirs_b) == place.rows


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    encoders.save_clip(folder / "text_encoder", 0, projected=False)
    encoders.save_clip(folder / "text_encoder_2", 1, width=24, projected=True, pad="!")
    return folder


def pipeline_of(hub: Path, kind: str, network: nn.Module):
    from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

    first = CLIPTextModel.from_pretrained(hub / "text_encoder"), AutoTokenizer.from_pretrained(hub / "tokenizer")
    if kind == "SD 1":
        return diffusers.StableDiffusionPipeline(
            None, *first, copy.deepcopy(network), None, None, None, requires_safety_checker=False
        )
    second = CLIPTextModelWithProjection.from_pretrained(hub / "text_encoder_2"), AutoTokenizer.from_pretrained(hub / "tokenizer_2")
    return diffusers.StableDiffusionXLPipeline(None, first[0], second[0], first[1], second[1], copy.deepcopy(network), None)


PROMPT = "a red cat, hi!"


def told(pipeline) -> Tensor:
    with torch.no_grad():
        return pipeline.encode_prompt(
            PROMPT, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]


def conditioner_of(hub: Path, kind: str):
    first = read_encoder(str(hub / "text_encoder"))
    return first.build() if kind == "SD 1" else sdxl(first, read_encoder(str(hub / "text_encoder_2"))).build()


@pytest.mark.parametrize("kind", ["SD 1", "SDXL"])
def test_two_at_once_with_weights_for_the_words_of_their_own(networks: Callable, hub: Path, tmp_path: Path, kind: str) -> None:
    """diffusers and PEFT, of one file in PEFT's naming and one in kohya's, words included."""
    theirs, ours = networks(kind)
    pipeline, conditioner = pipeline_of(hub, kind, theirs), conditioner_of(hub, kind)
    model, words = model_of(ours, conditioner), r"layers\.1\.(self_attn|mlp)"
    first, second = {}, {}
    for name in ("text_encoder", "text_encoder_2") if kind == "SDXL" else ("text_encoder",):
        network = getattr(pipeline, name)
        whole = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in pairs(network, words).items()}
        first |= peft(whole, f"{name}.")
        second |= kohya(whole, {"text_encoder": "lora_te1_" if kind == "SDXL" else "lora_te_", "text_encoder_2": "lora_te2_"}[name])
    first |= peft(pairs(theirs, r"down.*attn\d\.to_[qv]|mid.*conv1"), "unet.")
    second |= kohya(pairs(theirs, r"down.*(attn2\.to|ff\.net|proj_in)", rank=2, seed=8), rename=sgm if kind == "SDXL" else str)
    files = [written(tmp_path, first, "first"), written(tmp_path, second, "second")]
    for file in files:
        pipeline.load_lora_weights(file, adapter_name=file.stem)
    plain = dict(conditioner(conditioner.prepare([PROMPT])))["tokens"]
    for weights in ((0.7, 0.4), (-0.5, 1.5)), ((1.0, 0.0), (0.3, 1.0)):
        split = [{k: n if k == "unet" else w for k in ("unet", "text_encoder", "text_encoder_2")} for n, w in weights]
        pipeline.set_adapters(
            ["first", "second"], adapter_weights=[{k: v for k, v in s.items() if hasattr(pipeline, k)} for s in split]
        )
        adapted = low_rank(model, dict(zip(files, weights)))
        for act in (adapted.merge, adapted.unmerge):
            torch.testing.assert_close(conditioner(conditioner.prepare([PROMPT]))["tokens"], told(pipeline), rtol=1e-4, atol=1e-4)
            close(ours_says(kind, ours), theirs_says(kind, pipeline.unet))
            act()
        low_rank(model, dict(zip(files, reversed(weights))))
        adapted.merge()
        low_rank(model, dict(zip(files, weights)))  # what is merged stays so, with other weights
        close(ours_says(kind, ours), theirs_says(kind, pipeline.unet))
        assert (conditioner(conditioner.prepare([PROMPT]))["tokens"] - plain).abs().max() > 0.1
    twin = conditioner_of(hub, kind)
    assert torch.equal(twin(twin.prepare([PROMPT]))["tokens"], plain), "who else reads with these encoders sees nothing of it"
    low_rank(model, {})
    assert torch.equal(conditioner(conditioner.prepare([PROMPT]))["tokens"], plain)


@pytest.mark.parametrize(
    "changed", [{"use_dora": True}, {"use_rslora": True}, {"alpha_pattern": {"attn2.to_q": 7}}, {"lora_bias": True}]
)
def test_files_that_diffusers_writes_with_pefts_settings(networks: Callable, tmp_path: Path, changed: dict) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    theirs, ours = networks("SD 1")
    network = copy.deepcopy(theirs)
    torch.manual_seed(11)
    config = LoraConfig(
        r=3, lora_alpha=2, init_lora_weights=False, target_modules=r"down_blocks.*(to_q|to_v|proj_in|conv1)", **changed
    )
    network.add_adapter(config)
    for name, p in network.named_parameters():
        if "magnitude" in name:
            p.data *= 1 + 0.3 * torch.randn_like(p)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(network), unet_lora_adapter_metadata=config.to_dict() | changed
    )
    if not config.use_rslora and not config.alpha_pattern:  # what the file alone says
        assert "lora_adapter_metadata" in str(json.dumps(dict(_metadata(tmp_path / "pytorch_lora_weights.safetensors"))))
    low_rank(model_of(ours), {tmp_path: 1.0})
    expected, got = theirs_says("SD 1", network), ours_says("SD 1", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as f:
        return f.metadata()


@pytest.mark.parametrize("kind", ["SD 1", "FLUX"])
def test_saved_adapters_are_loaded_by_diffusers(networks: Callable, hub: Path, tmp_path: Path, kind: str) -> None:
    """From a file of another naming, joined layers and convolutions among it; the scale multiplied in."""
    theirs, ours = networks(kind)
    if kind == "FLUX":
        originals, _ = joined(pairs(theirs, "."), {k: m for k, m in flux_originals(2, 2).items() if "blocks" in k})
        tensors, conditioner = kohya(originals), None
        pipeline = diffusers.FluxPipeline(None, None, None, None, None, None, copy.deepcopy(theirs))
    else:
        pipeline, conditioner = pipeline_of(hub, kind, theirs), conditioner_of(hub, kind)
        words = {f"text_model.{k}": v for k, v in pairs(pipeline.text_encoder, "self_attn|mlp").items()}
        tensors = kohya(pairs(theirs, UNET_LAYERS)) | kohya(words, "lora_te_")
    model = model_of(ours, conditioner)
    parts = low_rank(model, {written(tmp_path, tensors): 1.0}).parts
    adapters = [next(iter(part.adapters.values()))[0] for part in parts]
    save_low_rank(tmp_path / "saved.safetensors", model, adapters[0], dict(zip(["text_encoder"], adapters[1:])))
    pipeline.load_lora_weights(tmp_path / "saved.safetensors")
    expected, got = theirs_says(kind, pipeline.unet if kind == "SD 1" else pipeline.transformer), ours_says(kind, ours)
    close(got, expected)
    if conditioner is not None:
        torch.testing.assert_close(conditioner(conditioner.prepare([PROMPT]))["tokens"], told(pipeline), rtol=1e-4, atol=1e-4)
    low_rank(model, {tmp_path / "saved.safetensors": 1.0})
    close(ours_says(kind, ours), expected)
    low_rank(model, {})


# -- LyCORIS --------------------------------------------------------------------------------------------------------------------


def test_what_lycoris_writes(networks: Callable, tmp_path: Path) -> None:
    """Every form of its linear layers and convolutions, each against its formula as LyCORIS's `rebuild` functions state it."""
    theirs, ours = networks("SD 1")
    rng = torch.Generator().manual_seed(13)

    def r(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng) / shape[-1] ** 0.5

    block, network = "down_blocks.0.attentions.0.transformer_blocks.0", copy.deepcopy(theirs)
    convolution = "down_blocks.0.resnets.0.conv1"  # 8 to 8 channels
    tensors = {}
    for module, parts, delta in (
        (f"{block}.attn1.to_q", {"hada_w1_a": r(8, 2), "hada_w1_b": r(2, 8), "hada_w2_a": r(8, 2), "hada_w2_b": r(2, 8)},
            lambda p: p["hada_w1_a"] @ p["hada_w1_b"] * (p["hada_w2_a"] @ p["hada_w2_b"]) / 2),
        (f"{block}.attn1.to_k", {"lokr_w1": r(2, 4), "lokr_w2_a": r(4, 2), "lokr_w2_b": r(2, 2)},
            lambda p: torch.kron(p["lokr_w1"], p["lokr_w2_a"] @ p["lokr_w2_b"]) / 2),
        (f"{block}.attn1.to_v", {"lokr_w1_a": r(2, 2), "lokr_w1_b": r(2, 4), "lokr_w2": r(4, 2)},
            lambda p: torch.kron(p["lokr_w1_a"] @ p["lokr_w1_b"], p["lokr_w2"]) / 2),
        (f"{block}.attn2.to_q", {"lokr_w1": r(4, 4), "lokr_w2": r(2, 2)}, lambda p: torch.kron(p["lokr_w1"], p["lokr_w2"])),
        (f"{block}.attn2.to_k", {"diff": r(8, 12)}, lambda p: p["diff"]),
        (f"{block}.attn2.to_v", {"lora_down.weight": r(2, 12), "lora_up.weight": r(8, 2), "dora_scale": r(1, 12)}, None),
        (convolution, {"lora_down.weight": r(2, 8, 1, 1), "lora_mid.weight": r(2, 2, 3, 3), "lora_up.weight": r(8, 2, 1, 1)},
            lambda p: torch.einsum("or,rskl,si->oikl", p["lora_up.weight"][..., 0, 0], p["lora_mid.weight"],
                                   p["lora_down.weight"][..., 0, 0]) / 2),
        (convolution.replace("conv1", "conv2"), {f"hada_{k}": v for k, v in {
            "w1_a": r(2, 8), "w1_b": r(2, 8), "t1": r(2, 2, 3, 3), "w2_a": r(2, 8), "w2_b": r(2, 8), "t2": r(2, 2, 3, 3)}.items()},
            lambda p: torch.einsum("ijkl,jr,ip->prkl", p["hada_t1"], p["hada_w1_b"], p["hada_w1_a"])
            * torch.einsum("ijkl,jr,ip->prkl", p["hada_t2"], p["hada_w2_b"], p["hada_w2_a"]) / 2),
        ("mid_block.resnets.0.conv1", {"lokr_w1": r(4, 4), "lokr_w2_a": r(2, 4), "lokr_w2_b": r(2, 4), "lokr_t2": r(2, 2, 3, 3)},
            lambda p: torch.einsum("ac,ijkl,jr,ip->apcrkl", p["lokr_w1"], p["lokr_t2"], p["lokr_w2_b"], p["lokr_w2_a"])
            .reshape(16, 16, 3, 3) / 2),
        ("conv_in", {"diff_b": r(8)}, None),
    ):  # fmt: skip
        layer = network.get_submodule(module)
        if delta is not None:
            layer.weight.data += delta(parts)
        elif "diff_b" in parts:
            layer.bias.data += parts["diff_b"]
        else:
            moved = layer.weight.data + parts["lora_up.weight"] @ parts["lora_down.weight"] / 2
            layer.weight.data = moved * parts["dora_scale"] / moved.norm(dim=0, keepdim=True)
        tensors |= {f"lora_unet_{module.replace('.', '_')}.{k}": v for k, v in parts.items()}
        if "diff" not in parts and "diff_b" not in parts:
            tensors[f"lora_unet_{module.replace('.', '_')}.alpha"] = torch.tensor(1.0)
    low_rank(model_of(ours), {written(tmp_path, tensors): 1.0})
    expected, got = theirs_says("SD 1", network), ours_says("SD 1", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


@pytest.mark.parametrize("kind", ["PixArt", "Sana", "Sana-Sprint"])
def test_pixart_and_sana(kind: str, tmp_path: Path) -> None:
    told = {"guidance_embeds": True, "timestep_scale": 0.001} if kind == "Sana-Sprint" else {}
    theirs = randomised(pixart() if kind == "PixArt" else sana(**told))
    table = {"PixArt": PIXART_TABLE, "Sana": SANA_TABLE, "Sana-Sprint": SANA_SPRINT_TABLE}[kind]
    config = (pixart_config if kind == "PixArt" else sana_config)(theirs.config)
    layers = (
        r"blocks.*(attn\d\.to|ff\.net|conv_inverted|conv_point)|proj_out|caption_projection|linear$|linear_1|patch_embed|pos_embed"
    )
    some, model = pairs(theirs, layers), model_of(config.build().eval())
    ours = model.denoiser.network
    ours.load_state_dict(translate(theirs.state_dict(), table, ours.state_dict()))
    changed = merged(theirs, some, 0.7)
    low_rank(model, {written(tmp_path, peft(some, "transformer.")): 0.7})
    twin = config.build().eval()  # theirs with its weights changed, read as ours: `test_dit_names` holds it against theirs
    twin.load_state_dict(translate(changed.state_dict(), table, twin.state_dict()))
    x, tokens = torch.randn(3, config.channels, 8, 8), torch.randn(3, 5, 12)
    with torch.no_grad():
        close(ours(x, TIMES, {"tokens": tokens}), twin(x, TIMES, {"tokens": tokens}))
    if kind != "PixArt":
        depthwise = {"transformer.transformer_blocks.0.ff.conv_depth.diff": torch.ones(120, 1, 3, 3)}
        with pytest.raises(InputError, match=r"a LoRA for .*; this model, Sana, has no place for .*conv_depth.diff"):
            low_rank(model, {written(tmp_path, depthwise, "depthwise"): 1.0})


# -- what is refused -------------------------------------------------------------------------------------------------------------


def test_a_lora_for_another_family_is_named(networks: Callable, hub: Path, tmp_path: Path) -> None:
    wide, tiny = unet(cross_attention_dim=2048), "a U-Net for words of width 12"
    for name, tensors, kind, message in (
        ("flux", peft(pairs(networks("FLUX")[0], "attn"), "transformer."), "SD 1",
            rf"a LoRA for FLUX.1; this model, {tiny}, has no place for 'transformer.*lora_A.weight' \(3, 32\)"),
        ("sd3", kohya(pairs(networks("SD3")[0], "attn")), "FLUX",
            "a LoRA for Stable Diffusion 3; this model, FLUX.1, has no place"),
        ("sd", kohya(pairs(networks("SD 1")[0], "attn")), "SD3",
            f"a LoRA for {tiny}; this model, Stable Diffusion 3, has no place"),
        ("xl", kohya(pairs(wide, "attn2")), "SD 1",
            rf"a LoRA for Stable Diffusion XL; this model, {tiny}, has no place for .*_to_k.lora_down.weight' \(3, 2048\)"),
        ("wan", {"diffusion_model.blocks.0.cross_attn.q.lora_A.weight": torch.ones(2, 9)}, "SD 1",
            "a LoRA for Wan, a model of video; this model"),
    ):  # fmt: skip
        ours = networks(kind)[1]
        before = ours_says(kind, networks(kind)[1])
        with pytest.raises(InputError, match=message):
            low_rank(model_of(ours), {written(tmp_path, tensors, name): 1.0})
        assert torch.equal(ours_says(kind, networks(kind)[1]), before)
    ours = networks("SD 1")[1]
    words = kohya({"text_model.encoder.layers.0.mlp.fc1": (torch.ones(1, 16), torch.ones(32, 1))}, "lora_te_")
    file = written(tmp_path, words | kohya(pairs(networks("SD 1")[0], "attn2")), "words")
    with pytest.raises(InputError, match="changes text_encoder, which this model has not; a weight of 0 for the words"):
        low_rank(model_of(ours), {file: 1.0})
    low_rank(model_of(ours), {file: (1.0, 0.0)})
    low_rank(model_of(ours), {})
    more = kohya({"text_model.encoder.layers.9.mlp.fc1": (torch.ones(1, 16), torch.ones(32, 1))}, "lora_te_")
    with pytest.raises(
        InputError, match=r"a LoRA for text encoders alone; this model's text_encoder has no place for 'lora_te_.*_9_"
    ):
        low_rank(model_of(ours, conditioner_of(hub, "SD 1")), {written(tmp_path, more, "more"): 1.0})


def test_files_that_are_no_lora(networks: Callable, tmp_path: Path) -> None:
    ours = networks("SD 1")[1]
    some = peft(pairs(networks("SD 1")[0], r"attn2\.to_q"), "unet.")
    (tmp_path / "torn.safetensors").write_bytes(written(tmp_path, some).read_bytes()[:-9])
    half = {k: v for k, v in some.items() if "lora_B" not in k}
    for path, message in (
        (tmp_path / "lora.ckpt", r"a pickle, which runs code when it is read; convert it, .*save_file"),
        (tmp_path / "missing.safetensors", "no such file"),
        (tmp_path / "torn.safetensors", "truncated"),
        (written(tmp_path, half, "half"), "stands alone: 'up' of the same layer is missing"),
        (written(tmp_path, networks("SD 1")[0].state_dict(), "model"), r"'.*' is no part of a LoRA"),
        (written(tmp_path, {}, "empty"), "holds no tensors"),
    ):
        with pytest.raises(InputError, match=message):
            low_rank(model_of(ours), {path: 1.0})
    with pytest.raises(InputError, match="weight nan; a number is wanted"):
        low_rank(model_of(ours), {tmp_path / "lora.safetensors": float("nan")})
    zeros = some | {"unet.no.such.layer.lora_A.weight": torch.ones(1, 2), "unet.no.such.layer.lora_B.weight": torch.zeros(2, 1)}
    low_rank(model_of(ours), {written(tmp_path, zeros, "zeros"): 1.0})  # what changes nothing needs no place
    low_rank(model_of(ours), {})


def test_what_cannot_be_saved(networks: Callable, tmp_path: Path) -> None:
    model, file = model_of(networks("FLUX")[1]), tmp_path / "a.safetensors"
    whole, pair = Whole(torch.zeros(96, 32)), LowRank(torch.zeros(1, 32), torch.zeros(40, 1))
    for place, change, message in (
        (Place("blocks.0.picture.project.qkv", 0, 96), whole, "a Whole change; this format has place for low-rank ones"),
        (Place("blocks.0.picture.project.qkv", 0, 40), pair, "rows 0 to 40 are no whole layers of diffusers'"),
    ):
        with pytest.raises(InputError, match=message):
            save_low_rank(file, model, Adapter([(place, change)]))
    with pytest.raises(InputError, match="text_encoder: this model has the text encoders"):
        save_low_rank(file, model, Adapter([]), {"text_encoder": Adapter([])})
    pair = LowRank(torch.zeros(1, 32), torch.zeros(96, 1))
    with pytest.raises(InputError, match="could not be written"):
        save_low_rank(tmp_path / "no" / "a.safetensors", model, Adapter([(Place("blocks.0.picture.project.qkv", 0, 96), pair)]))
    assert not list(tmp_path.iterdir())


def test_the_command_lines_form(tmp_path: Path) -> None:
    assert parse_lora("a.safetensors") == (Path("a.safetensors"), 1.0)
    assert parse_lora("a.safetensors:0.7") == (Path("a.safetensors"), 0.7)
    assert parse_lora("a.safetensors:-1:0.25") == (Path("a.safetensors"), (-1.0, 0.25))
    (tmp_path / "odd:0.5").touch()
    assert parse_lora(f"{tmp_path}/odd:0.5") == (tmp_path / "odd:0.5", 1.0)
    for wrong in ("a:b", "a:1:2:3"):
        with pytest.raises(InputError, match=re.escape(wrong)):
            parse_lora(wrong)


def test_the_same_places_for_every_layer(networks: Callable) -> None:
    """Every row of every layer belongs to exactly one module of theirs."""
    for kind in ("SD 1", "SDXL", "SD3", "FLUX"):
        theirs, ours = networks(kind)
        covered = {name: torch.zeros(len(m.weight)) for name, m in ours.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        for module, place in places_of(ours).items():
            assert theirs.get_submodule(module).weight.shape[0] == place.rows
            covered[place.layer][place.start : place.start + place.rows] += 1
        assert all(bool((c == 1).all()) for c in covered.values())
    assert Adapted.of(ours) is not Adapted.of(ours), "nothing hangs on it"
