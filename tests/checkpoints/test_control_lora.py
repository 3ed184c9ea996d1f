"""FLUX.1 Canny and Depth as LoRAs, of a FLUX that diffusers saved: the picture of its pipeline under the same LoRA."""

import copy
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import unnoise
from unnoise.checkpoints.diffusers_names import flux_config
from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.checkpoints.foreign.lora_names import names_of_network, places_of
from unnoise.cli.main import main
from unnoise.control.low_rank import Adapted
from unnoise.core.errors import InputError
from unnoise.loading import with_loras
from unnoise.model import controlled
from unnoise.networks.layers import patchify, unpatchify

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
pytest.importorskip("peft", reason="diffusers applies LoRA files through PEFT")
converters = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from lora_files import flux_originals, joined, pairs, peft, written  # noqa: E402
from test_foreign_pictures import PROMPTS, masked, noise, same, without_chance  # noqa: E402, F401

SIZE: dict[str, Any] = {"height": 16, "width": 16}


class Both(NamedTuple):
    """The same LoRA under the original names, and under those of diffusers."""

    originals: dict[str, Tensor]
    theirs: dict[str, Tensor]


def control_lora(network: nn.Module, depth: int, singles: int) -> Both:
    """Of every layer, with offsets, the first of them as for a network with room for a picture; and other normalisations."""
    wide, rng = copy.deepcopy(network), torch.Generator().manual_seed(11)
    wide.x_embedder = nn.Linear(2 * network.x_embedder.in_features, network.x_embedder.out_features)
    some, table = pairs(wide, "."), flux_originals(depth, singles)
    last_a, last_b = some["norm_out.linear"]
    originals, theirs = joined(some, table)
    originals["final_layer.adaLN_modulation.1"] = last_a, last_b
    theirs["norm_out.linear"] = last_a, torch.cat(last_b.chunk(2)[::-1])  # the other way round in diffusers
    both = Both(peft(originals), peft(theirs, "transformer."))
    for original, (_, b) in originals.items():
        offset = torch.randn(len(b), generator=rng) / 10
        both.originals[f"{original}.lora_B.bias"] = offset
        modules = table.get(original, ["norm_out.linear"])
        cut = offset.split([len(theirs[m][1]) for m in modules])
        cut = (torch.cat(offset.chunk(2)[::-1]),) if original not in table else cut
        both.theirs.update({f"transformer.{m}.lora_B.bias": c for m, c in zip(modules, cut, strict=True)})
    for original, module in norms(depth, singles).items():
        values = torch.rand(network.get_submodule(module).weight.shape, generator=rng) + 0.5
        both.originals[f"{original}.scale"] = both.theirs[f"transformer.{module}.weight"] = values
    return both


def norms(depth: int, singles: int) -> dict[str, str]:
    """As in the published files."""
    out = {}
    for short, long in (("query", "q"), ("key", "k")):
        for i in range(depth):
            for stream, added in (("img", ""), ("txt", "added_")):
                out[f"double_blocks.{i}.{stream}_attn.norm.{short}_norm"] = f"transformer_blocks.{i}.attn.norm_{added}{long}"
        for i in range(singles):
            out[f"single_blocks.{i}.norm.{short}_norm"] = f"single_transformer_blocks.{i}.attn.norm_{long}"
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save(tiny.flux(tmp_path / "parts"), tmp_path / "model")


@pytest.mark.usefixtures("without_chance")
def test_the_picture_is_that_of_diffusers(folder: Path, tmp_path: Path) -> None:
    """At a weight that is not 1, merged too, beside a LoRA that knows of no picture, and by the command line."""
    pipeline = tiny.flux(tmp_path / "again", kind="FluxControlPipeline")
    pipeline.set_progress_bar_config(disable=True)
    lora, style = control_lora(pipeline.transformer, 1, 1), pairs(pipeline.transformer, r"x_embedder|attn\.to_q", seed=9)
    files = [written(tmp_path, lora.originals, "control"), written(tmp_path, peft(style, "transformer."), "style")]
    pictures, _ = masked()
    model = with_loras(unnoise.load(folder), {files[0]: 0.85})
    given = controlled(model).of(model.codec.resized(16, 16), pictures)
    how = {"control_image": pictures.permute(0, 3, 1, 2) / 127.5 - 1, "num_inference_steps": 4, "guidance_scale": 2.5, **SIZE}

    def last() -> Tensor:
        x = patchify(noise(model, (4, 8, 8)), 2)
        return unpatchify(pipeline(PROMPTS, latents=x, output_type="latent", **how).images, 4, 4, 2)

    pipeline.load_lora_weights(dict(lora.theirs), adapter_name="control")
    pipeline.set_adapters("control", 0.85)
    expected = last()
    same(model, pipeline, expected, steps=4, guidance=2.5, given=given, **SIZE)
    Adapted.of(model.denoiser.network).merge()
    same(model, pipeline, expected, steps=4, guidance=2.5, given=given, **SIZE)

    for i, picture in enumerate(pictures):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
    told = ["--lora", f"{files[0]}:0.85", "--follow", str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    main(["sample", str(folder), "a cat", "-n", "2", "--steps", "3", "--height", "16", *told, "--out", str(tmp_path / "out")])
    made = np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / "out").glob("000*.png"))]).astype(int)
    assert np.abs(made - model.sample("a cat", 2, steps=3, given=given, **SIZE).data.numpy()).max() <= 1  # this one is merged

    model = with_loras(model, {files[0]: 0.85, files[1]: 0.4})
    pipeline.load_lora_weights(peft(style, "transformer."), adapter_name="style")
    pipeline.set_adapters(["control", "style"], [0.85, 0.4])
    both = last()
    assert float((both - expected).abs().max()) > 0.1
    same(model, pipeline, both, steps=4, guidance=2.5, given=given, **SIZE)


def test_room_for_a_picture_alone_changes_nothing(folder: Path, tmp_path: Path) -> None:
    plain, (pictures, _) = unnoise.load(folder), masked()
    file = written(tmp_path, control_lora(tiny.flux(tmp_path / "again").transformer, 1, 1).originals)
    model = with_loras(plain, {file: 0.0})
    states: list[Tensor] = []
    for each, given in ((plain, None), (model, controlled(model).of(model.codec.resized(16, 16), pictures))):
        each.sample(PROMPTS, steps=3, given=given, watch=lambda i, n, x: states.append(x), **SIZE)
    torch.testing.assert_close(states[5], states[2], rtol=1e-5, atol=1e-5)
    assert with_loras(plain, {}) is plain


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    tensors = control_lora(tiny.flux(tmp_path / "again").transformer, 1, 1).originals
    first, second = written(tmp_path, tensors, "canny"), written(tmp_path, tensors, "depth")
    model = unnoise.load(folder)
    with pytest.raises(InputError, match=r"canny.safetensors and .*depth.safetensors: each follows pictures of its own"):
        with_loras(model, {first: 1.0, second: 1.0})
    with pytest.raises(InputError, match=r"a LoRA for FLUX.1; this model, FLUX.1, has no place for 'img_in.* \(3, 32\)"):
        low_rank(model, {first: 1.0})
    with pytest.raises(InputError, match="was given none: --follow PICTURE"):
        with_loras(model, {first: 1.0}).sample("a cat", height=16)
    other = unnoise.load(tiny.save(tiny.stable_diffusion(tmp_path / "more"), tmp_path / "other"))
    with pytest.raises(InputError, match=r"a LoRA for FLUX.1; this model, .*, has no place for"):
        with_loras(other, {first: 1.0})
    nought = {
        "double_blocks.0.img_attn.norm.query_norm.diff": torch.zeros(16),
        "double_blocks.0.img_attn.norm.key_norm.diff_b": torch.zeros(16),
    }
    with_loras(model, {written(tmp_path, {**tensors, **nought}, "nought"): 1.0})  # differences of nothing, as trainers write them
    short = {k: v[:3] if k.endswith("query_norm.scale") else v for k, v in tensors.items()}
    with pytest.raises(InputError, match=r"has no place for '.*query_norm.scale' \(3,\)"):
        with_loras(model, {written(tmp_path, short, "short"): 1.0})


def test_every_name_of_the_published_files_as_diffusers_converts_it() -> None:
    """At full size, nothing of the network allocated: the rows of each offset, and the values of each normalisation.

    Of the last adaptive layer they exchange the halves of A too, and not of B's rows alone; A is not looked at here.
    """
    with torch.device("meta"):
        theirs = diffusers.FluxTransformer2DModel(guidance_embeds=True)
        ours = flux_config(theirs.config).build()
    table = {**flux_originals(19, 38), "final_layer.adaLN_modulation.1": ["norm_out.linear"]}
    tensors = {f"{name}.scale": torch.full((1,), float(i)) for i, name in enumerate(norms(19, 38))}
    for name, modules in table.items():
        rows = sum(len(theirs.get_submodule(m).weight) for m in modules)
        tensors |= {f"{name}.lora_A.weight": torch.zeros(2, 1), f"{name}.lora_B.weight": torch.zeros(rows, 2)}
        tensors[f"{name}.lora_B.bias"] = torch.arange(float(rows))
    converted = converters._convert_bfl_flux_control_lora_to_diffusers(dict(tensors))
    places, names = places_of(ours), names_of_network(ours)
    flat = {module: key for key in converted if (module := re.sub(r"^transformer\.|\.lora_[AB]\.\w+$|\.weight$", "", key))}
    assert set(flat) == {m for modules in table.values() for m in modules} | set(norms(19, 38).values())
    for i, (name, module) in enumerate(norms(19, 38).items()):
        assert names[name.replace(".", "_")] == (places[module],)
        assert float(converted[f"transformer.{module}.weight"]) == i
    for name, modules in table.items():
        start = 0
        for place, m in zip(names[name.replace(".", "_")], modules * 2):
            assert place is not None
            first = place.start - places[m].start
            there = converted[f"transformer.{m}.lora_B.bias"][first : first + place.rows]
            assert torch.equal(there, torch.arange(float(start), start + place.rows))
            start += place.rows
        assert start == len(tensors[f"{name}.lora_B.bias"])
