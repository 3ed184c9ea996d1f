"""Write a table as CSV: the same header, types and marks as the data, and beside it what it was made from."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Table


def to_csv(table: Table, delimiter: str = ",", header: bool = True) -> str:
    """The table as CSV text, lines ended by a newline."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writerow([c.name for c in table.columns])
    writer.writerows(table.rows())
    return out.getvalue()


def write_csv(path: Path, table: Table, meta: Sequence[Mapping[str, Any]], delimiter: str = ",", header: bool = True) -> list[Path]:
    """Write `path` and, beside it, `path`.json: what all rows share, and under "rows" what each has of its own.

    Each file is complete or not there. Raises InputError where the folder cannot be written.
    """
    notes = path.with_name(path.name + ".json")
    _write(path, to_csv(table, delimiter, header))
    _write(notes, json.dumps(_shared(meta), indent=1, ensure_ascii=False) + "\n")
    return [path, notes]


def _shared(meta: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{what all rows have in common, "rows": [what is a row's own]}."""
    if not meta:
        return {"rows": []}
    common = {k: v for k, v in meta[0].items() if all(k in m and m[k] == v for m in meta)}
    return {**common, "rows": [{k: v for k, v in m.items() if k not in common} for m in meta]}


def _write(path: Path, text: str) -> None:
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        half.write_text(text, encoding="utf-8", newline="")
        os.replace(half, path)
    except OSError as e:
        raise InputError(f"{path}: cannot be written ({e.strerror}); choose a folder with room that you may write to") from e
    finally:
        half.unlink(missing_ok=True)
