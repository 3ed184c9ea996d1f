"""Pictures as embeddings: unit vectors u of a frozen picture tower (`networks.contrastive`), the two ends of unCLIP (Ramesh et al.
2022, 2204.06125, section 2).

    Embeddings   the codec of the prior p(u | words): state = sqrt(D) u, of unit mean square; decoded to length 1
    Embedded     the condition of the decoder p(picture | u, words): u as a vector, beside the words
                 withheld for a share of the pictures (0), so that guidance can lead to it
"""

import json
import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from unnoise.core.codec import Buildable, Codec, Conditioner, Following
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.core.hashing import tensors_hash
from unnoise.core.random import Streams
from unnoise.core.state import Cond, State
from unnoise.modalities.image.alpha import over, premultiplied
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.syntax import Said
from unnoise.networks.contrastive import PictureTowerConfig

FILE = "embeddings.safetensors"


def seen(pixels: Tensor, tower: PictureTowerConfig) -> Tensor:
    """uint8 (B, H, W, C), C = 1, 3 or 4 -> (B, channels, height, width) in [-1, 1], as this tower looks at pictures.

    Other sizes are resized; transparency is laid over white.
    """
    x = pixels.permute(0, 3, 1, 2).float() / 255
    if x.shape[1] == 4:
        x = over(premultiplied(x), torch.ones(len(x), 3, device=x.device))
    if x.shape[1] != tower.channels:
        x = x.mean(1, keepdim=True).expand(-1, tower.channels, -1, -1)
    x = 2 * x - 1
    if x.shape[2:] != (tower.height, tower.width):
        x = interpolate(x, (tower.height, tower.width), mode="bilinear", antialias=True)
    return x


class FrozenTower(nn.Module):
    """A picture tower that no training changes: always in eval, without gradients."""

    def __init__(self, config: PictureTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = config.build().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> (B, D), of length 1, on the CPU."""
        device = next(self.tower.parameters()).device
        return self.tower(seen(torch.as_tensor(pixels).to(device), self.config)).float().cpu()


@dataclass(frozen=True)
class EmbeddingsConfig:
    tower: PictureTowerConfig

    def build(self) -> "Embeddings":
        return Embeddings(self)


class Embeddings(Codec):
    """uint8 pictures (B, H, W, C) -> states (B, 1, D) -> unit vectors (B, D), float32 on the CPU. One row: a set of one."""

    def __init__(self, config: EmbeddingsConfig) -> None:
        super().__init__()
        self.config = config
        self.look = FrozenTower(config.tower)

    def shape(self) -> tuple[int, int]:
        return 1, self.config.tower.dim

    def encode(self, data: np.ndarray | Tensor) -> Tensor:
        return self.look(data)[:, None] * math.sqrt(self.config.tower.dim)

    def decode(self, state: State) -> Tensor:
        if not isinstance(state, Tensor):
            raise InputError("embeddings decode one tensor (B, 1, D), not a mapping of fields")
        return normalize(state.detach().float().cpu()[:, 0], dim=-1)

    def write(self, data: Tensor, out: Path, meta: Sequence[Mapping[str, Any]]) -> list[Path]:
        """embeddings.safetensors, with the rows of `meta` inside."""
        with atomically(out / FILE) as partial:
            save_file({"embeddings": data.contiguous()}, partial, {"rows": json.dumps(list(meta), ensure_ascii=False)})
        return [out / FILE]


@dataclass(frozen=True)
class EmbeddedConfig:
    """inner: of the words that are told too; inner_dim: of its vector, 0 for none. dim: of the vector that the network is told.

    withheld: share of the pictures in training.
    """

    inner: Buildable
    tower: PictureTowerConfig
    dim: int = 192
    inner_dim: int = 0
    withheld: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.withheld <= 1:
            raise InputError(f"withheld {self.withheld} is a share of the pictures: 0 to 1")

    def build(self) -> "Embedded":
        """One that reads the prompt language where the inner one does."""
        return EmbeddedWords(self) if isinstance(self.inner, EmphaticConfig) else EmbeddedNames(self)


class Embedded(Following, ABC):
    """cond: vector (B, dim), and the inner conditioner's tokens and mask."""

    def __init__(self, config: EmbeddedConfig) -> None:
        super().__init__()
        inner = config.inner.build()
        if not isinstance(inner, Conditioner):
            raise InputError(f"{type(config.inner).__name__} builds no conditioner")
        self.config, self.inner, self.look = config, inner, FrozenTower(config.tower)
        self.told = nn.Linear(config.tower.dim, config.dim)
        self.words = nn.Linear(config.inner_dim, config.dim) if config.inner_dim else None

    def _nothing(self, n: int) -> Cond:
        return {"embedding": torch.zeros(n, self.config.tower.dim)}

    def from_data(self, data: np.ndarray | Tensor, rng: Streams) -> Cond:
        withheld = rng.uniform("withheld") < self.config.withheld
        return {"embedding": self.look(data).masked_fill(withheld[:, None], 0)}

    def from_made(self, made: Tensor, rng: Streams) -> Cond:
        return {"embedding": normalize(made.float(), dim=-1)}

    def follows(self, codec: Codec) -> None:
        if not isinstance(codec, Embeddings):
            raise InputError(
                f"this model draws what embeddings show; the model before it makes what {type(codec).__name__} decodes"
            )
        mine, theirs = (tensors_hash(look.state_dict())[:16] for look in (self.look, codec.look))
        if mine != theirs:
            raise InputError(f"this model draws embeddings of the network {mine}, and the model before it makes those of {theirs}")

    def kept(self, given: Cond) -> Cond:
        """Nothing: guidance leads to the embedding."""
        return {}

    def forward(self, prepared: Cond) -> Cond:
        cond = dict(self.inner({k: v for k, v in prepared.items() if k != "embedding"}))
        vector = self.told(prepared["embedding"] * math.sqrt(self.config.tower.dim))
        if self.words is not None and "vector" in cond:
            vector = vector + self.words(cond["vector"])
        return {**cond, "vector": vector}


class EmbeddedNames(Embedded):
    """Of class names, of nothing, or of words that are taken as they stand."""

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        return {**self.inner.prepare(raw), **self._nothing(len(raw))}

    def prepare_for(self, raw: Sequence[str | None], rng: Streams) -> Cond:
        return {**self.inner.prepare_for(raw, rng), **self._nothing(len(raw))}


class EmbeddedWords(Embedded, Emphatic):
    inner: Emphatic

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_said(said), **self._nothing(len(said))}

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_away(said), **self._nothing(len(said))}
