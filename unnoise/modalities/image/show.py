"""Pictures for people: PNG files that say how they were made, contact sheets, and the path of a sample out of the noise."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.modalities.words.emoji_names import named_emoji

_KEY = "unnoise"
SHEET = "sheet.png"
"""What a contact sheet is called that lies beside its pictures."""
_MOST = 256  # pictures on one sheet
_INK, _PAPER, _GAP, _FONT = (40, 40, 40), (238, 238, 238), 8, 13
Picture = np.ndarray | Tensor
"""uint8 (H, W, C), C 1, 3 or 4 (straight alpha)."""


def to_image(picture: Picture) -> Image.Image:
    """InputError for what is not uint8 (H, W, 1, 3 or 4)."""
    x = np.asarray(picture)
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] not in (1, 3, 4):
        raise InputError(f"a picture is uint8 (H, W, 1, 3 or 4); this is {x.dtype} {x.shape}")
    return Image.fromarray(np.ascontiguousarray(x[..., 0] if x.shape[2] == 1 else x))


def save_png(path: str | Path, picture: Picture | Image.Image, meta: Mapping[str, Any]) -> None:
    """Writes the picture with `meta` (anything JSON can say: prompt, seed, model, settings) inside, for `read_meta`.

    The file appears whole or not at all, and replaces one of that name. OSError where it cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt(_KEY, json.dumps(dict(meta), sort_keys=True, allow_nan=False))
    image = picture if isinstance(picture, Image.Image) else to_image(picture)
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as f:
            image.save(f, format="PNG", pnginfo=info)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are for the owner's eyes alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_pictures(pictures: Sequence[Picture], out: Path, meta: Sequence[Mapping[str, Any]]) -> list[Path]:
    """0000-red-apple.png ... with meta[i] and its "index" inside, and sheet.png with what all share.

    Returns the files, the sheet last.

    "prompt" in `meta` gives the captions of the sheet, one row a prompt where each has several pictures.
    """
    if len(meta) != len(pictures):
        raise InputError(f"{len(meta)} rows of metadata for {len(pictures)} pictures; give one for each")
    prompts = [row.get("prompt") for row in meta]
    files = []
    for i, (picture, row) in enumerate(zip(pictures, meta)):
        files.append(out / f"{i:04d}{_slug(prompts[i])}.png")
        save_png(files[-1], picture, {**row, "index": i})
    shown = min(len(pictures), _MOST)
    runs = [len(list(run)) for _, run in groupby(prompts[:shown])]
    columns = runs[0] if len(runs) > 1 and len(set(runs)) == 1 and 1 < runs[0] <= 16 else None
    captions = [p or "" for p in prompts[:shown]] if any(prompts) else None
    title = f"the first {shown} of {len(pictures)}" if shown < len(pictures) else ""
    shared = {k: v for k, v in meta[0].items() if all(row.get(k) == v for row in meta)}
    own = [*("prompt", "sample_seed"), *(k for k in ("start", "fill", "mask", "change", "follow") if k not in shared)]
    each = {k + "s": [row.get(k) for row in meta] for k in own if any(k in row for row in meta)}
    files.append(out / SHEET)
    save_png(files[-1], sheet(pictures[:shown], captions, columns=columns, title=title), {**shared, **each, "sheet": True})
    return files


def _slug(prompt: str | None) -> str:
    words = re.findall(r"[a-z0-9]+", named_emoji(prompt or "").lower())
    return ("-" + "-".join(words))[:40].rstrip("-") if words else ""


def read_meta(path: str | Path | IO[bytes]) -> dict[str, Any]:
    """What `save_png` wrote. InputError for a file that is no PNG, or has nothing of ours in it."""
    try:
        with Image.open(path, formats=("PNG",)) as im:
            text = im.text.get(_KEY) if isinstance(im, PngImagePlugin.PngImageFile) else None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a PNG that unnoise wrote") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise InputError(f"{path} is not a PNG that can be read ({e}); give one that unnoise wrote") from None
    try:
        meta = json.loads(text) if text is not None else None
    except ValueError:
        meta = None
    if not isinstance(meta, dict):
        raise InputError(f"{path} does not say how it was made; only PNGs as unnoise wrote them do (editors drop it)")
    return meta


def is_sheet(name: str, file: Path | IO[bytes]) -> bool:
    """Whether a file of this name is a contact sheet that `write_pictures` wrote beside its pictures."""
    if name != SHEET:
        return False
    try:
        return bool(read_meta(file).get("sheet"))
    except InputError:
        return False


def sheet(
    pictures: Sequence[Picture],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    title: str = "",
    smallest: int = 128,
) -> Image.Image:
    """A contact sheet: pictures of one size in rows, each over its caption; `columns` None makes it about square. Emoji in
    captions are written as their names: the font has none.

    Pictures under `smallest` pixels are enlarged by whole factors, each pixel a crisp square. What is transparent shows a light
    chequered ground.
    """
    if not len(pictures):
        raise InputError("a contact sheet needs at least one picture")
    images = [to_image(p) for p in pictures]
    if captions is not None and len(captions) != len(images):
        raise InputError(f"{len(captions)} captions for {len(images)} pictures; give one for each, or none")
    columns = min(len(images), columns or int(np.ceil(np.sqrt(len(images) * (1.0 if captions is None else 1.3)))))
    scale = max(1, round(smallest / max(images[0].size)))
    cell_w, cell_h = (max(im.size[i] for im in images) * scale for i in (0, 1))
    font = ImageFont.load_default(_FONT)
    texts = [_wrapped(named_emoji(c), font.getlength, cell_w) for c in captions] if captions is not None else [[] for _ in images]
    line = _FONT + 4
    tops = [(_FONT + 10 if title else 0) + _GAP]  # of each row, and the end of the last
    for first in range(0, len(texts), columns):
        lines = max(map(len, texts[first : first + columns]))
        tops.append(tops[-1] + cell_h + (lines * line + 4 if lines else 0) + _GAP)
    width, height = columns * (cell_w + _GAP) + _GAP, tops[-1]
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((_GAP, _GAP), _cut(title, font.getlength, width - 2 * _GAP), fill=_INK, font=font)
    for i, (im, wrapped) in enumerate(zip(images, texts)):
        x, y = _GAP + i % columns * (cell_w + _GAP), tops[i // columns]
        page.paste(_on_ground(im.resize((im.width * scale, im.height * scale), Image.Resampling.NEAREST)), (x, y))
        for k, text in enumerate(wrapped):
            draw.text((x + (cell_w - font.getlength(text)) / 2, y + cell_h + 4 + k * line), text, fill=_INK, font=font)
    return page


def path_strip(frames: Sequence[Sequence[Picture]], captions: Sequence[str] | None = None, *, title: str = "") -> Image.Image:
    """Samples on their way out of the noise: frames[k] holds the B pictures after some steps; one row a sample, time to the right.

    captions: one a frame (such as the time), written under the last row's frames.
    """
    if not frames or len({len(f) for f in frames}) != 1:
        raise InputError("a path needs at least one frame, and every frame the same number of pictures")
    flat = [f[row] for row in range(len(frames[0])) for f in frames]
    texts = [""] * (len(flat) - len(frames)) + list(captions) if captions is not None else None
    return sheet(flat, texts, columns=len(frames), title=title, smallest=96)


def _wrapped(text: str, length: Callable[[str], float], width: float, lines: int = 3) -> list[str]:
    """At most `lines` lines that fit the width, broken between words where that goes."""
    out: list[str] = []
    for word in text.split():
        if out and length(f"{out[-1]} {word}") <= width:
            out[-1] += f" {word}"
        else:
            out.append(word)
    if len(out) > lines:
        out = [*out[: lines - 1], " ".join(out[lines - 1 :])]
    return [_cut(s, length, width) for s in out]


def _on_ground(im: Image.Image) -> Image.Image:
    """Squares of white and near white behind what is transparent."""
    if im.mode != "RGBA":
        return im
    row, column = np.indices((im.height, im.width)) // 8
    ground = np.where((row + column) % 2, 255, 244).astype(np.uint8)
    return Image.alpha_composite(Image.fromarray(ground).convert("RGBA"), im).convert("RGB")


def _cut(text: str, length: Callable[[str], float], width: float) -> str:
    if length(text) <= width:
        return text
    while text and length(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
