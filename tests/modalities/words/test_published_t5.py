"""T5's tokenizer as it is published: spiece.model alone, which the library sentencepiece reads."""

import json
import random
from pathlib import Path

import pytest
from transformers import T5Config, T5EncoderModel

from unnoise.modalities.words.frozen import T5Text, read_encoder
from unnoise.modalities.words.syntax import Said

sentencepiece = pytest.importorskip("sentencepiece")
WORDS = ("a red cat sits on the mat", "and looks at dogs in rain", "with an umbrella", "while seven birds sing")


def test_tokens_are_those_of_sentencepiece(tmp_path: Path) -> None:
    rng = random.Random(0)
    sentences = (" ".join(rng.sample(WORDS, 3)) for _ in range(300))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_prefix=str(tmp_path / "spiece"), vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    told = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "model_max_length": 512}
    told |= {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    config = T5Config(vocab_size=theirs.vocab_size() + 100, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    encoder = read_encoder(str(tmp_path)).build()
    assert isinstance(encoder, T5Text)
    for text in ("a red cat", "seven  birds, sing!", "umbrellas", ""):
        assert [i for i, _ in encoder._windows(Said.plain(text))[0]] == theirs.encode(text)
