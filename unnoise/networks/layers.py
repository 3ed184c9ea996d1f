"""Layers that several networks share. Residual branches end in a layer that starts at zero: a new block is the identity."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu
from torch.utils.checkpoint import checkpoint

from unnoise.networks.attention import SelfAttending
from unnoise.networks.embedding import rotate

L = TypeVar("L", bound=nn.Linear | nn.Conv2d)
T = TypeVar("T")


def zeroed(layer: L) -> L:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def wide(x: Tensor) -> torch.dtype:
    """The dtype for sums over x: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def run(block: Callable[..., T], checkpointing: bool, *inputs: object) -> T:
    """block(*inputs), keeping only its inputs for the backward pass if asked to (Chen et al. 2016, 1604.06174)."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def context_of(cond: Mapping[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """`tokens` (B, L, D) and a `mask` (B, L) that is always there; what the mask hides is set to 0, so that it can be anything."""
    if "tokens" not in cond:
        return None
    tokens = cond["tokens"].to(dtype)
    mask = cond["mask"] if "mask" in cond else tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    return tokens.masked_fill(~mask[..., None], 0), mask


def beside(x: Tensor, cond: Mapping[str, Tensor], channels: int) -> Tensor:
    """x (B, C, H, W) and, behind its channels, the `picture` (B, channels, H, W) of the condition; zeros where there is none."""
    if channels == 0:
        return x
    picture = cond["picture"].to(x.dtype) if "picture" in cond else x.new_zeros(len(x), channels, *x.shape[2:])
    return torch.cat([x, picture], 1)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with its last row and column repeated until both sides are divisible; the caller crops the result."""
    h, w = x.shape[-2:]
    if h % multiple == 0 and w % multiple == 0:
        return x
    return pad(x, (0, -w % multiple, 0, -h % multiple), mode="replicate")


def patchify(x: Tensor, p: int) -> Tensor:
    """(B, C, H, W), sides divisible by p -> (B, H/p W/p, C p p): patches row by row, each by channel, then row, then column."""
    h = x.unflatten(2, (-1, p)).unflatten(4, (-1, p))  # (B, C, H/p, p, W/p, p)
    return h.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(x: Tensor, rows: int, columns: int, p: int) -> Tensor:
    """The way back: (B, rows columns, C p p) -> (B, C, rows p, columns p)."""
    h = x.unflatten(1, (rows, columns)).unflatten(3, (-1, p, p)).permute(0, 3, 1, 4, 2, 5)
    return h.flatten(4).flatten(2, 3)


def rms_normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last axis (Zhang & Sennrich 2019, 1910.07467), the mean in float32 at least.

    By way of the norm, which torch computes in one pass: a quarter less time, forward and backward, than square and mean.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide(x))
    return x * torch.rsqrt(norm.square() / x.shape[-1] + eps).to(x.dtype)


class RMSNorm(nn.Module):
    """rms_normalise(x) * weight."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_normalise(x, self.eps) * self.weight.to(x.dtype)


class SwiGLU(nn.Module):
    """W3 (silu(W1 x) * W2 x), Shazeer 2020, 2002.05202; the hidden width of 8/3 dim costs what a plain MLP of 4 dim does."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = -(-8 * dim // 3 // 32) * 32  # rounded up to a multiple of 32
        self.hidden = nn.Linear(dim, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.hidden(x).chunk(2, -1)
        return self.out(self.dropout(silu(a) * b))


class Attention(SelfAttending):
    """Self-attention with RMS-normalised queries and keys (2302.05442); tokens of a context are further keys and values."""

    def __init__(self, dim: int, heads: int, context_dim: int = 0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is not divisible by {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.context = nn.Linear(context_dim, 2 * dim, bias=False) if context_dim else None
        self.q_norm, self.k_norm = RMSNorm(dim // heads), RMSNorm(dim // heads)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        context: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """x (B, N, dim), mask (B, N) of its own tokens; context: tokens (B, L, context_dim) and their mask (B, L)."""
        qk, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).split((2, 1), 2)
        # queries and keys at once, for on small pictures every operation costs its start
        qk = rms_normalise(qk, self.q_norm.eps) * torch.stack([self.q_norm.weight, self.k_norm.weight])[:, None].to(qk.dtype)
        if rotary is not None:
            qk = rotate(qk, *rotary)
        (q, k), v = qk.unbind(2), v[:, :, 0]  # each (B, heads, N, D)
        if self.context is not None and context is not None:
            tokens, valid = context
            more_k, more_v = self.context(tokens).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
            mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
            k, v = torch.cat([self.k_norm(more_k), k], 2), torch.cat([more_v, v], 2)
            mask = torch.cat([valid, mask], 1)
        return self.out(self.attend(q, k, v, mask).transpose(1, 2).flatten(2))


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(1 + scale) rms_normalise(x) + shift: x (B, N, dim), scale and shift (B, dim)."""
    return torch.addcmul(shift[:, None], rms_normalise(x), (1 + scale)[:, None])


class ModulatedBlock(nn.Module):
    """A transformer block under adaLN-zero (Peebles & Xie 2022, 2212.09748): (s, b, g) = W emb, W starting at zero.

    x <- x + g1 attention((1 + s1) norm(x) + b1, context),   x <- x + g2 swiglu((1 + s2) norm(x) + b2)
    """

    def __init__(self, width: int, heads: int, context_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = Attention(width, heads, context_dim)
        self.mlp = SwiGLU(width, dropout)

    def forward(
        self,
        x: Tensor,
        emb: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        context: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """x (B, N, width), emb (B, width)."""
        s1, b1, g1, s2, b2, g2 = self.modulation(emb).chunk(6, -1)
        x = torch.addcmul(x, g1[:, None], self.attention(modulated_norm(x, s1, b1), rotary, None, context))
        return torch.addcmul(x, g2[:, None], self.mlp(modulated_norm(x, s2, b2)))
