"""CLIP's text half and its tokenizer from their files, without transformers, whose import takes longer than reading them.

The tokenizer is OpenAI's byte-pair encoding (Radford et al. 2021, 2103.00020, section 2.4): text in canonical Unicode and lower
case, white space as one space, is cut into words, single digits and runs of signs; in each, the pairs that merges.txt lists are
joined in its order, and the last piece ends in </w>. All classes offer what is used of transformers' own, by the same names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unnoise.networks.clip_text import ACTIVATIONS, CLIPTextNetwork, CLIPTextNetworkConfig
from unnoise.networks.unfilled import unfilled

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PREFIX = "text_model."


class CLIPTokenizer:
    """A tokenizer of the library `tokenizers`, with a start and an end token. pad: the padding's. most: places of a window."""

    def __init__(self, words: Any, start: str, end: str, pad: str, most: int) -> None:
        self._words, self._start, self.eos_token, self.pad_token = words, start, end, pad
        self.model_max_length = most

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """input_ids: of the text, between start and end if asked for. Neither cut nor padded."""
        ids: list[int] = self._words.encode(text, add_special_tokens=False).ids
        return {"input_ids": [self._id(self._start), *ids, self.eos_token_id] if add_special_tokens else ids}

    @property
    def eos_token_id(self) -> int:
        return self._id(self.eos_token)

    @property
    def pad_token_id(self) -> int:
        return self._id(self.pad_token)

    def get_vocab(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self._words.get_vocab()
        return vocabulary

    def get_added_vocab(self) -> dict[str, int]:
        return {token.content: i for i, token in self._words.get_added_tokens_decoder().items()}

    def add_tokens(self, tokens: Sequence[str]) -> None:
        """New words, which are found before text is cut."""
        self._words.add_tokens(list(tokens))

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        return [self._id(t) for t in tokens]

    def save_pretrained(self, folder: str | Path) -> None:
        """Into a folder that transformers and diffusers read."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self._words.model.save(str(place))
        self._words.save(str(place / "tokenizer.json"))
        told: dict[str, Any] = {"model_max_length": self.model_max_length, "tokenizer_class": "CLIPTokenizer"}
        told |= {"bos_token": self._start, "eos_token": self.eos_token, "unk_token": self.eos_token, "pad_token": self.pad_token}
        (place / "tokenizer_config.json").write_text(json.dumps(told, indent=2), encoding="utf-8")

    def _id(self, token: str) -> int:
        found: int | None = self._words.token_to_id(token)
        return self.get_vocab()[self.eos_token] if found is None else found


class CLIPTextModel(CLIPTextNetwork):
    """The network, as it is written to a folder of transformers'."""

    def save_pretrained(self, folder: str | Path) -> None:
        place, own = Path(folder), self.final_layer_norm.weight
        place.mkdir(parents=True, exist_ok=True)
        told: dict[str, Any] = {k: v for k, v in asdict(self.config).items() if v is not None}
        told |= {"architectures": [type(self).__name__], "model_type": self.config.model_type, "eos_token_id": self.eos_token_id}
        told |= {"dtype": str(own.dtype).removeprefix("torch."), "vocab_size": len(self.get_input_embeddings().weight)}
        (place / "config.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
        named = {k if k.startswith("text_projection.") else _PREFIX + k: v.contiguous() for k, v in self.state_dict().items()}
        save_file(named, str(place / "model.safetensors"), {"format": "pt"})


class CLIPTextModelWithProjection(CLIPTextModel):
    """With an embedding beside the summary."""


def read_tokenizer(folder: Path, usual: str = "") -> CLIPTokenizer | None:
    """The CLIP tokenizer in a folder; None for one of another kind, or with words of its own. ValueError for broken files.

    usual: the class of one whose files name none.
    """
    told = _json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in told:  # early files say special tokens twice, and mean the other
        told |= _json(folder / "special_tokens_map.json")
    start, end, pad = (_content(told.get(f"{k}_token", t)) for k, t in (("bos", START), ("eos", END), ("pad", END)))
    more = {_content(token) for token in told.get("added_tokens_decoder", {}).values()} - {start, end, pad}
    more |= {k for k in ("additional_special_tokens", "extra_special_tokens") if told.get(k)}
    kind = told.get("tokenizer_class", usual if any((folder / n).is_file() for n in _FILES) else "")
    if kind not in ("CLIPTokenizer", "CLIPTokenizerFast") or more or (folder / "added_tokens.json").exists():
        return None
    try:
        words = _words(folder)
        words.add_special_tokens(list(dict.fromkeys((start, end, pad))))
    except ImportError:
        raise
    except Exception as e:  # of no other class in `tokenizers`
        raise ValueError(f"{folder}: {e}") from e
    return CLIPTokenizer(words, start, end, pad, int(told.get("model_max_length", 77)))


_FILES = ("tokenizer.json", "vocab.json")


def _words(folder: Path) -> Any:
    """From tokenizer.json, or from the older vocab.json and merges.txt."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    if (folder / "tokenizer.json").is_file():
        words = Tokenizer.from_file(str(folder / "tokenizer.json"))
        words.no_truncation()  # a file keeps how its tokenizer was used last
        words.no_padding()
        return words
    vocabulary, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    how = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": False, "unk_token": END}
    words = Tokenizer(BPE(vocabulary, merges, **how))
    words.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    cut = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    words.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return words


def _content(token: Any) -> str:
    """A token in tokenizer_config.json: itself, or all about it."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def is_clip_text(told: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of the text half alone, such as is read here."""
    known = told.get("hidden_act", "quick_gelu") in ACTIVATIONS and isinstance(told.get("eos_token_id", 2), int)
    return told.get("model_type") == "clip_text_model" and known


def make_network(
    told: Mapping[str, Any], tensors: Mapping[str, Tensor], projected: bool, dtype: torch.dtype
) -> tuple[CLIPTextModel, list[str]]:
    """The text half of a config.json and its tensors, and the names of weights that are missing; what is left over is not read.

    ValueError for tensors of other shapes.
    """
    own = {f.name: told[f.name] for f in fields(CLIPTextNetworkConfig) if f.name in told}
    config = CLIPTextNetworkConfig(**{**own, "projection_dim": told.get("projection_dim", 512) if projected else None})
    with unfilled():
        network = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    weights: dict[str, Tensor] = {}
    there = {name.removeprefix(_PREFIX): name for name in tensors}
    for name, wanted in network.state_dict().items():
        if name in there:
            weights[name] = tensors[there[name]].to(dtype)
            if weights[name].shape != wanted.shape:
                raise ValueError(f"{name} is {tuple(weights[name].shape)}, where {tuple(wanted.shape)} is to be filled")
    missing = network.load_state_dict(weights, strict=False, assign=True).missing_keys
    return network, list(missing)


def _json(file: Path) -> dict[str, Any]:
    """What a file holds; nothing where there is none."""
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return told if isinstance(told, dict) else {}
