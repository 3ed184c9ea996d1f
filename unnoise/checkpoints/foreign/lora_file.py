"""What a LoRA file holds, by module and role, and the change that its tensors stand for.

LyCORIS (Yeh et al. 2023, 2309.14859) writes a convolution's factors also in Tucker's form: of a core t (r, r, height, width)
with the matrices b (r, rows) and a (r, in) the factors B = b^T (rows, r) and A = t a (r, in, height, width) are made.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unnoise.checkpoints.foreign.hub import at_hand, fetch_first, is_hub_name
from unnoise.checkpoints.foreign.lora_names import NETWORK, beside_low_rank, dotted, has_low_rank, name_of, preferred, spelling
from unnoise.checkpoints.foreign.mapped import open_safetensors
from unnoise.checkpoints.foreign.recognise import converting
from unnoise.control.low_rank import Change, Decomposed, Hadamard, Kronecker, LowRank, Replaced, Whole
from unnoise.core.errors import InputError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
IN_FOLDERS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and PEFT call the file in a folder."""
_PEFT_SETTINGS = "adapter_config.json"
_BUNDLED = re.compile(r"bundle_emb\.(.+?)\.(string_to_param\.\*|[^.]+)")
"""OneTrainer's keys of textual inversions in a LoRA file: a word, and the key that it would have in a file of its own."""


def bundled(key: str) -> tuple[str, str] | None:
    """The word, and its key in a file of its own (see `textual_inversion`), of a textual inversion in a LoRA file."""
    return (found[1], found[2]) if (found := _BUNDLED.fullmatch(key)) else None


@dataclass
class Group:
    """The tensors of one module. key: of the first of them, for messages. module: flat."""

    key: str
    belongs: str
    module: str
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def nought(self) -> bool:
        """Whether it changes nothing: extracted LoRAs have zeros for layers that were not trained."""
        outer = [self.tensors[role] for role in ("up", "up_bias", "diff", "diff_b") if role in self.tensors]
        return (bool(outer) or set(self.tensors) == {"alpha"}) and not any(bool(t.any()) for t in outer)


class Alpha(NamedTuple):
    """value: None where it is the rank. rooted: it counts by the root of the rank (rsLoRA, 2312.03732). rank: what PEFT's settings
    say it is, which tensors need not tell."""

    value: float | None
    rooted: bool
    rank: int | None = None

    def scale(self, rank: int) -> float:
        """ValueError for a rank of nothing."""
        if rank < 1:
            raise ValueError(f"rank {rank}")
        return (rank if self.value is None else self.value) / (math.sqrt(rank) if self.rooted else rank)


@dataclass(frozen=True)
class LoraFile:
    """parts: by what they belong to, then by module. keys: theirs, with their tensors' shapes. settings: PEFT's, by what they
    belong to. words: of textual inversions beside them, which are no part of the LoRA."""

    where: str
    parts: Mapping[str, Mapping[str, Group]]
    keys: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Mapping[str, Any]]
    words: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "LoraFile":
        """A file, a folder with one, or either's name on the hub. InputError for what is no LoRA in safetensors."""
        if path.suffix not in PICKLES:  # of which `read_tensors` says more
            path = at_hand(path, [_PEFT_SETTINGS])
        if not path.exists() and is_hub_name(str(path)) and path.suffix not in PICKLES:
            path = fetch_first(str(path), IN_FOLDERS, [_PEFT_SETTINGS])
        if path.is_dir():
            path = next((path / name for name in IN_FOLDERS if (path / name).is_file()), path / IN_FOLDERS[0])
        tensors, metadata = read_tensors(path)
        if has_low_rank(tensors):
            tensors = {key: t for key, t in tensors.items() if not beside_low_rank(key)}
        words = {key: word for key in tensors if (word := bundled(key))}
        tensors = {key: t for key, t in tensors.items() if key not in words}
        spelt: dict[tuple[str, str], dict[str, Group]] = {}
        for key in sorted(tensors, key=lambda k: k.endswith(".alpha")):  # these say little in messages
            try:
                name = name_of(key)
            except InputError as e:
                raise InputError(f"{path}: {e}") from None
            groups = spelt.setdefault((name.belongs, name.module), {})
            groups.setdefault(spelling(key), Group(key, name.belongs, name.module)).tensors[name.role] = tensors[key]
        if not spelt:
            raise InputError(f"{path}: holds no tensors{' of a LoRA, but a textual inversion: --embedding' if words else ''}")
        parts: dict[str, dict[str, Group]] = {}
        for (belongs, module), groups in spelt.items():
            parts.setdefault(belongs, {})[module] = _one(groups)
        shapes = {k: tuple(t.shape) for k, t in tensors.items()}
        return cls(str(path), parts, shapes, _settings(path, metadata), tuple(dict.fromkeys(word for word, _ in words.values())))

    def alpha(self, group: Group) -> Alpha:
        """Of a module: its own tensor, else what PEFT's settings say of it, else of all. InputError, without the file's name, for
        settings that are none."""
        told = self.settings.get(group.belongs, {})
        try:
            value = _particular(told.get("alpha_pattern"), group.key, told.get("lora_alpha", told.get("alpha")))
            rank = _particular(told.get("rank_pattern"), group.key, told.get("r"))
            value = group.tensors.get("alpha", value)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"alpha {float(value)}")
            whole = None if rank is None else int(rank)
            return Alpha(None if value is None else float(value), bool(told.get("use_rslora")), whole)
        except (AttributeError, TypeError, ValueError, RuntimeError, ArithmeticError, re.error) as e:
            raise InputError(f"its settings are not those of a LoRA ({e})") from None


def _particular(patterns: Mapping[str, Any] | None, key: str, usual: Any) -> Any:
    """What the first pattern that fits a module says, as PEFT reads them: the end of its name, from a dot on, by an expression."""
    fits = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", dotted(key)))
    return next(fits, usual)


def _one(groups: Mapping[str, Group]) -> Group:
    """Of the spellings of one module: a second copy of the same tensors is left out, other tensors are added."""
    first = groups[preferred(groups)]
    tensors = dict(first.tensors)
    for group in groups.values():
        if not group.tensors.keys() & first.tensors.keys():
            tensors |= group.tensors
    return replace(first, tensors=tensors)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. InputError for a file that is none."""
    if path.suffix in PICKLES:
        raise InputError(
            f"{path}: a pickle, which runs code when it is read; convert it, where you trust it: {converting(path, 'd')}"
        )
    file = open_safetensors(path)
    return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  # it is no mapping


def _settings(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """diffusers' metadata, whose names begin with what they belong to, or PEFT's file beside adapter_model.safetensors."""
    beside = path.with_name(_PEFT_SETTINGS)
    try:
        if path.name == IN_FOLDERS[1] and beside.is_file():
            told, own = json.loads(beside.read_text(encoding="utf-8")), True
        else:
            told, own = json.loads(metadata.get("lora_adapter_metadata", "{}")), False
    except ValueError as e:
        raise InputError(f"{path}: its settings are not readable as JSON ({e})") from e
    if not isinstance(told, dict):
        raise InputError(f"{path}: its settings are no JSON object")
    out: dict[str, dict[str, Any]] = {NETWORK: told} if own else {}
    for name, value in () if own else told.items():
        belongs, _, setting = name.partition(".")
        out.setdefault(NETWORK if belongs in ("unet", "transformer") else belongs, {})[setting] = value
    for belongs, settings in out.items():
        began = str(settings.get("init_lora_weights"))
        if began.startswith(_ON_ANOTHER):
            raise InputError(
                f"{path}: its {belongs} part began as {began}, on changed weights: it is no change of those that were published; "
                "PEFT saves it as one (save_pretrained with path_initial_model_for_weight_conversion)"
            )
    return out


_ON_ANOTHER = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Ways to begin that take the pairs they begin with off the weights that are trained on (PiSSA: 2404.02948; OLoRA, CorDA ...), or
train on coarser ones (LoftQ)."""


def change_of(group: Group, alpha: Alpha, shape: tuple[int, ...]) -> Change:
    """The change of a weight of this shape, (rows, in), (rows, in, height, width), or (rows,) of a normalisation.

    ValueError or RuntimeError if it is one of another shape; InputError if some of its tensors are missing.
    """
    try:
        change = _change(group.tensors, alpha, shape)
    except KeyError as e:
        raise InputError(
            f"{group.key!r} stands alone: {e.args[0]!r} of the same layer is missing; the file was truncated"
        ) from None
    if (magnitude := group.tensors.get("magnitude", group.tensors.get("dora_scale"))) is not None:
        by_input = "magnitude" not in group.tensors and len(magnitude) != shape[0]
        change = Decomposed(change, magnitude.flatten(), by_input)
    change.delta(torch.empty(shape, device="meta"))
    if change.offset is not None and change.offset.shape != shape[:1]:
        raise ValueError(f"an offset of shape {tuple(change.offset.shape)}")
    return change


def _change(t: Mapping[str, Tensor], alpha: Alpha, shape: tuple[int, ...]) -> Change:
    rows, inputs = shape[0], shape[1:]
    if "values" in t:
        _check(rows, len(t["values"]))
        return Replaced(t["values"])
    if not inputs and not {"diff", "diff_b"} >= t.keys() - {"alpha"}:
        raise ValueError("a normalisation: differences of its weights and offsets are known, and other weights in their place")
    if "up" in t or "down" in t:
        down, up = t["down"], t["up"].flatten(1)
        scale = alpha.scale(len(down))
        if "mid" in t:
            down = torch.einsum("rskl,si->rikl", t["mid"].float(), down.flatten(1).float())
        _check(rows, len(up))
        offset = scale * t["up_bias"].float() if "up_bias" in t else t.get("diff_b")
        return LowRank(down.reshape(-1, *inputs), up, scale, offset)
    if any(name.startswith("hada") for name in t):
        pairs = [_pair(t[f"hada_w{i}_a"], t[f"hada_w{i}_b"], t.get(f"hada_t{i}")) for i in (1, 2)]
        _check(rows, len(pairs[0][0]))
        return Hadamard(pairs[0], pairs[1], alpha.scale(len(t["hada_w1_b"])))
    if any(name.startswith("lokr") for name in t):
        left = (t["lokr_w1"],) if "lokr_w1" in t else (t["lokr_w1_a"], t["lokr_w1_b"])
        right = (t["lokr_w2"],) if "lokr_w2" in t else _pair(t["lokr_w2_a"], t["lokr_w2_b"], t.get("lokr_t2"))
        _check(rows, len(left[0]) * len(right[0]))
        ranks = [len(pair[1]) for pair in (left, right) if len(pair) == 2]
        if not ranks and alpha.rank is not None:  # PEFT, where both factors are whole, as always; LyCORIS means 1 then
            ranks = [alpha.rank]
        return Kronecker(left, right, alpha.scale(ranks[0]) if ranks else 1.0)
    if "diff" not in t and "diff_b" not in t:
        raise KeyError("up")
    if "diff" in t:
        _check(rows, len(t["diff"]))
    return Whole(t.get("diff"), t.get("diff_b"))


def _pair(b: Tensor, a: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """B (rows, r) and A (r, ...)."""
    return (b, a) if core is None else (b.T.contiguous(), torch.einsum("ijkl,jr->irkl", core.float(), a.float()))


def _check(rows: int, found: int) -> None:
    if rows != found:
        raise ValueError(f"{found} rows where {rows} are wanted")
