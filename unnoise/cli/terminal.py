"""What the commands share: reading options, and refusing to write over what exists."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TypeVar

import tyro

from unnoise.core.errors import InputError

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], program: str, default: T | None = None) -> T:
    """Options as a dataclass. `--help` prints every field and exits 0; an option that cannot be read is an InputError, one line."""
    with _one_line_errors(program):
        if default is None:
            return tyro.cli(kind, args=list(argv), prog=program)
        return tyro.cli(kind, args=list(argv), prog=program, default=default)


def parse_known(kind: type[T], argv: Sequence[str], program: str) -> tuple[T, list[str]]:
    """As parse; options that are none of its own come back, unread."""
    with _one_line_errors(program):
        return tyro.cli(kind, args=list(argv), prog=program, return_unknown_args=True)


@contextlib.contextmanager
def _one_line_errors(program: str) -> Iterator[None]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as e:
        if e.code in (0, None):
            raise
        raise InputError(f"{one_line(said.getvalue())} ({program} --help shows every option)") from None


def one_line(boxed: str) -> str:
    """The text of an error box, without its frame, in one line."""
    text = " ".join(line.strip("│╭╮╰╯─━|+ ") for line in boxed.splitlines())
    text = re.sub(r"[─━-]{3,}", " ", text).split("For full helptext")[0]
    return _plainly(re.sub(r"\s+", " ", text).strip())


_NUMBERS = {"INT": "whole number", "FLOAT": "number"}


def _plainly(text: str) -> str:
    """What tyro says of a value that is missing or cannot be read, and of options that there are none of, in few words."""
    if found := re.search(r"Missing value for argument '(\S+)'", text):
        return f"{found[1]}: its value is missing"
    if found := re.search(r"Error parsing (\S+): no type matching (.+?) could be instantiated from \[(.*?)\]\. Got errors", text):
        given = " ".join(re.findall(r"""['"](.*?)['"](?:, |$)""", found[3]))
        return f"{found[1]} {given}: {_wanted(found[2])}"
    if found := re.search(r"Error parsing (\S+): .*?(?:for (int)\(\)|to (float)).*?: '(.*?)'", text):
        return f"{found[1].partition('/')[0]} {found[4]}: {_wanted((found[2] or found[3]).upper())}"
    if found := re.search(r"Unrecognized options: (.*?)(?: Perhaps you meant: (\S+?),?(?:\s.*)?)?$", text):
        names = [given for given in found[1].split(", ") if given.startswith("-")]
        what = f"there is no option {names[0]}" if names else f"{found[1]}: more than is asked for"
        return what + (f"; did you mean {found[2]}?" if found[2] else "")
    text = re.sub(r"^Required options Missing from [\w ]+: ", "missing: ", text)
    return re.sub(r"^(?:Value error )?Error parsing (\S+): (.*?)(?: Argument helptext: .*)?$", r"\1: \2", text)


def _wanted(kind: str) -> str:
    """tyro's {None}|{FLOAT FLOAT} -> "2 numbers are wanted"."""
    words = kind.replace("{None}|", "").strip("{}").split(" ")
    if len(set(words)) > 1 or words[0] not in _NUMBERS:
        return f"{kind} is wanted"
    name = _NUMBERS[words[0]]
    return f"a {name} is wanted" if len(words) == 1 else f"{len(words)} {name}s are wanted"


def free_folder(name: Path, overwrite: bool) -> Path:
    """The folder itself, or, where something is in it that may not be written over, NAME-2 and so on, the first that is free."""
    numbered = (name if i == 1 else name.with_name(f"{name.name}-{i}") for i in count(1))
    return next(f for f in numbered if overwrite or not f.exists() or (f.is_dir() and not any(f.iterdir())))


def refuse_existing(out: Path, overwrite: bool) -> None:
    """InputError if `out` exists with something in it and may not be written over, and where no folder can be made."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out wants a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(f"{out} exists and is not empty: choose another --out, or say --overwrite")
    near = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
        why = "may not be written into" if near.is_dir() else "is a file"
        raise InputError(f"--out {out}: no folder can be made there, as {near} {why}")
