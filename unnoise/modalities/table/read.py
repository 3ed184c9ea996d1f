"""Read a CSV file: find out how it is written and what its columns are."""

import csv
import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from unnoise.core.errors import InputError
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Table, is_missing, is_number
from unnoise.modalities.table.data import TableData
from unnoise.modalities.table.infer import infer

FEWEST_ROWS = 10
_DELIMITERS = (",", ";", "\t", "|")


def read_table(path: str | Path, *, delimiter: str | None = None, header: bool | None = None) -> TableData:
    """The table in a CSV file in UTF-8.

    delimiter: , ; tab or |, found out if None. header: whether the first line names the columns, found out if None.
    Raises InputError for a file that is empty, not UTF-8, ragged, too short, or that names a column twice.
    """
    path = Path(path)
    lines = _lines(path)
    delimiter = delimiter or _sniff(lines)
    rows, numbers = _rows(path, lines, delimiter)
    if header is None:
        header = _has_header(rows)
    names = [cell.strip() for cell in rows[0]] if header else [f"column {j + 1}" for j in range(len(rows[0]))]
    _check_names(path, names)
    rows, numbers = rows[header:], numbers[header:]
    if len(rows) < FEWEST_ROWS:
        raise InputError(
            f"{path}: {len(rows)} row{'' if len(rows) == 1 else 's'} of data {'after' if header else 'without'} the header; "
            f"a model needs at least {FEWEST_ROWS} rows to learn from, and some hundreds to learn well"
        )
    for row, number in zip(rows, numbers):
        if len(row) != len(names):
            first = "the header has" if header else "the first line has"
            raise InputError(f"{path}, line {number}: {_cells(len(row))}, but {first} {len(names)}; every line needs as many")
    columns = tuple(infer(name, [r[j].strip() for r in rows], numbers, str(path)) for j, name in enumerate(names))
    try:
        config = TableCodecConfig(columns, delimiter, header)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e
    return TableData(path.name, config, Table.parse(columns, rows))


def read_like(path: str | Path, data: TableData) -> Table:
    """The rows of another file with the columns of `data`, such as samples of a model of it.

    Raises InputError where the columns are other ones, or a cell holds what its column cannot.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; a csv with the columns of {data.name} is wanted")
    rows, _ = _rows(path, _lines(path), data.config.delimiter)
    want = [c.name for c in data.config.columns]
    if data.config.header:
        have = [cell.strip() for cell in rows[0]] if rows else []
        if have != want:
            odd = next((f"{a!r} in place of {b!r}" for a, b in zip(have, want) if a != b), f"{len(have)}, not {len(want)}")
            raise InputError(f"{path}: its columns are not those of {data.name} (first difference: {odd})")
        rows = rows[1:]
    try:
        return Table.parse(data.config.columns, rows)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); a CSV file is expected") from e
    if not data.strip():
        raise InputError(f"{path}: the file is empty; a CSV file with a header and at least {FEWEST_ROWS} rows is expected")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: byte 0x{data[e.start]:02x} is not UTF-8; save the file as CSV in UTF-8") from e
    if "\0" in text:
        raise InputError(f"{path}: holds zero bytes, so it is not a CSV file in UTF-8; save it as CSV in UTF-8")
    return list(io.StringIO(text, newline=""))  # not splitlines(), which also cuts at characters that cells may hold


def _sniff(lines: Sequence[str]) -> str:
    """The delimiter that parts the first lines into the most cells, the same number in each; a comma if none does."""

    def cells(delimiter: str) -> tuple[bool, int]:
        counts = [len(row) for row in islice(csv.reader(lines, delimiter=delimiter), 50) if row]
        return min(counts) == max(counts) > 1, counts[0]

    return max(_DELIMITERS, key=cells)


def _rows(path: Path, lines: Sequence[str], delimiter: str) -> tuple[list[list[str]], list[int]]:
    """The rows that are not blank, and the line on which each ends."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows, numbers = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or len(row) > 1:
                rows.append(row)
                numbers.append(reader.line_num)
    except csv.Error as e:
        line = numbers[-1] + 1 if numbers else 1  # where the row begins: a quotation left open runs on to the end of the file
        raise InputError(f"{path}, line {line}: not CSV ({e}); look for a quotation mark that is not closed") from e
    if not rows:
        raise InputError(f"{path}: the file holds blank lines only; a CSV file with a header and rows is expected")
    return rows, numbers


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """The first line is a header if no cell in it is a number, or if one names a column that has nothing but numbers."""

    def number(cell: str) -> bool:
        return is_number(cell.strip()) or is_number(cell.strip(), comma=True)

    first = rows[0]
    if not any(number(cell) for cell in first):
        return True
    for j, cell in enumerate(first):
        below = [r[j] for r in rows[1:] if j < len(r) and not is_missing(r[j].strip())]
        if below and all(number(c) for c in below) and not number(cell) and not is_missing(cell.strip()):
            return True
    return False


def _check_names(path: Path, names: Sequence[str]) -> None:
    for j, name in enumerate(names):
        if name in names[:j]:
            first = list(names).index(name)
            called = f"both called {name!r}" if name else "both without a name"
            raise InputError(f"{path}, line 1: columns {first + 1} and {j + 1} are {called}; every column needs its own name")


def _cells(n: int) -> str:
    return f"{n} cell{'' if n == 1 else 's'}"
