"""Scenes to train on, told with the layouts that they were drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unnoise.control.layout.conditioner import Planned
from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.scenes.rows import Rendered, World


@dataclass(frozen=True)
class LaidOut:
    """What the training loop reads. A row's wording and withheld caption come from its own stream alone; a scene whose caption is
    withheld is not laid out either.

    Raises InputError for pictures that no world drew: nobody knows what lies where in them; and for mirrored ones.
    """

    data: PictureData
    codec: Codec
    conditioner: Planned

    def __post_init__(self) -> None:
        if self.data.options.flip:
            raise InputError("mirrored scenes do not lie where their layout says; leave --flip out")
        self.world_of(self.data)

    @staticmethod
    def world_of(data: PictureData) -> World:
        """The world that drew these pictures."""
        if not isinstance(data.pixels, Rendered):
            raise InputError(
                "a model that plans layouts learns from pictures of which it is known what lies where: train it on scenes"
            )
        return data.pixels.world

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, rows: Sequence[int], rng: Streams) -> dict[str, State | dict[str, Tensor]]:
        """{"x": encoded pictures (B, C, H, W), "cond": prepared conditions}; rng has one stream a row."""
        world, own = self.world_of(self.data), self.data.rows
        which, told = rng.uniform("caption").tolist(), list[str | None]()
        for row, u, dropped in zip(rows, which, (rng.uniform("caption_drop") < self.data.options.caption_drop).tolist()):
            texts = self.data.captions[int(row)]
            told.append(None if dropped else texts[int(u * len(texts))])
        scenes = [None if t is None else world.scene(int(r) if own is None else own[int(r)]) for t, r in zip(told, rows)]
        return {"x": self.codec.encode(self.data.pictures(rows)), "cond": dict(self.conditioner.told(told, scenes))}
