"""Pictures in an `.npz`: which array holds them, in which layout and range, and what the labels are called."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.image.annotations import Captions

_PICTURES = ("x", "images", "image", "pictures", "data", "x_train", "train_images", "imgs", "img", "arr_0")
_LABELS = ("y", "labels", "label", "targets", "target", "y_train", "train_labels", "class", "classes", "category", "kind", "arr_1")
_CAPTIONS = ("captions", "caption", "texts", "text", "prompts", "prompt")
_NAMES = ("names", "class_names", "label_names", "classes", "categories")
_LARGEST = 16 * 2**30  # bytes that an array may unpack to


@dataclass(frozen=True)
class ArrayPictures:
    """pixels: uint8 (N, H, W, C), C in 1, 2 (grey and alpha), 3, 4 (colour and alpha). note: what was found, in words."""

    pixels: np.ndarray
    captions: tuple[Captions, ...]
    classes: tuple[str, ...] | None
    layout: str
    labels: str


def read_arrays(path: Path) -> ArrayPictures:
    """Raises InputError for what is no set of pictures, or has labels that do not fit it."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files if _harmless(path, archive.zip, k)}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as e:
        raise InputError(f"{path} cannot be read as an .npz ({e}); write it with numpy.savez(path, x=pictures, y=labels)") from None
    key = _picture_key(path, arrays)
    x, layout = _layout(path, key, arrays[key])
    pixels, scaling = _to_bytes(path, key, x)
    n = len(pixels)
    layout = f"array {key!r}: {layout}, {arrays[key].dtype}{scaling}"
    for k in _CAPTIONS:
        if k in arrays and arrays[k].dtype.kind == "U":
            _same_length(path, k, len(arrays[k]), key, n)
            captions = tuple(_one(c) for c in arrays[k].tolist())
            return ArrayPictures(pixels, captions, None, layout, f"captions from array {k!r}")
    for k in _LABELS:
        if k in arrays and k != key and not (k in _NAMES and len(arrays[k]) != n and arrays[k].dtype.kind == "U"):
            _same_length(path, k, len(arrays[k]), key, n)
            captions, classes, said = _classes(path, k, arrays[k], _names(path, arrays, n))
            return ArrayPictures(pixels, captions, classes, layout, said)
    return ArrayPictures(pixels, ((),) * n, None, layout, "")


def _harmless(path: Path, archive: zipfile.ZipFile, key: str) -> bool:
    """Looks at the header alone: arrays of Python objects would run code when unpickled, and a bomb would fill the memory."""
    member = key if key in archive.namelist() else key + ".npy"
    with archive.open(member) as f:
        version = np.lib.format.read_magic(f)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(f)
    if dtype.hasobject:
        raise InputError(f"{path}: array {key!r} holds pickled Python objects, which are never loaded; save it as numbers or text")
    if (size := dtype.itemsize * int(np.prod([float(s) for s in shape]))) > _LARGEST:
        raise InputError(f"{path}: array {key!r} unpacks to {size / 2**30:.0f} GiB; give so many pictures as a folder or a zip")
    return True


def _picture_key(path: Path, arrays: dict[str, np.ndarray]) -> str:
    lower = {k.lower(): k for k in arrays}
    for name in _PICTURES:
        if name in lower and arrays[lower[name]].ndim >= 3:
            return lower[name]
    deep = [k for k, a in arrays.items() if a.ndim in (3, 4) and a.dtype.kind in "buif"]
    if len(deep) == 1:
        return deep[0]
    shapes = ", ".join(f"{k} {a.shape}" for k, a in arrays.items()) or "nothing"
    raise InputError(f"{path} holds no array that is surely pictures ({shapes}); name one 'x', of shape (N, H, W) or (N, H, W, C)")


def _layout(path: Path, key: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    """-> (N, H, W, C)"""
    if x.ndim == 3 and x.size:
        return x[..., None], f"{len(x):,} grey pictures (N, H, W)"
    if x.ndim == 4 and x.size:
        if x.shape[3] in (1, 2, 3, 4):  # first: a picture 3 pixels high is rarer than one of 3 colours
            return x, f"{len(x):,} pictures (N, H, W, C)"
        if x.shape[1] in (1, 2, 3, 4):
            return x.transpose(0, 2, 3, 1), f"{len(x):,} pictures (N, C, H, W)"
    if x.ndim == 5:
        raise InputError(f"{path}: array {key!r} {x.shape} looks like video, not pictures; give (N, H, W) or (N, H, W, C)")
    raise InputError(
        f"{path}: array {key!r} has shape {x.shape}; pictures are (N, H, W), (N, H, W, C) or (N, C, H, W), 1 to 4 channels"
    )


def _to_bytes(path: Path, key: str, x: np.ndarray) -> tuple[np.ndarray, str]:
    """-> uint8, and what was done to the values, in words."""
    if x.dtype == np.bool_:
        return x.astype(np.uint8) * np.uint8(255), ", true as white"
    if x.dtype.kind not in "uif":
        raise InputError(f"{path}: array {key!r} holds {x.dtype}; pictures are numbers (uint8, int16, float32, bool ...)")
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path}: array {key!r} holds values that are not finite (nan or inf); pictures are 0 to 255, or 0 to 1")
    if low == high:
        raise InputError(f"{path}: array {key!r} is {low:g} everywhere; there is nothing to learn from")
    if low >= 0 and 32 < high <= 255:
        return (x if x.dtype == np.uint8 else np.round(x).astype(np.uint8)), ""
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= -1 and high <= 1 and x.dtype.kind == "f":
        low, high = -1.0, 1.0
    elif low >= 0 and high > 255 and x.dtype == np.uint16:
        low, high = 0.0, 65535.0 if high > 4095 else 4095.0
    elif low >= 0:
        low = 0.0
    out = np.empty(x.shape, dtype=np.uint8)
    for i in range(0, len(x), 1024):  # a slice at a time: the float copy of the whole would be 8 times the set
        out[i : i + 1024] = np.round((x[i : i + 1024].astype(np.float64) - low) * (255 / (high - low)))
    return out, f" from {low:g} to {high:g} stretched to 0 to 255"


def _names(path: Path, arrays: dict[str, np.ndarray], n: int) -> tuple[tuple[str, ...], str] | None:
    """Class names and where they were found: an array, or a text file beside with one a line."""
    for k in _NAMES:
        if k in arrays and arrays[k].dtype.kind == "U" and arrays[k].ndim == 1:
            return tuple(arrays[k].tolist()), f"array {k!r}"
    for name in (f"{path.stem}.labels.txt", f"{path.stem}.classes.txt", "labels.txt", "classes.txt"):
        file = path.with_name(name)
        if file.is_file():
            names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
            while names and not names[-1]:
                names.pop()
            return tuple(names), name
    return None


def _classes(
    path: Path, key: str, y: np.ndarray, named: tuple[tuple[str, ...], str] | None
) -> tuple[tuple[Captions, ...], tuple[str, ...], str]:
    """Labels -> a caption a picture, all class names, and where they came from."""
    if y.dtype.kind == "U" and y.ndim == 1:
        values = [" ".join(str(v).split()) for v in y.tolist()]
        return tuple(map(_one, values)), tuple(sorted(set(values) - {""})), f"classes from array {key!r}"
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    elif y.ndim == 2 and bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
        y = y.argmax(1)
    if y.ndim != 1 or y.dtype.kind not in "buif" or not bool((np.isfinite(y) & (y == np.round(y)) & (y >= 0)).all()):
        raise InputError(
            f"{path}: array {key!r} {y.shape} {y.dtype} is no set of labels; one whole number from 0 on (or name) a picture"
        )
    y = y.astype(np.int64)
    if named is None:
        names = tuple(str(v) for v in np.unique(y))
        said = f"classes from array {key!r}, called by their numbers (no names beside it)"
        return tuple((str(v),) for v in y.tolist()), names, said
    names, where = named
    if not all(names) or len(set(names)) != len(names):
        raise InputError(f"{path}: the class names in {where} must be distinct and not blank, one a line")
    if int(y.max()) >= len(names):
        row = int(y.argmax())
        raise InputError(
            f"{path}: label {y[row]} of picture {row} has no name; {where} names {len(names)} classes (0 to {len(names) - 1})"
        )
    return tuple((names[v],) for v in y), names, f"classes from array {key!r}, named by {where}"


def _same_length(path: Path, key: str, length: int, pictures: str, n: int) -> None:
    if length != n:
        raise InputError(
            f"{path}: {pictures!r} has {n:,} pictures but {key!r} has {length:,} entries; each picture needs exactly one"
        )


def _one(text: str) -> Captions:
    """A caption, or none for a blank."""
    text = " ".join(text.split())
    return (text,) if text else ()
