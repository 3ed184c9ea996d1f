"""The one exception that means "what you gave me cannot be right", which names were perhaps meant, and how options are spelt."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher


class InputError(ValueError):
    """Bad input: one line that says what, where, and what would be right. The command line prints it and exits with 2."""


UNSOUND = (TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeError, MemoryError)
"""What settings that are none raise where they are used."""


def option(field: str) -> str:
    """A field of options as the command line spells it: begin_with -> --begin-with."""
    return f"--{field.replace('_', '-')}"


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """At most n of the known names that `name` may have been meant for, the most similar first.

    Names are similar letter by letter, or word by word in any order, whatever their case; words also end at capitals and digits.
    """
    scores = {other: max(_likeness(name.lower(), other.lower()), _shared(_words(name), _words(other))) for other in known}
    return [other for other in sorted(scores, key=scores.__getitem__, reverse=True) if scores[other] >= 0.5][:n]


def _likeness(a: str, b: str) -> float:
    """0 ... 1: the share of letters that lie in common runs (Ratcliff and Metzener 1988)."""
    return SequenceMatcher(None, a, b).ratio()


def _shared(a: list[str], b: list[str]) -> float:
    """0 ... 1: how like every word of either is to the one most like it in the other, on average."""
    best = [max((_likeness(word, other) for other in others), default=0.0) for ours, others in ((a, b), (b, a)) for word in ours]
    return sum(best) / len(best) if best else 0.0


def _words(name: str) -> list[str]:
    """DPMSolverSDE -> dpm, solver, sde; dpmpp-2m -> dpmpp, 2, m."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
