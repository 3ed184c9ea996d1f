import pytest
import torch

from unnoise.core.codec import Conditioner
from unnoise.core.errors import InputError
from unnoise.modalities.conditioning import Labels, LabelsConfig, Text, TextConfig, normalised
from unnoise.modalities.words.syntax import read
from unnoise.networks.text import TextEncoderConfig

NAMES = ("T-shirt/top", "Ankle boot", "7", "zero", "Zero")
CAPTIONS = ("A red Apple", "two green pears", "a woman’s hat", "crème brûlée", "an apple")


def labels() -> Labels:
    return LabelsConfig(NAMES, 6).build()


def text() -> Text:
    return TextConfig.of(CAPTIONS, TextEncoderConfig(width=12, depth=1, heads=2, buckets=64)).build()


@pytest.mark.parametrize(
    ("prompt", "number"),
    [("Ankle boot", 1), ("ankle_BOOT", 1), (" ankle  boot ", 1), ("t-shirt/top", 0), ("t shirt/top", 0), ("0", 0), ("1", 1),
     ("7", 2), ("2", 2), ("zero", 3), ("Zero", 4), ("ZERO", 3), (None, 5)],
)  # fmt: skip
def test_what_a_class_may_be_called(prompt: str | None, number: int) -> None:
    assert labels().prepare([prompt])["ids"].tolist() == [number]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("ankel boot", "'ankel boot' is none of the 5 classes of this model; did you mean 'Ankle boot'"),
        ("привет", "it knows: T-shirt/top, Ankle boot, 7, zero, Zero"),
        ("5", "none of the 5 classes"),
        ("-1", "none of the 5 classes"),
        ("", "the prompt is empty; leave it out"),
        (" \t", "the prompt is empty; leave it out"),
        ("x" * 10_000, r"xxx\.\.\."),
    ],
)
def test_unknown_classes(prompt: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        labels().prepare(["zero", prompt])
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250


def test_labels_look_up_their_own_row() -> None:
    model = labels()
    cond = model(model.prepare(["zero", None, "7"]))
    assert torch.equal(cond["vector"], model.embed.weight[[3, 5, 2]])


@pytest.mark.parametrize("bad", [((), 4), (("a", "a"), 4), (("a", " "), 4), (("a",), 0)])
def test_impossible_labels(bad: tuple) -> None:
    with pytest.raises(InputError):
        LabelsConfig(*bad)


def test_normal_spelling() -> None:
    assert normalised("  Cre\u0300me\n BRU\u0302LE\u0301E ") == "crème brûlée"
    assert normalised("a woman’s “hat” – yes") == 'a woman\'s "hat" - yes'
    assert normalised("\ud83d") == "?"
    for t in ("İstanbul", "STRASSE ẞ", "ﬁne", "A\u030a"):
        assert normalised(normalised(t)) == normalised(t)


def test_ids_are_bytes_the_end_and_padding() -> None:
    ids = text().prepare(["A  red PEAR", "crème", None])["ids"]
    assert ids.dtype == torch.int64
    for row, code in zip(ids.tolist(), (b"a red pear", "crème".encode())):
        assert row == [3 + b for b in code] + [2] + [0] * (len(row) - len(code) - 1)
    assert ids[2].tolist() == [1] + [0] * (ids.shape[1] - 1)


def test_every_spelling_of_a_training_caption_is_understood_and_the_same() -> None:
    model = text()
    for caption in CAPTIONS:
        a, b, c = model.prepare([caption, caption.upper(), f"  {caption.lower()} "])["ids"]
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert torch.equal(*model.prepare(["a woman's hat", "a woman’s hat"])["ids"])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty; leave it out .* give one such as '"),
        ("   ", "the prompt is empty"),
        ("a red яблоко", "'яблок', which no training caption has; give one such as"),
        ("红苹果", "'红苹果', which no training caption has"),
        ("a" * 10_000, "10,000 bytes long; this model reads at most 63"),
        ("é" * 32, "64 bytes long; this model reads at most 63"),
    ],
)
def test_prompts_that_cannot_be_understood(prompt: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        text().prepare(["an apple", prompt])
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250


def test_the_longest_training_caption_fits_to_the_byte() -> None:
    longest = "é" * 60
    config = TextConfig.of([longest, "e"], TextEncoderConfig(width=12, depth=1, heads=2))
    assert config.encoder.length == 121
    ids = config.build().prepare([longest])["ids"]
    assert ids[0, -1] == 2
    with pytest.raises(InputError, match="121 bytes long; this model reads at most 120"):
        config.build().prepare([longest + "e"])


def test_no_captions_at_all() -> None:
    with pytest.raises(InputError, match="there are none"):
        TextConfig.of(["", "  "], TextEncoderConfig())


@pytest.mark.parametrize("make", [labels, text])
def test_rows_do_not_depend_on_their_company(make) -> None:
    """Prepared alone or in a batch, and with the null condition beside it, a row is told the same."""
    torch.manual_seed(0)
    model: Conditioner = make().eval()
    names = ["zero", "7"] if isinstance(model, Labels) else ["an apple", "two red pears"]
    together = model(model.prepare([*names, None]))
    for i, one in enumerate([*names, None]):
        alone = model(model.prepare([one]))
        assert alone.keys() == together.keys()
        for k in alone:
            torch.testing.assert_close(alone[k][0], together[k][i])
    null = model(model.null(2))
    for k in null:
        torch.testing.assert_close(null[k], together[k][2:].expand(2, *together[k].shape[1:]))


def test_the_text_encoder_learns_from_what_it_is_told() -> None:
    """Gradients reach it, and different words are told differently."""
    torch.manual_seed(0)
    model = text()
    cond = model(model.prepare(["a red apple", "a green apple"]))
    assert (cond["vector"][0] - cond["vector"][1]).abs().max() > 1e-3
    cond["vector"].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (model.encoder.byte.weight, model.encoder.vector.weight))


def test_weights_scale_the_tokens_of_their_words() -> None:
    """Spans and one text are spelled alike; a token is multiplied by its weight, and the vector made of the scaled tokens."""
    torch.manual_seed(0)
    model = text().eval()
    plain = model.prepare(["A red  apple"])
    weighted = model.prepare_said([read("A (red:1.5)  apple").at(0, 1)])
    assert torch.equal(weighted["ids"], plain["ids"])
    one, more = model(plain), model(weighted)
    n = int(one["mask"].sum())
    assert n == 4  # a, red, apple and the end
    factors = torch.tensor([1.0, 1.5, 1.0, 1.0])[:, None]
    torch.testing.assert_close(more["tokens"][0, :n], one["tokens"][0, :n] * factors)
    torch.testing.assert_close(more["vector"], model.encoder.vector(more["tokens"].sum(1) / n))
    glued = model.prepare_said([read("(r:1.2)ed BREAK (apple:1)").at(0, 1)])
    assert torch.equal(glued["ids"], model.prepare(["red apple"])["ids"])
    assert glued["weights"][0, :9].tolist() == pytest.approx([1.2] + [1.0] * 8)
    for empty in ("()", " ( ) "):
        with pytest.raises(InputError, match="the prompt is empty"):
            model.prepare_said([read(empty).at(0, 1)])
