"""Compositions of transparent pictures that have names: what a set of single objects cannot say.

    beside     "cat left of rocket", single things in places of their own
    counted    "five rockets"
    wearing    "cat wearing a top hat": the hat on the topmost part of the other
    before     "rocket in front of a rainbow", "cat on a blue background"
    recoloured "blue banana": the hue of an object of one hue turned to a colour's

Each is a pure function of (seed, number). Combinations that `split` holds out (a colour of a thing, a count of it, a hat on it) are
never composed, so that they can be asked for later; a single picture may show one all the same ("red apple").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.modalities.image.recaption import Facts
from unnoise.modalities.image.recolour import one_hue, recoloured
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import COLOURS, NUMBERS, plural

VIEWS = (
    "bridge at night", "camping", "cityscape", "cityscape at dusk", "desert", "desert island", "fireworks", "milky way",
    "mount fuji", "mountain", "national park", "night with stars", "rainbow", "sunrise", "sunrise over mountains", "sunset",
    "volcano", "water wave",
)  # fmt: skip
"""Landscapes, where they fill their square."""
HATS = ("top hat", "crown", "graduation cap", "billed cap", "woman’s hat", "rescue worker’s helmet", "military helmet")
_SMILEYS = "smileys emotion"
_GROUPS = frozenset({"animals nature", "food drink", "objects", "travel places", "activities"})
_PLACES = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
_PEOPLE = ("person", "man", "woman", "boy", "girl", "child", "people")
_HUES = tuple(c for c in COLOURS if c != "black")  # in which shading can still be seen
_COLOUR_WORDS = frozenset(COLOURS) | {"white"}
_NARROW = 3
"""Words of a name that is used within a sentence, at most."""


@dataclass(frozen=True)
class Sticker:
    """One picture: uint8 (S, S, 4) with straight alpha, and what is said of it."""

    pixels: np.ndarray = field(repr=False)
    facts: Facts

    @cached_property
    def noun(self) -> str:
        """Its name within a sentence: "cat" for "cat face", "apple" for "red apple"; a smiley stays a "grinning face"."""
        name = self.facts.name.lower()
        name = name if self.facts.group == _SMILEYS else name.removesuffix(" face").removesuffix(" with")
        words = [w for w in name.split(" ") if w not in _COLOUR_WORDS]
        return " ".join(words)

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Of what is seen of it: left, top, right, bottom in pixels."""
        found = Image.fromarray(self.pixels[..., 3]).point(lambda a: 255 * (a > 16)).getbbox()
        return found or (0, 0, *self.pixels.shape[1::-1])

    @cached_property
    def filling(self) -> float:
        """Share of the square that is opaque."""
        return float((self.pixels[..., 3] > 200).mean())

    @property
    def image(self) -> Image.Image:
        """What is seen of it."""
        return Image.fromarray(self.pixels).crop(self.box)


@dataclass(frozen=True)
class Compositions:
    """Number i is the same whatever else is drawn. Raises InputError where there is nothing to compose."""

    stickers: Sequence[Sticker] = field(repr=False)
    size: int
    seed: int = 0
    split: Split = Split()

    def __post_init__(self) -> None:
        if len(self.nouns) < 2:
            raise InputError("compositions need at least two transparent pictures whose names are plain nouns")

    @cached_property
    def nouns(self) -> list[Sticker]:
        """Objects that a sentence can speak of."""
        return [s for s in self.stickers if self._plain(s)]

    @cached_property
    def hats(self) -> list[Sticker]:
        return [s for s in self.stickers if s.facts.name in HATS]

    @cached_property
    def heads(self) -> list[Sticker]:
        """Faces of animals and smileys, which can wear a hat as they are."""
        faces = [s for s in self.stickers if s.facts.name.endswith(" face") and len(s.facts.name.split(" ")) <= _NARROW]
        return [s for s in faces if "hat" not in s.facts.name and s.filling < 0.9]

    @cached_property
    def views(self) -> list[Sticker]:
        return [s for s in self.stickers if s.facts.name in VIEWS and s.filling > 0.8]

    @cached_property
    def paintable(self) -> list[Sticker]:
        """Objects of one hue."""
        return [s for s in self.nouns if one_hue(s.pixels)]

    def _plain(self, s: Sticker) -> bool:
        words = s.noun.split(" ")
        odd = any(w in _PEOPLE for w in words) or not s.noun.replace(" ", "").replace("-", "").isalpha()
        return s.facts.group in _GROUPS and len(words) <= _NARROW and not odd and s.facts.name not in VIEWS

    def make(self, i: int) -> np.ndarray:
        """uint8 (size, size, 4), straight alpha."""
        pixels = np.asarray(self._plan(i).draw().resize((self.size, self.size), Image.Resampling.LANCZOS))
        return np.where(pixels[..., 3:] > 0, pixels, np.uint8(0))

    def captions(self, i: int) -> tuple[str, ...]:
        """The plainest first; nothing is drawn for them."""
        plan = self._plan(i)
        return (*plan.captions, *((f"{plan.captions[0]}, in the style of {plan.style}",) if plan.style else ()))

    def _plan(self, i: int) -> "Plan":
        rng = np.random.Generator(np.random.Philox(key=[self.seed, i]))
        ways = [w for w, possible in _WAYS if possible(self)]
        shares = np.array([_SHARES[w.__name__] for w in ways])
        while True:
            plan = ways[int(rng.choice(len(ways), p=shares / shares.sum()))](self, rng)
            if plan is not None:
                return plan


@dataclass(frozen=True)
class Plan:
    """What is drawn, at _CANVAS x _CANVAS, what it is called, and the style that all of it has (or "")."""

    draw: Callable[[], Image.Image]
    captions: tuple[str, ...]
    style: str


_CANVAS = 192


def _pick(rng: np.random.Generator, from_: Sequence[Sticker], style: str | None = None) -> Sticker | None:
    """One of these, of one style where that is asked for."""
    among = [s for s in from_ if style is None or s.facts.style == style]
    return among[int(rng.integers(len(among)))] if among else None


def _several(noun: str) -> bool:
    return noun.endswith("s") and not noun.endswith(("ss", "us"))


def _a(noun: str) -> str:
    return noun if _several(noun) else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _paste(canvas: Image.Image, s: Image.Image, centre: tuple[float, float], side: float) -> None:
    """`s` with its longer side `side`, about `centre`, all in shares of the canvas."""
    scale = side * canvas.width / max(s.size)
    small = s.resize((max(1, round(s.width * scale)), max(1, round(s.height * scale))), Image.Resampling.LANCZOS)
    at = (round(centre[0] * canvas.width - small.width / 2), round(centre[1] * canvas.height - small.height / 2))
    canvas.alpha_composite(small, (max(0, at[0]), max(0, at[1])))


def _blank() -> Image.Image:
    return Image.new("RGBA", (_CANVAS, _CANVAS), (0, 0, 0, 0))


def beside(c: Compositions, rng: np.random.Generator) -> Plan | None:
    a = _pick(rng, c.nouns)
    b = _pick(rng, c.nouns, a.facts.style) if a else None
    if a is None or b is None or a.noun == b.noun:
        return None
    words = list(_PLACES)[int(rng.integers(4))]
    dx, dy = _PLACES[words]
    jitter, side = rng.uniform(-0.1, 0.1, 2), float(rng.uniform(0.4, 0.47))

    def draw() -> Image.Image:
        canvas = _blank()
        for s, sign, j in ((a, 0.25, jitter[0]), (b, -0.25, jitter[1])):
            _paste(canvas, s.image, (0.5 + sign * dx + dy * j, 0.5 + sign * dy + dx * j), side)
        return canvas

    first, second = _a(a.noun), _a(b.noun)
    also = f"{first} next to {second}" if dx and rng.random() < 0.5 else f"{first} and {second}"
    return Plan(draw, (f"{first} {words} {second}", also), a.facts.style)


def counted(c: Compositions, rng: np.random.Generator) -> Plan | None:
    s, n = _pick(rng, c.nouns), int(rng.integers(2, 11))
    if s is None or _several(s.noun) or c.split.held_count(s.noun, n):
        return None
    columns = int(np.ceil(np.sqrt(n)))
    cells = [(x, y) for y in range(-(-n // columns)) for x in range(columns)]
    chosen = sorted(rng.permutation(len(cells))[:n].tolist()) if rng.random() < 0.5 else list(range(n))
    rows = -(-n // columns)

    def draw() -> Image.Image:
        canvas = _blank()
        for x, y in (cells[k] for k in chosen):
            _paste(canvas, s.image, ((x + 0.5) / columns, 0.5 + (y + 0.5 - rows / 2) / columns), 0.86 / columns)
        return canvas

    several = plural(s.noun)
    return Plan(draw, (f"{NUMBERS[n - 1]} {several}", f"{n} {several}"), s.facts.style)


def wearing(c: Compositions, rng: np.random.Generator) -> Plan | None:
    head = _pick(rng, c.heads)
    hat = _pick(rng, c.hats, head.facts.style) if head else None
    if head is None or hat is None or c.split.held_colour(head.noun, hat.noun):
        return None
    who, what = _a(head.noun), _a(hat.noun)
    plain = "a hat" if "hat" in hat.noun else what
    captions = (f"{who} wearing {what}", f"{who} wearing {plain}", f"{who} with {what} on its head")
    return Plan(lambda: _with_hat(head.image, hat.image), captions, head.facts.style)


def _with_hat(head: Image.Image, hat: Image.Image) -> Image.Image:
    """The hat as wide as the top of the head, and down over a tenth of the picture."""
    canvas = _blank()
    _paste(canvas, head, (0.5, 0.63), 0.7)
    alpha = np.asarray(canvas)[..., 3] > 128
    top = int(alpha.any(1).argmax())
    across = np.flatnonzero(alpha[top : top + _CANVAS // 8].any(0)) / _CANVAS
    middle, width = float(across[0] + across[-1]) / 2, min(0.62, max(0.42, 1.05 * float(across[-1] - across[0])))
    high = width * hat.height / max(hat.size)
    _paste(canvas, hat, (middle, max(high / 2, top / _CANVAS + 0.1 - high / 2)), width)
    return canvas


def before(c: Compositions, rng: np.random.Generator) -> Plan | None:
    s = _pick(rng, c.nouns + c.heads)
    if s is None:
        return None
    colour = ("white", *COLOURS)[int(rng.integers(len(COLOURS) + 1))]
    view = _pick(rng, c.views, s.facts.style) if rng.random() < 0.6 else None
    if view is None:
        rgb = np.clip(np.asarray(COLOURS.get(colour, (255, 255, 255))) + rng.integers(-12, 13, 3), 0, 255)
        behind = Image.new("RGBA", (1, 1), (*rgb.tolist(), 255))
        captions = (f"{_a(s.noun)} on {_a(colour)} background", f"{s.noun} before {colour}")
    else:
        behind = Image.fromarray(view.pixels)
        captions = (f"{_a(s.noun)} in front of {_a(view.noun)}", f"{s.noun}, {view.noun} behind it")
    x, side = 0.5 + float(rng.uniform(-0.12, 0.12)), float(rng.uniform(0.5, 0.68))

    def draw() -> Image.Image:
        canvas = behind.resize((_CANVAS, _CANVAS), Image.Resampling.LANCZOS)
        _paste(canvas, s.image, (x, 0.58), side)
        return canvas

    return Plan(draw, captions, s.facts.style)


def painted(c: Compositions, rng: np.random.Generator) -> Plan | None:
    s = _pick(rng, c.paintable)
    colour = _HUES[int(rng.integers(len(_HUES)))]
    if s is None or c.split.held_colour(s.noun, colour):
        return None

    def draw() -> Image.Image:
        painted = Image.fromarray(recoloured(s.pixels, COLOURS[colour]))
        return painted.resize((_CANVAS, _CANVAS), Image.Resampling.LANCZOS)

    return Plan(draw, (_a(f"{colour} {s.noun}"), f"{colour} {s.noun}"), s.facts.style)


_WAYS: Sequence[tuple[Callable[[Compositions, np.random.Generator], Plan | None], Callable[[Compositions], bool]]] = (
    (beside, lambda c: True),
    (counted, lambda c: True),
    (wearing, lambda c: bool(c.hats and c.heads)),
    (before, lambda c: True),
    (painted, lambda c: bool(c.paintable)),
)
_SHARES = {"beside": 0.25, "counted": 0.15, "wearing": 0.2, "before": 0.2, "painted": 0.2}
