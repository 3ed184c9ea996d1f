"""Codecs and conditioners: the two ends of a model, between raw data or words and tensors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import Cond, Shape, State

T = TypeVar("T")


@runtime_checkable
class Buildable(Protocol):
    """The frozen configuration of an nn.Module."""

    def build(self) -> nn.Module: ...


class Codec(nn.Module, ABC):
    """Data <-> state. Scaling and shifting happen inside; pictures of pixels have a trivial codec."""

    bound: float | None = None
    """The largest absolute value that a state of real data has, where there is one."""

    @abstractmethod
    def encode(self, data: Any) -> State:
        """A batch of raw data -> the state that is noised, (B, ...)."""

    @abstractmethod
    def decode(self, state: State) -> Any:
        """The way back, for a batch."""

    @abstractmethod
    def write(self, data: Any, out: Path, meta: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Write decoded data into the existing folder `out`, with `meta` (one row a sample) inside or beside it, and a sheet that
        shows it where that makes sense. Returns the files. Never leaves half a file."""

    @abstractmethod
    def shape(self) -> Shape:
        """The shape of one sample's state, without the batch axis."""


class Conditioner(nn.Module, ABC):
    """Raw captions or labels -> Cond. May hold a network that is trained along with the denoiser."""

    @abstractmethod
    def prepare(self, raw: Sequence[str | None]) -> Cond:
        """Raw prompts, one a sample, None for "told nothing" -> plain tensors (token ids, class numbers), on the CPU.

        Raises InputError for a prompt that the model cannot understand.
        """

    def prepare_for(self, raw: Sequence[str | None], rng: Streams) -> Cond:
        """`prepare` for samples with these streams: for a conditioner that leaves something of a prompt to chance, as a layout."""
        return self.prepare(raw)

    @abstractmethod
    def forward(self, prepared: Cond) -> Cond:
        """Prepared tensors -> what the network is told (`vector`, `tokens`, `mask`)."""

    def null(self, n: int) -> Cond:
        """The null condition for n samples, prepared: what guidance leads away from."""
        return self.prepare([None] * n)

    def kept(self, given: Cond) -> Cond:
        """Those of the entries that were given beside a prompt that guidance does not lead away from."""
        return {}


class Following(Conditioner, ABC):
    """Of a model that goes on from what another one made: a small picture, an embedding. It is told this beside the prompt.

    `prepare` gives the same entries for samples that nothing was made for.
    """

    @abstractmethod
    def from_data(self, data: Any, rng: Streams) -> Cond:
        """In training: raw data (B rows, as the codec encodes them) -> the entries that stand for what another model would have
        made on the way to these, prepared; rng has one stream a row."""

    @abstractmethod
    def from_made(self, made: Any, rng: Streams) -> Cond:
        """In sampling: what the other model made, decoded (B rows) -> the same entries. InputError for what does not fit."""

    def alone(self) -> None:
        """InputError if nothing can be drawn where no other model made anything."""
        return

    @abstractmethod
    def follows(self, codec: Codec) -> None:
        """InputError if what this codec of another model decodes cannot be gone on from."""

    @abstractmethod
    def kept(self, given: Cond) -> Cond: ...


class ToldSizes(Conditioner, ABC):
    """Of a model that is told, beside the prompt, how large its pictures are."""

    @abstractmethod
    def asked(self, n: int, height: int | None = None, width: int | None = None, original: tuple[int, int] | None = None) -> Cond:
        """What n samples are told, prepared: pictures of height x width pixels, as if they had been of the `original` size."""


class ToldGuidance(Conditioner, ABC):
    """Of a model that was distilled from guided sampling: it is told the guidance scale, and called once a step."""

    @abstractmethod
    def scaled(self, n: int, guidance: float) -> Cond:
        """What n samples are told of it, prepared."""


def within(conditioner: nn.Module, kind: type[T]) -> T | None:
    """The conditioner itself, or that part of it, that is of a class; None where there is none."""
    return next((m for m in conditioner.modules() if isinstance(m, kind)), None)


@dataclass(frozen=True)
class UnconditionalConfig:
    def build(self) -> "Unconditional":
        return Unconditional()


class Unconditional(Conditioner):
    """For models that are told nothing."""

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        for r in raw:
            if r is not None:
                raise InputError(f"prompt {r!r}: this model was trained without captions or classes; sample it without a prompt")
        return {}

    def forward(self, prepared: Cond) -> Cond:
        return prepared
