"""Pictures and words in one space: two towers, each of which gives a unit vector (CLIP, Radford et al. 2021, 2103.00020).

    u = P(picture) / |P|,  v = T(text) / |T|,  agreement of picture i and text j:  s_ij = exp(tau) u_i . v_j
    loss = 1/2 mean_i [ -log softmax_j(s_ij) at i ] + 1/2 mean_j [ -log softmax_i(s_ij) at j ]        (CLIP, figure 3)
Two things are known of captions that CLIP leaves to chance:
    the same text of another picture is no wrong answer: such pairs are left out of both sums (as in UniCL, 2204.03610, eq. 2)
    a text that differs in a word teaches more than any other: further texts, each a wrong answer to every picture, join the
    first sum (NegCLIP, Yuksekgonul et al. 2022, 2210.01936, section 4)
The picture tower is the small pyramid of `features` and a linear layer; the text tower is the byte encoder of `text`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from unnoise.networks.features import PictureFeatures
from unnoise.networks.text import TextEncoderConfig

LARGEST_SCALE = 100.0
"""Of exp(tau), as in CLIP: beyond, one mistake outweighs a batch."""


@dataclass(frozen=True)
class PictureTowerConfig:
    """Pictures (B, channels, height, width) in [-1, 1] -> unit vectors (B, dim). features: of the last level."""

    height: int
    width: int
    channels: int = 3
    dim: int = 192
    features: int = 192
    dropout: float = 0.0

    def build(self) -> "PictureTower":
        return PictureTower(self)


class PictureTower(nn.Module):
    def __init__(self, config: PictureTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = PictureFeatures(config.channels, config.height, config.width, config.features)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.features, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, dim), of length 1."""
        return normalize(self.out(self.dropout(self.trunk(x))).float(), dim=-1)


@dataclass(frozen=True)
class ContrastiveConfig:
    picture: PictureTowerConfig
    text: TextEncoderConfig

    def build(self) -> "Contrastive":
        return Contrastive(self)


class Contrastive(nn.Module):
    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.picture, self.words = config.picture.build(), config.text.build()
        self.project = nn.Linear(config.text.width, config.picture.dim)
        self.tau = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def text(self, ids: Tensor) -> Tensor:
        """ids (B, L) int64, as `text.encode_bytes` writes them -> (B, dim), of length 1."""
        return normalize(self.project(self.words(ids)["vector"]).float(), dim=-1)

    def scale(self) -> Tensor:
        """exp(tau), at most LARGEST_SCALE."""
        return self.tau.exp().clamp(max=LARGEST_SCALE)


def contrastive_loss(pictures: Tensor, texts: Tensor, alike: Tensor, scale: Tensor) -> Tensor:
    """Each picture's loss: (B,).

    pictures (B, D) and texts (B + K, D), of length 1; text i < B is picture i's, the others are nobody's.
    alike (B, B + K) bool: where text j says the same of picture i as its own: no wrong answer. Its diagonal is looked at by nobody.
    """
    n = len(pictures)
    own = torch.eye(n, len(texts), dtype=torch.bool, device=texts.device)
    logits = (scale * pictures @ texts.T).masked_fill(alike & ~own, -torch.inf)
    right = torch.arange(n, device=logits.device)
    by_picture, by_text = (cross_entropy(x, right, reduction="none") for x in (logits, logits[:, :n].T))
    return (by_picture + by_text) / 2
