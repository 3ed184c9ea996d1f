"""What a model will need of memory, before it is loaded: its weights, and the most that tensors take at once while it runs.

The networks are built on the meta device, where tensors have shapes but no contents, and run there once: every operation that torch
would do is seen, each storage is counted when it is made and taken off when the last tensor that uses it is gone. So no formula per
architecture is needed, and sizes and precisions are those asked for. Fused attention keeps nothing but its answer (Dao et al. 2022,
2205.14135). What kernels take beside, to lay out and to reorder, is allowed for by `KERNELS`, and torch itself by `RUNTIME`.
"""

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unnoise.checkpoints.foreign.folder import read_part
from unnoise.checkpoints.foreign.parts import Foreign, MappedTensors, Part
from unnoise.checkpoints.foreign.pieces import LOW_RANK, Cut, packed_rows
from unnoise.core.errors import InputError
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.networks.unfilled import unfilled

KERNELS = 1.25
RUNTIME = 400 << 20
"""Bytes of a process that has loaded torch and transformers."""
SIDES = (1024, 768, 512, 384, 256)
"""Longest sides of pictures that are proposed in place of larger ones."""


class NetworkConfig(Protocol):
    """A network whose states have `channels` channels, and which is told tokens (B, L, token_dim)."""

    @property
    def channels(self) -> int: ...
    @property
    def token_dim(self) -> int: ...
    def build(self) -> nn.Module: ...


@dataclass(frozen=True)
class Plan:
    """Pictures of height x width pixels, `batch` at once, with weights of this precision. passes: how often each goes through, two
    with guidance to words, three with guidance to words and a picture. context: height and width of a picture that is looked at."""

    height: int
    width: int
    dtype: torch.dtype = torch.float32
    batch: int = 1
    passes: int = 2
    context: tuple[int, int] | None = None

    def __str__(self) -> str:
        some = "" if self.batch == 1 else f"{self.batch} x "
        return f"{some}{self.width} x {self.height} in {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Wanted:
    """What a checkpoint is loaded for: pictures of height x width pixels (None: of its usual size), `batch` at once, guided by this
    scale (None: its usual one; true_guidance: where it is told that), on this device; beside it are networks (ControlNets,
    IP-Adapters) of so many numbers together, see `numbers_at`. change: whether a picture of the usual size is changed."""

    height: int | None = None
    width: int | None = None
    batch: int = 1
    guidance: float | None = None
    beside: int = 0
    device: str = "cpu"
    true_guidance: float = 1.0
    change: bool = False


@dataclass(frozen=True)
class Need:
    """Bytes: of the weights of network and autoencoder, of text encoders, of networks beside, and the most that a step and decoding
    take."""

    weights: int
    encoders: int
    step: int
    decode: int
    beside: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.encoders + self.beside + int(KERNELS * max(self.step, self.decode)) + RUNTIME


def estimate(
    network: NetworkConfig,
    codec: LatentsConfig,
    plan: Plan,
    encoders: int = 0,
    beside: int = 0,
    tokens: int = 512,
    packed: tuple[int, int] = (0, 0),
) -> Need:
    """encoders, beside: how many weights the text encoders and networks beside have (see `numbers`). tokens: the most that the
    words are made of. packed: bytes that the network's and the text encoders' weights take less (see `spared`)."""
    with unfilled():
        denoiser = network.build().to(plan.dtype).eval()
        latents = replace(codec, height=plan.height, width=plan.width).build()
        latents.autoencoder.to(plan.dtype)
        channels, rows, columns = latents.shape()
        n = plan.batch * plan.passes
        x = torch.zeros(n, channels, rows, columns)
        cond = {"tokens": torch.zeros(n, tokens, network.token_dim)}  # what else it may be told takes little, but for a picture
        if plan.context:
            cond["context"] = torch.zeros(n, channels, *(-(-side // codec.autoencoder.factor) for side in plan.context))
        side = latents.tiling(1).side
        at_once = min(plan.batch, max(1, side**2 // (rows * columns)))
        z = torch.zeros(at_once, channels, min(rows, side), min(columns, side))
        step = peak(lambda: denoiser(x, torch.full((n,), 0.5), cond))
        decode = peak(lambda: latents.autoencoder.decode(z))
    size = plan.dtype.itemsize
    largest = max((p.numel() for p in denoiser.parameters()), default=0) * size if packed[0] else 0  # one is unpacked at a time
    weights, words = held(denoiser) + held(latents) - packed[0], encoders * size - packed[1]
    return Need(weights, words, step + largest, decode, beside * size)


def held(module: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def numbers(part: Part) -> int:
    """How many numbers a part has. None is read where its shapes are known; else the file is only mapped."""
    if isinstance(part.tensors, Cut):
        shapes: Iterator[torch.Size] = (torch.Size(shape) for shape in part.tensors.shapes.values())
    elif LOW_RANK in part.tensors:  # a Control-LoRA, which is put together
        shapes = (_whole_shape(name, part.tensors) for name in part.tensors if not name.endswith(".down"))
    else:
        shapes = (part.tensors[name].shape for name in part.tensors)
    return sum(shape.numel() for shape in shapes)


def _whole_shape(name: str, tensors: Mapping[str, Tensor]) -> torch.Size:
    """Of the tensor that one of a Control-LoRA's becomes, or is."""
    if not name.endswith(".up"):
        return tensors[name].shape
    return torch.Size((len(tensors[name]), *tensors[name.removesuffix("up") + "down"].shape[1:]))


def spared(part: Part, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes that the matrices of a network, or of T5, take less where they stay as their file packs them (`networks.packed`)."""
    if part.kind in ("AutoencoderKL", "CLIPTextModel", "CLIPTextModelWithProjection"):
        return 0
    rows = [r for name in part.tensors if not name.startswith("shared.") for r in packed_rows(part.tensors, name)]
    return sum(r.count * r.columns * dtype.itemsize - r.size for r in rows)


def numbers_at(place: Path) -> int:
    """How many numbers a network in a file or a folder has; 0 where nothing is yet, as for a name on the hub, and for what cannot
    be read, of which those who read it say more."""
    try:
        if place.is_dir():
            return numbers(read_part(place))
        return numbers(Part({}, MappedTensors([place]), str(place))) if place.is_file() else 0
    except (InputError, KeyError, IndexError, TypeError):
        return 0


@torch.no_grad()
def peak(run: Callable[[], Any]) -> int:
    """The most bytes that the tensors which `run` makes take at once; its inputs, and what it only looks at, not counted."""
    with _Fused(), _Counting() as counting:
        run()
    return counting.most


class _Fused(TorchFunctionMode):
    """Attention as one operation that keeps no scores, as its kernels compute it: on the meta device it would be taken apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            return args[0].new_empty(*args[0].shape[:-1], args[2].shape[-1])
        return func(*args, **(kwargs or {}))


class _Counting(TorchDispatchMode):
    """now and most: bytes of the storages that operations have made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet((args, kwargs), counted=False)
        out = func(*args, **(kwargs or {}))
        self._meet(out, counted=True)
        return out

    def _meet(self, values: Any, counted: bool) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._alive:
                self._count(storage, storage.nbytes() if counted else 0)

    def _count(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata

        def gone(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that may still be taken on a device; None where nothing tells. On the CPU, also what a container may take."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = [n for n in (_system(), _container(Path("/sys/fs/cgroup"))) if n is not None]
    return min(left, default=None)


def _system() -> int | None:
    try:
        import psutil
    except ModuleNotFoundError:
        return _listed(Path("/proc/meminfo"), r"MemAvailable:\s+(\d+) kB", 1024)
    return int(psutil.virtual_memory().available)


def _container(group: Path) -> int | None:
    """What the limit of a control group leaves; cached files do not count, for they are given back."""
    limit, used = (_listed(group / name, r"(\d+)") for name in ("memory.max", "memory.current"))
    if limit is None or used is None:  # none, or "max"
        return None
    return limit - used + (_listed(group / "memory.stat", r"inactive_file (\d+)") or 0)


def _listed(file: Path, pattern: str, unit: int = 1) -> int | None:
    try:
        found = re.search(pattern, file.read_text())
    except OSError:
        return None
    return int(found[1]) * unit if found else None


def check_memory(
    where: str, need: Callable[[Plan], Need], plan: Plan, free: int | None, device: str = "cpu", packed: Need | None = None
) -> None:
    """InputError where a plan needs more than is free there, with the nearest plan that fits. need: what a plan takes, see
    `estimate`. packed: what this one would take with weights that stay packed as they are, if they can."""
    if free is None or (now := need(plan)).total <= free:
        return
    fits = next(((p, n) for p in _smaller(plan) if (n := need(p).total) <= free), None)
    parts = {
        "weights": now.weights,
        "text encoders": now.encoders,
        "beside": now.beside,
        "a step": now.step,
        "decoding": now.decode,
    }
    told = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)
    if packed is not None and packed.total <= free:
        instead = f"with its weights as the file packs them (--packed) it would fit, with about {_gb(packed.total)} GB"
    elif fits:
        alone = " (--batch 1)" if fits[0].batch < plan.batch else ""
        instead = f"{fits[0]}{alone} would fit, with about {_gb(fits[1])} GB"
    else:
        instead = "no smaller picture fits either; a smaller or a quantised model would"
    there = "" if device == "cpu" else f" on {device}"
    raise InputError(f"{where}: {plan} needs about {_gb(now.total)} GB ({told}), and {_gb(free)} GB are free{there}; {instead}")


def check_fits(
    foreign: Foreign, network: NetworkConfig, codec: LatentsConfig, dtype: torch.dtype, wanted: Wanted = Wanted(),
    passes: int = 2, packed: bool = False,
) -> None:  # fmt: skip
    """InputError where a checkpoint, with weights of this precision, will not fit into memory for what is wanted of it.

    passes: see `Plan`. packed: whether those stay packed that are. For a GPU its memory is asked for all of that, and the
    machine's for the weights, which go through it. Nothing is run where the weights are free and as much again for every picture
    of the usual size: a step and a decode take less.
    """
    sizes = {name: numbers(part) for name, part in foreign.parts.items()}
    words = sum(size for name, size in sizes.items() if name.startswith("text_encoder"))
    less = {name: spared(part, dtype) for name, part in foreign.parts.items()}
    of_words = sum(size for name, size in less.items() if name.startswith("text_encoder"))
    could = sum(less.values()) - of_words, of_words
    kept = could if packed else (0, 0)
    weights, free = (sum(sizes.values()) - words) * dtype.itemsize - kept[0], free_memory(wanted.device)
    here, read = free_memory("cpu"), sum(sizes.values()) * dtype.itemsize - sum(kept) + RUNTIME
    if wanted.device != "cpu" and here is not None and read > here:
        raise InputError(f"{foreign.where}: {_gb(read)} GB of weights go through this machine's memory, {_gb(here)} GB are free")
    context = (codec.height, codec.width) if wanted.change else None
    plan = Plan(wanted.height or codec.height, wanted.width or codec.width, dtype, wanted.batch, passes, context)
    pictures = max(1.0, plan.batch * ((plan.context is not None) + plan.height * plan.width / (codec.height * codec.width)))
    if free is not None and (1 + pictures) * weights + (words + wanted.beside) * dtype.itemsize - kept[1] + 2 * RUNTIME > free:

        def need(p: Plan, kept: tuple[int, int] = kept) -> Need:
            return estimate(network, codec, p, words, wanted.beside, packed=kept)

        try:
            instead = None if packed or not any(could) or wanted.device != "cpu" else need(plan, could)
            check_memory(foreign.where, need, plan, free, wanted.device, instead)
        except InputError:
            raise
        except ValueError as e:  # a size that the network has no positions for
            raise InputError(f"{foreign.where}: {e}") from None


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans that need less: fewer pictures first, then half the precision, then smaller pictures of the same shape."""
    plans = [replace(plan, batch=1)]
    if plan.dtype == torch.float32:
        plans.append(replace(plan, batch=1, dtype=torch.bfloat16))
    yield from (p for p in plans if p != plan)
    longest = max(plan.height, plan.width)
    for side in SIDES:
        if side < longest:
            height, width = (max(64, round(n * side / longest / 64) * 64) for n in (plan.height, plan.width))
            yield replace(plans[-1], height=height, width=width)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
