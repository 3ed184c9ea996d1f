"""Sprites that others drew: a folder or zip of named transparent pictures, or a font with colour emoji.

They have colours of their own, so requests say none. Names are those that captions.jsonl gives the pictures, or Unicode's for a
font's characters; those are taken that
can be counted and that no caption could be read otherwise with.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unnoise.core.errors import InputError
from unnoise.modalities.image.annotations import annotate
from unnoise.modalities.image.decode import SUFFIXES, Target, Unreadable, bombs_refused, decode
from unnoise.modalities.image.scenes.grammar import caption, parse, plainly
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.vocabulary import Vocabulary
from unnoise.modalities.image.scenes.world import Box, Group, Request
from unnoise.modalities.image.sources import entries

FONTS = (".ttf", ".otf", ".ttc")
_SIDE = 128  # pixels that sprites are kept at
_HEIGHTS = (109, 128, 136, 160, 96)  # of the bitmaps in fonts that have no outlines; the first is Noto's
_EMOJI = (range(0x2600, 0x27C0), range(0x1F300, 0x1F650), range(0x1F680, 0x1F700), range(0x1F900, 0x1FB00))
_NOTHING = "\U0010fffe"  # no character, so a font shows its box for what it lacks


@dataclass(frozen=True, eq=False)
class PictureSprites(Sprites):
    """pictures: for every name uint8 RGBA (h, w, 4), cut to what is seen of it."""

    pictures: Mapping[str, np.ndarray] = field(repr=False)
    vocabulary: Vocabulary

    @staticmethod
    def of(pictures: Iterable[tuple[str, np.ndarray]]) -> "PictureSprites":
        """From names and uint8 RGBA (h, w, 4). The first of several with one name stays; empty pictures and unusable names go."""
        kept: dict[str, np.ndarray] = {}
        for name, picture in pictures:
            seen = picture[..., 3] > 127
            if name not in kept and seen.any():
                rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
                kept[name] = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        usable = _unmistakable(sorted(kept))
        return PictureSprites({n: kept[n] for n in usable}, Vocabulary(tuple(usable), ()))

    def aspect(self, name: str) -> float:
        height, width, _ = self.pictures[name].shape
        return min(max(width / height, 0.4), 2.5)  # very long ones are squeezed, or they would be hardly seen

    def room(self, name: str) -> Box | None:
        return None

    def draw(self, name: str, colour: str, width: int, height: int, line: int) -> Image.Image:
        return _resized(self, name, width, height)


@lru_cache(maxsize=2048)
def _resized(sprites: PictureSprites, name: str, width: int, height: int) -> Image.Image:
    return Image.fromarray(sprites.pictures[name]).resize((width, height), Image.Resampling.BOX)


_JOINING = frozenset({"with", "over", "of", "in", "on", "and", "not", "to", "from", "at", "facing", "no", "or"})
"""Names with these have no plain plural."""


def _unmistakable(names: list[str]) -> list[str]:
    """Of the names those of one or two plain words, countable, that captions give back."""
    plain = [
        n
        for n in names
        if n.isascii() and n == n.lower() and n.replace(" ", "").isalpha() and n.count(" ") < 2 and not _JOINING & set(n.split(" "))
    ]
    countable = [n for n in plain if not n.endswith("ing") and (not n.endswith("s") or n.endswith(("ss", "us")))]
    words = Vocabulary(tuple(countable), ())
    return [n for n in countable if all(_read_back(Request((Group(n, k),)), words) for k in (1, 2))]


def _read_back(request: Request, words: Vocabulary) -> bool:
    try:
        return parse(caption(request, plainly), words) == request
    except InputError:
        return False


def read_sprites(path: str | Path) -> PictureSprites:
    """From a font file, or a folder or zip of transparent pictures with names.

    Raises InputError for what does not exist, and where fewer than three named sprites are found.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a font with emoji, or a folder or zip of named transparent pictures")
    sprites = PictureSprites.of(_from_font(path) if path.suffix.lower() in FONTS else _from_pictures(path))
    if len(sprites.pictures) < 3:
        raise InputError(f"{path}: {len(sprites.pictures)} named sprites were found, and a world needs at least 3 kinds of things")
    return sprites


def _from_pictures(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    files = entries(path)
    pictures = [e for e in files if e.suffix in SUFFIXES]
    facts = annotate(pictures, [e for e in files if e.suffix not in SUFFIXES]).facts
    with bombs_refused():
        for entry, said in zip(pictures, facts):
            if said is None or said.variant:
                continue
            try:
                with entry.open() as file:
                    yield said.name, decode(file, Target(_SIDE, _SIDE, 4, (0, 0, 0), pad=True))
            except (Unreadable, OSError, BadZipFile):
                continue


def _from_font(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    font = _opened(path)
    lacking = _glyph(font, _NOTHING)
    for code in (c for block in _EMOJI for c in block):
        name = unicodedata.name(chr(code), "").lower()
        picture = _glyph(font, chr(code))
        if name and not np.array_equal(picture, lacking):
            yield name, picture


def _opened(path: Path) -> ImageFont.FreeTypeFont:
    for height in _HEIGHTS:  # one with bitmaps opens at their size alone
        try:
            return ImageFont.truetype(str(path), height)
        except OSError:
            continue
    raise InputError(f"{path} is no font that can be read; give a .ttf, .otf or .ttc with emoji")


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    left, top, right, bottom = (int(v) for v in font.getbbox(character))
    sheet = Image.new("RGBA", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(sheet).text((-left, -top), character, (0, 0, 0, 255), font, embedded_color=True)
    return np.asarray(sheet)
