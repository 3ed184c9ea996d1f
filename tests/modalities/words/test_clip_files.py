"""CLIP's text half and its tokenizer beside transformers': the same tokens, the same numbers, and files that either reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from unnoise.core.errors import InputError
from unnoise.modalities.words.clip_files import make_network, read_tokenizer
from unnoise.modalities.words.source import Opened, _hash, lend, open_encoder
from unnoise.networks.clip_text import CLIPTextNetworkConfig

from . import encoders

TEXTS = [
    "", " ", "a red cat", "A RED  Cat\n\tcat", "cat's hat, they're 1234!", "!!!", "a!b!", "hi!", "42nd", "naïve café", "cafe\u0301",
    "東京 2024 рыба", "🐈 cat 🐈\u200d⬛", "re<|endoftext|>d", "<|startoftext|>cat", "cat<|endoftext|>", "x" * 300, "it's 'tis",
    "ﬁne", "a_b-c/d\\e", "\x00\x07", "I'LL we'd", "½ ² Ⅷ", "ß İ", "<cat>", "_ cat _",
]  # fmt: skip


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("form", ["tokenizer.json", "after use", "vocab.json and merges.txt", "as published with SD 2"])
def test_tokens_are_those_of_transformers(pad: str, form: str, tmp_path: Path) -> None:
    theirs = encoders.clip_tokenizer(pad)
    if form == "after use":  # a pipeline's, which then writes it: the file says how long and how padded
        theirs("a red cat", padding="max_length", truncation=True, max_length=16)
    theirs.save_pretrained(tmp_path)
    if form not in ("tokenizer.json", "after use"):
        theirs.backend_tokenizer.model.save(str(tmp_path))
        (tmp_path / "tokenizer.json").unlink()
        if form != "vocab.json and merges.txt":
            start, end = ({"content": f"<|{t}oftext|>", "normalized": True, "__type": "AddedToken"} for t in ("start", "end"))
            told = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "<|endoftext|>", "do_lower_case": True}
            told |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16}
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
            told = {k: {"content": v["content"], "normalized": True} for k, v in told.items() if isinstance(v, dict)}
            (tmp_path / "special_tokens_map.json").write_text(json.dumps({**told, "pad_token": pad}))
        theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)
    assert ours is not None
    for text in TEXTS:
        for special in (True, False):
            assert ours(text, special)["input_ids"] == theirs(text, add_special_tokens=special)["input_ids"], (text, special)
    names = ("pad_token_id", "eos_token_id", "model_max_length", "pad_token", "eos_token")
    assert [getattr(ours, n) for n in names] == [getattr(theirs, n) for n in names]
    assert ours.get_vocab() == theirs.get_vocab()
    for tokenizer in (ours, theirs):
        tokenizer.add_tokens(["<new>", "<new>_1"])
    assert ours("a <new> cat <new>_1")["input_ids"] == theirs("a <new> cat <new>_1")["input_ids"]
    ours.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    for text in [*TEXTS, "a <new> cat"]:
        assert again(text)["input_ids"] == ours(text)["input_ids"]
    assert again.pad_token_id == theirs.pad_token_id


@pytest.mark.parametrize(
    "left", [("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.json", "merges.txt", "tokenizer.json")]
)
def test_a_folder_that_does_not_say_what_it_is(left: tuple[str, ...], tmp_path: Path) -> None:
    """Beside an encoder of CLIP's it is taken for CLIP's, with its usual tokens; else for nothing."""
    theirs = encoders.clip_tokenizer()
    theirs.save_pretrained(tmp_path)
    theirs.backend_tokenizer.model.save(str(tmp_path))
    for file in tmp_path.iterdir():
        if file.name not in left:
            file.unlink()
    assert read_tokenizer(tmp_path) is None
    ours = read_tokenizer(tmp_path, "CLIPTokenizer")
    assert ours is not None
    assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert (ours.pad_token_id, ours.model_max_length) == (theirs.pad_token_id, 77)
    assert read_tokenizer(tmp_path / "nowhere", "CLIPTokenizer") is None


def tiny_config(**changed: object) -> CLIPTextConfig:
    sizes = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 3}
    more = {"max_position_embeddings": 11, "projection_dim": 20, "initializer_factor": 20.0, "bos_token_id": 38}
    return CLIPTextConfig(**{**sizes, **more, "eos_token_id": 39, **changed})


def close(a: Tensor | None, b: Tensor) -> None:
    assert a is not None
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("eos", [39, 2], ids=["told", "the largest"])
@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
@torch.no_grad()
def test_numbers_are_those_of_transformers(kind: type, eos: int, act: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = kind(tiny_config(hidden_act=act, eos_token_id=eos)).eval()
    for p in theirs.parameters():
        p.add_(0.1 * torch.randn_like(p))
    projected = kind is CLIPTextModelWithProjection
    ours, missing = make_network(theirs.config.to_dict(), theirs.state_dict(), projected, torch.float32)
    assert not missing
    ids = torch.randint(0, 38, (3, 11))
    ids[0, 4:] = ids[1, 10] = ids[2, 7] = 39
    out, expected = ours(ids), theirs(ids, output_hidden_states=True)
    for a, b in zip(out.hidden_states, expected.hidden_states, strict=True):
        close(a, b)
    close(out.last_hidden_state, expected.last_hidden_state)
    if projected:
        close(out.text_embeds, expected.text_embeds)
    else:
        close(out.pooler_output, expected.pooler_output)
    assert _hash(ours) == _hash(theirs)
    ours.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert {k: v.tolist() for k, v in again.state_dict().items()} == {k: v.tolist() for k, v in theirs.state_dict().items()}
    assert again.config.eos_token_id == eos
    assert again.config.hidden_act == act


def test_an_open_checkpoints_words_need_no_transformers(tmp_path: Path) -> None:
    encoders.save_clip(tmp_path / "text_encoder", 0)
    code = (
        "import sys; from unnoise.modalities.words.source import open_encoder\n"
        "o = open_encoder(sys.argv[1], 'CLIPTextModel'); o.tokenizer('cat')\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "text_encoder")], check=True)
    opened = open_encoder(str(tmp_path / "text_encoder"), "CLIPTextModel")
    assert opened.hash == _hash(CLIPTextModel.from_pretrained(tmp_path / "text_encoder"))


def eight_bits(folder: Path) -> dict[str, Tensor]:
    """LLM.int8 of bitsandbytes: a row is its integers times SCB / 127."""
    out = load_file(folder / "model.safetensors")
    for name in [n for n, w in out.items() if w.ndim == 2 and "layer" in n]:
        most = out[name].abs().amax(1)
        out[name] = (out[name] / most[:, None] * 127).round().to(torch.int8)
        out[name.replace(".weight", ".SCB")] = most
    return out


def integers_alone(folder: Path) -> dict[str, Tensor]:
    return {k: v for k, v in eight_bits(folder).items() if not k.endswith(".SCB")}


def scaled(folder: Path) -> dict[str, Tensor]:
    """float8 as ComfyUI scales it."""
    out = load_file(folder / "model.safetensors")
    for name in [n for n, w in out.items() if w.ndim == 2 and "layer" in n]:
        scale = out[name].abs().max() / 448
        out[name] = (out[name] / scale).to(torch.float8_e4m3fn)
        out[name.replace(".weight", ".scale_weight")] = scale
    return out


@pytest.mark.parametrize(("save", "kind"), [(encoders.save_clip, "CLIPTextModel"), (encoders.save_t5, "T5EncoderModel")])
@pytest.mark.parametrize("packed", [eight_bits, integers_alone, scaled])
def test_quantised_weights_are_not_taken_for_numbers(packed, save, kind: str, tmp_path: Path) -> None:
    """transformers knows them by their configuration, and reads them as they lie where it says nothing. A variant that is not asked
    for may be quantised."""
    folder = tmp_path / "text_encoder"
    save(folder, 0)
    plain = load_file(folder / "model.safetensors")
    save_file(packed(folder), folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputError, match=r"text_encoder: its weights are quantised \('.*' is there, as .*\), .* bfloat16 or float16"
    ):
        open_encoder(str(folder), kind)
    (folder / "model.safetensors").rename(folder / "model.small.safetensors")
    save_file(plain, folder / "model.safetensors", {"format": "pt"})
    assert open_encoder(str(folder), kind).hash


@pytest.mark.parametrize(("save", "kind"), [(encoders.save_clip, "CLIPTextModel"), (encoders.save_t5, "T5EncoderModel")])
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "bnb_4bit_quant_type": "fp4"}, "bitsandbytes int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes nf4"),
        ({"quant_method": "quanto", "weights": "float8"}, "quanto float8"),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, "torchao"),
    ],
)
def test_a_configuration_that_says_quantised(told: dict, expected: str, save, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    save(folder, 0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    with pytest.raises(InputError, match=rf"text_encoder: its weights are quantised \({expected}, says config.json\)"):
        open_encoder(str(folder), kind)


def opened_from_a_folder(folder: Path) -> Opened:
    return open_encoder(str(folder / "text_encoder"), "CLIPTextModel")


def opened_from_a_file(folder: Path) -> Opened:
    file = folder / "text_encoder" / "model.safetensors"
    config = json.loads(file.with_name("config.json").read_text())
    opened = lend(f"{file}/text_encoder", "CLIPTextModel", config, load_file(file), str(folder / "tokenizer"))
    assert open_encoder(f"{file}/text_encoder", "CLIPTextModel") is opened
    return opened


@pytest.mark.parametrize("opened", [opened_from_a_folder, opened_from_a_file])
def test_files_that_are_replaced_are_read_again(opened, tmp_path: Path) -> None:
    """Weights, or a tokenizer, of the same size under the same name; and what has not changed is shared."""
    encoders.save_clip(tmp_path / "text_encoder", 0)
    first = opened(tmp_path)
    assert opened(tmp_path) is first
    encoders.save_clip(tmp_path / "text_encoder", 1, pad="!")
    second = opened(tmp_path)
    assert second.hash == _hash(CLIPTextModel.from_pretrained(tmp_path / "text_encoder")) != first.hash
    assert (first.tokenizer.pad_token, second.tokenizer.pad_token) == ("<|endoftext|>", "!")
    encoders.clip_tokenizer().save_pretrained(tmp_path / "tokenizer")
    third = opened(tmp_path)
    assert (third.tokenizer.pad_token, third.hash) == ("<|endoftext|>", second.hash)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 512 channels"):
        CLIPTextNetworkConfig(num_attention_heads=3)
    with pytest.raises(ValueError, match="hidden_act 'relu': quick_gelu or gelu is meant"):
        CLIPTextNetworkConfig(hidden_act="relu")
    theirs = {"vocab_size": 4, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    name = "embeddings.token_embedding.weight"
    with pytest.raises(ValueError, match=rf"{name} is \(3, 8\), where \(4, 8\) is to be filled"):
        make_network(theirs, {name: torch.zeros(3, 8)}, False, torch.float32)
