"""unnoise info WHAT: what a file, a model or a run is, and the command that makes it again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from unnoise.checkpoints.folder import read_json
from unnoise.checkpoints.foreign.mapped import MappedFile
from unnoise.checkpoints.foreign.recognise import other_family
from unnoise.checkpoints.kinds import MODEL, kind_at
from unnoise.checkpoints.shipped import shipped, shipped_folder
from unnoise.cli.again import command, files, missing, unsaid
from unnoise.cli.terminal import parse
from unnoise.core.errors import InputError
from unnoise.loading import outline
from unnoise.modalities.image.show import read_meta


@dataclass(frozen=True)
class Info:
    """What a picture, a table, a model or a run is, and the command that makes it again."""

    what: tyro.conf.Positional[Path]
    """A PNG or csv that unnoise wrote, a model folder, a run's folder, the name of a model that ships, or an open checkpoint's file
    or folder."""


def run(argv: list[str]) -> None:
    what = parse(Info, argv, "unnoise info").what
    if not what.exists() and (ships := shipped_folder(str(what))):
        what = ships
    if not what.exists() and what.suffix.lower() not in (".png", ".csv", ".safetensors"):
        there = f"these models ship with unnoise: {', '.join(shipped())}"
        raise InputError(f"{what} does not exist; give a PNG or csv that unnoise wrote, or the folder of a model or a run; {there}")
    if what.is_dir():
        _folder(what)
    elif what.suffix == ".csv":
        beside = what.with_name(what.name + ".json")
        if not beside.is_file():
            raise InputError(f"{what} does not say how it was made: {beside.name}, which unnoise writes beside it, is not there")
        _show(read_json(beside))
    elif what.suffix == ".safetensors":
        _weights(what)
    elif what.suffix == ".gguf":
        _model(what)
    else:
        _show(read_meta(what))


def _weights(file: Path) -> None:
    """Embeddings that a prior made, with the first one's row; what goes with an open checkpoint; or one in a file."""
    told = MappedFile(file)
    try:
        rows, names = json.loads(told.metadata.get("rows", "[]")), list(told)
    except ValueError as e:
        raise InputError(f"{file} says what its rows are in a way that is not readable as JSON ({e})") from None
    if isinstance(rows, list) and rows and isinstance(rows[0], dict):
        _show(rows[0])
    elif other := other_family(names):
        print(f"{file}: {other.name}; {other.instead}")
    elif names and not any("." in name for name in names):
        words = ", ".join(map(repr, names[:3]))
        print(f"{file}: vectors named {words}, as textual inversions have; give it with the model it was made for (--embedding)")
    else:
        _model(file)


def _show(meta: Mapping[str, Any]) -> None:
    for key, value in meta.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            print(f"{key:<12} {text if len(text) <= 200 else text[:200] + ' ...'}")
    print(f"\nmake it again:\n  {command(meta)}")
    if not meta.get("exact"):
        print("  (the same to rounding; bit for bit where both are made with --exact)")
    if read := files(meta):
        absent = missing(read)
        print(f"  (it reads {', '.join(read)} again{'; not found from here: ' + ', '.join(absent) if absent else ''})")
    if lacking := unsaid(meta):
        print(f"  (given in Python, and no part of the command: {'; '.join(lacking)})")


def _folder(folder: Path) -> None:
    if (folder / "run.json").is_file() and not (folder / "model").is_dir():
        print(f"{folder}: a training run that has not finished; `unnoise resume {folder}` goes on")
        return
    if (kind := kind_at(folder)) not in (None, MODEL):
        assert kind is not None
        print(f"{folder}: {kind.said(folder)}")
        return
    _model(folder)


def _model(place: Path) -> None:
    model = outline(place)
    about, how = model.config.about, model.config.sampling
    parameters = sum(p.numel() for p in model.parts.parameters())
    print(f"{place}: {about.name}, {parameters / 1e6:.1f}M parameters, weights {model.hash()}")
    print(f"trained on   {about.data} (licence: {about.licence})")
    print(f"process      {model.config.process}")
    print(f"sampled by   {how.sampler}, {how.steps} steps, guidance {how.guidance:g}")
    if about.examples:
        print(f"prompts      such as {', '.join(map(repr, about.examples))}")
