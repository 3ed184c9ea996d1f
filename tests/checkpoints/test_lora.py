"""LoRA files under every naming, against the dense sum W + s B A and the formulas of LyCORIS."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from lora_files import (
    JOINT_LAYERS,
    UNET_LAYERS,
    before_2023,
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
    written,
)
from modalities.words import encoders
from test_diffusers_names import unet
from test_dit_names import pixart, sana
from torch import Tensor

from unnoise.checkpoints.diffusers_names import translate
from unnoise.checkpoints.foreign.dit_names import PIXART_TABLE, SANA_SPRINT_TABLE, SANA_TABLE, pixart_config, sana_config
from unnoise.checkpoints.foreign.lora import low_rank, parse_lora, save_low_rank
from unnoise.checkpoints.foreign.lora_names import places_of
from unnoise.control.low_rank import Adapted, Adapter, Layer, LowRank, Place, Whole
from unnoise.core.errors import InputError

pytest.importorskip("diffusers")
pytest.importorskip("peft", reason="diffusers applies LoRA files through PEFT")


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
def test_names_of_diffusers(tmp_path: Path, kind: str, layers: str, naming: Callable, scale: float) -> None:
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


@pytest.mark.parametrize(
    ("naming", "scale"),
    [(lambda p: peft(p, "diffusion_model."), 1.0), (lambda p: peft(p, "base_model.model."), 1.0), (peft, 1.0), (kohya, 2 / 3)],
    ids=["ComfyUI", "fal", "Black Forest Labs", "kohya"],
)
def test_original_names_of_flux(tmp_path: Path, naming: Callable, scale: float) -> None:
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


def test_joined_layers_of_sd3_are_cut_where_the_last_words_ask_nothing(tmp_path: Path) -> None:
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


def test_what_lycoris_writes(tmp_path: Path) -> None:
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
    theirs = randomised(pixart() if kind == "PixArt" else sana(**told), 0)
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


def test_a_lora_for_another_family_is_named(tmp_path: Path) -> None:
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
    encoders.save_clip(tmp_path / "text_encoder", 0, projected=False)
    more = kohya({"text_model.encoder.layers.9.mlp.fc1": (torch.ones(1, 16), torch.ones(32, 1))}, "lora_te_")
    with pytest.raises(
        InputError, match=r"a LoRA for text encoders alone; this model's text_encoder has no place for 'lora_te_.*_9_"
    ):
        low_rank(model_of(ours, conditioner_of(tmp_path, "SD 1")), {written(tmp_path, more, "more"): 1.0})


def test_files_that_are_no_lora(tmp_path: Path) -> None:
    ours = networks("SD 1")[1]
    some = peft(pairs(networks("SD 1")[0], r"attn2\.to_q"), "unet.")
    (tmp_path / "torn.safetensors").write_bytes(written(tmp_path, some).read_bytes()[:-9])
    half = {k: v for k, v in some.items() if "lora_B" not in k}
    alphas = [k.replace("lora_A.weight", "alpha") for k in half]
    for path, message in (
        (tmp_path / "lora.ckpt", r"a pickle, which runs code when it is read; convert it, .*save_file"),
        (tmp_path / "missing.safetensors", "no such file"),
        (tmp_path / "torn.safetensors", "truncated"),
        (written(tmp_path, half, "half"), "stands alone: 'up' of the same layer is missing"),
        (written(tmp_path, networks("SD 1")[0].state_dict(), "model"), r"'.*' is no part of a LoRA"),
        (written(tmp_path, {"lora_unet_a.oft_blocks": torch.ones(2, 2, 2)}, "oft"), "is no part of a LoRA but of an OFT or BOFT: "),
        (written(tmp_path, {"lora_unet_a.on_input": torch.ones(1)}, "ia3"), r"no part of a LoRA but of an \(IA\)3"),
        (written(tmp_path, {"lora_unet_a.a1.weight": torch.ones(1)}, "glora"), "no part of a LoRA but of a GLoRA"),
        (written(tmp_path, {}, "empty"), "holds no tensors"),
        (written(tmp_path, some | dict.fromkeys(alphas, torch.tensor(torch.inf)), "far"), r"not those of a LoRA \(alpha inf\)"),
        (written(tmp_path, {"unet.conv_norm_out.diff": torch.ones(9)}, "wide"), r"no place for 'unet.conv_norm_out.diff' \(9,\)"),
        (
            written(tmp_path, {"unet.conv_norm_out.diff_b": torch.ones(9)}, "off"),
            r"no place for 'unet.conv_norm_out.diff_b' \(9,\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            low_rank(model_of(ours), {path: 1.0})
    offset = {"transformer.transformer_blocks.0.attn.norm_q.diff_b": torch.ones(16)}
    with pytest.raises(InputError, match=r"no place for '.*norm_q.diff_b' \(16,\)"):
        low_rank(model_of(networks("FLUX")[1]), {written(tmp_path, offset, "offset"): 1.0})
    with pytest.raises(InputError, match="weight nan; a number is wanted"):
        low_rank(model_of(ours), {tmp_path / "lora.safetensors": float("nan")})
    zeros = some | {"unet.no.such.layer.lora_A.weight": torch.ones(1, 2), "unet.no.such.layer.lora_B.weight": torch.zeros(2, 1)}
    low_rank(model_of(ours), {written(tmp_path, zeros, "zeros"): 1.0})  # what changes nothing needs no place
    empty = {k: (v[:0] if "lora_A" in k else v[:, :0]).contiguous() for k, v in some.items()}
    low_rank(model_of(ours), {written(tmp_path, empty, "nought"): 1.0})  # nor does what is of rank 0
    low_rank(model_of(ours), {})


def test_what_cannot_be_saved(tmp_path: Path) -> None:
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
    (tmp_path / "no").touch()
    with pytest.raises(InputError, match=r"a\.safetensors: cannot be written"):
        save_low_rank(tmp_path / "no" / "a.safetensors", model, Adapter([(Place("blocks.0.picture.project.qkv", 0, 96), pair)]))
    assert [f.name for f in tmp_path.iterdir()] == ["no"]


def test_the_command_lines_form(tmp_path: Path) -> None:
    assert parse_lora("a.safetensors") == (Path("a.safetensors"), 1.0)
    assert parse_lora("a.safetensors:0.7") == (Path("a.safetensors"), 0.7)
    assert parse_lora("a.safetensors:-1:0.25") == (Path("a.safetensors"), (-1.0, 0.25))
    (tmp_path / "odd:0.5").touch()
    assert parse_lora(f"{tmp_path}/odd:0.5") == (tmp_path / "odd:0.5", 1.0)
    for wrong in ("a:b", "a:1:2:3"):
        with pytest.raises(InputError, match=re.escape(wrong)):
            parse_lora(wrong)


def test_the_same_places_for_every_layer() -> None:
    """Every row of every layer belongs to exactly one module of theirs."""
    for kind in ("SD 1", "SDXL", "SD3", "FLUX"):
        theirs, ours = networks(kind)
        covered = {name: torch.zeros(len(m.weight)) for name, m in ours.named_modules() if isinstance(m, Layer)}
        for module, place in places_of(ours).items():
            assert theirs.get_submodule(module).weight.shape[0] == place.rows
            covered[place.layer][place.start : place.start + place.rows] += 1
        assert all(bool((c == 1).all()) for c in covered.values())
    assert Adapted.of(ours) is not Adapted.of(ours), "nothing hangs on it"
