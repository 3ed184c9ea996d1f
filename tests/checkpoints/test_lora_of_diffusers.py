"""LoRA files as diffusers' converters and its pipelines with PEFT read and write them."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lora_files import (
    UNET_LAYERS,
    conditioner_of,
    flux_originals,
    joined,
    kohya,
    merged,
    model_of,
    networks,
    ours_says,
    pairs,
    peft,
    theirs_says,
    unpacked,
    written,
)
from modalities.words import encoders
from test_diffusers_names import close
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import flux_config
from unnoise.checkpoints.foreign.lora import low_rank, save_low_rank
from unnoise.checkpoints.foreign.lora_names import names_of_network, places_of
from unnoise.control.low_rank import Place
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft", reason="diffusers applies LoRA files through PEFT")
from diffusers.loaders import lora_conversion_utils as converters  # noqa: E402


def test_names_of_xlabs(tmp_path: Path) -> None:
    theirs, ours = networks("FLUX")
    table = {}
    for i in range(2):
        block = f"transformer_blocks.{i}.attn"
        table |= {f"double_blocks.{i}.processor.qkv_lora1": [f"{block}.to_{x}" for x in "qkv"]}
        table |= {f"double_blocks.{i}.processor.qkv_lora2": [f"{block}.add_{x}_proj" for x in "qkv"]}
        table |= {f"double_blocks.{i}.processor.proj_lora1": [f"{block}.to_out.0"]}
        table |= {f"double_blocks.{i}.processor.proj_lora2": [f"{block}.to_add_out"]}
        single = f"single_transformer_blocks.{i}"
        table |= {f"single_blocks.{i}.processor.qkv_lora": [f"{single}.attn.to_{x}" for x in "qkv"]}
        table |= {f"single_blocks.{i}.processor.proj_lora": [f"{single}.proj_out"]}
    originals, _ = joined(pairs(theirs, "."), table)
    tensors = {f"{m}.{x}.weight": t for m, pair in originals.items() for x, t in zip(("down", "up"), pair)}
    low_rank(model_of(ours), {written(tmp_path, tensors): 1.0})
    converted = converters._convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    expected, got = theirs_says("FLUX", merged(theirs, unpacked(converted, "transformer."), 1.0)), ours_says("FLUX", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


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


def test_original_names_of_sdxl_as_diffusers_converts_them(tmp_path: Path) -> None:
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


def test_layers_named_twice_are_changed_once(tmp_path: Path) -> None:
    """As diffusers reads such files: of both namings its own, whatever the other says."""
    theirs, ours = networks("SDXL")
    some, other = (pairs(theirs, r"attn\d\.to|conv1", seed=seed) for seed in (5, 6))
    tensors = kohya(some) | kohya({m: p for m, p in other.items() if "blocks.1" in m}, rename=sgm, alpha=7.0)
    mapped = converters._maybe_map_sgm_blocks_to_diffusers(dict(tensors), SimpleNamespace(layers_per_block=2))
    assert len(mapped) == 3 * len(some) < len(tensors)
    low_rank(model_of(ours), {written(tmp_path, tensors): 1.0})
    expected, got = theirs_says("SDXL", merged(theirs, some, 2 / 3)), ours_says("SDXL", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


@pytest.mark.parametrize("first", ["transformer.", "lora_transformer_"])
def test_layers_of_flux_named_twice_are_changed_once(tmp_path: Path, first: str) -> None:
    """Queries alone under diffusers' names, beside joined layers under the original ones, and the same name spelt twice."""
    theirs, ours = networks("FLUX")
    some = pairs(theirs, r"\d\.attn\.to_(q|out)")
    which = r"qkv|linear1|img_attn.proj" if first == "transformer." else "qkv|linear1"
    table = {k: m for k, m in flux_originals(2, 2).items() if re.search(which, k)}
    originals, _ = joined(pairs(theirs, ".", seed=6), {k: m for k, m in table.items() if "txt" not in k})
    tensors = (peft if first == "transformer." else kohya)(some, first) | kohya(originals)
    if first == "transformer.":
        tensors |= kohya(pairs(theirs, r"\d\.attn\.to_(q|out)", seed=9), "lora_transformer_", alpha=7.0)
    converted = unpacked(converters._convert_kohya_flux_lora_to_diffusers(dict(tensors)), "transformer.")
    assert converted.keys() == some.keys()
    low_rank(model_of(ours), {written(tmp_path, tensors): 1.0})
    expected, got = theirs_says("FLUX", merged(theirs, converted, 1.0)), ours_says("FLUX", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


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


@pytest.mark.parametrize("kind", ["SD 1", "SDXL"])
def test_two_at_once_with_weights_for_the_words_of_their_own(hub: Path, tmp_path: Path, kind: str) -> None:
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
    "changed",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"alpha_pattern": {"attn2.to_q": 7}},
        {"lora_bias": True},
        {"alpha_pattern": {"attn2.to_q": 7, "to_q": 16}},
        {"alpha_pattern": {r".*attn\d?\.to_q": 5, "^down_blocks.0.*to_v": 3}},
    ],
)
def test_files_that_diffusers_writes_with_pefts_settings(tmp_path: Path, changed: dict) -> None:
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


def test_a_pattern_is_of_whole_names(tmp_path: Path) -> None:
    """ "transformer_blocks.0" is not the end of "single_transformer_blocks.0", as in PEFT."""
    from peft import LoraConfig, get_peft_model_state_dict

    theirs, ours = networks("FLUX")
    network = copy.deepcopy(theirs)
    pattern = {"transformer_blocks.0.attn.to_q": 2}
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=["to_q", "to_k"], alpha_pattern=pattern)
    network.add_adapter(config)
    diffusers.FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(network),
        transformer_lora_adapter_metadata=config.to_dict() | {"alpha_pattern": pattern},
    )
    low_rank(model_of(ours), {tmp_path: 1.0})
    expected, got = theirs_says("FLUX", network), ours_says("FLUX", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 4), (2, 2), (2, 4), (8, 3)])
def test_lokr_by_peft(rank: int, alpha: int, tmp_path: Path) -> None:
    """It scales by alpha over the rank where both factors are whole, too."""
    from peft import LoKrConfig, get_peft_model

    theirs, ours = networks("SDXL")
    torch.manual_seed(5)
    config = LoKrConfig(r=rank, alpha=alpha, target_modules=["to_q", "to_k"], init_weights=False)
    network = get_peft_model(copy.deepcopy(theirs), config)
    network.save_pretrained(tmp_path)
    low_rank(model_of(ours), {tmp_path: 1.0})
    expected, got = theirs_says("SDXL", network), ours_says("SDXL", ours)
    low_rank(model_of(ours), {})
    close(got, expected)


@pytest.mark.parametrize("began", ["pissa", "olora"])
def test_what_is_no_change_of_the_published_weights_is_refused(began: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    theirs, ours = networks("FLUX")
    network = copy.deepcopy(theirs)
    config = LoraConfig(r=4, lora_alpha=4, init_lora_weights=began, target_modules=["to_q"])
    network.add_adapter(config)
    diffusers.FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(network),
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    with pytest.raises(InputError, match=f"network part began as {began}, on changed weights"):
        low_rank(model_of(ours), {tmp_path: 1.0})


def test_what_goes_with_coarser_weights_is_refused(tmp_path: Path) -> None:
    theirs, ours = networks("SD 1")
    written(tmp_path, peft(pairs(theirs, r"attn2\.to_q"), "base_model.model."), "adapter_model")
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "init_lora_weights": "loftq"}')
    with pytest.raises(InputError, match="began as loftq, on changed weights"):
        low_rank(model_of(ours), {tmp_path: 1.0})


@pytest.mark.parametrize(
    "told",
    [
        '{"lora_alpha": Infinity}',
        '{"lora_alpha": 4, "r": Infinity}',
        "[]",
        "null",
        '{"lora_alpha": [1]}',
        '{"lora_alpha": 4, "alpha_pattern": ["to_q"]}',
        '"x"',
    ],
)
def test_settings_that_are_none(told: str, tmp_path: Path) -> None:
    theirs, ours = networks("SD 1")
    written(tmp_path, peft(pairs(theirs, r"attn2\.to_q"), "base_model.model."), "adapter_model")
    (tmp_path / "adapter_config.json").write_text(told)
    with pytest.raises(InputError, match=r"its settings are (no JSON object|not those of a LoRA)"):
        low_rank(model_of(ours), {tmp_path: 1.0})


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as f:
        return f.metadata()


@pytest.mark.parametrize("kind", ["SD 1", "SDXL"])
@pytest.mark.parametrize("naming", ["LyCORIS", "ComfyUI"])
def test_differences_of_normalisations(hub: Path, tmp_path: Path, kind: str, naming: str) -> None:
    """Of every group and layer normalisation, words included: theirs with the differences added to weights and offsets."""
    theirs, ours = networks(kind)
    pipeline, conditioner, rng = pipeline_of(hub, kind, theirs), conditioner_of(hub, kind), torch.Generator().manual_seed(2)
    lycoris, tensors, weight = naming == "LyCORIS", {}, 0.7
    parts = {"text_encoder": pipeline.text_encoder, "unet": pipeline.unet}
    for part, network in parts.items():
        for name, layer in network.named_modules():
            if not isinstance(layer, nn.LayerNorm | nn.GroupNorm):
                continue
            if part == "unet":
                original = sgm_norm(name) if kind == "SDXL" else name
                key = f"diffusion_model.{original}" if not lycoris else f"lora_unet_{name.replace('.', '_')}"
            else:
                module = name if name.startswith("text_model.") else f"text_model.{name}"
                key = f"lora_te1_{module.replace('.', '_')}" if lycoris else f"text_encoders.clip_l.transformer.{module}"
            for p, role in ((layer.weight, "w_norm" if lycoris else "diff"), (layer.bias, "b_norm" if lycoris else "diff_b")):
                difference = torch.randn(len(p), generator=rng)
                p.data += weight * difference
                tensors[f"{key}.{role}"] = difference
    model, plain = model_of(ours, conditioner), ours_says(kind, ours)
    words, before = dict(conditioner(conditioner.prepare([PROMPT])))["tokens"], {k: v.clone() for k, v in ours.state_dict().items()}
    adapted = low_rank(model, {written(tmp_path, tensors): weight})
    expected = theirs_says(kind, pipeline.unet)
    for act in (adapted.merge, adapted.unmerge):
        close(ours_says(kind, ours), expected)
        close(conditioner(conditioner.prepare([PROMPT]))["tokens"], told(pipeline))
        act()
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    low_rank(model, {})
    assert torch.equal(ours_says(kind, ours), plain)
    assert torch.equal(conditioner(conditioner.prepare([PROMPT]))["tokens"], words)
    assert float((expected - plain).std() / plain.std()) > 0.1


def sgm_norm(module: str) -> str:
    if module == "conv_norm_out":
        return "out.0"
    resnet = {"norm1": "in_layers.0", "norm2": "out_layers.0"}
    head, _, last = module.rpartition(".")
    return f"{sgm(f'{head}.conv1').removesuffix('.in_layers.2')}.{resnet[last]}" if ".resnets." in module else sgm(module)


@pytest.mark.parametrize("kind", ["SD 1", "FLUX"])
def test_saved_adapters_are_loaded_by_diffusers(hub: Path, tmp_path: Path, kind: str) -> None:
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
