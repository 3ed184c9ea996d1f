"""Both ways to compute attention against the textbook sum in float64, and attention layers against torch's own."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unnoise.networks import attention
from unnoise.networks.layers import Attention


def textbook(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    for b in range(q.shape[0]):
        keys = range(k.shape[2]) if mask is None else mask[b].nonzero()[:, 0].tolist()
        for h in range(q.shape[1]):
            for n in range(q.shape[2]):
                weights = torch.stack([(q[b, h, n].double() * k[b, h, j].double()).sum() / q.shape[-1] ** 0.5 for j in keys]).exp()
                out[b, h, n] = sum(w * v[b, h, j].double() for w, j in zip(weights / weights.sum(), keys))
    return out


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attend(plain: bool, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_plain", lambda q, k: plain)
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    mask = torch.tensor([[True, False, True, True, False], [False, False, False, False, True]]) if masked else None
    torch.testing.assert_close(attention.attend(q, k, v, mask).double(), textbook(q, k, v, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [64, 2**20])
def test_by_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 13, 8), torch.randn(2, 3, 13, 6)
    torch.testing.assert_close(attention.by_blocks(q, k, v).double(), textbook(q, k, v, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [6, 16, 64])
def test_by_blocks_where_a_score_is_far_above_those_that_were_looked_at(width: int) -> None:
    """There 2^score has no number."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 40, 8), torch.randn(1, 2, 40, width)
    k[:, :, 7] = 2000 * q[:, :, 1]  # the first of every sixteen keys is looked at
    found = attention.by_blocks(q, k, v)
    torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v), rtol=1e-5, atol=1e-5)
    assert torch.equal(found[:, :, 1], v[:, :, 7])
    v[:, 0, 3] = torch.nan
    found = attention.by_blocks(q, k, v)
    assert found[:, 0, 0].isnan().all()
    assert found[:, 1].isfinite().all()


def test_by_blocks_is_the_whole_of_long_bfloat16_attention_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """It adds less than that q, k and v were rounded costs, however far the scores spread, also where keys have much in common,
    which would leave scores of 60 with 1 binary digit."""
    monkeypatch.setattr(attention, "_fast_bfloat16_without_amx", lambda: True)
    torch.manual_seed(0)
    for spread in (0.3, 1, 3, 6, 12):
        for common in (0, 8):
            exact = torch.randn(3, 1, 4, 1024, 40)
            exact[0] = spread * (exact[0] + common / 8)
            exact[1] += common
            q, k, v = exact.bfloat16()
            expected, given = (scaled_dot_product_attention(*x.double()) for x in (exact, exact.bfloat16()))
            found = attention.attend(q, k, v).double()
            assert torch.equal(attention.by_blocks(q, k, v).double(), found)
            rounding = (given - expected).norm() / expected.norm()
            assert (found - given).norm() / given.norm() < max(rounding, 4e-3)


def test_attend_linearly() -> None:
    """Term by term: every value weighed by what relu leaves of its key and of what is asked, over the sum of the weights."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8).double(), torch.randn(2, 3, 5, 8).double(), torch.randn(2, 3, 5, 6).double()
    weights = (q.clamp(min=0)[..., :, None, :] * k.clamp(min=0)[..., None, :, :]).sum(-1)  # (B, heads, N, M), as it must not be
    expected = (weights[..., None] * v[..., None, :, :]).sum(-2) / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(attention.attend_linearly(q, k, v), expected)
    assert not attention.attend_linearly(-q.abs(), k, v).any()


def test_both_ways_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 9) < 0.7
    mask[:, 0] = True
    gradients = []
    for plain in (True, False):
        monkeypatch.setattr(attention, "_plain", lambda q, k, plain=plain: plain)
        torch.manual_seed(1)
        inputs = [torch.randn(2, 3, n, 8, requires_grad=True) for n in (6, 9, 9)]
        gradients.append(torch.autograd.grad(attention.attend(*inputs, mask).square().sum(), inputs))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_self_attention_is_torchs_with_normalised_queries_and_keys() -> None:
    """torch.nn.RMSNorm and nn.MultiheadAttention's own mathematics, written with torch's functions alone."""
    torch.manual_seed(0)
    layer = Attention(24, 3)
    with torch.no_grad():
        for norm in (layer.q_norm, layer.k_norm):
            norm.weight.copy_(torch.rand(8) + 0.5)
    x = torch.randn(2, 5, 24)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    q, k, v = (layer.qkv(x)[..., i * 24 : i * 24 + 24].reshape(2, 5, 3, 8).transpose(1, 2) for i in range(3))
    q = nn.functional.rms_norm(q, (8,), layer.q_norm.weight, 1e-6)
    k = nn.functional.rms_norm(k, (8,), layer.k_norm.weight, 1e-6)
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    expected = layer.out(out.transpose(1, 2).reshape(2, 5, 24))
    torch.testing.assert_close(layer(x, mask=mask), expected, rtol=1e-5, atol=1e-5)


def test_context_is_further_keys_and_values() -> None:
    """With the context's projection equal to the layer's own, context tokens act as tokens of x that nobody reads out."""
    torch.manual_seed(0)
    layer = Attention(16, 2, context_dim=16)
    assert layer.context is not None
    with torch.no_grad():
        layer.context.weight.copy_(layer.qkv.weight[16:])
    x, words = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    valid = torch.tensor([[True, True, False], [False, False, True]])
    joined = layer(torch.cat([words, x], 1), mask=torch.cat([valid, torch.ones(2, 4, dtype=torch.bool)], 1))[:, 3:]
    torch.testing.assert_close(layer(x, context=(words, valid)), joined, rtol=1e-5, atol=1e-5)
