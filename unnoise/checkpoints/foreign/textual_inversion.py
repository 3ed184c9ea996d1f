"""Textual inversion (Gal et al. 2022, 2208.01618): words that are no words, learnt as rows of a text encoder's first table.

    textual_inversion(model, "cat-toy.safetensors")       and "a <cat-toy> on a shelf" means that toy

A file holds one of   {word: (width,) or (n, width)}                     diffusers
                      {"emb_params": (n, width)}                         the web UI (A1111); the word is the file's name
                      {"clip_l": (n, 768), "clip_g": (n, 1280)}          the same for models of several encoders (SDXL, SD3)
                      {"bundle_emb.WORD.clip_l": (n, 768), ...}          OneTrainer, in a LoRA file, whose other tensors are let be
A word of n vectors stands for n tokens, one after another.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from unnoise.checkpoints.foreign.hub import at_hand
from unnoise.checkpoints.foreign.lora import Model
from unnoise.checkpoints.foreign.lora_file import PICKLES, bundled, read_tensors
from unnoise.checkpoints.foreign.recognise import converting
from unnoise.core.errors import InputError
from unnoise.core.hashing import tensors_hash
from unnoise.modalities.words.frozen import Frozen, encoders_of

NAMELESS = ("emb_params", "string_to_param.*")
ENCODERS = {"clip_l": "clip_l", "clip_g": "clip_g", "t5xxl": "t5xxl", "t5": "t5xxl"}
_ANSWERS = tuple(f"{name}_out" for name in ENCODERS)
"""OneTrainer's keys of what is learnt behind a text encoder."""


def textual_inversion(model: Model, file: str | Path, word: str | None = None) -> tuple[str, ...]:
    """Teach the model's text encoders what the file holds; returns the new words. file: or its name on the hub. word: what to call
    it, if not as the file does.

    No other model sees it, even one with the same encoders. InputError for a file that is none, for an encoder of another width,
    and for a word that is one already; then nothing has changed. A warning says which of several encoders have not learnt it.
    """
    path, encoders = Path(file), encoders_of(model.conditioner)
    if not encoders:
        raise InputError(f"{path}: this model has no text encoder that could learn a word")
    _refuse_pickle(path)
    tensors, _ = read_tensors(at_hand(path, ()))
    if any(bundled(key) for key in tensors):
        read = [(*pair, vectors) for key, vectors in tensors.items() if (pair := bundled(key))]
    else:
        read = [(path.stem if k in NAMELESS or k in (*ENCODERS, *_ANSWERS) else k, k, vectors) for k, vectors in tensors.items()]
    if word is not None and len(words := {name for name, _, _ in read}) > 1:
        raise InputError(f"{path}: holds {len(words)} words; one name cannot be given to all")
    found = []
    for told, key, vectors in read:
        named = word or told
        if key in _ANSWERS:
            raise InputError(
                f"{path}: {key!r} takes the place of what a text encoder answers; vectors of its first table are known"
            )
        encoder = encoders.get(ENCODERS[key]) if key in ENCODERS else _of_width(encoders, vectors.shape[-1] if vectors.ndim else 0)
        widths = ", ".join(f"{width(e):,}" for e in dict.fromkeys(encoders.values()))
        if encoder is None or vectors.ndim not in (1, 2) or vectors.shape[-1] != width(encoder):
            raise InputError(f"{path}: {key!r} {tuple(vectors.shape)} fits no text encoder of this model, of width {widths}")
        found.append((encoder, named, vectors.reshape(-1, width(encoder))))
    if not found:
        raise InputError(f"{path}: holds no words")
    for encoder, named, vectors in found:
        known = encoder.opened.tokenizer.get_vocab()
        if taken := next((t for t in _tokens(named, len(vectors)) if t in known), None):
            raise InputError(f"{path}: the text encoder knows {taken!r} already; give it another word")
    for encoder, named, vectors in found:
        _teach(encoder, named, vectors)
    learnt = tuple(dict.fromkeys(named for _, named, _ in found))
    for named in learnt:
        _warn_of_halves(path, named, encoders)
    return learnt


def _warn_of_halves(path: Path, word: str, encoders: Mapping[str, Frozen]) -> None:
    """Of a word that some of the model's encoders have learnt: the others cut it into letters."""
    names = {encoder: name for name, encoder in reversed(tuple(encoders.items()))}  # diffusers', which come first
    learnt, others = ([name for e, name in names.items() if (word in e.taught) is knows] for knows in (True, False))
    if others:
        told = f"{path}: {word!r} is learnt by {', '.join(sorted(learnt))} alone; to {', '.join(sorted(others))} it is letters"
        warnings.warn(f"{told}: it was made for another model, or lacks the file that belongs to it", stacklevel=3)


def _refuse_pickle(path: Path) -> None:
    """InputError with a command that converts what diffusers and the web UI write: there the vectors lie beside other values."""
    if path.suffix.lower() in PICKLES:
        vectors = "{'emb_params': next(iter(d['string_to_param'].values()))} if 'string_to_param' in d else d"
        raise InputError(f"{path}: a pickle, which runs code when it is read; convert it: {converting(path, vectors)}")


def width(encoder: Frozen) -> int:
    """Of the rows of its first table."""
    return encoder.opened.network.get_input_embeddings().weight.shape[1]


def _of_width(encoders: Mapping[str, Frozen], wanted: int) -> Frozen | None:
    return next((e for e in encoders.values() if width(e) == wanted), None)


def _tokens(word: str, n: int) -> list[str]:
    """As diffusers calls them."""
    return [word, *(f"{word}_{i}" for i in range(1, n))]


@torch.no_grad()
def _teach(encoder: Frozen, word: str, vectors: Tensor) -> None:
    opened = encoder.apart()
    tokens, table = _tokens(word, len(vectors)), opened.network.get_input_embeddings().weight
    opened.tokenizer.add_tokens(tokens)
    ids = opened.tokenizer.convert_tokens_to_ids(tokens)
    rows = torch.cat([table, table.new_zeros(max(0, max(ids) + 1 - len(table)), table.shape[1])])  # a copy: the table is shared
    rows[ids] = vectors.to(rows)
    opened.network.set_input_embeddings(nn.Embedding.from_pretrained(rows))
    encoder.several[ids[0]] = tuple(ids)
    encoder.taught[word] = tensors_hash({word: vectors})
    clip = getattr(opened.network, "text_model", opened.network)
    if getattr(clip, "eos_token_id", None) == 2:  # older configurations: the end is the largest number, which it is no more
        clip.eos_token_id = opened.tokenizer.eos_token_id
