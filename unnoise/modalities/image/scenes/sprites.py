"""What things look like: a source of transparent pictures by name and colour."""

from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

from unnoise.modalities.image.scenes.vocabulary import Vocabulary
from unnoise.modalities.image.scenes.world import Box


class Sprites(ABC):
    """A frozen dataclass."""

    vocabulary: Vocabulary

    @abstractmethod
    def aspect(self, name: str) -> float:
        """Width / height of the thing's tight box."""

    @abstractmethod
    def room(self, name: str) -> Box | None:
        """The part of its box, in 0 ... 1 of it, where a smaller thing is seen to be inside; None for what holds nothing."""

    @abstractmethod
    def draw(self, name: str, colour: str, width: int, height: int, line: int) -> Image.Image:
        """RGBA of width x height pixels that the thing fills to the edges; not to be written to. line: of outlines, in pixels."""

    def mask(self, name: str, width: int, height: int) -> np.ndarray:
        """bool (height, width): where the thing is."""
        colours = self.vocabulary.colours
        drawn = self.draw(name, colours[0] if colours else "", width, height, 1)
        return np.asarray(drawn)[..., 3] > 127


def fitted(aspect: float, side: float) -> tuple[float, float]:
    """(width, height) with this aspect, of which the longer is `side`."""
    return (side, side / aspect) if aspect >= 1 else (side * aspect, side)
