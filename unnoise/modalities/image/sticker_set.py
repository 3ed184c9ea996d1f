"""What the model that ships learns from: emoji of several makers, icons, compositions of the emoji, and scenes with signs.

Rows, in this order: every emoji, every icon, `Mix.compositions` compositions, `Mix.scenes` scenes; the last two are functions of
their number and are drawn when they are asked for. Weights give each kind its share of what is drawn in training, whatever its
number of rows. A scene's caption says that it is one: "a green heart" is then the emoji of that name, drawn large, and not one
small thing among others.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.core.random import place_of
from unnoise.modalities.image.annotations import Captions, annotate
from unnoise.modalities.image.data import PictureData, PictureOptions
from unnoise.modalities.image.decode import SUFFIXES, Target, bombs_refused, decode
from unnoise.modalities.image.recaption import VARIANTS, Facts, Recaption, row_weights
from unnoise.modalities.image.scenes.rows import Rendered, World
from unnoise.modalities.image.sources import Entry, entries
from unnoise.modalities.image.stickers import Compositions, Sticker

WORD = "stickers"
"""As a place for data: `stickers:FOLDER`, or alone for the folder that $UNNOISE_DATA names."""
_SETS = ("emoji", "icons")
_FINE = 72
"""Side of the pictures that compositions are made of."""
_LONGEST = 120
"""Bytes of a caption; longer ones are left out."""


@dataclass(frozen=True)
class Mix:
    """How much of what; shares are of the pictures drawn in training, and those of absent kinds fall to the others."""

    compositions: int = 30_000
    scenes: int = 12_000
    share_icons: float = 0.12
    share_compositions: float = 0.3
    share_scenes: float = 0.06
    rare: Mapping[str, float] = field(default_factory=lambda: {VARIANTS: 0.25, "flags": 0.3, "symbols": 0.5, "people body": 0.6})
    """How often emoji of these groups are drawn, against the others; groups that a set lacks are passed over."""
    held_out: float = 0.02
    """Share of the names that no picture of is learnt from, alone or in a composition."""
    captions: Recaption = Recaption(count=10, short=0.4)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.compositions, self.scenes) < 0:
            raise InputError(f"{self.compositions} compositions and {self.scenes} scenes: 0 or more of each")
        shares = (self.share_icons, self.share_compositions, self.share_scenes)
        if min(shares) < 0 or sum(shares) >= 1:
            raise InputError(f"shares {shares} of icons, compositions and scenes must leave something for the emoji themselves")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out {self.held_out} is a share of the names: from 0 to below 1")

    def holds_out(self, name: str) -> bool:
        return place_of(f"sticker/{name}") < self.held_out


@dataclass(frozen=True)
class _Kind:
    """Some rows: uint8 (size, size, 4) and captions of row i, and what all of them weigh together."""

    length: int
    pixels: Callable[[int], np.ndarray]
    captions: Callable[[int], Captions]
    weights: np.ndarray
    label: str


@dataclass(frozen=True)
class _Mixed:
    """The pixels of several kinds of rows, one after another."""

    kinds: tuple[_Kind, ...] = field(repr=False)

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        ends = np.cumsum([k.length for k in self.kinds])
        out = []
        for row in rows:
            which = int(np.searchsorted(ends, row, "right"))
            out.append(self.kinds[which].pixels(int(row) - int(ends[which]) + self.kinds[which].length))
        return np.stack(out)


def are_stickers(path: str) -> bool:
    return path == WORD or path.startswith(f"{WORD}:")


def sticker_folders(path: str) -> list[Path]:
    """Where the pictures lie that `path` (see WORD) speaks of: the folder, or `emoji` and `icons` in it. InputError for none."""
    folder = path.removeprefix(WORD).removeprefix(":") or os.environ.get("UNNOISE_DATA", "")
    if not folder:
        raise InputError(
            f"{WORD}: no folder is named; say {WORD}:FOLDER, with emoji/ (zips of PNGs with captions.jsonl) and icons/ in it, or "
            "set UNNOISE_DATA"
        )
    if not Path(folder).is_dir():
        raise InputError(f"{folder} does not exist; give the folder that holds emoji/ and icons/")
    return [Path(folder, s) for s in _SETS if Path(folder, s).is_dir()] or [Path(folder)]


def read_stickers(folders: Sequence[Path], size: int, mix: Mix = Mix(), options: PictureOptions = PictureOptions()) -> PictureData:
    """RGBA pictures of `size` x `size` in the folders (folders or zips whose captions.jsonl gives names), and what `mix` adds.

    Raises InputError where no named transparent picture is found, for sizes that are not 16 to 512, and options that do not fit.
    """
    if options.flip or options.buckets is not None or options.recaption is not None or options.weights:
        own = "stickers have one size, words on signs, and captions and weights of their own"
        raise InputError(f"{own}: leave out flip, buckets, recaption and weights")
    if options.shape is not None:
        raise InputError(f"stickers are square: a size in place of the shape {options.shape}")
    if options.background != PictureOptions().background:
        raise InputError(f"background {options.background}: stickers stay transparent, and lie over none; leave it out")
    if not 16 <= size <= 512:
        raise InputError(f"stickers of {size} x {size} pixels: 16 to 512, and 64 is usual")
    found = [_found(f, mix.holds_out) for f in folders]
    stickers, icons = ([s for kinds in found for s in kinds[i]] for i in (0, 1))
    path = ", ".join(map(str, folders))
    if len(stickers) < 2:
        raise InputError(f"{path}: no transparent pictures with names; folders or zips of PNGs with a captions.jsonl are wanted")
    kinds = [_emoji(stickers, size, mix)]
    if icons:
        kinds.append(_icons(icons, size, mix))
    if mix.compositions:
        kinds.append(_compositions(stickers, size, mix))
    if mix.scenes:
        kinds.append(_scenes(size, mix))
    total = sum(k.length for k in kinds)
    notes = (f"{path}: " + ", ".join(f"{k.length:,} {k.label}" for k in kinds), f"{size} x {size} with transparency")
    return PictureData(
        _Mixed(tuple(kinds)), size, size, 4,
        tuple(f"{k.label}-{i}" for k in kinds for i in range(k.length)),
        tuple(k.captions(i) for k in kinds for i in range(k.length)),
        None, (), notes, options, weights=tuple(np.concatenate([k.weights for k in kinds]).tolist()) if total else None,
        files=tuple(e for f in folders for e in entries(f) if e.suffix in SUFFIXES),
    )  # fmt: skip


def read_drawings(folders: Sequence[Path], size: int) -> list[Sticker]:
    """All transparent pictures with names in the folders, those whose names are held out too: what a model is measured with."""
    found = [s for f in folders for s in _found(f, lambda name: False)[0]]
    return [replace(s, pixels=_resized(s.pixels, size)) for s in found]


def _found(path: Path, left_out: Callable[[str], bool]) -> tuple[list[Sticker], list[Sticker]]:
    """(emoji, icons): transparent pictures, and grey ones, whose white becomes black ink."""
    files = entries(path)
    pictures = [e for e in files if e.suffix in SUFFIXES]
    facts = annotate(pictures, [e for e in files if e.suffix not in SUFFIXES]).facts
    emoji: list[Sticker] = []
    icons: list[Sticker] = []
    with bombs_refused():
        for entry, said in zip(pictures, facts):
            if said is None or left_out(said.name):
                continue
            pixels = _read(entry)
            (icons if pixels.shape[-1] == 1 else emoji).append(Sticker(_inked(pixels), said))
    return emoji, icons


def _read(entry: Entry) -> np.ndarray:
    with entry.open() as file, Image.open(file) as image:
        channels = 1 if image.mode == "L" else 4
        file.seek(0)
        return decode(file, Target(_FINE, _FINE, channels, (0, 0, 0), pad=True))


def _inked(pixels: np.ndarray) -> np.ndarray:
    """White on black (S, S, 1) -> black on nothing (S, S, 4)."""
    if pixels.shape[-1] == 4:
        return pixels
    return np.concatenate([np.zeros((*pixels.shape[:2], 3), np.uint8), pixels], -1)


def _resized(pixels: np.ndarray, size: int) -> np.ndarray:
    x = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS))
    return np.where(x[..., 3:] > 0, x, np.uint8(0))


def _weighted(weights: np.ndarray, share: float) -> np.ndarray:
    return weights * (share / weights.sum())


def _short_enough(captions: Captions) -> Captions:
    kept = tuple(c for c in captions if len(c.encode()) <= _LONGEST)
    return kept or captions[:1]


def _emoji(stickers: Sequence[Sticker], size: int, mix: Mix) -> _Kind:
    facts = [s.facts for s in stickers]
    groups = {f.group for f in facts} | {VARIANTS}
    weights = np.array(row_weights(facts, {g: w for g, w in mix.rare.items() if g in groups and _any(facts, g)}))
    share = 1 - mix.share_icons - mix.share_compositions - mix.share_scenes
    return _Kind(
        len(stickers),
        lambda i: _resized(stickers[i].pixels, size),
        lambda i: _short_enough(mix.captions.captions(facts[i], f"{facts[i].style}/{facts[i].name}")),
        _weighted(weights, share),
        "emoji",
    )


def _any(facts: Sequence[Facts], group: str) -> bool:
    return any(f.variant if group == VARIANTS else f.group == group for f in facts)


def _icons(icons: Sequence[Sticker], size: int, mix: Mix) -> _Kind:
    return _Kind(
        len(icons),
        lambda i: _resized(icons[i].pixels, size),
        lambda i: (f"{icons[i].facts.name}, black icon", f"icon of {icons[i].facts.name}"),
        _weighted(np.ones(len(icons)), mix.share_icons),
        "icons",
    )


def _compositions(stickers: Sequence[Sticker], size: int, mix: Mix) -> _Kind:
    made = Compositions(stickers, size, mix.seed)
    return _Kind(
        mix.compositions,
        made.make,
        made.captions,
        _weighted(np.ones(mix.compositions), mix.share_compositions),
        "compositions",
    )


def _scenes(size: int, mix: Mix) -> _Kind:
    world = World(seed=mix.seed)
    drawn = Rendered(world, size)

    def opaque(i: int) -> np.ndarray:
        pixels = drawn([i])[0]
        return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)], -1)

    def captions(i: int) -> Captions:
        return tuple(f"scene with {c}" for c in world.captions(i))

    return _Kind(mix.scenes, opaque, captions, _weighted(np.ones(mix.scenes), mix.share_scenes), "scenes")
