"""What is needed of things to place them, without what they look like: for a model that plans, and paints them by itself."""

from dataclasses import dataclass

from PIL import Image, ImageDraw

from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.vocabulary import Vocabulary
from unnoise.modalities.image.scenes.world import Box


@dataclass(frozen=True)
class Outlines(Sprites):
    """The names of a world, each with its aspect and its room, and with an ellipse for a shape."""

    vocabulary: Vocabulary
    aspects: tuple[float, ...]
    rooms: tuple[Box | None, ...]

    @staticmethod
    def of(sprites: Sprites) -> "Outlines":
        names = sprites.vocabulary.names
        return Outlines(sprites.vocabulary, tuple(map(sprites.aspect, names)), tuple(map(sprites.room, names)))

    def aspect(self, name: str) -> float:
        return self.aspects[self.vocabulary.names.index(name)]

    def room(self, name: str) -> Box | None:
        return self.rooms[self.vocabulary.names.index(name)]

    def draw(self, name: str, colour: str, width: int, height: int, line: int) -> Image.Image:
        sheet = Image.new("RGBA", (width, height))
        ImageDraw.Draw(sheet).ellipse((0, 0, width - 1, height - 1), fill=(128, 128, 128, 255))
        return sheet
