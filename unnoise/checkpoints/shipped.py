"""The models that lie in the package itself, in `unnoise/shipped`: they need no download.

scenes     counts, places, colours, sizes and words on signs, of sixteen kinds of things that it draws plainly and exactly
stickers   what emoji show, by name, and words near to those: small pictures in the styles of emoji, with transparency
larger     enlarges what stickers draws twice: unnoise sample stickers "a cat" --then larger
"""

import re
from collections.abc import Sequence
from pathlib import Path

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.grammar import parse

FOLDER = Path(__file__).parent.parent / "shipped"
EXACT, FREE = "scenes", "stickers"


def shipped() -> tuple[str, ...]:
    """Their names."""
    return tuple(sorted(f.parent.name for f in FOLDER.glob("*/config.json")))


def shipped_folder(name: str) -> Path | None:
    """The folder of the model with this name; None if none that ships has it."""
    return FOLDER / name if name in shipped() else None


def suited(prompts: Sequence[str]) -> str:
    """The name of the model that is asked where none is named: the exact one, if it understands every prompt."""
    return EXACT if all(_understood(p) for p in prompts) else FREE


_PLAIN = re.compile(r"[\w\s,.:;!?'\"\u2018\u2019\u201c\u201d\u201e-]*")
"""Prompts without weights in brackets and without emoji, which the exact model's grammar does not read."""


def _understood(prompt: str) -> bool:
    if not _PLAIN.fullmatch(prompt):
        return False
    try:
        parse(prompt)
    except InputError:
        return False
    return True
