"""Our own text encoder: its pieces are BERT's, its tokens depend on the text alone, and it learns what its teacher means."""

import random
import unicodedata

import pytest
import torch
from transformers import BertTokenizer

from unnoise.core.errors import InputError
from unnoise.modalities.words.distilled import NOTHING, PADDING, Distilled, DistilledConfig
from unnoise.modalities.words.emoji_names import named_emoji
from unnoise.modalities.words.pieces import UNKNOWN, Pieces
from unnoise.modalities.words.syntax import read
from unnoise.networks.word_encoder import WordEncoderConfig

WORDS = [
    "red",
    "cat",
    "ca",
    "cats",
    "##s",
    "##t",
    "##at",
    "a",
    "b",
    "##b",
    "un",
    "##happy",
    "!",
    "'",
    ",",
    "#",
    "猫",
    "cafe",
    "3",
    "##d",
]


def distilled(length: int = 6, learnt: int = 0) -> Distilled:
    vocabulary = [PADDING, NOTHING, UNKNOWN, *WORDS]
    torch.manual_seed(0)
    encoder = WordEncoderConfig(len(vocabulary), out=10, rank=4, width=12, depth=2, heads=2, length=length)
    return DistilledConfig(encoder, "\n".join(vocabulary), learnt=learnt).build().eval()


def told_apart() -> Distilled:
    """One that has learnt something of `red` and `cat` alone."""
    model = distilled(learnt=3)
    with torch.no_grad():
        model.learnt[0].weight[3:5] = torch.randn(2, 3)
    return model


def test_pieces_are_those_of_bert() -> None:
    """Against transformers' tokenizer, on texts written down and on random ones."""
    vocabulary = ["[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]", *WORDS]
    theirs = BertTokenizer(vocab={w: i for i, w in enumerate(vocabulary)})
    ours = Pieces(vocabulary)
    texts = [
        "A red CAT's hat!",
        "unhappy cats",
        "Café, cafe\u0301",
        "猫cat猫",
        "x" * 101,
        "a" * 101,
        "",
        "  \t\n",
        "🍎 cat",
        "b\u200bb",
        "3d",
    ]
    rng = random.Random(0)
    texts += ["".join(rng.choice("abcst red!',#é猫 \u00a0\u0301\x07–$+") for _ in range(rng.randrange(20))) for _ in range(300)]
    for text in texts:
        assert ours.ids(text) == theirs(text, add_special_tokens=False)["input_ids"], repr(text)


@pytest.mark.parametrize("make", [distilled, told_apart])
def test_rows_do_not_depend_on_their_company(make) -> None:
    model = make()
    texts = ["a red cat", None, "", "cats, cats, cats and unhappy cats!", "zzz"]
    together = model(model.prepare(texts))
    assert together["tokens"].shape[1] > 6, "longer than a window"
    for i, text in enumerate(texts):
        alone = model(model.prepare([text]))
        n = alone["tokens"].shape[1]
        torch.testing.assert_close(alone["tokens"][0], together["tokens"][i, :n])
        torch.testing.assert_close(alone["vector"][0], together["vector"][i])
        assert alone["mask"][0].all()
        assert not together["mask"][i, n:].any()
    assert torch.equal(together["vector"][1], together["vector"][2]), "the empty prompt says nothing"


@pytest.mark.parametrize("make", [distilled, told_apart])
def test_weights_scale_tokens_and_their_share_of_the_vector(make) -> None:
    model = make()
    plain, weighted = model(model.prepare(["a red cat"])), model(model.prepare_said([read("a (red:1.5) cat").at(0, 1)]))
    tokens = plain["tokens"] * torch.tensor([1.0, 1.5, 1.0])[:, None]
    torch.testing.assert_close(weighted["tokens"], tokens)
    torch.testing.assert_close(weighted["vector"], tokens.mean(1))


@pytest.mark.parametrize("make", [distilled, told_apart])
def test_a_break_starts_a_new_window(make) -> None:
    """Each part is read as it is alone, in places of its own; one of no words says nothing; the vector is the first one's."""
    model = make()
    first, second, nothing = (model(model.prepare([text])) for text in ("a red", "unhappy (cats", None))
    both = model(model.prepare_said([read(r"a red BREAK unhappy \(cats").at(0, 1), None]))
    tokens, mask = both["tokens"][0], both["mask"][0]
    torch.testing.assert_close(tokens[:2], first["tokens"][0])
    torch.testing.assert_close(tokens[6:], second["tokens"][0])
    assert mask.tolist() == [True] * 2 + [False] * 4 + [True] * (len(mask) - 6)
    torch.testing.assert_close(both["vector"][0], first["vector"][0])
    empty = model(model.prepare_said([read("BREAK a (red:1.5)").at(0, 1)]))
    torch.testing.assert_close(empty["tokens"][0, :1], nothing["tokens"][0])
    torch.testing.assert_close(empty["tokens"][0, 6:], first["tokens"][0] * torch.tensor([1.0, 1.5])[:, None])
    torch.testing.assert_close(empty["vector"], nothing["vector"])
    long = "red " * 8  # more than a window before the break
    parted = model(model.prepare_said([read(f"{long} BREAK a red").at(0, 1)]))
    torch.testing.assert_close(parted["tokens"][0, 12:], first["tokens"][0])
    with pytest.raises(InputError, match="has 11 pieces of words in 11 windows; this model reads 60 at most, in 10 windows"):
        model.prepare_said([read(" BREAK ".join(["a"] * 11)).at(0, 1)])


def test_it_is_saved_but_stays_as_it_is() -> None:
    model = distilled()
    assert not any(p.requires_grad for p in model.parameters())
    assert "encoder.table.weight" in model.state_dict()


def test_what_is_learnt_tells_words_apart_that_were_said_and_leaves_the_others() -> None:
    model, taught = told_apart(), distilled()
    model.encoder.load_state_dict(taught.encoder.state_dict())
    texts = ["a red cat", "unhappy b"]
    now, before = model(model.prepare(texts)), taught(taught.prepare(texts))
    table, out = model.learnt[0].weight, model.learnt[1].weight
    expected = before["tokens"].clone()
    expected[0, 1:3] += torch.stack([out @ table[3], out @ table[4]])
    torch.testing.assert_close(now["tokens"], expected)
    torch.testing.assert_close(now["vector"][0], before["vector"][0] + out @ (table[3] + table[4]) / 3)
    assert torch.equal(now["vector"][1], before["vector"][1])
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["learnt.0.weight", "learnt.1.weight"]


def test_emoji_are_their_names() -> None:
    """Unicode's own names where CLDR's are the same; CLDR's, written down, where they are not."""
    for emoji in "\U0001f34e\U0001f680\U0001f431\U0001f600":
        assert named_emoji(emoji).split() == unicodedata.name(emoji).lower().split()
    for emoji, name in (
        ("\u2764\ufe0f", "red heart"),
        ("\u2b50", "star"),
        ("\U0001f469\u200d\U0001f680", "woman astronaut"),
        ("\U0001f1eb\U0001f1f7", "flag: France"),
    ):
        assert named_emoji(f"a{emoji}b_c").split() == ["a", *name.split(), "b_c"]
    assert named_emoji("caf\u00e9 \u732b #1") == "caf\u00e9 \u732b #1"


@pytest.mark.parametrize(("prompt", "message"), [("red dog", "'dog' in the prompt"), ("(!:1.2) '", "has no words")])
def test_prompts_without_a_known_word_are_refused_and_captions_are_not(prompt: str, message: str) -> None:
    model = distilled()
    with pytest.raises(InputError, match=message):
        model.check(read(prompt).at(0, 1))
    model.check(read("red cat").at(0, 1))
    assert len(model.prepare([prompt])["ids"]) == 1
    assert len(model.prepare_said([read("red cat").at(0, 1), None])["ids"]) == 2


def test_impossible_vocabularies_and_prompts() -> None:
    config = distilled().config
    for vocabulary in ("red\ncat", f"{PADDING}\n{NOTHING}\n{UNKNOWN}\nred\nred"):
        with pytest.raises(InputError, match="a vocabulary begins with"):
            DistilledConfig(config.encoder, vocabulary)
    with pytest.raises(InputError, match="of 4 pieces for an encoder of 23 rows"):
        DistilledConfig(config.encoder, f"{PADDING}\n{NOTHING}\n{UNKNOWN}\nred")
    with pytest.raises(InputError, match=r"has 5,000 pieces of words; this model reads 60 at most: shorten it") as e:
        distilled().prepare(["!" * 5_000])
    assert len(str(e.value)) < 200
