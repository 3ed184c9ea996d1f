"""What a scene is, what a prompt asks of one, and whether a scene gives it: all by geometry, with no network.

A scene holds things (a shape or sprite, a colour, a size, a box, a depth) and signs (a word, a box). A request is what a caption
says: parts - so many things of one kind, or a sign with a word - and, where there are two, perhaps a relation of the first to the
second. With boxes (x0, y0, x1, y1), y down, and a slack e >= 0 for detected boxes:

    A left of B      every x1 of A <= every x0 of B + e          right of, above, below: likewise
    A inside B       the box of A lies in the box of B, to e on each side
    A behind B       the boxes overlap, neither lies in the other, and A is the deeper one; in front of: B behind A
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from unnoise.core.errors import InputError

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in 0 ... 1 of the picture's side, y down."""

SIZES: Mapping[str, tuple[float, float]] = {"small": (0.17, 0.21), "medium": (0.27, 0.33), "large": (0.42, 0.6)}
"""Each size: the range of a box's longer side. The gaps between them keep the words unambiguous."""
MOST = 10
"""Things of one kind in a scene, at most."""
LONGEST = 10
"""Letters of a word on a sign, at most."""


@dataclass(frozen=True)
class Thing:
    """One object. colour: "" for a sprite with colours of its own; size: a key of SIZES; depth: the deeper is drawn first."""

    name: str
    colour: str
    size: str
    box: Box
    depth: float = 0.0


@dataclass(frozen=True)
class Sign:
    """A board with a word of capital letters. board: a name of the drawing's boards."""

    word: str
    box: Box
    board: str = "white"


@dataclass(frozen=True)
class Backdrop:
    """What lies behind everything: a colour's name, and how it is laid on (a name of the drawing's styles)."""

    colour: str = "white"
    style: str = "plain"


@dataclass(frozen=True)
class Scene:
    objects: tuple[Thing, ...] = ()
    signs: tuple[Sign, ...] = ()
    backdrop: Backdrop = Backdrop()


class Relation(Enum):
    """How the first part of a request lies to the second; the value is its plainest wording."""

    LEFT_OF = "left of"
    RIGHT_OF = "right of"
    ABOVE = "above"
    BELOW = "below"
    INSIDE = "inside"
    BEHIND = "behind"
    IN_FRONT_OF = "in front of"


OVERLAPPING = frozenset({Relation.INSIDE, Relation.BEHIND, Relation.IN_FRONT_OF})
"""Relations of one thing to one thing, whose boxes meet; in all other scenes no two boxes do."""


@dataclass(frozen=True)
class Group:
    """So many things of one kind: "three small red apples". colour, size None: left open. InputError outside 1 ... MOST."""

    name: str
    count: int = 1
    colour: str | None = None
    size: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST:
            raise InputError(f"{self.count} of {self.name!r}: a scene holds 1 to {MOST} of a kind")
        if self.size is not None and self.size not in SIZES:
            raise InputError(f"size {self.size!r} is none of {', '.join(SIZES)}")

    def fits(self, thing: Thing) -> bool:
        """Whether a thing is one of these."""
        return (
            thing.name == self.name
            and (self.colour is None or thing.colour == self.colour)
            and (self.size is None or thing.size == self.size)
        )


@dataclass(frozen=True)
class Saying:
    """A sign that says a word. InputError for what is not 1 to LONGEST capital letters A-Z."""

    word: str

    def __post_init__(self) -> None:
        plain = self.word.isascii() and self.word.isalpha() and self.word.isupper()
        if not plain or len(self.word) > LONGEST:
            raise InputError(f"the sign's word {self.word!r}: 1 to {LONGEST} capital letters A-Z are wanted")


Part = Group | Saying


@dataclass(frozen=True)
class Request:
    """What a caption says. relation: of parts[0] to parts[1]; backdrop: a colour's name, None where nothing is said of it.

    Raises InputError without parts, for a relation of any number of parts but two, and for one that only single things can have.
    """

    parts: tuple[Part, ...]
    relation: Relation | None = None
    backdrop: str | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("a request asks for at least one thing or sign")
        if self.relation is None:
            return
        if len(self.parts) != 2:
            raise InputError(f"{self.relation.value!r} joins two parts of a request, and this one has {len(self.parts)}")
        if self.relation in OVERLAPPING and not all(isinstance(p, Group) and p.count == 1 for p in self.parts):
            raise InputError(f"{self.relation.value!r} holds between one thing and one other, not between several or with a sign")

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(p for p in self.parts if isinstance(p, Group))

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(p.word for p in self.parts if isinstance(p, Saying))


def size_of(box: Box) -> str:
    """The size whose range is nearest to the box's longer side."""
    side = max(box[2] - box[0], box[3] - box[1])
    return min(SIZES, key=lambda s: max(SIZES[s][0] - side, side - SIZES[s][1], 0.0))


def matching(scene: Scene, group: Group) -> list[Thing]:
    """The things of a scene that a group speaks of."""
    return [t for t in scene.objects if group.fits(t)]


def count_holds(scene: Scene, group: Group, groups: Sequence[Group]) -> bool:
    """Whether there are exactly so many, and no thing of that name beside those of all `groups` that are asked for."""
    named = [g for g in groups if g.name == group.name]
    alike = [g for g in named if group.colour in (None, g.colour) and group.size in (None, g.size)]
    together = sum(g.count for g in named) == sum(t.name == group.name for t in scene.objects)
    return together and len(matching(scene, group)) == sum(g.count for g in alike)


def word_holds(scene: Scene, saying: Saying) -> bool:
    return [s.word for s in scene.signs].count(saying.word) == 1


def relation_holds(scene: Scene, request: Request, slack: float = 0.0) -> bool:
    """Whether the first part lies to the second as asked; without a relation, yes. A part that is missing: no."""
    if request.relation is None:
        return True
    a, b = (_placed(scene, part) for part in request.parts)
    return bool(a) and bool(b) and _RELATIONS[request.relation](a, b, slack)


def holds(scene: Scene, request: Request, slack: float = 0.0) -> bool:
    """Whether a scene is what was asked for: every part, just so often, and the relation.

    slack: what boxes may be wrong by, in sides of the picture; 0 for the truth, a pixel or two for what a detector found.
    """
    return (
        all(count_holds(scene, p, request.groups) if isinstance(p, Group) else word_holds(scene, p) for p in request.parts)
        and relation_holds(scene, request, slack)
        and (request.backdrop is None or scene.backdrop.colour == request.backdrop)
    )


_Placed = Sequence[tuple[Box, float]]  # boxes and depths


def _placed(scene: Scene, part: Part) -> _Placed:
    if isinstance(part, Group):
        return [(t.box, t.depth) for t in matching(scene, part)]
    return [(s.box, 0.0) for s in scene.signs if s.word == part.word]


def _before(axis: int, a: _Placed, b: _Placed, slack: float) -> bool:
    """a ends before b begins, along x (0) or y (1)."""
    return max(box[axis + 2] for box, _ in a) <= min(box[axis] for box, _ in b) + slack


def contains(outer: Box, inner: Box, slack: float = 0.0) -> bool:
    return all(i >= o - slack for i, o in zip(inner[:2], outer[:2])) and all(i <= o + slack for i, o in zip(inner[2:], outer[2:]))


def overlap(a: Box, b: Box) -> float:
    """The common area of two boxes."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _inside(a: _Placed, b: _Placed, slack: float) -> bool:
    return all(contains(outer, inner, slack) for inner, _ in a for outer, _ in b)


def _behind(a: _Placed, b: _Placed, slack: float) -> bool:
    return all(
        overlap(x, y) > 0 and deep_x > deep_y and not contains(x, y) and not contains(y, x) for x, deep_x in a for y, deep_y in b
    )


_RELATIONS: Mapping[Relation, Callable[[_Placed, _Placed, float], bool]] = {
    Relation.LEFT_OF: lambda a, b, e: _before(0, a, b, e),
    Relation.RIGHT_OF: lambda a, b, e: _before(0, b, a, e),
    Relation.ABOVE: lambda a, b, e: _before(1, a, b, e),
    Relation.BELOW: lambda a, b, e: _before(1, b, a, e),
    Relation.INSIDE: _inside,
    Relation.BEHIND: _behind,
    Relation.IN_FRONT_OF: lambda a, b, e: _behind(b, a, e),
}
