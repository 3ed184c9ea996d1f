"""Open checkpoints by their name on the Hugging Face hub (OWNER/NAME): what is needed of them, fetched once.

Needs the extra `text`.
Of a diffusers folder that is model_index.json, and of each part its configuration, its tokenizer's files and one variant of its
weights as safetensors: neither pickles nor the same weights in other formats. What has been fetched lies in the hub's own cache, is
not fetched again, and goes on where it was broken off. A process asks once whether there is something newer; HF_HUB_OFFLINE=1 takes
what is there and asks nobody.
"""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unnoise.checkpoints.foreign.folder import INDEX, PARTS, PICKLED, TOKENIZERS, read_name, weights_of
from unnoise.core.errors import InputError

CONFIG = "config.json"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_READ = (".json", ".txt", ".model")
"""Configurations and tokenizers."""


_ASKED: dict[tuple[object, ...], Path] = {}
"""Folders that lie complete in the cache: by the cache, the name, and what of it was asked for."""


def is_hub_name(source: str) -> bool:
    """OWNER/NAME, and not the path of a file of weights."""
    return _NAME.fullmatch(source) is not None and not source.endswith((".safetensors", ".gguf"))


def fetch(name: str, variant: str | None = None, without: Collection[str] = ()) -> Path:
    """The folder of the model in the hub's cache; what lacks is fetched, with a bar that shows how far it is.

    without: parts whose weights are not needed. Raises InputError for a model that is not on the hub, or needs a licence to be
    accepted first, and when it cannot be reached.
    """
    return _fetched(name, [INDEX], (variant, *without), lambda names: needed_files(names, variant, name, without))


def fetch_part(name: str) -> Path:
    """As `fetch`, of a single network, such as a ControlNet: its config.json, and one variant of its weights."""

    def needed(names: list[str]) -> list[str]:
        here = [n for n in names if "/" not in n]
        if CONFIG not in here:
            raise InputError(f"{name}: has no {CONFIG} on the hub, and is no network by itself; {_by_hand(here)}")
        return [CONFIG, *weights_of(here, None, name)]

    return _fetched(name, [CONFIG], (), needed)


def fetch_first(name: str, files: Sequence[str], beside: Sequence[str]) -> Path:
    """As `fetch`, the folder with the first of these files that is there, such as a LoRA's, and what is there of those beside."""

    def needed(names: list[str]) -> list[str]:
        if (first := next((f for f in files if f in names), None)) is None:
            raise InputError(f"{name}: has no {' or '.join(files)} on the hub; {_by_hand(names, 'such files')}")
        return [first, *(f for f in beside if f in names)]

    return _fetched(name, files, tuple(beside), needed)


def _by_hand(names: Collection[str], fetched: str = "models in the layout of diffusers") -> str:
    single = [n for n in names if n.endswith((".safetensors", ".gguf")) and "/" not in n]
    return f"fetch {single[0]} and give its path" if single else f"only {fetched} are fetched"


def _fetched(name: str, signs: Sequence[str], asked: Sequence[object], needed: Callable[[list[str]], list[str]]) -> Path:
    """signs: one of these files must be there. needed: of the names of all files, those that are read; asked: what they depend on
    beside."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants, errors
    except ImportError as e:
        raise InputError(f'{name} would be fetched from the hub, which needs huggingface_hub: pip install "unnoise[text]"') from e
    if constants.HF_HUB_OFFLINE:
        return _cached(hub, name, signs, "HF_HUB_OFFLINE is set")
    key = (constants.HF_HUB_CACHE, name, *signs, *asked)
    if key in _ASKED and _ASKED[key].is_dir():
        return _ASKED[key]
    try:
        info = hub.HfApi().model_info(name)
        wanted = needed([f.rfilename for f in info.siblings or []])
        here = [hub.try_to_load_from_cache(name, f, revision=info.sha) for f in wanted]
        if all(isinstance(f, str) for f in here):  # snapshot_download would ask once more
            _ASKED[key] = Path(str(here[0])).parents[wanted[0].count("/")]
        else:
            _ASKED[key] = Path(hub.snapshot_download(name, allow_patterns=wanted))
        return _ASKED[key]
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as e:
        gated = isinstance(e, errors.GatedRepoError)
        why = "asks for its licence to be accepted on its page" if gated else "is no folder here, and no public model on the hub"
        raise InputError(f"{name} {why}; for one that you may read, log in first: hf auth login") from e
    except (errors.HTTPError, OSError) as e:
        return _cached(hub, name, signs, f"the hub could not be reached ({_first_line(e)})")


def _cached(hub: Any, name: str, signs: Sequence[str], why: str) -> Path:
    """The model as it was fetched before: not all of its files, so that the client's own snapshots would call it incomplete."""
    found = next((f for sign in signs if isinstance(f := hub.try_to_load_from_cache(name, sign), str)), None)
    if found is None:
        raise InputError(f"{name}: no such folder, not in the cache of the hub, and {why}")
    return Path(found).parent


def _first_line(e: Exception) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)


def needed_files(names: Collection[str], variant: str | None, where: str, without: Collection[str] = ()) -> list[str]:
    """Of all files of a model on the hub, those that are read. without: parts whose weights are not.

    InputError for one that is no diffusers folder, or pickled.
    """
    if INDEX not in names:
        raise InputError(f"{where}: has no {INDEX} on the hub; {_by_hand(names)}")
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
