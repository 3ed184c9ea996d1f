"""Configurations as JSON: frozen dataclasses out, the same typed and validated values back in. Never code, never pickle.

A dataclass becomes {"class": "file.Name", field: value ...} with the name of the file that defines it; tuples become lists.
Reading goes by the field's declared type; where that is abstract (a Schedule, a network), "class" must name a class of the
allow-list that the caller passes in.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from unnoise.core.errors import InputError


def class_name(cls: type) -> str:
    """The name of a class in a configuration: "schedules.EDM"."""
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__qualname__}"


def allow(*classes: type) -> dict[str, type]:
    """An allow-list: name -> class."""
    return {class_name(c): c for c in classes}


def encode(value: object) -> Any:
    """A configuration as plain JSON data. Raises TypeError for what a configuration must not hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"class": class_name(type(value)), **fields}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {"map": {str(k): encode(v) for k, v in value.items()}}
    if isinstance(value, Sequence):
        return [encode(v) for v in value]
    raise TypeError(f"a configuration cannot hold a {type(value).__name__}")


def decode(kind: Any, data: Any, allowed: Mapping[str, type], where: str) -> Any:
    """The value of type `kind` that `data` stands for. `where` names the place in error messages (InputError)."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(args, data, allowed, where)
    if kind is type(None) or kind is None:
        return _check(data is None, None, where, "null", data)
    if isinstance(data, dict) and "class" in data:
        return _decode_class(kind, data, allowed, where)
    if kind is float:
        if isinstance(data, dict) and set(data) == {"float"}:
            return float(data["float"])
        return _check(isinstance(data, int | float) and not isinstance(data, bool), data, where, "a number", data, float)
    if kind is bool:
        return _check(isinstance(data, bool), data, where, "true or false", data)
    if kind is int:
        return _check(isinstance(data, int) and not isinstance(data, bool), data, where, "an integer", data)
    if kind is str or kind is Path:
        return _check(isinstance(data, str), data, where, "a text", data, kind)
    if origin is tuple:
        return _decode_tuple(args, data, allowed, where)
    if origin is not None and issubclass(origin, Mapping):
        entries = data.get("map") if isinstance(data, dict) else None
        if not isinstance(entries, dict):
            raise InputError(f'{where}: expected a mapping {{"map": ...}}, found {_short(data)}')
        return {k: decode(args[1], v, allowed, f"{where}.{k}") for k, v in entries.items()}
    raise InputError(f"{where}: expected {_name(kind)}, found {_short(data)}")


def _decode_union(args: tuple, data: Any, allowed: Mapping[str, type], where: str) -> Any:
    if data is None and type(None) in args:
        return None
    errors = []
    for kind in args:
        if kind is type(None):
            continue
        try:
            return decode(kind, data, allowed, where)
        except InputError as e:
            errors.append(e)
    raise errors[0]


def _decode_tuple(args: tuple, data: Any, allowed: Mapping[str, type], where: str) -> tuple:
    _check(isinstance(data, list), None, where, "a list", data)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(data)
    _check(len(args) == len(data), None, where, f"a list of {len(args)}", data)
    return tuple(decode(a, d, allowed, f"{where}[{i}]") for i, (a, d) in enumerate(zip(args, data)))


RETIRED: Mapping[str, tuple[str, ...]] = {"step_caching.Every": ("first",)}
"""Fields that earlier versions wrote, by class, and nothing reads any more: what they said follows from the rest."""


def _decode_class(kind: Any, data: dict, allowed: Mapping[str, type], where: str) -> Any:
    name = data["class"]
    cls = allowed.get(name) if isinstance(name, str) else None
    if cls is None:
        raise InputError(
            f"{where}: class {name!r} is not one that this version of unnoise knows; the file may come from a later version"
        )
    if isinstance(kind, type) and not issubclass(cls, kind):
        raise InputError(f"{where}: a {name} stands where a {_name(kind)} belongs")
    data = {k: v for k, v in data.items() if k not in RETIRED.get(name, ())}
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    extra = sorted(set(data) - set(fields) - {"class"})
    if extra:
        raise InputError(f"{where}: {name} has no field {extra[0]!r}; it has {', '.join(fields)}")
    missing = [f.name for f in fields.values() if f.name not in data and _required(f)]
    if missing:
        raise InputError(f"{where}: {name} lacks its field {missing[0]!r}")
    values = {k: decode(hints[k], v, allowed, f"{where}.{k}") for k, v in data.items() if k != "class"}
    try:
        return cls(**values)
    except InputError:
        raise
    except ValueError as e:  # networks know no files
        raise InputError(f"{where}: {name}: {e}") from None


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _check(ok: bool, value: Any, where: str, wanted: str, found: Any, convert: Any = None) -> Any:
    if not ok:
        raise InputError(f"{where}: expected {wanted}, found {_short(found)}")
    return convert(value) if convert else value


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def _short(data: Any) -> str:
    text = json.dumps(data)
    return text if len(text) <= 60 else text[:57] + "..."
