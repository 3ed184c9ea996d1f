"""softmax(q k^T / sqrt(d)) v: the one place that chooses how it is computed. And attention without softmax."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """q (B, heads, N, D), k and v (B, heads, M, D), mask (B, M) bool, True where a key counts -> (B, heads, N, D).

    Every row needs at least one key that counts. Forward-mode differentiation through long sequences needs
    torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the call, because no fused kernel of torch has it.
    """
    valid = None if mask is None else mask[:, None, None, :]
    if valid is None and _in_blocks(q, k):
        return by_blocks(q, k, v)
    if not _plain(q, k):
        return scaled_dot_product_attention(q, k, v, attn_mask=valid)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def by_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same without a mask, a head and a block of its queries after another, so that their scores stay in the cache.

    Values of another width than multiples of 64 have their weights' sums beside them, up to the next multiple of 16: 2^scores
    weigh values and ones in one product, which is faster than softmax, and no slower for the columns that it has more. Each of
    these sums a share of the keys, so that what it is rounded by is small in the sum of all. Where a sum is far from 1, or not
    finite, scores went beyond what was taken off of them (`_weighed`): softmax, which looks for the largest, is as it should be.
    """
    width, scale = v.shape[-1], q.shape[-1] ** -0.5
    if free := 0 if width % FULL == 0 else COLUMNS - width % COLUMNS:
        keys = torch.arange(v.shape[-2], device=v.device)[:, None]
        shares = (keys % free == torch.arange(free, device=v.device)).to(v.dtype).expand(*v.shape[:-1], free)
        out = _weighed(q * (scale * LOG2_E), k, torch.cat([v, shares], -1), torch.exp2)
        total = out[..., width:].sum(-1, keepdim=True, dtype=torch.promote_types(v.dtype, torch.float32))
        if bool((total.log2().abs() < 64).all()):
            return (out[..., :width] / total).to(v.dtype)
    return _weighed(q * scale, k, v, lambda scores: scores.softmax(-1))


def _weighed(q: Tensor, k: Tensor, v: Tensor, weights: Callable[[Tensor], Tensor]) -> Tensor:
    """Values weighed by `weights` of scores q k^T, of which the largest of each query has been taken off roughly.

    Scores are rounded to the dtype of q, which spoils the largest the most, and those decide. So about the largest score of each
    query, found among a sixteenth of its keys, 256 at most, is taken off inside the product, whose sums are exact to float32:
    what is left of the scores that count is small, and rounded as finely. That costs less precision than rounding q and k does
    (tests), whatever all keys have in common. Written without in-place operations, for torch.func.
    """
    rows, some = max(1, BLOCK // k.shape[-2]), max(16, -(-k.shape[-2] // 256))
    k, v = torch.cat([k, torch.ones_like(k[..., :1])], -1).transpose(-2, -1).contiguous(), v.contiguous()
    heads = []
    for queries, keys, values in zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)):
        largest = (queries @ keys[:-1, ::some]).amax(-1, keepdim=True)
        blocks = torch.cat([queries, -largest], -1).split(rows)
        heads.append(torch.cat([weights(block @ keys) @ values for block in blocks]))
    return torch.stack(heads).unflatten(0, q.shape[:2])


COLUMNS, FULL = 16, 64
"""Columns that a product computes at once, and that it is made for: 48 take less time than 40, 96 than 80, 80 more than 64."""
LOG2_E = math.log2(math.e)
BLOCK = 2**20
"""Scores of a block: 2 MB."""


def attend_if_any(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """As `attend`, for rows that may have no key that counts, or none at all: those are answered with 0."""
    if k.shape[-2] == 0:
        return q.new_zeros(*q.shape[:-1], v.shape[-1])
    if mask is None:
        return attend(q, k, v)
    some = mask.any(1, keepdim=True)
    return attend(q, k, v, mask | ~some) * some[:, :, None, None].to(v.dtype)


def attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Without softmax, in time and memory linear in N (Katharopoulos et al. 2020, 2006.16236, eq. 5, with relu for phi):

        relu(q_i) S / (relu(q_i) z),   S = sum_j relu(k_j)^T v_j,   z = sum_j relu(k_j)^T

    q, k, v (B, heads, N, D), float32 at least for the sake of the sums -> the same; 0 where all that is asked is negative.
    """
    q, k = relu(q), relu(k)
    return q @ (k.transpose(-2, -1) @ v) / (q @ k.sum(-2)[..., None] + 1e-15)


def _plain(q: Tensor, k: Tensor) -> bool:
    """Whether two matrix products and a softmax beat the fused kernel.

    Forward + backward on a CPU, batch 16, heads of 64, time of the fused kernel over the plain one (one thread):
        bfloat16   64 tokens 2.6 - 2.8    256 tokens 1.0 - 1.2    576 tokens 1.3    1024 tokens 0.7
        float32    64 tokens 0.6 - 1.0    256 tokens 0.8 - 1.1    576 tokens 0.9    1024 tokens 0.55
    Forward alone the fused kernel wins always (1.2 to 4 times), and on a GPU too.
    """
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    return q.device.type == "cpu" and training and q.dtype == torch.bfloat16 and k.shape[-2] <= 640


def _in_blocks(q: Tensor, k: Tensor) -> bool:
    """Whether two matrix products by blocks beat the fused kernel, forward alone.

    In bfloat16 on an EPYC with its instructions (AVX-512), two threads, ms of the fused kernel / by blocks (batch 2, 8 heads):
        4096 tokens of 40: 340 / 198    of 64, 4 heads: 242 / 140    1024 of 80: 37 / 27    256 of 160: 5.4 / 6.0
    where no other program shares its cores. The fused kernel's products run at a
    quarter of the rate of torch's others there; in float32 they do not (671 / 841). With AMX it has products of its own, and its
    cheaper exponentials count for more: it stays.
    """
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    long = min(q.shape[-2], k.shape[-2]) >= 512 and len(q) > 0
    usual = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not training and not torch.compiler.is_compiling()
    return long and usual and _fast_bfloat16_without_amx()


@cache
def _fast_bfloat16_without_amx() -> bool:
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16")) and not has.get("amx_bf16")


class SelfAttending(nn.Module):
    """Base of self-attention: N queries, and as the last N keys and values those of the same positions.

    `attend` computes it; a copy of the module with another function there is a perturbed network (`control.perturbed`).
    """

    attend: Callable[..., Tensor] = staticmethod(attend)
