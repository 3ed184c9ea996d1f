"""Weights that stay as GGUF and float8 files pack them: the numbers of unpacked ones, bit by bit, in the memory of the file."""

import copy
import gc
import pickle
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import foreign_originals as originals
import numpy as np
import pytest
import torch
from beside_diffusers import randomised
from command_line import refused
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import unnoise
from unnoise.checkpoints.foreign import memory
from unnoise.checkpoints.foreign.lora import AdaptedModel, low_rank
from unnoise.checkpoints.foreign.lora_names import places_of
from unnoise.checkpoints.foreign.memory import spared
from unnoise.checkpoints.foreign.single import open_single
from unnoise.checkpoints.foreign.textual_inversion import textual_inversion
from unnoise.cli.main import main
from unnoise.control.low_rank import Adapted, Adapter, LowRank, Place
from unnoise.core.errors import InputError
from unnoise.loading import with_loras
from unnoise.modalities.words.frozen import encoders_of
from unnoise.networks.packed import AT_ONCE, PackedLinear, Rows, has_packed

gguf = pytest.importorskip("gguf", reason="writes some of the files that are read")
diffusers = pytest.importorskip("diffusers", reason="folders are those that diffusers writes")
transformers = pytest.importorskip("transformers", reason="the text encoders are transformers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_forms import t5_named  # noqa: E402
from checkpoints.test_foreign_gguf import written as written_gguf  # noqa: E402

SIZE = {"steps": 2, "height": 16, "width": 16}


def as_gguf(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """Q8_0 and Q5_0 in turn, what is made of whole blocks."""
    packed = {}
    for i, (name, x) in enumerate(tensors.items()):
        if x.ndim == 2 and x.shape[1] % 32 == 0:
            kind = (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_0)[i % 2]
            packed[name] = gguf.quantize(x.numpy(), kind), kind
    return written_gguf(path.with_suffix(".gguf"), dict(tensors), packed)


def as_float8(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """With one scale, a scale for each row, and none, in turn."""
    out = dict(tensors)
    for i, (name, x) in enumerate(tensors.items()):
        if x.ndim == 2 and name.endswith(".weight"):
            out[name] = x.to(torch.float8_e4m3fn)
            if i % 3:
                out[name.replace(".weight", ".scale_weight")] = torch.rand(len(x)) + 0.5 if i % 3 == 1 else torch.tensor(0.7)
    save_file({k: v.contiguous() for k, v in out.items()}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


FORMS = {"gguf": as_gguf, "float8": as_float8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX of the head size that its makers' names mean, so that its transformer can go by them."""
    at = tmp_path_factory.mktemp("flux")
    pipeline = tiny.flux(at / "parts")
    sizes = {"num_attention_heads": 1, "attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)}
    network = diffusers.FluxTransformer2DModel(**{**pipeline.transformer.config, **sizes})
    pipeline.register_modules(transformer=randomised(network))
    return tiny.save(pipeline, at / "flux")


def network_file(folder: Path, form: str, names: str, at: Path) -> Path:
    """The transformer of a folder, packed, under its makers' names (some matrices fused, some halves exchanged) or diffusers'."""
    from safetensors.torch import load_file

    state = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return FORMS[form](originals.flux(state) if names == "makers" else state, at / names)


def layers(network: nn.Module, kind: type) -> dict[str, Any]:
    return {name: m for name, m in network.named_modules() if type(m) is kind}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", ["makers", "diffusers"])
@pytest.mark.parametrize("form", FORMS)
def test_pictures_are_those_of_unpacked_weights(form: str, names: str, dtype: torch.dtype, folder: Path, tmp_path: Path) -> None:
    file = network_file(folder, form, names, tmp_path)
    plain, kept = (unnoise.load(folder, dtype, beside=[file], packed=p) for p in (False, True))
    theirs, ours = plain.denoiser.network, kept.denoiser.network
    packed = layers(ours, PackedLinear)
    assert len(packed) > 12
    for name, layer in packed.items():
        assert torch.equal(layer.unpacked(), theirs.get_submodule(name).weight)
        assert layer.unpacked().dtype == layer.weight.dtype == dtype
    if form == "gguf":  # what reads T5's width, 48, is no whole blocks; what reads codes of 16 neither
        assert {m.in_features % 32 for m in layers(ours, nn.Linear).values()} == {16}
    else:
        assert not layers(ours, nn.Linear)
    data = [m.sample(["a red cat", None], 1, 7, **SIZE).data for m in (plain, kept)]
    assert torch.equal(*data)
    assert kept.is_packed
    assert not plain.is_packed
    assert kept.hash() != plain.hash()  # it is named by what is kept
    assert kept.hash() == unnoise.load(folder, dtype, beside=[file], packed=True).hash()


def test_a_model_is_named_by_scales_too(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    file = network_file(folder, "float8", "makers", tmp_path)
    before = unnoise.load(folder, beside=[file], packed=True).hash()
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith(".scale_weight"))
    tensors[name] = tensors[name] * 2
    save_file(tensors, file)
    assert unnoise.load(folder, beside=[file], packed=True).hash() != before


def test_a_model_is_named_by_how_it_is_packed(folder: Path, tmp_path: Path) -> None:
    """The same bytes as numbers of another kind are other weights."""
    from safetensors.torch import load_file

    file = network_file(folder, "float8", "makers", tmp_path)
    before = unnoise.load(folder, beside=[file], packed=True)
    tensors = {k: v.view(torch.float8_e5m2) if v.dtype == torch.float8_e4m3fn else v for k, v in load_file(file).items()}
    save_file(tensors, file)
    after = unnoise.load(folder, beside=[file], packed=True)
    some = (next(iter(layers(m.denoiser.network, PackedLinear).values())) for m in (before, after))
    assert not torch.equal(*(layer.unpacked() for layer in some))
    assert before.hash() != after.hash()


@pytest.mark.parametrize("form", FORMS)
def test_a_packed_layer_is_a_module_like_any(form: str, folder: Path, tmp_path: Path) -> None:
    """What is computed with is what its buffers hold: copied, sent to another process, in another precision."""
    kept = unnoise.load(folder, beside=[network_file(folder, form, "makers", tmp_path)], packed=True)
    layer = next(m for m in layers(kept.denoiser.network, PackedLinear).values() if m.in_features > 16)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.unpacked(), layer.unpacked())
        other.kept0.zero_()
        assert not torch.equal(other.unpacked(), layer.unpacked())
    half = copy.deepcopy(layer).to(torch.bfloat16)
    x = torch.randn(2, layer.in_features).bfloat16()
    expected = nn.functional.linear(x, layer.unpacked().bfloat16(), layer.bias.bfloat16())
    assert torch.equal(half(x), expected)


def test_what_is_not_merged_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """A LoRA on packed layers in place of one that is merged into others: refused, and the other is merged as before."""
    kept = unnoise.load(folder, beside=[network_file(folder, "gguf", "makers", tmp_path)], packed=True)
    network = kept.denoiser.network
    plain = next(n for n, p in places_of(network).items() if type(network.get_submodule(p.layer)) is nn.Linear)
    place = places_of(network)[plain]
    inside = network.get_submodule(place.layer).weight.shape[1]
    keys = (
        (f"transformer.{plain}.lora_A.weight", torch.randn(4, inside)),
        (f"transformer.{plain}.lora_B.weight", torch.randn(place.rows, 4)),
    )
    save_file(dict(keys), tmp_path / "merged.safetensors")
    low_rank(kept, {tmp_path / "merged.safetensors": 1.0}).merge()
    before = kept.sample("a red cat", 1, 7, **SIZE).data
    with pytest.raises(InputError, match="a LoRA is not merged into weights that are kept packed"):
        low_rank(kept, {lora(tmp_path, "LoRA"): 1.0})
    assert torch.equal(kept.sample("a red cat", 1, 7, **SIZE).data, before)
    assert Adapted.of(network).merged


def test_of_several_parts_none_is_merged_where_one_cannot_be(folder: Path, tmp_path: Path) -> None:
    kept = unnoise.load(folder, beside=[network_file(folder, "gguf", "makers", tmp_path)], packed=True)
    low_rank(kept, {lora(tmp_path, "LoRA"): 1.0})
    layer = nn.Linear(4, 4)
    other, before = Adapted.of(nn.Sequential(layer)), layer.weight
    other.set({"one": (Adapter([(Place("0", 0, 4), LowRank(torch.randn(1, 4), torch.randn(4, 1)))]), 1.0)})
    both = AdaptedModel((other, Adapted.of(kept.denoiser.network)))
    with pytest.raises(InputError, match="a LoRA is not merged into weights that are kept packed"):
        both.merge()
    assert not other.merged
    assert layer.weight is before
    other.merge()
    assert layer.weight is not before


def test_changes_unpack_nothing_that_they_do_not_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoKr needs no more than the weights' shape: each layer is unpacked once a call, as without it."""
    kept = unnoise.load(folder, beside=[network_file(folder, "gguf", "makers", tmp_path)], packed=True)
    counted: list[int] = []
    usual = PackedLinear.unpacked
    monkeypatch.setattr(PackedLinear, "unpacked", lambda self: counted.append(1) or usual(self))
    kept.sample("a red cat", 1, 7, **SIZE)
    before = len(counted)
    name = "transformer.single_transformer_blocks.0.attn.to_k"
    save_file({f"{name}.lokr_w1": torch.randn(2, 2), f"{name}.lokr_w2": torch.randn(64, 64)}, tmp_path / "lokr.safetensors")
    usually = kept.sample("a red cat", 1, 7, **SIZE).data
    low_rank(kept, {tmp_path / "lokr.safetensors": 1.0})
    counted.clear()
    assert not torch.equal(kept.sample("a red cat", 1, 7, **SIZE).data, usually)
    assert len(counted) == before


def test_what_cannot_be_unpacked_is_refused_when_it_is_opened(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    file = network_file(folder, "float8", "makers", tmp_path)
    tensors = load_file(file)
    tensors["double_blocks.0.img_attn.qkv.scale_weight"] = torch.ones(3, 2)
    tensors["double_blocks.0.img_attn.qkv.weight"] = tensors["double_blocks.0.img_attn.qkv.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, file)
    with pytest.raises(InputError, match="scaled by blocks, which is not read here"):
        unnoise.load(folder, beside=[file], packed=True)


def test_few_rows_at_once_are_all_rows() -> None:
    """Of a layer that is unpacked in several goes, of several pieces."""
    columns = AT_ONCE // 3
    torch.manual_seed(0)
    weight = torch.randn(8, columns)
    asked: list[int] = []

    class Plain:
        name = "plain"

        def __call__(self, kept: Sequence[Tensor], first: int, last: int) -> Tensor:
            asked.append(last - first)
            return kept[0].view(torch.float32).view(-1, columns)[first:last]

    pieces = [Rows(len(w), columns, Plain(), (w.reshape(-1).view(torch.uint8),)) for w in weight.split([5, 3])]
    layer = PackedLinear(nn.Linear(columns, 8), pieces, torch.float32)
    assert torch.equal(layer.unpacked(), weight)
    assert asked == [3, 2, 3]
    x = torch.randn(2, columns)
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)


# -- what goes with it -----------------------------------------------------------------------------------------------------


def lora(folder: Path, kind: str) -> Path:
    """Of a layer that does what several of theirs do, and of one alone; DoRA needs its weights' numbers."""
    torch.manual_seed(3)
    tensors = {}
    for name, inside in (("single_transformer_blocks.0.attn.to_k", 128), ("transformer_blocks.0.ff.net.2", 512)):
        rows = 128
        tensors |= {
            f"transformer.{name}.lora_A.weight": torch.randn(4, inside),
            f"transformer.{name}.lora_B.weight": torch.randn(rows, 4),
        }
        if kind == "DoRA":
            tensors[f"transformer.{name}.lora_magnitude_vector"] = torch.rand(rows) + 1
    save_file(tensors, folder / f"{kind}.safetensors")
    return folder / f"{kind}.safetensors"


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_loras_act_beside_packed_weights(kind: str, folder: Path, tmp_path: Path) -> None:
    file, changes = network_file(folder, "gguf", "makers", tmp_path), lora(tmp_path, kind)
    plain, kept = (unnoise.load(folder, beside=[file], packed=p) for p in (False, True))
    usual = plain.sample("a red cat", 1, 7, **SIZE).data
    drawn = [with_loras(m, {changes: 0.8}).sample("a red cat", 1, 7, **SIZE).data for m in (plain, kept)]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], usual)
    own, same = (Adapted.of(m.denoiser.network).plain_state() for m in (plain, kept))
    assert own.keys() == same.keys()
    assert all(torch.equal(own[k], same[k]) for k in own)
    with pytest.raises(InputError, match=r"a LoRA is not merged into weights that are kept packed"):
        Adapted.of(kept.denoiser.network).merge()
    assert not kept.takes_int8
    with pytest.raises(InputError, match=r"int8 merges LoRAs|int8 is for processors"):
        kept.to_int8()
    low_rank(kept, {})
    assert torch.equal(kept.sample("a red cat", 1, 7, **SIZE).data, usual)


def test_what_needs_all_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    kept = unnoise.load(folder, beside=[network_file(folder, "gguf", "makers", tmp_path)], packed=True)
    for what, doing in (("saving", kept.save), ("exporting", kept.export)):
        with pytest.raises(InputError, match=f"{what} a model whose weights stay packed: load it unpacked"):
            doing(tmp_path / "out")
    with pytest.raises(InputError, match="moving to meta a model whose weights stay packed"):
        kept.to("meta")
    assert not (tmp_path / "out").exists()


def test_in_int8_it_is_as_unpacked_weights_are(tmp_path: Path) -> None:
    from unnoise.networks import int8

    if not int8.available():
        pytest.skip("this processor has neither VNNI nor AMX")
    changed = {"block_out_channels": (32, 128), "attention_head_dim": 8, "norm_num_groups": 32}
    folder = tiny.save(tiny.stable_diffusion(tmp_path / "parts", **changed), tmp_path / "sd")
    from safetensors.torch import load_file

    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    file = as_gguf(originals.unet(state, 1), tmp_path / "m")
    models = [unnoise.load(folder, torch.bfloat16, beside=[file], packed=p).to_int8() for p in (False, True)]
    drawn = [m.sample("a red cat", 1, 7, **SIZE).data for m in models]
    assert torch.equal(*drawn)
    whole, kept = (layers(m.denoiser.network, int8.Int8Linear) for m in models)
    assert len(kept) >= 9
    assert kept.keys() == whole.keys()
    assert models[1].is_packed  # what sees one vector a sample is in neither


def test_files_that_make_a_model_together(tmp_path: Path) -> None:
    """As people own FLUX: the transformer and T5 as GGUF, CLIP and the autoencoder beside them, and a word that both learn."""
    parts = tmp_path / "parts"
    clip, ungated = tiny.encoder(parts, "text_encoder", width=64, heads=1), tiny.t5(parts, "text_encoder_2")["text_encoder_2"]
    told = {"vocab_size": ungated.config.vocab_size, "d_model": 48, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    t5 = transformers.T5EncoderModel(transformers.T5Config(**told, feed_forward_proj="gated-gelu"))
    sizes = {"in_channels": 16, "out_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 128}
    more = {"num_attention_heads": 1, "joint_attention_dim": 48, "pooled_projection_dim": 64, "axes_dims_rope": (16, 56, 56)}
    network = randomised(diffusers.FluxTransformer2DModel(**sizes, **more, guidance_embeds=True))
    tiny.vae(shift_factor=0.1).save_pretrained(tmp_path / "vae")
    words = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in clip["text_encoder"].state_dict().items()}
    save_file({k: v.contiguous() for k, v in words.items()}, tmp_path / "clip_l.safetensors")
    save_file({"clip_l": torch.randn(2, 64), "t5xxl": torch.randn(1, 48)}, tmp_path / "easy.safetensors")
    files = [
        as_gguf(originals.flux(network.state_dict()), tmp_path / "flux"),
        as_gguf(t5_named(t5.state_dict(), 2), tmp_path / "t5"),
        tmp_path / "clip_l.safetensors", tmp_path / "vae", parts,
    ]  # fmt: skip
    drawn = []
    for packed in (False, True):
        model = unnoise.load(files[0], torch.bfloat16, beside=files[1:], packed=packed)
        packs = {name: has_packed(e.opened.network) for name, e in encoders_of(model.conditioner).items()}
        assert packs["t5xxl"] == packed
        assert not packs["clip_l"]
        textual_inversion(model, tmp_path / "easy.safetensors")
        drawn.append(model.sample(["a red cat", None, "a red easy"], 1, 7, **SIZE).data)
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0][0], drawn[0][2])
    model = unnoise.load(files[0], torch.bfloat16, beside=files[1:])
    textual_inversion(model, tmp_path / "easy.safetensors")
    with pytest.warns(UserWarning, match="own: saved without the learnt words easy; give these again when it is loaded"):
        model.save(tmp_path / "own")
    lie = [weakref.ref(e.opened.network) for e in encoders_of(model.conditioner).values()]
    del model
    gc.collect()
    assert not any(one() for one in lie), "text encoders live as long as what reads by them"


def test_text_encoders_of_a_folder_live_as_long_as_a_model_that_reads_by_them(folder: Path) -> None:
    models = [unnoise.load(folder) for _ in range(2)]
    first, second = ([e.opened.network for e in encoders_of(m.conditioner).values()] for m in models)
    assert all(a is b for a, b in zip(first, second)), "shared"
    lie = [weakref.ref(network) for network in first]
    del models[0], first, second
    gc.collect()
    assert all(one() is not None for one in lie)
    models.clear()
    gc.collect()
    assert not any(one() for one in lie)


# -- the command, and memory -----------------------------------------------------------------------------------------------


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = network_file(folder, "gguf", "makers", tmp_path)
    asked = ["sample", str(folder), "a red cat", "--beside", str(file), "--steps", "2", "--height", "16"]
    for out, more in (("a", []), ("b", ["--packed"])):
        main([*asked, *more, "--out", str(tmp_path / out)])
    pictures = [Image.open(next((tmp_path / out).glob("*.png"))) for out in "ab"]
    assert np.array_equal(*pictures)
    capsys.readouterr()
    main(["info", str(next((tmp_path / "b").glob("*.png")))])
    assert "--packed" in capsys.readouterr().out
    line = refused(["sample", str(folder), "a red cat", "--packed", "--out", str(tmp_path / "c")], capsys)
    assert "--packed is for GGUF and float8 files" in line
    line = refused(["sample", "scenes", "a red apple", "--packed", "--out", str(tmp_path / "c")], capsys)
    assert "--packed is for open checkpoints" in line


def test_memory_is_that_of_the_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is spared, counted by hand; and where only packed weights fit, the refusal says so."""
    file = network_file(folder, "float8", "makers", tmp_path)
    part = open_single(file).parts["transformer"]
    model = unnoise.load(folder, torch.bfloat16, beside=[file], packed=True)
    packed = layers(model.denoiser.network, PackedLinear).values()
    bytes_of = sum(b.numel() for m in packed for name, b in m.named_buffers() if name.startswith("kept"))
    assert all(b.dtype == torch.uint8 for m in packed for b in m.buffers())
    assert spared(part) == sum(m.weight.numel() * 2 for m in packed) - bytes_of > 0
    monkeypatch.setattr(memory, "RUNTIME", 0)
    monkeypatch.setattr(memory, "KERNELS", 0.0)
    weights = sum(t.numel() * 2 for t in unnoise.load(folder).parts.state_dict().values())
    words = 2 * sum(memory.numbers(p) for n, p in memory_parts(folder).items() if n.startswith("text_encoder"))
    monkeypatch.setattr(memory, "free_memory", lambda device: weights + words - 1)
    with pytest.raises(InputError, match=r"with its weights as the file packs them \(--packed\) it would fit, with about"):
        unnoise.load(folder, torch.bfloat16, beside=[file])
    unnoise.load(folder, torch.bfloat16, beside=[file], packed=True)


def memory_parts(folder: Path) -> Mapping[str, Any]:
    from unnoise.checkpoints.foreign.opening import open_foreign

    foreign = open_foreign(folder)
    assert foreign is not None
    return foreign.parts
