"""Open checkpoints by their name on the Hugging Face hub (OWNER/NAME, or OWNER/NAME/FILE): what is needed of them, fetched once.

Needs the extra `text`.
Of a diffusers folder that is model_index.json, and of each part its configuration, its tokenizer's files and one variant of its
weights as safetensors: neither pickles nor the same weights in other formats. Of a single file that is the file, and what is read
beside it. What has been fetched lies in the hub's own cache, is not fetched again, and goes on where it was broken off. A process
asks once whether there is something newer; HF_HUB_OFFLINE=1 takes what is there and asks nobody. What lies here by the same path
comes first.
"""

import posixpath
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unnoise.checkpoints.foreign.folder import INDEX, PARTS, PICKLED, TOKENIZERS, read_name, weights_of
from unnoise.checkpoints.foreign.recognise import converting
from unnoise.core.errors import InputError, nearest

CONFIG = "config.json"
SINGLE = (".safetensors", ".gguf")
"""Files that hold weights by themselves."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(rf"({_NAME.pattern})/((?:(?!\.\.?/)[^/\\]+/)*[^/\\]+)")
_ADDRESS = re.compile(
    rf"(?:https?:/+)?(?:www\.)?(?:huggingface\.co|hf\.co)/({_NAME.pattern})(?:/(?:blob|resolve|tree)/[^/]+(/[^?]+)?)?"
)
_LISTED = 12
_READ = (".json", ".txt", ".model")
"""Configurations and tokenizers."""


_ASKED: dict[tuple[object, ...], Path] = {}
"""Folders that lie complete in the cache: by the cache, the name, and what of it was asked for."""


def is_hub_name(source: str) -> bool:
    """OWNER/NAME, and not the path of a file of weights."""
    return _NAME.fullmatch(source) is not None and not source.endswith(SINGLE)


def refuse_address(source: str) -> None:
    """InputError for an address of the hub's, as browsers show it, with the name that is meant."""
    if found := _ADDRESS.match(source):
        raise InputError(f"{source}: an address; on the hub this is called {found[1]}{found[2] or ''}")


def is_hub_file(source: str) -> bool:
    """OWNER/NAME/FILE, of weights; and neither is that file here, nor a folder OWNER/NAME."""
    found = _FILE.fullmatch(source)
    ends = source.lower().endswith((*SINGLE, *PICKLED))
    return found is not None and ends and not Path(source).exists() and not Path(found[1]).is_dir()


def fetched_before(source: str) -> bool:
    """Whether OWNER/NAME/FILE lies in the hub's cache."""
    if not is_hub_file(source) or (found := _FILE.fullmatch(source)) is None:
        return False
    try:
        import huggingface_hub as hub
    except ImportError:
        return False
    return isinstance(hub.try_to_load_from_cache(*found.groups()), str)


def at_hand(source: str | Path, near: Collection[str] = (CONFIG,)) -> Path:
    """A path as it is, but of a file's name on the hub the file, as it was fetched.

    near: what else is read beside the file, where it is there. Raises InputError as `fetch`, and for a pickle, before it is
    fetched.
    """
    told = str(source)
    if not is_hub_file(told) or (found := _FILE.fullmatch(told)) is None:
        return Path(source)
    name, file = found.groups()
    if told.lower().endswith(PICKLED):
        way = converting(Path(file), "d.get('state_dict', d)")
        raise InputError(
            f"{told}: no such file here; on the hub it would be a pickle, which may run anything when it is opened, and is not "
            f"fetched; take a file of safetensors, or fetch it yourself (hf download {name} {shlex.quote(file)}) and convert it "
            f"where it lies: {way}"
        )

    def needed(names: list[str]) -> list[str]:
        if file not in names:
            meant = nearest(file, [n for n in names if n.endswith(SINGLE)], 1)
            what = f"{name}/{meant[0]} is the nearest" if meant else _by_hand(name, names)
            raise InputError(f"{told}: {name} has no such file on the hub; {what}")
        beside = [posixpath.normpath(str(PurePosixPath(file).parent / n)) for n in near]
        return [file, *(n for n in beside if n in names)]

    return _fetched(name, [file], tuple(near), needed, told) / file


def fetch(name: str, variant: str | None = None, without: Collection[str] = ()) -> Path:
    """The folder of the model in the hub's cache; what lacks is fetched, with a bar that shows how far it is.

    without: parts whose weights are not needed. Raises InputError for a model that is not on the hub, or needs a licence to be
    accepted first, and when it cannot be reached.
    """
    return _fetched(name, [INDEX], (variant, *without), lambda names: needed_files(names, variant, name, without))


def fetch_part(name: str, inside: Sequence[str] = ()) -> Path:
    """As `fetch`, of a single network, such as a ControlNet: its config.json, and one variant of its weights. inside: folders, of
    which the first that is there is fetched where the network is not there by itself."""
    signs = [CONFIG, *(f"{folder}/{CONFIG}" for folder in inside)]

    def needed(names: list[str]) -> list[str]:
        if (sign := next((s for s in signs if s in names), None)) is None:
            raise InputError(f"{name}: has no {CONFIG} on the hub, and is no network by itself; {_by_hand(name, names)}")
        place = sign.removesuffix(CONFIG)
        here = [n.removeprefix(place) for n in names if n.startswith(place) and "/" not in n.removeprefix(place)]
        return [sign, *(f"{place}{n}" for n in weights_of(here, None, f"{name}/{place}".rstrip("/")))]

    return _fetched(name, signs, (), needed)


def fetch_first(name: str, files: Sequence[str], beside: Sequence[str]) -> Path:
    """As `fetch`, the folder with the first of these files that is there, such as a LoRA's, and what is there of those beside."""

    def needed(names: list[str]) -> list[str]:
        if (first := next((f for f in files if f in names), None)) is None:
            raise InputError(f"{name}: has no {' or '.join(files)} on the hub; {_by_hand(name, names)}")
        return [first, *(f for f in beside if f in names)]

    return _fetched(name, files, tuple(beside), needed)


def _by_hand(name: str, names: Collection[str]) -> str:
    """Which of its files may be given. names: of all."""
    single = [f"{name}/{n}" for n in names if n.endswith(SINGLE)]
    if not single:
        return f"nor any file of weights in safetensors or GGUF, which would be given as {name}/FILE"
    more = f" ... ({len(single)} in all)" if len(single) > _LISTED else ""
    return f"give {'one of its files' if len(single) > 1 else 'its file'}: {', '.join(single[:_LISTED])}{more}"


def _fetched(
    name: str, signs: Sequence[str], asked: Sequence[object], needed: Callable[[list[str]], list[str]], told: str | None = None
) -> Path:
    """The folder in the cache. signs: one of these files must be there. needed: of the names of all files, those that are read;
    asked: what they depend on beside. told: what was given, where it is the name of a file."""
    what, where = ("folder", name) if told is None else ("file", told)
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants, errors
    except ImportError as e:
        raise InputError(f'{where} would be fetched from the hub, which needs huggingface_hub: pip install "unnoise[text]"') from e
    if constants.HF_HUB_OFFLINE:
        return _cached(hub, name, signs, f"{where}: no such {what}, not in the cache of the hub, and HF_HUB_OFFLINE is set")
    key = (constants.HF_HUB_CACHE, name, *signs, *asked)
    if key in _ASKED and _ASKED[key].is_dir():
        return _ASKED[key]
    try:
        info = hub.HfApi().model_info(name)
        wanted = needed([f.rfilename for f in info.siblings or []])
        cached = [hub.try_to_load_from_cache(name, f, revision=info.sha) for f in wanted]
        if all(isinstance(f, str) for f in cached):  # snapshot_download would ask once more
            _ASKED[key] = Path(str(cached[0])).parents[wanted[0].count("/")]
        elif told is not None:
            fetched = [hub.hf_hub_download(name, f) for f in wanted]
            _ASKED[key] = Path(fetched[0]).parents[wanted[0].count("/")]
        else:
            _ASKED[key] = Path(hub.snapshot_download(name, allow_patterns=wanted))
        return _ASKED[key]
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as e:
        gated = isinstance(e, errors.GatedRepoError)
        other = "no public model on the hub" if told is None else f"{name} no public model on the hub"
        why = "asks for its licence to be accepted on its page" if gated else f"is no {what} here, and {other}"
        raise InputError(f"{where} {why}; for one that you may read, log in first: hf auth login") from e
    except (errors.HTTPError, OSError) as e:
        why = f"the hub could not be reached ({_first_line(e)})"
        return _cached(hub, name, signs, f"{where}: no such {what}, not in the cache of the hub, and {why}")


def _cached(hub: Any, name: str, signs: Sequence[str], otherwise: str) -> Path:
    """The model as it was fetched before: not all of its files, so that the client's own snapshots would call it incomplete.
    InputError where it is not there."""
    for sign in signs:
        if isinstance(found := hub.try_to_load_from_cache(name, sign), str):
            return Path(found).parents[sign.count("/")]
    raise InputError(otherwise)


def _first_line(e: Exception) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)


def needed_files(names: Collection[str], variant: str | None, where: str, without: Collection[str] = ()) -> list[str]:
    """Of all files of a model on the hub, those that are read. without: parts whose weights are not.

    InputError for one that is no diffusers folder, or pickled.
    """
    if INDEX not in names:
        raise InputError(f"{where}: has no {INDEX} on the hub; {_by_hand(where, names)}")
    inside: dict[str, list[str]] = {}
    for n in names:
        path = PurePosixPath(n)
        if len(path.parts) == 2:
            inside.setdefault(path.parts[0], []).append(path.name)
    wanted = [n for n in (INDEX, "README.md") if n in names]
    for folder in (*PARTS, *TOKENIZERS, "scheduler"):
        files = inside.get(folder, [])
        wanted += [f"{folder}/{n}" for n in files if n.endswith(_READ) and not n.startswith("flax")]
        if folder not in without and any(read_name(n) or n.endswith(PICKLED) for n in files):
            has = variant if variant in {p.variant for n in files if (p := read_name(n))} else None
            wanted += [f"{folder}/{n}" for n in weights_of(files, has, f"{where}/{folder}")]
    return wanted
