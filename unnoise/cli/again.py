"""The command that makes a sample again, from what `model.sample` and `unnoise sample` write into it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unnoise.checkpoints.foreign.hub import fetched_before, is_hub_name
from unnoise.checkpoints.foreign.lora import parse_lora
from unnoise.cli.adapters import parse_adapter, with_mode
from unnoise.core.errors import option
from unnoise.core.random import derive

_TOLD = ("variant", "packed", "clip_skip", "beside", "lora", "embedding", "control", "guess", "picture_prompt", "picture_encoder")
_SHOWN = ("control", "picture_prompt")
_OWN = ("start", "fill", "mask", "change", "follow")

_ONE = (
    "steps", "sampler", "grid", "guidance", "rescale", "rule", "threshold", "inner", "inner_scale", "cache", "cache_within",
    "cache_order", "weaker", "weaker_scale", "negative", "height", "width", "strength", "variant", "picture_encoder",
    "picture_guidance", "true_guidance", "arrange", "clip_skip",
)  # fmt: skip
_SEVERAL = ("interval", "inner_interval", "blocks", "original", "then", "beside")
_REPEATED = ("lora", "embedding", "control", "picture_prompt")
_FLAGS = ("guess", "exact", "bf16", "int8", "packed")


def told(args: object) -> dict[str, Any]:
    """Of the command line's options, those that `model.sample` does not know and that decide all samples: paths as given."""
    given = {name: getattr(args, name) for name in _TOLD if getattr(args, name)}
    return {name: [str(v) for v in value] if isinstance(value, tuple) else value for name, value in given.items()}


def own(args: object, n: int) -> dict[str, list[str]]:
    """Of the options that name one file for all n samples, or one for each: every sample's own."""
    given = {name: [str(path) for path in getattr(args, name)] for name in _OWN if getattr(args, name)}
    return {name: paths if len(paths) > 1 else paths * n for name, paths in given.items()}


def command(meta: Mapping[str, Any]) -> str:
    """The shell command that makes a sample again, or all of a sheet or table, into the folder `again`."""
    words = ["unnoise", "sample", str(meta.get("model_path") or meta.get("model"))]
    seeds, prompts = meta.get("sample_seeds"), meta.get("prompts") or ([meta["prompt"]] if meta.get("prompt") is not None else [])
    words += dict.fromkeys(prompts)
    if seeds is None:  # one sample
        words += ["--sample-seeds", str(meta["sample_seed"])]
    elif list(seeds) == [derive(meta["seed"], i) for i in range(len(seeds))]:  # a whole call's
        words += ["--seed", str(meta["seed"]), "-n", str(len(seeds) // max(1, len(dict.fromkeys(prompts))))]
    else:
        words += ["--sample-seeds", *(str(s) for s in seeds)]
    for key in _ONE:
        if meta.get(key) is not None and (key != "strength" or _begun(meta)):
            words += [option(key), str(meta[key])]
    for key in _SEVERAL:
        if meta.get(key):
            words += [option(key), *(str(v) for v in meta[key])]
    for key in _REPEATED:
        for value in meta.get(key) or ():
            words += [option(key), value]
    for key in _OWN:
        if paths := _paths(meta, key):
            words += [option(key), *paths]
    words += [option(key) for key in _FLAGS if meta.get(key)]
    return shlex.join([*words, "--out", "again"])


def files(meta: Mapping[str, Any]) -> list[str]:
    """The files, beside models, that the command reads again, as they were given."""
    shown = {key: [p for told in meta.get(key) or () for p in parse_adapter(option(key), told).pictures] for key in _SHOWN}
    return [
        *(path for key in _OWN for path in _paths(meta, key)),
        *(path for told in meta.get("lora") or () if not _on_hub(path := str(parse_lora(told)[0]))),
        *(path for path in meta.get("embedding") or () if not fetched_before(path)),
        *(path for path in meta.get("beside") or () if not _on_hub(path)),
        *(with_mode(picture)[0] for picture in shown["control"]),
        *shown["picture_prompt"],
    ]


def unsaid(meta: Mapping[str, Any]) -> list[str]:
    """What decided the sample and was given in Python, so that no option of the command can say it."""
    begun, filled = "the data that it began with (--start)", "what it filled in, and where (--fill, --mask)"
    seen = any(_paths(meta, key) for key in ("fill", "change", "follow"))
    caching = meta.get("caching") and not (meta.get("cache") or meta.get("cache_within"))
    return [
        *([filled if meta.get("filled") else begun] if meta.get("strength") and not _begun(meta) else []),
        *([f"what it was given: {', '.join(meta['given'])}"] if meta.get("given") and not seen else []),
        *(["what was attached"] if meta.get("attached") and not (meta.get("control") or meta.get("picture_prompt")) else []),
        *([f"caching by {meta['caching']}"] if caching else []),
    ]


def _begun(meta: Mapping[str, Any]) -> list[str]:
    """The pictures that it began with, or filled in."""
    return _paths(meta, "start") or _paths(meta, "fill")


def missing(paths: Sequence[str]) -> list[str]:
    """Those that are not where the command would look for them from here."""
    return [path for path in paths if not Path(path).exists()]


def _on_hub(path: str) -> bool:
    """A folder's name there, or a file's that was fetched: one that was not may as well have lain here."""
    return is_hub_name(path) or fetched_before(path)


def _paths(meta: Mapping[str, Any], key: str) -> list[str]:
    """A sample's own file, or a sheet's: one for all, or each sample's."""
    return list(meta.get(key + "s") or ([meta[key]] if meta.get(key) else []))
