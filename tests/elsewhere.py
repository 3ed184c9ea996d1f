"""A device that is not there, to see without a GPU that what is meant for one works there.

Its tensors are computed by the processor and say that they lie `elsewhere`; an operation on them and on a tensor that lies here is
refused, as a GPU would (numbers, and positions in an index, may lie here). So a device that was forgotten is an error, and what
comes out is what the processor gives. Kernels, their speed and their memory it cannot show.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("elsewhere", _Module())
ELSEWHERE = torch.device("elsewhere", 0)
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


CROSSED: list[str] = []
"""What went from one device to the other, where a GPU would be waited for."""


class Far(Tensor):
    """near: where its numbers really are."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        how = {"storage_offset": near.storage_offset(), "dtype": near.dtype, "device": ELSEWHERE}
        return Tensor._make_wrapper_subclass(cls, near.shape, near.stride(), **how)  # type: ignore[attr-defined]

    def __init__(self, near: Tensor) -> None:
        self.near = near

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Far({self.near!r})"

    def item(self) -> Any:
        return _read(self).item()

    def tolist(self) -> Any:
        return _read(self).tolist()

    def __float__(self) -> float:
        return float(_read(self))

    def __int__(self) -> int:
        return int(_read(self))

    def __index__(self) -> int:
        return _read(self).__index__()

    def __bool__(self) -> bool:
        return bool(_read(self))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class _Watching(TorchDispatchMode):
    """Sees operations that make a tensor elsewhere of none that is there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


def _called(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    far = [x for x in leaves if isinstance(x, Far)]
    asked = [x.type for x in leaves if isinstance(x, torch.device)]
    if not far and ELSEWHERE.type not in asked:
        return func(*args, **kwargs)
    if func is torch.ops.aten._has_compatible_shallow_copy_type.default:  # asked where a module moves
        return False
    if far and func not in _MOVES:
        met = tree_leaves(args[0]) if func in _INDEXED else leaves
        if strange := [tuple(x.shape) for x in met if isinstance(x, Tensor) and not isinstance(x, Far) and x.dim()]:
            raise RuntimeError(f"{func}: some tensors lie elsewhere, and these on the processor: {strange}")
    here = any(isinstance(x, Tensor) and not isinstance(x, Far) for x in leaves)
    if (func in _MOVES and here) or (far and "cpu" in asked) or func is torch.ops.aten._local_scalar_dense.default:
        CROSSED.append(str(func))
    out = func(*tree_map(_near, args), **tree_map(_near, kwargs))
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if "cpu" in asked:
        return out
    known = {id(x.near): x for x in far}  # what was changed in place is what it was
    return tree_map(lambda x: known[id(x)] if id(x) in known else Far(x) if isinstance(x, Tensor) else x, out)


def _read(x: Far) -> Tensor:
    CROSSED.append(f"a number of {tuple(x.shape)} is read")
    return x.near


def _near(x: Any) -> Any:
    return x.near if isinstance(x, Far) else torch.device("cpu") if isinstance(x, torch.device) else x


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Far:
    return Far(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(near: Tensor, to: Far, non_blocking: bool = False) -> Far:
    CROSSED.append("torch.tensor")
    to.near.copy_(near)
    return to


_LIBRARIES = [torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")]
"""What `torch.tensor` calls where no mode sees it, and autocast, which changes nothing. They act as long as they live."""
_LIBRARIES[0].impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARIES[0].impl("_copy_from", _copy_from, "PrivateUse1")
_LIBRARIES[1].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device, for as long as this lasts."""
    with _Watching():
        yield ELSEWHERE
