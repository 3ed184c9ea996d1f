"""Scenes as a set of pictures to train on: `scenes`, or `scenes:` and where sprites lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

from unnoise.core.errors import InputError
from unnoise.modalities.image.annotations import Captions
from unnoise.modalities.image.data import PictureData, PictureOptions
from unnoise.modalities.image.decode import SUFFIXES
from unnoise.modalities.image.scenes.emoji import FONTS, read_sprites
from unnoise.modalities.image.scenes.requests import LEARNT
from unnoise.modalities.image.scenes.rows import Rendered, World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.sources import Entry, entries

WORD = "scenes"
"""What stands in place of a path."""
ROWS = 20_000
"""Different scenes of a set."""
SIZE = 64


def are_scenes(path: str) -> bool:
    return path == WORD or path.startswith(f"{WORD}:")


def read_scenes(path: str, options: PictureOptions = PictureOptions(), rows: int = ROWS) -> PictureData:
    """Scenes of shapes, or of the sprites after the colon; drawn and told when they are asked for.

    Raises InputError for sprites that cannot be read, pictures below 32 or above 512 pixels, and options that do not fit.
    """
    size = options.size or SIZE
    if not 32 <= size <= 512:
        raise InputError(f"scenes of {size} x {size} pixels: 32 to 512; below, letters and small things cannot be made out")
    if options.flip:
        raise InputError("scenes say what is left and right and have words on signs: they cannot be mirrored")
    if options.alpha or options.recaption is not None or options.weights:
        raise InputError("scenes have backgrounds, captions and weights of their own: leave out alpha, recaption and weights")
    if options.shape is not None:
        raise InputError(f"scenes are square: a size in place of the shape {options.shape}")
    if options.buckets is not None or options.background != PictureOptions().background:
        raise InputError("scenes have one size, and nothing transparent to lay over a background: leave out buckets and background")
    if rows < 1:
        raise InputError(f"{rows} rows of scenes: at least 1")
    sprites = path.removeprefix(WORD).removeprefix(":")
    world = World(read_sprites(sprites) if sprites else Shapes(), kinds=LEARNT)
    named = f"{len(world.sprites.vocabulary.names):,} kinds of things"
    notes = (f"{rows:,} scenes of {named} are drawn as they are needed, {size} x {size}", _held_out(world))
    names = tuple(f"scene-{i}" for i in range(rows))
    files = _files(Path(sprites)) if sprites else ()
    return PictureData(Rendered(world, size), size, size, 3, names, Told(world, rows), None, (), notes, options, files=files)


def _files(sprites: Path) -> tuple[Entry, ...]:
    if sprites.suffix.lower() in FONTS:
        return (Entry.of(sprites),)
    return tuple(e for e in entries(sprites) if e.suffix in SUFFIXES)


def _held_out(world: World) -> str:
    return f"{world.split.share:.1%} of the combinations of colours, counts, words and relations are never shown"


@dataclass(frozen=True)
class Told(Sequence[Captions]):
    """The captions of a world's first rows, made when they are asked for: a million of them take no room."""

    world: World
    length: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, row: int) -> Captions: ...
    @overload
    def __getitem__(self, row: slice) -> list[Captions]: ...
    def __getitem__(self, row: int | slice) -> Captions | list[Captions]:
        if isinstance(row, slice):
            return [_said(self.world, r) for r in range(self.length)[row]]
        return _said(self.world, range(self.length)[row])


@lru_cache(maxsize=1 << 15)
def _said(world: World, row: int) -> Captions:
    return world.captions(row)
