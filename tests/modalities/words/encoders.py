"""Tiny text encoders of every family, with freshly drawn weights, as folders in transformers' and diffusers' layouts."""

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WINDOW = 16  # places of the tiny CLIPs


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    signs = [*LETTERS, *"0123456789,.!", *(c + "</w>" for c in LETTERS + "0123456789,.!")]
    merges = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]
    signs += ["".join(m) for m in merges]
    vocab = {s: i for i, s in enumerate([*signs, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=WINDOW)


def save_clip(
    folder: Path, seed: int, width: int = 16, projected: bool = False, pad: str = "<|endoftext|>", heads: int = 2
) -> None:
    """Into folder/ and the tokenizer beside it where the folder is called text_encoder..., else into it."""
    tokenizer = clip_tokenizer(pad)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=heads,
        max_position_embeddings=WINDOW, projection_dim=width - 4, eos_token_id=end, bos_token_id=end - 1,
        initializer_factor=20.0,
    )  # fmt: skip
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    _save(folder, model, tokenizer)


def save_t5(folder: Path, seed: int, width: int = 48) -> None:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(c, -3.0) for c in LETTERS + ",.!"] + [("▁cat", -1.0), ("▁red", -1.0)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    torch.manual_seed(seed)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    _save(folder, T5EncoderModel(config), tokenizer)


def save_bert(folder: Path, seed: int, width: int = 16) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "red", *LETTERS, *("##" + c for c in LETTERS), ",", ".", "(", ")"]
    tokenizer = BertTokenizer(vocab={w: i for i, w in enumerate(words)}, model_max_length=12)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=20, initializer_range=0.5,
    )  # fmt: skip
    _save(folder, BertModel(config), tokenizer)


def save_gemma(folder: Path, seed: int, width: int = 16) -> None:
    """A space in front of a word belongs to its token, as in Gemma's own vocabulary, and there is no other for it in a text."""
    merges = [("▁", c) for c in LETTERS] + [("▁c", "a"), ("▁ca", "t")]
    signs = ["<pad>", "<eos>", "<bos>", "<unk>", *LETTERS, *LETTERS.upper(), *",.!-:'\"()>\n", "▁", *("".join(m) for m in merges)]
    tokenizer = GemmaTokenizer(vocab={s: i for i, s in enumerate(signs)}, merges=merges)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=64, initializer_range=0.3, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    _save(folder, Gemma2Model(config), tokenizer)


def _save(folder: Path, model, tokenizer) -> None:
    model.save_pretrained(folder)
    apart = folder.name.startswith("text_encoder")
    tokenizer.save_pretrained(folder.with_name(folder.name.replace("text_encoder", "tokenizer")) if apart else folder)
