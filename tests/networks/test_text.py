"""How text is cut into pieces, and what the encoder may and may not depend on."""

import pytest
import torch
from torch import Tensor

from unnoise.networks.text import LabelEmbedding, TextEncoder, TextEncoderConfig, count_pieces, cut, encode_bytes

CONFIG = TextEncoderConfig(48, 24, 2, 2, 16, 64)


def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return CONFIG.build().eval()


def batch(*texts: str | None, length: int = 48) -> Tensor:
    return torch.stack([encode_bytes(t, length) for t in texts])


def pieces(text: str) -> list[str]:
    """By the encoder's own cut, put back into words (the end of the text as "$")."""
    data = text.encode() + b"$"
    piece, _, counts = cut(batch(text, length=len(data)))
    out = [bytearray() for _ in range(int(piece.max()) + 1)]
    for byte, i, counted in zip(data, piece[0].tolist(), counts[0].tolist()):
        if counted:
            out[i].append(byte)
    return [bytes(p).decode(errors="replace") for p in out]


def test_ids() -> None:
    assert encode_bytes("aé", 6).tolist() == [3 + 97, 3 + 0xC3, 3 + 0xA9, 2, 0, 0]
    assert encode_bytes("", 2).tolist() == [2, 0]
    assert encode_bytes(None, 3).tolist() == [1, 0, 0]
    assert encode_bytes("abc", 4).tolist()[-1] == 2
    with pytest.raises(ValueError, match="4 bytes"):
        encode_bytes("abcd", 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red apple", ["a", "red", "apple", "$"]),
        ("  two  spaces ", ["two", "spaces", "$"]),
        ("cat, dog!", ["cat", ",", "dog", "!", "$"]),
        ("grüne Äpfel", ["grüne", "Äpfel", "$"]),
        ("яблоко и кот", ["яблоко", "и", "кот", "$"]),
        ("红苹果", ["红", "苹", "果", "$"]),
        ("🍎 cat🐈", ["🍎", "cat", "🐈", "$"]),
        ("x" * 35, ["x" * 16, "x" * 16, "xxx", "$"]),
        ("", ["$"]),
    ],
)
def test_pieces(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected
    assert count_pieces(text) == len(expected)
    assert int(encoder()(batch(text))["mask"].sum()) == len(expected)


def test_padding_has_no_influence() -> None:
    """Neither the length of the window nor the texts beside it in the batch."""
    net = encoder()
    texts = ("a red apple", None, "x", "")
    together = net(batch(*texts))
    for i, text in enumerate(texts):
        alone = net(batch(text, length=20))
        n = int(alone["mask"].sum())
        assert int(together["mask"][i].sum()) == n
        torch.testing.assert_close(alone["tokens"][0, :n], together["tokens"][i, :n], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone["vector"][0], together["vector"][i], rtol=1e-5, atol=1e-5)
        assert not together["tokens"][i, n:].any()


def test_different_texts_differ_in_every_place_that_should() -> None:
    """Order, spelling and presence matter; the null caption is neither the empty text nor any other."""
    net = encoder()
    texts = ["red cat", "cat red", "red cab", "red", "", None, "der cat", "red  cat!"]
    vectors = net(batch(*texts))["vector"]
    assert float((torch.cdist(vectors, vectors) + 1e9 * torch.eye(len(texts))).min()) > 1e-2


def test_capitals_share_most() -> None:
    plain, capital, other = encoder()(batch("red cat", "Red Cat", "big dog"))["vector"]
    assert 0 < float((plain - capital).norm()) < float((plain - other).norm())


def test_a_text_of_more_pieces_than_tokens_is_still_read_whole() -> None:
    """What is beyond the last token shares it: no piece is lost without a trace."""
    net = encoder()
    a, b = net(batch("! " * 20 + "a", "! " * 20 + "b"))["tokens"]
    torch.testing.assert_close(a.shape, b.shape)
    assert float((a - b).abs().max()) > 1e-3


def test_every_parameter_learns() -> None:
    net = encoder()
    out = net(batch("a red apple", None, "Äpfel 🍎 and more!", "x" * 40))
    (out["tokens"].square().sum() + out["vector"].sum()).backward()
    missing = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_it_learns_to_tell_words_apart() -> None:
    """A linear map of the vector, trained along for 60 steps, names 24 captions: chance would be right on 1."""
    captions = [
        f"a {colour} {thing}"
        for colour in ("red", "blue", "green", "black")
        for thing in ("cat", "car", "cup", "cap", "can", "cab")
    ]
    net = encoder()
    head = torch.nn.Linear(24, 24)
    optimiser = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
    ids, target = batch(*captions), torch.arange(24)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(net(ids)["vector"]), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert int((head(net(ids)["vector"]).argmax(1) == target).sum()) >= 23


def test_labels() -> None:
    embedding = LabelEmbedding(3, 5)
    vectors = embedding(torch.arange(4))
    assert vectors.shape == (4, 5)
    assert torch.unique(vectors, dim=0).shape[0] == 4  # the null class, 3, has its own


def test_it_compiles_into_one_graph() -> None:
    net = encoder()
    ids = batch("a red apple", None)
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(ids), net(ids), rtol=1e-5, atol=1e-5)
