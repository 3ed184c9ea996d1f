"""Which combinations are never trained on: chosen by a hash of what they are, so always the same ones, whatever else changes."""

from collections.abc import Sequence
from dataclasses import dataclass

from unnoise.core.errors import InputError
from unnoise.core.random import place_of
from unnoise.modalities.image.scenes.world import Group, Relation, Request, Saying


@dataclass(frozen=True)
class Split:
    """share: of the colours of a thing, of the counts of a thing above one, of the words, and of the relations of two things."""

    share: float = 0.125

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise InputError(f"a share of {self.share} held-out combinations: 0 to 0.5, so that the most are trained on")

    def held_colour(self, name: str, colour: str) -> bool:
        return colour != "" and self._held("colour", name, colour)

    def held_count(self, name: str, count: int) -> bool:
        return count > 1 and self._held("count", name, str(count))

    def held_word(self, word: str) -> bool:
        return self._held("word", word)

    def held_relation(self, relation: Relation, first: str, second: str) -> bool:
        """Of two things, by name."""
        return self._held("relation", relation.value, first, second)

    def seen_colours(self, name: str, colours: Sequence[str]) -> list[str]:
        """Those that the thing may have in training."""
        return [c for c in colours if not self.held_colour(name, c)]

    def holds_out(self, request: Request) -> bool:
        """Whether a request says anything that is never trained on."""
        groups = request.groups
        related = request.relation is not None and all(isinstance(p, Group) for p in request.parts[:2])
        return (
            any(g.colour is not None and self.held_colour(g.name, g.colour) for g in groups)
            or any(self.held_count(g.name, g.count) for g in groups)
            or any(self.held_word(p.word) for p in request.parts if isinstance(p, Saying))
            or (related and request.relation is not None and self.held_relation(request.relation, groups[0].name, groups[1].name))
        )

    def _held(self, *what: str) -> bool:
        return place_of("/".join(what)) < self.share
