"""A section of a report: figures, drawings, and what has to be said of them."""

from dataclasses import dataclass

from unnoise.core.measure import Measure


@dataclass(frozen=True)
class Drawing:
    """A plot or a sheet of samples. png: the file's bytes. about: what it shows, one sentence."""

    title: str
    png: bytes
    about: str = ""


@dataclass(frozen=True)
class Section:
    """notes: sentences; among them what could not be measured, and why."""

    title: str
    measures: tuple[Measure, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    notes: tuple[str, ...] = ()
