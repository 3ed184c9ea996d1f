"""The contrastive loss against its definition, term by term."""

import math

import torch
from torch.nn.functional import normalize

from unnoise.networks.contrastive import ContrastiveConfig, PictureTowerConfig, contrastive_loss
from unnoise.networks.text import TextEncoderConfig, encode_bytes


def unit(n: int, d: int = 6) -> torch.Tensor:
    return normalize(torch.randn(n, d, dtype=torch.float64), dim=-1)


def test_each_sum_leaves_out_what_says_the_same_and_only_the_first_has_further_texts() -> None:
    torch.manual_seed(1)
    n, k = 5, 3
    pictures, texts, scale = unit(n), unit(n + k), torch.tensor(4.0).double()
    said = torch.tensor([0, 1, 0, 2, 3, 1, 4, 0])  # pictures 0 and 2 are called alike; further texts say 1, 4 and 0
    got = contrastive_loss(pictures, texts, said[:n, None] == said, scale)
    for i in range(n):
        s = [math.exp(4.0 * float(pictures[i] @ texts[j])) for j in range(n + k)]
        by_picture = -math.log(s[i] / sum(s[j] for j in range(n + k) if j == i or said[j] != said[i]))
        t = [math.exp(4.0 * float(pictures[j] @ texts[i])) for j in range(n)]
        by_text = -math.log(t[i] / sum(t[j] for j in range(n) if j == i or said[j] != said[i]))
        assert math.isclose(float(got[i]), (by_picture + by_text) / 2, rel_tol=1e-12)


def test_towers_give_unit_vectors_row_by_row() -> None:
    torch.manual_seed(2)
    config = ContrastiveConfig(PictureTowerConfig(12, 9, 1, dim=16, features=32), TextEncoderConfig(24, 32, 1, 2, buckets=64))
    network = config.build().eval()
    x, ids = torch.randn(5, 1, 12, 9), torch.stack([encode_bytes(t, 24) for t in ("a cat", "two", "red", "x", "")])
    for whole, alone in (
        (network.picture(x), [network.picture(x[i : i + 1]) for i in range(5)]),
        (network.text(ids), [network.text(ids[i : i + 1]) for i in range(5)]),
    ):
        torch.testing.assert_close(whole.norm(dim=-1), torch.ones(5))
        torch.testing.assert_close(whole, torch.cat(alone))
    with torch.no_grad():
        network.tau.fill_(50.0)
    assert float(network.scale().detach()) == 100.0
