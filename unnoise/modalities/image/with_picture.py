"""Networks that are told a picture beside the words: to fill in (`inpainting`), to change (`editing`, `in_context`), to follow
(`controlled`)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.syntax import Said


class WithPicture(Emphatic, ABC):
    """cond: as the inner conditioner's, and picture (B, C', h, w), or what else the `entry` is called, where one was given."""

    entry: ClassVar[str] = "picture"

    def __init__(self, inner: EmphaticConfig) -> None:
        super().__init__()
        self.inner = inner.build()

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return self.inner.prepare_said(said)

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return self.inner.prepare_away(said)

    def forward(self, prepared: Cond) -> Cond:
        cond = self.inner({k: v for k, v in prepared.items() if k != self.entry})
        return {**cond, self.entry: prepared[self.entry]} if self.entry in prepared else cond

    def kept(self, given: Cond) -> Cond:
        """All: guidance leads to the prompt, not away from the picture."""
        return given

    def fits(self, channels: int, states: int) -> bool:
        """Whether the entry may have so many channels, beside those of the states."""
        return channels == states

    @abstractmethod
    def alone(self) -> None:
        """The InputError for no picture, for a network that was never shown none."""


def coding(codec: Codec) -> Latents:
    """The codec, whose codes of a picture lie beside the states. InputError for one without codes."""
    if not isinstance(codec, Latents):
        raise InputError(f"a {type(codec).__name__} codec has no codes; networks that are told pictures work on latents")
    return codec
