"""Any set of pictures -> PictureData: a folder, a zip, several zips in a folder, or an `.npz`. Says what it found and chose."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np
from PIL import Image
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.modalities.conditioning import normalised
from unnoise.modalities.image.annotations import Annotations, Captions, annotate
from unnoise.modalities.image.arrays import read_arrays
from unnoise.modalities.image.buckets import Bucketed, bucket_sizes, nearest
from unnoise.modalities.image.data import InMemory, OnDisk, PictureData, PictureOptions, Pixels, Skipped
from unnoise.modalities.image.decode import (
    LARGEST_PIXELS,
    SUFFIXES,
    Header,
    Target,
    Unreadable,
    bombs_refused,
    colour,
    decode,
    fit,
    flatten,
    inspect,
)
from unnoise.modalities.image.recaption import Recaption, row_weights
from unnoise.modalities.image.sizes import tell_apart, told_size
from unnoise.modalities.image.sources import LARGEST_FILE, Entry, entries

_SIZES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_WANTED = "a folder or .zip of jpg, png, webp, gif, bmp or tiff pictures, or an .npz"
_DEFAULTS = PictureOptions()
_COLOURS = {1: "grey", 3: "colour", 4: "colour and transparency"}
J = TypeVar("J")
T = TypeVar("T")


def read_pictures(path: str | Path, options: PictureOptions = _DEFAULTS, *, progress: bool = True) -> PictureData:
    """Reads a set of pictures. Broken files are left out and listed in `skipped`; InputError if none is left.

    progress: bars on the terminal while many files are read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give {_WANTED}")
    if path.is_dir() or path.suffix.lower() == ".zip":
        return _read_files(path, options, progress)
    if path.suffix.lower() == ".npz":
        return _read_npz(path, options)
    kind = f"a {path.suffix} file" if path.suffix else "a file without an extension"
    raise InputError(f"{path} is {kind}, which cannot be read as a set of pictures; give {_WANTED}")


def _read_files(path: Path, options: PictureOptions, progress: bool) -> PictureData:
    everything = entries(path)
    candidates = [e for e in everything if e.suffix in SUFFIXES]
    others = [e for e in everything if e.suffix not in SUFFIXES]
    if not candidates:
        arrays = [e.where for e in others if e.suffix == ".npz" and e.member is None]
        if len(arrays) == 1:
            return _read_npz(arrays[0], options)
        there = f"only {_suffixes(others)}" if others else "it is empty"
        raise InputError(f"{path} holds no pictures ({there}); give {_WANTED}")
    with bombs_refused():
        looked = _map(candidates, _header, options.threads, "looking at pictures", progress)
    skipped = [Skipped(e.name, r) for e, r in zip(candidates, looked) if isinstance(r, str)]
    kept = [e for e, r in zip(candidates, looked) if not isinstance(r, str)]
    headers = [h for h in looked if not isinstance(h, str)]
    if not kept:
        raise _none_left(path, skipped)
    height, width, chosen = _choose_size([(h.height, h.width) for h in headers], options)
    background = colour(options.background)
    alpha = [h.alpha for h in headers]
    grey = all(h.grey for h in headers) and not (any(alpha) and len(set(background)) > 1)
    target = Target(height, width, _channels(grey, any(alpha), options), background, options.pad)
    if options.buckets is not None:
        target, chosen = _square(target, options.size, options.buckets, chosen)
    targets = _targets(target, headers, options.buckets)
    pixels: Pixels
    if sum(t.height * t.width for t in targets) * target.channels <= options.memory * 2**30:

        def read(job: tuple[Entry, Target]) -> np.ndarray | str:
            try:
                with job[0].open() as f:
                    return decode(f, job[1])
            except (Unreadable, OSError, BadZipFile) as error:
                return str(error)

        with bombs_refused():
            decoded = _map(list(zip(kept, targets)), read, options.threads, "reading pictures", progress)
        skipped += [Skipped(e.name, r) for e, r in zip(kept, decoded) if isinstance(r, str)]
        alpha = [a for a, r in zip(alpha, decoded) if not isinstance(r, str)]
        kept = [e for e, r in zip(kept, decoded) if not isinstance(r, str)]
        targets = [t for t, r in zip(targets, decoded) if not isinstance(r, str)]
        headers = [h for h, r in zip(headers, decoded) if not isinstance(r, str)]
        if not kept:
            raise _none_left(path, skipped)
        pictures = [r for r in decoded if not isinstance(r, str)]
        if target.channels == 3 and all(bool((p == p[..., :1]).all()) for p in pictures):
            pictures = [p[..., :1] for p in pictures]  # colour files of grey pictures
            target = replace(target, channels=1)
        pixels, where = _stored(targets, target, lambda some: InMemory(np.stack([pictures[i] for i in some]))), ""
        channels = target.channels
    else:
        pixels = _stored(targets, target, lambda some: OnDisk(tuple(kept[i] for i in some), targets[some[0]]))
        channels = target.channels
        where = f"they would fill more than {options.memory:g} GiB, so each is decoded when it is needed"

    said = annotate(kept, others)
    if options.recaption is not None:
        said = _recaptioned(path, said, kept, options.recaption)
    weights = row_weights(said.facts, options.weights) if options.weights else None
    captions, cut = _shortened(said.captions, options.caption_bytes, said.classes)
    ignored = [e for e in others if e.name not in said.used]
    notes = (
        f"{len(kept):,} pictures ({_suffixes(kept)}) in {path}{_transparency(sum(alpha), len(kept), options)}",
        f"{_COLOURS[channels]}, {chosen}",
        _what_is_said(captions, said.classes, said.note),
        cut,
        _variation(options, any(captions)),
        where,
        f"{len(ignored):,} other file{'s' * (len(ignored) > 1)} left alone ({_suffixes(ignored)})" if ignored else "",
    )
    skipped.sort(key=lambda s: s.name)
    names = tuple(e.name for e in kept)
    sizes = tuple(told_size(h.height, h.width, t) for h, t in zip(headers, targets))
    return PictureData(
        pixels, target.height, target.width, channels, names, captions, said.classes, tuple(skipped),
        tuple(n for n in notes if n), options, weights=weights, sizes=sizes if tell_apart(sizes) else None,
        files=tuple(kept),
    )  # fmt: skip


def _recaptioned(path: Path, said: Annotations, pictures: Sequence[Entry], mix: Recaption) -> Annotations:
    """New captions for every picture of which enough is said."""
    known = sum(f is not None for f in said.facts)
    if not known:
        raise InputError(
            f"{path}: no picture has a name to make captions of; metadata.jsonl or captions.jsonl must give `name`, and may give "
            "`keywords`, `group` and `style`"
        )
    captions = tuple(c if f is None else mix.captions(f, e.name) for c, f, e in zip(said.captions, said.facts, pictures))
    note = f"{mix.count} captions made for each of {known:,} pictures, {mix.short:.0%} of them short"
    return replace(said, captions=captions, classes=None, note=note)


def _read_npz(path: Path, options: PictureOptions) -> PictureData:
    if options.buckets is not None:
        raise InputError(f"{path}: the pictures of an npz are all of one size; buckets are for files of several shapes")
    if options.recaption is not None or options.weights:
        raise InputError(f"{path}: an npz says nothing of its pictures but labels; captions and groups come from a metadata.jsonl")
    found = read_arrays(path)
    n, h, w, c = found.pixels.shape
    if min(h, w) < 4 or h * w > LARGEST_PIXELS:
        raise InputError(
            f"{path}: pictures of {h} x {w} pixels; the sides must be at least 4, and at most {LARGEST_PIXELS:,} pixels in all"
        )
    height, width, chosen = _choose_size([(h, w)] * n, options)
    background = colour(options.background)
    grey = c == 1 or (c == 2 and len(set(background)) == 1)
    target = Target(height, width, _channels(grey, c in (2, 4), options), background, options.pad)
    array = found.pixels
    if c in (2, 4) or c != target.channels or (h, w) != (height, width):
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[c]
        flat = (flatten(Image.frombytes(mode, (w, h), np.ascontiguousarray(x).tobytes()), target) for x in array)
        array = np.stack([fit(im, target) for im in flat])
    captions, cut = _shortened(found.captions, options.caption_bytes, found.classes)
    notes = (
        f"{path}, {found.layout}{_transparency(n if c in (2, 4) else 0, n, options)}",
        f"{_COLOURS[target.channels]}, {chosen}",
        _what_is_said(captions, found.classes, found.labels),
        cut,
        _variation(options, any(captions)),
    )
    names = tuple(str(i) for i in range(n))
    pixels = InMemory(np.ascontiguousarray(array))
    channels = target.channels
    return PictureData(
        pixels, height, width, channels, names, captions, found.classes, (), tuple(n for n in notes if n), options,
        files=(Entry.of(path),),
    )  # fmt: skip


def _header(e: Entry) -> Header | str:
    if e.size == 0:
        return "empty file (0 bytes)"
    if e.size > LARGEST_FILE:
        return f"{e.size / 2**20:.0f} MiB, over {LARGEST_FILE // 2**20}"
    try:
        with e.open() as f:
            return inspect(f)
    except (Unreadable, OSError, BadZipFile) as error:
        return str(error)


def _map(items: Sequence[J], f: Callable[[J], T], threads: int, what: str, progress: bool) -> list[T]:
    with ThreadPoolExecutor(threads) as pool:
        return list(tqdm(pool.map(f, items), total=len(items), desc=what, unit="", disable=not progress, leave=False))


def _none_left(path: Path, skipped: Sequence[Skipped]) -> InputError:
    few = "; ".join(map(str, skipped[:3])) + ("; ..." if len(skipped) > 3 else "")
    return InputError(f"none of the {len(skipped):,} pictures in {path} can be used ({few}); give {_WANTED}")


def _choose_size(sizes: Sequence[tuple[int, int]], options: PictureOptions) -> tuple[int, int, str]:
    """(height, width, why): the shape asked for; all pictures' own size if that is one and small; or else a square."""
    kinds = Counter(sizes)
    if len(kinds) == 1:
        h, w = sizes[0]
        of = f"all {w} x {h} pixels"
        small = options.shape is None and options.size is None and max(h, w) <= options.largest
        if small or options.size == h == w or options.shape == (h, w):
            return h, w, f"{of}, trained as they are"
    else:
        (h, w), count = kinds.most_common(1)[0]
        sides = sorted(min(s) for s in sizes)
        of = f"{len(kinds):,} sizes (shorter sides {sides[0]} to {sides[-1]} pixels, most often {w} x {h}: {count:,})"
    median = int(np.median([min(s) for s in sizes]))
    side = options.size or max((s for s in _SIZES if s <= min(median, options.largest)), default=_SIZES[0])
    height, width = options.shape or (side, side)
    whole = "to a square" if height == width else "to that shape"
    cut = f", padded {whole}" if options.pad else f", cropped {whole} about the centre"
    shape = "" if all(h * width == w * height for h, w in kinds) else cut
    enlarged = sum(n for (h, w), n in kinds.items() if h < height or w < width)
    larger = f"; {enlarged:,} of them are smaller and were enlarged" if enlarged else ""
    return height, width, f"{of}, trained at {width} x {height} (antialiased Lanczos{shape}){larger}"


def _square(target: Target, size: int | None, step: int, chosen: str) -> tuple[Target, str]:
    """The square that pictures of every shape have the area of, and what is said of them."""
    side = size or max(step, step * round((target.height * target.width) ** 0.5 / step))
    sizes = bucket_sizes(side, step)
    (long, short), found = sizes[-1], chosen.partition(", trained")[0]
    shapes = f"{len(sizes)} shapes from {long} x {short} to {short} x {long} pixels"
    return replace(target, height=side, width=side), f"{found}, each trained at the nearest of {shapes}"


def _targets(square: Target, headers: Sequence[Header], step: int | None) -> list[Target]:
    """What each picture becomes: of the square's size, or of the nearest shape of its area."""
    if step is None:
        return [square] * len(headers)
    shapes = [replace(square, height=h, width=w) for h, w in bucket_sizes(square.height, step)]
    sizes = [(t.height, t.width) for t in shapes]
    return [shapes[nearest(h.height, h.width, sizes)] for h in headers]


def _stored(targets: Sequence[Target], square: Target, store: Callable[[Sequence[int]], Pixels]) -> Pixels:
    """Pictures of one size as they are, those of several by bucket; store(numbers) keeps some of one size."""
    sizes = sorted({(t.height, t.width) for t in targets})
    if sizes == [(square.height, square.width)]:
        return store(range(len(targets)))
    buckets = np.array([sizes.index((t.height, t.width)) for t in targets])
    members = [np.flatnonzero(buckets == b) for b in range(len(sizes))]
    places = np.zeros(len(targets), dtype=np.int64)
    for some in members:
        places[some] = np.arange(len(some))
    return Bucketed(tuple(store(some.tolist()) for some in members), buckets, places, square)


def _shortened(captions: Sequence[Captions], limit: int, classes: tuple[str, ...] | None) -> tuple[tuple[Captions, ...], str]:
    """Captions over the limit of bytes cut at the last word that fits, and a sentence that says so."""
    if classes is not None:
        return tuple(captions), ""
    cut = 0
    out = []
    for texts in captions:
        new = []
        for text in texts:
            short = normalised(text)
            if len(short.encode()) > limit:
                head = short.encode()[:limit].decode(errors="ignore")
                new.append((head.rpartition(" ")[0] or head).rstrip(" ,;:"))
                cut += 1
            else:
                new.append(text)
        out.append(tuple(new))
    return tuple(out), f"{cut:,} captions longer than {limit} bytes were cut" if cut else ""


def _what_is_said(captions: Sequence[Captions], classes: tuple[str, ...] | None, note: str) -> str:
    said = sum(map(bool, captions))
    if not said:
        return "no captions or classes: it learns to draw without being told what"
    if classes is not None:
        few = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        what = f"{note}: {len(classes):,} ({few})"
    else:
        example = next(t[0] for t in captions if t)
        distinct = len({x for t in captions for x in t})
        same = distinct == 1 and said > 1
        what = f"{note}: " + (f"all {said:,} the same, {example!r}" if same else f"{distinct:,} different, such as {example!r}")
    rest = len(captions) - said
    return what + (f"; {rest:,} pictures have none, and are learnt without" if rest else "")


def _channels(grey: bool, transparent: bool, options: PictureOptions) -> int:
    return 4 if options.alpha and transparent else 1 if grey else 3


def _transparency(n: int, of: int, options: PictureOptions) -> str:
    if not n:
        return ", none with transparency that could be kept" if options.alpha else ""
    kept = "is kept" if options.alpha else f"is laid over {options.background}"
    return f", {'all' if n == of else format(n, ',')} with transparency, which {kept}"


def _variation(options: PictureOptions, told: bool) -> str:
    flips = "half of them mirrored at random" if options.flip else "never mirrored"
    drops = f"; what is said of them is withheld {options.caption_drop:.0%} of the time" if told and options.caption_drop else ""
    kept_back = f"; {options.held_out:.0%} kept back from training" if options.held_out else ""
    return flips + drops + kept_back


def _suffixes(files: Sequence[Entry]) -> str:
    kinds = Counter(PurePosixPath(e.name).suffix.lower().lstrip(".") or "no extension" for e in files)
    few = [k for k, _ in kinds.most_common(4)]
    return ", ".join(few) + (", ..." if len(kinds) > 4 else "")
