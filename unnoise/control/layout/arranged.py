"""Several things in one picture, by a model that draws one at a time: laid out first, drawn alone, put together.

    request    counts, things and relations of the prompt: the grammar of scenes, with the prompt's own nouns as its vocabulary
    layout     `scenes.place`, once it is known how wide each thing is: right by construction
    things     each kind alone, by its bare name, from a seed derived from the sample's; cut to what is seen of it
    signs      drawn by `scenes.draw`, for models that draw one thing at a time seldom spell
    picture    the things resized to their boxes, the deeper ones first; nothing behind them, white where pictures are opaque

What comes out can be begun with (`Start` at a small strength), so that the model goes over it. Things of opaque pictures are put
there with what is around them.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from unnoise.control.layout.planner import placed
from unnoise.core.errors import InputError
from unnoise.core.random import derive
from unnoise.modalities.image.scenes.draw import FINER, draw_sign, pixels, stroke
from unnoise.modalities.image.scenes.emoji import PictureSprites
from unnoise.modalities.image.scenes.grammar import parse, vocabulary_of
from unnoise.modalities.image.scenes.place import has_room
from unnoise.modalities.image.scenes.vocabulary import BACKDROPS, NUMBERS, plural, singular
from unnoise.modalities.image.scenes.world import Relation, Request, Scene
from unnoise.modalities.words.emoji_names import named_emoji

_NUMBERED = {"a", "an", "the", *NUMBERS, *map(str, range(1, len(NUMBERS) + 1))}
_SEVERAL = {*NUMBERS[1:], *map(str, range(2, len(NUMBERS) + 1))}
_JOINED = {"of", "and", "above", "below", "under", "over", "behind", "inside"}
_NO_NAME = frozenset(
    ("no", "not", "without", "but", "of", "in", "on", "at", "for", "to", "by", "hundred", "thousand", "million", "dozen", "break")
)
DrawThings = Callable[[Sequence[str], Sequence[int]], np.ndarray]
"""Names and seeds -> uint8 pictures (B, H, W, C), one of each."""


def arranged(prompts: Sequence[str], seeds: Sequence[int], draw: DrawThings, side: int) -> np.ndarray:
    """uint8 (B, side, side, C): for each prompt, from its own seed, what it asks for, where it asks for it.

    Raises InputError, before anything is drawn, for prompts that the grammar does not read, or that are of signs alone.
    """
    prompts = [spelled(prompt) for prompt in prompts]
    requests = [asked(prompt) for prompt in prompts]
    kinds = [(i, name) for i, request in enumerate(requests) for name in dict.fromkeys(g.name for g in request.groups)]
    drawn = draw([name for _, name in kinds], [derive(seeds[i], name) for i, name in kinds])
    out = []
    for i, (prompt, request) in enumerate(zip(prompts, requests)):
        things = {name: cut(drawn[k]) for k, (row, name) in enumerate(kinds) if row == i}
        sprites = PictureSprites(things, vocabulary_of(prompt))
        scene = placed(request, sprites, np.random.Generator(np.random.Philox(key=derive(seeds[i], "layout"))))
        out.append(together(scene, sprites, side, drawn.shape[-1], request.backdrop))
    return np.stack(out)


def spelled(prompt: str) -> str:
    """Emoji as captions have things: "two 🐱 left of 🐶" is "two cat faces left of a dog face", and "🍎 🍎" are two red apples."""

    def named(found: re.Match[str]) -> str:
        name, count = found[1].strip(), found[0].count("\0") // 2
        before = found.string[: found.start()].lower().rstrip("\0 ").split()[-1:]
        if count > 1 and before not in [[n] for n in _NUMBERED]:
            return f" {NUMBERS[count - 1] if count <= len(NUMBERS) else count} {_several(name)} "
        if count > 1:
            return f" {name}" * count + " "
        if not before or before[0] in _JOINED or before[0].endswith(","):
            return f" a {name} "
        return f" {_several(name) if before[0] in _SEVERAL else name} "

    return " ".join(re.sub(r"\0([^\0]+)\0(?:\s*\0\1\0)*", named, named_emoji(prompt, "\0")).split())


def _several(name: str) -> str:
    """The plural of an emoji's name, which may be one already: "eyes"."""
    return plural(name) if singular(plural(name)) == name else name


def asked(prompt: str) -> Request:
    """What is to be where. InputError for what the grammar does not read, for signs alone, and for weights and changes."""
    prompt = spelled(prompt)
    if marks := sorted(set(prompt) & set("()[]{}:")):
        raise InputError(f"{prompt!r}: {' '.join(marks)} of weights and changes cannot be arranged; leave them out")
    request = parse(prompt, vocabulary_of(prompt))
    if not request.groups:
        raise InputError(f"{prompt!r} has no thing beside its sign to be drawn; the model scenes draws signs")
    return request


def counts_or_places(prompt: str) -> bool:
    """Whether a prompt is surely of things to be counted or placed, for which there is room: each part with its number or article
    and a short name, several of one kind or a relation."""
    prompt = spelled(prompt)
    try:
        request = asked(prompt)
    except InputError:
        return False
    spelt = [word.lower() for word in request.words]
    words, parts = re.findall(r"[\w'-]+", prompt.lower()), request.groups
    said = sum(word in _NUMBERED for word in words) - sum(word in _NUMBERED for word in spelt)
    names = [g.name.split(" ") for g in parts]
    if said != len(request.parts) or any(len(n) > 3 or _NO_NAME & {*n} or any(w.endswith("ing") for w in n[:-1]) for n in names):
        return False
    squares = PictureSprites({g.name: np.zeros((1, 1, 4), np.uint8) for g in parts}, vocabulary_of(prompt))
    several = any(g.count > 1 and plural(g.name) in prompt.lower() for g in parts)
    related = request.relation is not None and request.relation is not Relation.INSIDE  # drawn things hold nothing
    return (several or related or bool(spelt)) and has_room(request, squares)


def cut(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) -> RGBA (h, w, 4) of the part in which something is seen; all of it where nothing is."""
    rgba = np.asarray(_image(picture).convert("RGBA"))
    seen = rgba[..., 3] > 127
    if not seen.any():
        return rgba
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def together(scene: Scene, sprites: PictureSprites, side: int, channels: int, backdrop: str | None) -> np.ndarray:
    """uint8 (side, side, channels)."""
    behind = (*BACKDROPS[backdrop], 255) if backdrop else (255, 255, 255, 0 if channels == 4 else 255)
    canvas = Image.new("RGBA", (side, side), behind)
    for thing in sorted(scene.objects, key=lambda t: -t.depth):
        x0, y0, x1, y1 = pixels(thing.box, side)
        sprite = Image.fromarray(sprites.pictures[thing.name]).resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS)
        canvas.alpha_composite(sprite, (x0, y0))
    boards = Image.new("RGBA", (side * FINER, side * FINER), (255, 255, 255, 0))
    for sign in scene.signs:
        draw_sign(boards, sign, side * FINER, stroke(side * FINER))
    canvas.alpha_composite(boards.reduce(FINER))
    picture = np.asarray(canvas if channels == 4 else canvas.convert("L" if channels == 1 else "RGB"))
    return picture.reshape(side, side, channels)


def _image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
