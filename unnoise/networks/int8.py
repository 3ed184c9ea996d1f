"""Linear layers and convolutions in whole numbers of eight bits, on processors that multiply these faster than bfloat16.

    W_ij ~ w_i Q_ij,   w_i = max_j |W_ij| / 127        a scale for each output channel, once
    x_b  ~ s_b q_b,    s_b = max |x_b| / 127           a scale for each sample, at every call
    y_bi = s_b w_i sum_j Q_ij q_bj + c_i               the sum exact, in 32 bits

(Jacob et al. 2018, 1712.05877, section 2, without zero points; scales of activations as they come: Dettmers et al. 2022,
2208.07339, section 2.) A sample has a scale of its own so that it comes out the same in any company. Rounding is off by half a
step s_b at most, by three quarters where x is bfloat16, whose quotients are rounded twice.

oneDNN, which computes the sums, multiplies unsigned by signed numbers: it is given q + 128, and takes 128 sum_j Q_ij off again.
That is exact where the processor adds four such products straight to 32 bits (VNNI, AMX); without, two can overflow 16 bits.
On an EPYC with VNNI products take half of bfloat16's time, scales and rounding included 0.50 to 0.74 of it (`benchmarks/int8.py`).
"""

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.networks.packed import PackedLinear, weight_of
from unnoise.networks.patched import Patched

LEAST = 128
"""Channels in and out that a layer has at least: narrower ones, such as the first and the last of a network, take little time."""
MOST = (2**31 - 1) // (255 * 127)
"""Products that 32 bits hold the sum of."""
ONCE = frozenset({"embedding", "guidance", "modulation", "middle_modulation"})
"""What networks call the parts that see one vector a sample: they take no time, and all positions depend on them."""
ENTERED = frozenset({"patches", "tokens"})
"""What they call those that see the state itself, or the words, before all blocks."""
_EXACT = ("avx512_vnni", "avx_vnni", "amx_int8")


def available() -> bool:
    """Whether this processor computes such products fast and exactly, and torch was built with oneDNN."""
    has = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(has.get(name) for name in _EXACT)


def quantised_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W (rows, ...) -> Q int8, of the same shape, and w (rows,) float32; rows of zeros have a scale of 1."""
    largest = weight.abs().amax(tuple(range(1, weight.ndim))).float()
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round_().to(torch.int8), scale


def quantised(x: Tensor) -> tuple[Tensor, list[float]]:
    """x (B, ...) -> q + 128 as uint8, laid out as x, and s of each sample. A sample with NaN among its values has s = NaN."""
    q, scales = torch.empty_like(x, dtype=torch.int8), list[float]()
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    for row, out in zip(x.permute(0, 2, 3, 1), q.permute(0, 2, 3, 1)) if last else zip(x, q):  # as they lie in memory
        low, high = row.aminmax()
        s = max(-float(low), float(high)) / 127
        out.copy_((row * (1 / s if s else 0.0)).round_())
        scales.append(s)
    return q.view(torch.uint8).bitwise_xor_(128), scales


class Int8Linear(nn.Module):
    """Answers as the layer it is made of, to rounding. Its weights are laid out for the processor and are in no state dict."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        q, self.scale = quantised_weights(weight_of(layer).detach())
        self.weights = torch.ops.onednn.qlinear_prepack(q, None)
        self.zero = torch.zeros(len(q), dtype=torch.int32)
        self.bias = None if layer.bias is None else layer.bias.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Int8Linear":
        return copy(self)  # with the same weights, which nothing changes

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out)"""
        q, scales = quantised(x.contiguous())
        rest: tuple[Any, ...] = (1.0, 0, _answers_in(x), "none", [], "")
        y: Tensor = torch.ops.onednn.qlinear_pointwise(q, 1.0, 128, self.weights, self.scale, self.zero, None, *rest)
        return _scaled(y, scales, self.bias)


class Int8Conv2d(nn.Module):
    """As `Int8Linear`, for a convolution without groups, padded with zeros."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        q, self.scale = quantised_weights(layer.weight.detach())
        assert not isinstance(layer.padding, str)
        self.how = [*layer.stride], [*layer.padding], [*layer.dilation], layer.groups
        self.weights = torch.ops.onednn.qconv_prepack(q, self.scale, 1.0, 128, *self.how, None)
        self.zero = torch.zeros(len(q), dtype=torch.int32)
        self.bias = None if layer.bias is None else layer.bias.detach()[:, None, None]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Int8Conv2d":
        return copy(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'), channels last"""
        q, scales = quantised(x.contiguous(memory_format=torch.channels_last))
        rest: tuple[Any, ...] = (*self.how, 1.0, 0, _answers_in(x), "none", [], "")
        y: Tensor = torch.ops.onednn.qconv2d_pointwise(q, 1.0, 128, self.weights, self.scale, self.zero, None, *rest)
        return _scaled(y, scales, self.bias)


def _answers_in(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _scaled(y: Tensor, scales: list[float], bias: Tensor | None) -> Tensor:
    """s_b y_b + c, in place."""
    bias = None if bias is None else bias.to(y.dtype)
    for row, s in zip(y, scales):
        if bias is None:
            row.mul_(s)
        else:
            torch.add(bias, row, alpha=s, out=row)
    return y


def to_int8(network: nn.Module) -> int:
    """Puts such layers in the place of a network's own, one by one, so that never two copies are held; how many.

    What is narrow, sees one vector a sample, has groups or pads otherwise stays; norms and attention do, too. So do layers that are
    the network's own, not its blocks': where it is entered and left.
    """
    found = list(_places(network))
    for parent, name in found:
        layer = parent.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        setattr(parent, name, Int8Linear(layer) if isinstance(layer, nn.Linear) else Int8Conv2d(layer))
    return len(found)


def has_suited(network: nn.Module) -> bool:
    """Whether `to_int8` would put any layer into another's place."""
    return next(_places(network), None) is not None


def in_int8(network: nn.Module) -> bool:
    """Whether any of its layers is."""
    return any(isinstance(m, Int8Linear | Int8Conv2d) for m in network.modules())


def _places(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The module that each layer of a network's blocks lies in which is taken, and its name there."""
    inner = network.network if isinstance(network, Patched) else network
    for name, block in inner.named_children():
        if name not in ONCE | ENTERED:
            yield from _suited(block)


def _suited(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """As `_places`, of one block."""
    for name, child in module.named_children():
        if name not in ONCE:
            if _wide(child):
                yield module, name
            else:
                yield from _suited(child)


def _wide(module: nn.Module) -> bool:
    if type(module) not in (nn.Linear, PackedLinear, nn.Conv2d):
        return False
    assert isinstance(module, nn.Linear | nn.Conv2d)
    if isinstance(module, nn.Conv2d) and (module.groups > 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return False
    return min(module.weight.shape[:2]) >= LEAST and module.weight[0].numel() <= MOST
