"""ggml's packings of weights, unpacked by torch: bit for bit as llama.cpp's `gguf` package does in numpy, two to six times as fast
on one core, and on all of them.

A block is some weights that share a scale d, and in some packings an offset e: 32 of them, or 256 in eight or sixteen groups that
have factors s and m of few bits. What lies where is from ggml-common.h; q are the whole numbers that a block holds:

    Q8_0   d q             q signed, 8 bits            Q2_K   d s q - e m        s, m of 4 bits, of 16 weights; q of 2
    Q4_0   d (q - 8)       Q4_1   d q + e              Q3_K   d (s - 32) (q - 4) s of 6 bits, of 16; q of 3
    Q5_0   d (q - 16)      Q5_1   d q + e              Q4_K, Q5_K   d s q - e m  s, m of 6 bits, of 32
                                                       Q6_K   d s (q - 32)       s of 8 bits, signed, of 16
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Unpack = Callable[[Tensor], Tensor]
"""Blocks (n, bytes) uint8 -> (n, weights) float32."""
_BITS = torch.arange(8, dtype=torch.uint8)
_PAIRS = torch.arange(0, 8, 2, dtype=torch.uint8)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at a byte of each block, (n, 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(q: Tensor) -> Tensor:
    """(..., k) -> (..., 2, k): the low ones before the high ones."""
    return torch.stack([q & 15, q >> 4], -2)


def _each(q: Tensor, shifts: Tensor, mask: int) -> Tensor:
    """(..., k) -> (..., len(shifts), k): of each byte the bits at these places."""
    return (q.unsqueeze(-2) >> shifts[:, None]) & mask


def _fifth(bits: Tensor) -> Tensor:
    """32 bits in four bytes (n, 4) -> (n, 32), each where a fifth bit belongs."""
    return ((bits[..., None] >> _BITS) & 1).flatten(1) << 4


def _q8_0(b: Tensor) -> Tensor:
    return b[:, 2:].view(torch.int8).float().mul_(_half(b, 0))


def _q4_0(b: Tensor) -> Tensor:
    return _nibbles(b[:, 2:]).flatten(1).float().sub_(8).mul_(_half(b, 0))


def _q4_1(b: Tensor) -> Tensor:
    return _nibbles(b[:, 4:]).flatten(1).float().mul_(_half(b, 0)).add_(_half(b, 2))


def _q5_0(b: Tensor) -> Tensor:
    return (_nibbles(b[:, 6:]).flatten(1) | _fifth(b[:, 2:6])).float().sub_(16).mul_(_half(b, 0))


def _q5_1(b: Tensor) -> Tensor:
    return (_nibbles(b[:, 8:]).flatten(1) | _fifth(b[:, 4:8])).float().mul_(_half(b, 0)).add_(_half(b, 2))


def _grouped(q: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale q - offset; scale and offset (n, groups), q (n, ...) of so many groups, one after the other."""
    x = q.reshape(len(q), scale.shape[1], -1).float().mul_(scale[..., None])
    return (x if offset is None else x.sub_(offset[..., None])).flatten(1)


def _q2_k(b: Tensor) -> Tensor:
    q, s = _each(b[:, 16:80].reshape(-1, 2, 32), _PAIRS, 3), b[:, :16]
    return _grouped(q, (s & 15).float() * _half(b, 80), (s >> 4).float() * _half(b, 82))


def _q3_k(b: Tensor) -> Tensor:
    s, high = b[:, 96:108], _each(b[:, :32], _BITS, 1)  # (n, 8, 32)
    scale = _nibbles(s[:, :8]).flatten(1) | _each(s[:, 8:], _PAIRS, 3).flatten(1) << 4
    q = _each(b[:, 32:96].reshape(-1, 2, 32), _PAIRS, 3).reshape(high.shape) | high << 2
    return _grouped(q.view(torch.int8) - 4, (scale.float() - 32) * _half(b, 108))


def _six_bits(b: Tensor) -> tuple[Tensor, Tensor]:
    """d s and e m of eight groups, from the first 16 bytes: d, e, and twelve bytes of scales and offsets of six bits each."""
    low, middle, last = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = torch.cat([low & 63, last & 15 | low >> 6 << 4], 1)
    offset = torch.cat([middle & 63, last >> 4 | middle >> 6 << 4], 1)
    return scale.float() * _half(b, 0), offset.float() * _half(b, 2)


def _q4_k(b: Tensor) -> Tensor:
    return _grouped(_nibbles(b[:, 16:].reshape(-1, 4, 32)), *_six_bits(b))


def _q5_k(b: Tensor) -> Tensor:
    q = _nibbles(b[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return _grouped(q | _each(b[:, 16:48], _BITS, 1) << 4, *_six_bits(b))


def _q6_k(b: Tensor) -> Tensor:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    q = low | _each(b[:, 128:192].reshape(-1, 2, 32), _PAIRS, 3) << 4
    return _grouped(q.view(torch.int8) - 32, b[:, 192:208].view(torch.int8).float() * _half(b, 208))


UNPACK: Mapping[str, Unpack] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
"""By ggml's names. What is rarer, the `gguf` package unpacks."""
