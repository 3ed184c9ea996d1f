"""softmax(q k^T / sqrt(d)) v: the one place that chooses how it is computed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """q (B, heads, N, D), k and v (B, heads, M, D), mask (B, M) bool, True where a key counts -> (B, heads, N, D).

    Every row needs at least one key that counts. Forward-mode differentiation through long sequences needs
    torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the call, because no fused kernel of torch has it.
    """
    valid = None if mask is None else mask[:, None, None, :]
    if not _plain(q, k):
        return scaled_dot_product_attention(q, k, v, attn_mask=valid)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def attend_if_any(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """As `attend`, for rows that may have no key that counts, or none at all: those are answered with 0."""
    if k.shape[-2] == 0:
        return q.new_zeros(*q.shape[:-1], v.shape[-1])
    if mask is None:
        return attend(q, k, v)
    some = mask.any(1, keepdim=True)
    return attend(q, k, v, mask | ~some) * some[:, :, None, None].to(v.dtype)


def _plain(q: Tensor, k: Tensor) -> bool:
    """Whether two matrix products and a softmax beat the fused kernel.

    Forward + backward on a CPU, batch 16, heads of 64, time of the fused kernel over the plain one (one thread):
        bfloat16   64 tokens 2.6 - 2.8    256 tokens 1.0 - 1.2    576 tokens 1.3    1024 tokens 0.7
        float32    64 tokens 0.6 - 1.0    256 tokens 0.8 - 1.1    576 tokens 0.9    1024 tokens 0.55
    Forward alone the fused kernel wins always (1.2 to 4 times), and on a GPU too.
    """
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    return q.device.type == "cpu" and training and q.dtype == torch.bfloat16 and k.shape[-2] <= 640


class SelfAttending(nn.Module):
    """Base of self-attention: N queries, and as the last N keys and values those of the same positions.

    `attend` computes it; a copy of the module with another function there is a perturbed network (`control.perturbed`).
    """

    attend: Callable[..., Tensor] = staticmethod(attend)
