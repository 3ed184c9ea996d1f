"""Adapters: small changes of a network's weights, kept apart from it; composed without merging, or merged and taken out again.

A layer of weight W and offset b, under adapters i of weights w_i, answers  W x + b + sum_i w_i (D_i x + d_i),  where D = D(W) is

    LowRank      s B A                      LoRA (Hu et al. 2021, 2106.09685, section 4.1), s = alpha / rank; A a convolution: LoCon
    Hadamard     s (B1 A1) * (B2 A2)        LoHa (Yeh et al. 2023, 2309.14859, section 3.2), entry by entry
    Kronecker    s (C kron D)               LoKr (ibid., section 3.3)
    Whole        D                          a difference of weights as it is
    Decomposed   m (W + D) / |W + D| - W    DoRA (Liu et al. 2024, 2402.09353, equation 5), D one of those above, |.| row by row or
                                            column by column
    Replaced     V - W                      other weights in place of a normalisation's, for any w but 0 (control LoRAs of FLUX.1)
So w = 0 is always the network as it was, also for DoRA (as in ComfyUI; PEFT scales D within the norm). A change may concern only
some rows of a layer, because layers here do together what others do in several (queries, keys and values).

Networks are untouched: what is added hangs on their layers as hooks, state dicts stay what they were, and an adapter's tensors are
its own parameters: it can be trained by itself.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, layer_norm, linear

from unnoise.core.errors import InputError
from unnoise.core.hashing import tensors_hash
from unnoise.networks.layers import RMSNorm, rms_normalise, wide
from unnoise.networks.packed import PackedLinear, weight_of

Layer = nn.Linear | nn.Conv2d | RMSNorm | nn.LayerNorm | nn.GroupNorm
"""A normalisation's weights multiply entry by entry; an RMSNorm has no offset."""


class Change(nn.Module, ABC):
    """D and d. offset: d (rows,) or None."""

    offset: nn.Parameter | None
    reads: ClassVar[bool] = False
    """Whether D depends on the numbers of W, not on its shape and precision alone."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """D(W), of the shape of W, which is (rows, in) or (rows, in, height, width), of a normalisation (rows,)."""

    @abstractmethod
    def narrowed(self, start: int, rows: int) -> "Change":
        """The change of these rows alone."""

    def added(self, layer: Layer, rows: slice, x: Tensor) -> Tensor:
        """D x as the layer applies its weights; rows: those of its own that are changed."""
        if self.reads:
            weight = weight_of(layer)[rows]
            weight = weight.to(wide(weight))
        else:
            shape = (rows.stop - rows.start, *layer.weight.shape[1:])
            weight = torch.zeros((), dtype=wide(layer.weight), device=x.device).expand(shape)
        return _applied(layer, self.delta(weight).to(x), x)


class LowRank(Change):
    """down: A (r, in), or (r, in, height, width) for a convolution; up: B (rows, r)."""

    def __init__(self, down: Tensor, up: Tensor, scale: float = 1.0, offset: Tensor | None = None) -> None:
        super().__init__()
        self.down, self.up, self.scale, self.offset = nn.Parameter(down), nn.Parameter(up), scale, _parameter(offset)

    def delta(self, weight: Tensor) -> Tensor:
        return self.scale * (self.up.to(weight) @ self.down.to(weight).flatten(1)).reshape(weight.shape)

    def narrowed(self, start: int, rows: int) -> "LowRank":
        return LowRank(self.down.data, self.up.data[start : start + rows], self.scale, _rows(self.offset, start, rows))

    def added(self, layer: Layer, rows: slice, x: Tensor) -> Tensor:
        h, up = _applied(layer, self.down.to(x), x), self.up.to(x)
        return self.scale * (linear(h, up) if isinstance(layer, nn.Linear) else conv2d(h, up[:, :, None, None]))


class Hadamard(Change):
    """first, second: each (B, A), B (rows, r) and A (r, in), or (r, in, height, width) for a convolution."""

    def __init__(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], scale: float) -> None:
        super().__init__()
        self.first, self.second = nn.ParameterList(first), nn.ParameterList(second)
        self.scale, self.offset = scale, None

    def delta(self, weight: Tensor) -> Tensor:
        (b1, a1), (b2, a2) = ([p.to(weight) for p in pair] for pair in (self.first, self.second))
        return self.scale * ((b1 @ a1.flatten(1)) * (b2 @ a2.flatten(1))).reshape(weight.shape)

    def narrowed(self, start: int, rows: int) -> "Hadamard":
        (b1, a1), (b2, a2) = ([p.data for p in pair] for pair in (self.first, self.second))
        return Hadamard((b1[start : start + rows], a1), (b2[start : start + rows], a2), self.scale)


class Kronecker(Change):
    """left: C (a, b), or the two factors (a, r), (r, b) of it; right: D (c, d), or (c, d, height, width), or its two factors.

    Of rows a c and inputs b d.
    """

    def __init__(self, left: Sequence[Tensor], right: Sequence[Tensor], scale: float) -> None:
        super().__init__()
        self.left, self.right = nn.ParameterList(left), nn.ParameterList(right)
        self.scale, self.offset = scale, None

    def delta(self, weight: Tensor) -> Tensor:
        c, d = (_product([p.to(weight).flatten(1) for p in side]) for side in (self.left, self.right))
        return self.scale * torch.kron(c, d).reshape(weight.shape)

    def narrowed(self, start: int, rows: int) -> "Whole":
        c, d = (_product([p.data.flatten(1) for p in side]) for side in (self.left, self.right))
        return Whole(self.scale * torch.kron(c, d)[start : start + rows])


class Whole(Change):
    """difference: D, of the weight's number of entries; offset: d."""

    def __init__(self, difference: Tensor | None = None, offset: Tensor | None = None) -> None:
        super().__init__()
        self.difference, self.offset = _parameter(difference), _parameter(offset)

    def delta(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight) if self.difference is None else self.difference.to(weight).reshape(weight.shape)

    def narrowed(self, start: int, rows: int) -> "Whole":
        return Whole(_rows(self.difference, start, rows), _rows(self.offset, start, rows))


class Replaced(Change):
    """values: V, of the weight's shape."""

    reads = True

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values, self.offset = nn.Parameter(values), None

    def delta(self, weight: Tensor) -> Tensor:
        return self.values.to(weight) - weight

    def narrowed(self, start: int, rows: int) -> "Replaced":
        return Replaced(self.values.data[start : start + rows])


class Decomposed(Change):
    """magnitude: m (rows,), or with by_input (in,)."""

    reads = True

    def __init__(self, direction: Change, magnitude: Tensor, by_input: bool = False) -> None:
        super().__init__()
        self.direction, self.magnitude, self.by_input = direction, nn.Parameter(magnitude), by_input
        self.offset = direction.offset

    def delta(self, weight: Tensor) -> Tensor:
        moved, kept = weight + self.direction.delta(weight), 1 if self.by_input else 0
        norm = moved.transpose(0, kept).flatten(1).norm(dim=1)
        shape = [-1 if i == kept else 1 for i in range(weight.ndim)]
        return moved * (self.magnitude.to(weight) / norm).reshape(shape) - weight

    def narrowed(self, start: int, rows: int) -> "Decomposed":
        """Of columns' norms the rows that are left out are no part any more, so these cannot be narrowed: ValueError."""
        if self.by_input:
            raise ValueError("magnitudes of columns belong to all rows")
        return Decomposed(self.direction.narrowed(start, rows), self.magnitude.data[start : start + rows])


@dataclass(frozen=True)
class Place:
    """Rows start ... start + rows of the weight of a network's layer, a module's name."""

    layer: str
    start: int
    rows: int


class Adapter(nn.Module):
    """Changes that belong together, of layers of one network: what one file holds."""

    def __init__(self, changes: Sequence[tuple[Place, Change]]) -> None:
        super().__init__()
        self.places, self.changes = tuple(p for p, _ in changes), nn.ModuleList(c for _, c in changes)

    def items(self) -> list[tuple[Place, Change]]:
        return [(p, c) for p, c in zip(self.places, self.changes) if isinstance(c, Change)]

    def hash(self) -> str:
        """Of its tensors, of what they are multiplied by, and of where they act; 16 hexadecimal digits."""
        scales = [(name, m.scale) for name, m in self.named_modules() if isinstance(m, LowRank | Hadamard | Kronecker)]
        kinds = [(name, type(m).__name__, getattr(m, "by_input", False)) for name, m in self.named_modules()]
        told = repr((tensors_hash(self.state_dict()), self.places, scales, kinds))
        return hashlib.sha256(told.encode()).hexdigest()[:16]


Term = tuple[float, Place, Change]


_UNMERGEABLE = "a LoRA is not merged into weights that are kept packed (int8 needs that): load them unpacked"


class Adapted:
    """A network and the adapters on it. Not a module: it holds nothing of what is saved with the network.

    `of(network)` finds the one there is.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.adapters: dict[str, tuple[Adapter, float]] = {}
        self._hung: dict[Layer, Hung] = {}
        self._kept: dict[Layer, tuple[Tensor, Tensor | None]] = {}
        self._settled = False

    @classmethod
    def of(cls, network: nn.Module) -> "Adapted":
        """The network's own, or a new one."""
        found = (hook.owner for m in network.modules() for hook in m._forward_hooks.values() if isinstance(hook, Hung))
        return next(found, None) or cls(network)

    @property
    def merged(self) -> bool:
        return bool(self._kept)

    def plain_state(self, only: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """The network's state dict as it is without them, merged or not, of these names alone. What was settled is its own."""
        names = {layer: name for name, layer in self.network.named_modules()}
        kept = {
            f"{names[layer]}.{leaf}": p.data.to(layer.weight)
            for layer, before in self._kept.items()
            for leaf, p in zip(("weight", "bias"), before)
            if p is not None and only(f"{names[layer]}.{leaf}")
        }
        packed = {layer: name for layer, name in names.items() if isinstance(layer, PackedLinear)}
        own = {
            name: p
            for name, p in self.network.state_dict().items()
            if name.rpartition(".")[0] not in packed.values() and only(name)
        }
        for layer, name in packed.items():
            if only(f"{name}.weight"):
                own |= {f"{name}.{leaf}": p for leaf, p in (("weight", layer.unpacked()), ("bias", layer.bias)) if p is not None}
        return {**own, **kept}

    def set(self, adapters: Mapping[str, tuple[Adapter, float]]) -> None:
        """These by name, each with its weight, in place of those before; none takes all away. What was merged is merged again."""
        merged = self.merged
        layers = {place.layer for adapter, weight in adapters.values() if weight for place, _ in adapter.items()}
        if merged and any(isinstance(self.network.get_submodule(layer), PackedLinear) for layer in layers):
            raise InputError(_UNMERGEABLE)
        self.unmerge()
        for hook in self._hung.values():
            hook.handle.remove()
        self._hung, self.adapters = {}, dict(adapters)
        for adapter, weight in adapters.values():
            for place, change in adapter.items():
                layer = self.network.get_submodule(place.layer)
                assert isinstance(layer, Layer)
                change.to("cpu" if isinstance(layer, PackedLinear) else layer.weight.device)
                if layer not in self._hung:
                    self._hung[layer] = Hung(self, layer)
                if weight:
                    self._hung[layer].terms.append((1.0 if isinstance(change, Replaced) else weight, place, change))
        if merged:
            self.merge()

    def merge(self) -> None:
        """Into the weights: no cost in sampling any more, but the memory of a second copy of the layers concerned, kept aside.
        InputError for weights that are kept packed."""
        self._merge(keep=True)

    def check_merge(self) -> None:
        """The InputError of `merge`."""
        if any(isinstance(layer, PackedLinear) and hook.terms for layer, hook in self._hung.items()):
            raise InputError(_UNMERGEABLE)

    @torch.no_grad()
    def _merge(self, keep: bool) -> None:
        self.check_merge()
        for layer, hook in self._hung.items() if not self.merged else ():
            if not hook.terms:
                continue
            weight, bias = layer.weight, None if isinstance(layer, RMSNorm) else layer.bias
            if keep:
                self._kept[layer] = weight, bias
            sums, offsets = weight.to(wide(weight)).clone(), weight.new_zeros(len(weight), dtype=wide(weight))
            for w, place, change in hook.terms:
                rows = slice(place.start, place.start + place.rows)
                sums[rows] += w * change.delta(weight[rows].to(sums))
                if change.offset is not None:
                    offsets[rows] += w * change.offset.to(offsets)
            layer.weight = nn.Parameter(sums.to(weight), weight.requires_grad)
            if not isinstance(layer, RMSNorm) and any(change.offset is not None for _, _, change in hook.terms):
                offsets = offsets if bias is None else bias.to(offsets) + offsets
                layer.bias = nn.Parameter(offsets.to(weight), weight.requires_grad)

    def settle(self) -> None:
        """Merged for good: nothing hangs on the network any more, and each layer's weights from before are let go at once."""
        self._merge(keep=False)
        for hook in self._hung.values():
            hook.handle.remove()
        self._hung, self._kept, self._settled = {}, {}, True

    @torch.no_grad()
    def unmerge(self) -> None:
        """The weights are those from before, bit for bit; the adapters act beside them again. InputError for what was settled."""
        if self._settled:
            raise InputError("these adapters were merged for good, as int8 needs: load the model again to be rid of them")
        for layer, (weight, bias) in self._kept.items():
            for p in (weight, bias):
                if p is not None:
                    p.data = p.data.to(layer.weight)  # the network may lie elsewhere by now
            layer.weight = weight
            if not isinstance(layer, RMSNorm):
                layer.bias = bias
        self._kept = {}


class Hung:
    """The hook of one layer: adds what the changes make of its input to what it answers."""

    def __init__(self, owner: Adapted, layer: Layer) -> None:
        self.owner, self.terms = owner, list[Term]()
        self.handle = layer.register_forward_hook(self)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        assert isinstance(layer, Layer)
        if self.owner.merged:
            return
        x, channels = inputs[0], 1 if isinstance(layer, nn.Conv2d | nn.GroupNorm) else -1
        for weight, place, change in self.terms:
            rows = out.narrow(channels, place.start, place.rows)
            rows.add_(change.added(layer, slice(place.start, place.start + place.rows), x), alpha=weight)
            if change.offset is not None:
                offset = weight * change.offset.to(out)
                rows.add_(offset if channels == -1 else offset[:, None, None])


def _applied(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    """The layer with another weight, and without its offset."""
    if isinstance(layer, nn.Linear):
        return linear(x, weight)
    if isinstance(layer, RMSNorm):
        return rms_normalise(x, layer.eps) * weight
    if isinstance(layer, nn.LayerNorm):
        return layer_norm(x, layer.normalized_shape, weight, None, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        plain = group_norm(x, layer.num_groups, None, None, layer.eps)  # of weights alone torch crashes in the derivative
        return plain * weight.reshape(-1, *(1,) * (x.ndim - 2))
    assert layer.padding_mode == "zeros"
    assert layer.groups == 1
    return conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)


def _product(factors: Sequence[Tensor]) -> Tensor:
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1]


def _parameter(x: Tensor | None) -> nn.Parameter | None:
    return None if x is None else nn.Parameter(x)


def _rows(x: Tensor | None, start: int, rows: int) -> Tensor | None:
    return None if x is None else x.data[start : start + rows]
