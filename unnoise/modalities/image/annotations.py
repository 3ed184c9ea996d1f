"""What is said of the pictures of a folder or a zip: captions, or classes.

In this order, the first that exists for a picture:
1. `metadata.jsonl`, `metadata.csv` (Hugging Face's imagefolder: `file_name`, `text`), `captions.jsonl`, `captions.csv` (`file`,
   `caption`), each speaking of the pictures of its own folder; a list of texts is several captions of one picture. What else they
   say of a picture (`name`, `keywords`, `group`, `style`) is kept too: captions of other lengths can be made of it.
2. `name.txt` beside `name.png`: one caption a line.
And where nothing has a caption: `labels.csv` (`file`, `class`), or else the folder that each picture lies in.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import PurePosixPath
from typing import Any

from unnoise.core.errors import InputError
from unnoise.modalities.image.recaption import Facts, plainly
from unnoise.modalities.image.sources import Entry

_CAPTIONS = frozenset({"metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv"})
_CLASSES = frozenset({"labels.csv", "labels.jsonl"})
_FILE_KEYS = ("file_name", "file", "filename", "image", "path")
_TEXT_KEYS = ("text", "caption", "captions", "texts", "prompt", "description", "name")
_CLASS_KEYS = ("class", "class_name", "label", "category")
_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})

Captions = tuple[str, ...]


@dataclass(frozen=True)
class Annotations:
    """captions: one tuple a picture, empty for none. classes: the names in order, None where the texts are free.

    note: where they come from, in words. used: the files that were read for it. facts: what the sheets of captions say of each
    picture beside its caption, None where it is not even named.
    """

    captions: tuple[Captions, ...]
    classes: tuple[str, ...] | None
    note: str
    used: frozenset[str]
    facts: tuple[Facts | None, ...] = ()


def annotate(pictures: Sequence[Entry], others: Sequence[Entry]) -> Annotations:
    """Finds what is said of `pictures` in the `others`. Raises InputError for files that cannot be read as what they are named."""
    by_name = {e.name: i for i, e in enumerate(pictures)}
    sheets = [e for e in others if _base(e) in _CAPTIONS]
    rows, missing = _rows_of(sheets, by_name)
    texts, facts = [_texts(r, _TEXT_KEYS) for r in rows], tuple(_facts(r) for r in rows)
    sources = [f"captions from {_and(sorted({_base(e) for e in sheets}))}"] if any(texts) else []

    sidecars = {e.stem: e for e in others if e.suffix == ".txt"}
    from_txt = set()
    for i, e in enumerate(pictures):
        if not texts[i] and e.stem in sidecars:
            texts[i] = _clean(_lines(sidecars[e.stem].text()))
            from_txt.add(sidecars[e.stem].name)
    if from_txt:
        sources.append(f"{'captions' if not sources else 'others'} from {len(from_txt):,} .txt files beside the pictures")
    used = frozenset(from_txt | {e.name for e in others if _base(e) in _CAPTIONS | _CLASSES})
    if any(texts):
        note = _and(sources) + _absent(missing)
        if several := sum(len(t) > 1 for t in texts):
            note += f"; {several:,} pictures have several, one of them drawn each time"
        return Annotations(tuple(texts), None, note, used, facts)

    sheets = [e for e in others if _base(e) in _CLASSES]
    rows, missing = _rows_of(sheets, by_name)
    texts = [_texts(r, _CLASS_KEYS) for r in rows]
    if any(texts):
        for e, t in zip(pictures, texts):
            if len(t) > 1:
                raise InputError(f"{_base(sheets[0])} gives {e.name} the classes {_and(list(t))}; a picture has one class")
        note = f"classes from {_base(sheets[0])}" + _absent(missing)
    else:
        texts, note = _from_folders(pictures), "classes from the sub-folders"
    names = tuple(sorted({t[0] for t in texts if t}))
    if len(names) < 2:
        return Annotations(((),) * len(pictures), None, "", used, facts)
    return Annotations(tuple(texts), names, note, used, facts)


def _rows_of(sheets: Sequence[Entry], by_name: Mapping[str, int]) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """The rows that speak of every picture, and the names that no picture has."""
    rows: list[list[dict[str, Any]]] = [[] for _ in by_name]
    missing: list[str] = []
    known = set(by_name)
    for sheet in sheets:
        speaks_of, absent = 0, list[str]()
        for line, row in _rows(sheet):
            file_key = next((k for k in _FILE_KEYS if k in row), None)
            if file_key is None or not isinstance(row[file_key], str):
                where = f"{sheet.name}, line {line}"
                raise InputError(
                    f"{where}: no picture is named; every row needs one of {', '.join(_FILE_KEYS)}; it has {_and(list(row))}"
                )
            name = str(PurePosixPath(sheet.folder) / row[file_key].replace("\\", "/"))
            if name not in known:
                absent.append(name)
                continue
            speaks_of += 1
            rows[by_name[name]].append(row)
        if absent and not speaks_of:
            raise InputError(
                f"{sheet.name} names no picture that is there (first: {absent[0]}); names are relative to its own folder"
            )
        missing += absent
    return rows, missing


def _texts(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Captions:
    """What the first of these keys that a row has says, row by row."""
    said = [next((texts for k in keys if (texts := _several(row.get(k)))), ()) for row in rows]
    return _clean([text for several in said for text in several])


def _several(value: Any) -> Captions:
    """The texts of a cell; null and NaN, which pandas writes for null, are none."""
    values = value if isinstance(value, list) else [value]
    return _clean([v for v in values if v is not None and v == v])


def _facts(rows: Sequence[Mapping[str, Any]]) -> Facts | None:
    """Of the first row that names the picture."""
    return next((f for f in map(Facts.of, rows) if f is not None), None)


def _rows(sheet: Entry) -> Iterator[tuple[int, dict[str, Any]]]:
    text = sheet.text()
    if sheet.suffix == ".jsonl":
        for number, line in enumerate(_lines(text), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as e:
                    raise InputError(f"{sheet.name}, line {number} is not JSON ({e}); one object a line is wanted") from None
                if not isinstance(row, dict):
                    raise InputError(f"{sheet.name}, line {number} is not a JSON object, such as {{'file_name': ..., 'text': ...}}")
                yield number, row
    else:
        reader = csv.DictReader(StringIO(text, newline=""))
        try:
            for row in reader:
                yield reader.line_num, {k: v for k, v in row.items() if k is not None}
        except csv.Error as e:
            raise InputError(f"{sheet.name}, line {reader.line_num} is not CSV ({e})") from None


def _lines(text: str) -> list[str]:
    """Cut where files end lines; U+2028 and others that Unicode calls ends of lines may stand within a text of JSON."""
    return re.split(r"\r\n|\r|\n", text)


def _from_folders(pictures: Sequence[Entry]) -> list[Captions]:
    """The folder that holds the picture; folders named for a split (train, test) and what all share are passed over."""
    parts = [[p for p in e.folder.split("/") if p and p.lower() not in _SPLITS] for e in pictures]
    return [(_readable(" ".join(p[-1].split("_"))),) if p else () for p in parts]


def _readable(name: str) -> str:
    """The name of a folder, bytes of it that are not UTF-8 written as \\xe9."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _clean(texts: Sequence[Any]) -> Captions:
    """Without blanks and repetitions."""
    return tuple(dict.fromkeys(t for t in (plainly(str(t)) for t in texts) if t))


def _absent(missing: Sequence[str]) -> str:
    return f" ({len(missing):,} files that they name are not there, such as {missing[0]})" if missing else ""


def _base(e: Entry) -> str:
    return PurePosixPath(e.name).name.lower()


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "nothing"
