import pytest
import torch
from torch.nn.functional import cross_entropy

from unnoise.core.errors import InputError
from unnoise.modalities.conditioning import TextConfig
from unnoise.modalities.words.spelling import Spelled, SpelledConfig, written
from unnoise.modalities.words.syntax import Said
from unnoise.networks.text import TextEncoderConfig

CAPTIONS = ["three red apples left of a sign that says OPEN", 'a board with "Café 24"', "a cat"]


def spelled() -> Spelled:
    torch.manual_seed(0)
    alphabet = "".join(map(chr, range(32, 127)))
    words = TextConfig.of([*CAPTIONS, alphabet + "é“”"], TextEncoderConfig(width=12, depth=1, heads=2, buckets=64))
    return SpelledConfig.of(CAPTIONS, words, 12).build().eval()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a sign that says OPEN", ["OPEN"]), ("a sign that says OPEN NOW in red", ["OPEN", "NOW"]),
        ("it says hello, there", ["hello"]),
        ('a shop "Open 24" and “no”', ["Open", "24", "no"]), ("the cat's hat isn't 'big' enough", ["big"]),
        ("a sign of the times", []), ("sign: STOP", ["STOP"]), ("a sign SALE left of a cat", ["SALE"]),
        ("a girl reads", []), ("", []),
        ('says "YES"', ["YES"]), ("spelling: mop!", ["mop!"]),
    ],
)  # fmt: skip
def test_what_is_to_be_written(text: str, words: list[str]) -> None:
    assert written(text) == words


def test_one_token_a_character_after_the_words() -> None:
    model = spelled()
    prompts = ["a sign that says OPEN", "a cat", 'a board with "Café 24"', None]
    cond, words = model(model.prepare(prompts)), model.words(model.words.prepare(prompts))
    n = words["tokens"].shape[1]
    assert torch.equal(cond["tokens"][:, :n], words["tokens"])
    assert torch.equal(cond["vector"], words["vector"])
    assert cond["mask"][:, n:].sum(1).tolist() == [4, 0, 6, 0]
    assert not cond["tokens"][1, n:].any()
    ids = {c: i + 1 for i, c in enumerate(model.config.alphabet)}
    rows = [("C", 0, 3, 0), ("a", 1, 2, 0), ("f", 2, 1, 0), ("é", 3, 0, 0), ("2", 0, 1, 1), ("4", 1, 0, 1)]
    by_hand = torch.stack([model.character.weight[ids[c]] + model.place.weight[p] + model.back.weight[b] + model.word.weight[w]
                           for c, p, b, w in rows])  # fmt: skip
    torch.testing.assert_close(cond["tokens"][2, n : n + 6], model.norm(by_hand))
    for i, prompt in enumerate(prompts):
        alone = model(model.prepare([prompt]))
        k = alone["tokens"].shape[1]
        torch.testing.assert_close(alone["tokens"][0], cond["tokens"][i, :k])


def test_what_is_led_away_from_is_put_to_the_encoder_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """For encoders that put it in other words than a prompt; the letters are the same."""
    model, said = spelled(), [Said.plain("a sign that says OPEN")]
    other = model.words.prepare(["a cat"])
    monkeypatch.setattr(model.words, "prepare_away", lambda said: other)
    away = model.prepare_away(said)
    assert torch.equal(away["ids"], other["ids"])
    assert torch.equal(away["spelled"], model.prepare_said(said)["spelled"])


def test_all_of_the_alphabet_can_be_written_and_nothing_else() -> None:
    model = spelled()
    for a in range(0, len(model.config.alphabet), 8):
        word = model.config.alphabet[a : a + 8].replace('"', "")
        assert int((model.prepare([f'"{word}"'])["spelled"][..., 0] > 0).sum()) == len(word)
    for prompt, message in (
        ('says "Ω"', "has 'Ω', which this model has never written"),
        ('"' + "x" * 10_000 + '"', "has 10,000 characters; this model writes 16 at most"),
        ('"' + "a " * 9 + '"', "asks for 9 written words; this model writes 8 at most"),
    ):
        with pytest.raises(InputError, match=message) as e:
            model.prepare([prompt])
        assert len(str(e.value)) < 200
    with pytest.raises(InputError, match="an alphabet has"):
        SpelledConfig(model.config.words, 12, "aa")


def test_a_word_can_be_read_off_its_tokens() -> None:
    """A linear map learns in 150 steps which character stands at which place, of words it has not seen: chance would be 1 in 26."""
    model = spelled()
    generator = torch.Generator().manual_seed(1)
    words = ["".join(chr(97 + int(k)) for k in torch.randint(26, (6,), generator=generator)) for _ in range(400)]
    tokens = model(model.prepare([f'"{w}"' for w in words]))["tokens"][:, -6:].detach()
    target = torch.tensor([[ord(c) - 97 for c in w] for w in words])
    head = torch.nn.Linear(12, 26)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        cross_entropy(head(tokens[:300]).flatten(0, 1), target[:300].flatten()).backward()
        optimiser.step()
    assert (head(tokens[300:]).argmax(-1) == target[300:]).float().mean() > 0.8
