"""IP-Adapter (Ye et al. 2023, 2308.06721): pictures as prompts. Each attention to words gets further keys and values, learnt apart:

    attend(q, K_words, V_words) + lambda attend(q, W_k p, W_v p),     p the tokens of the pictures, all of them in one sequence

The network has no part of this: it is told W_k p and lambda W_v p (`steering`). p comes from a frozen encoder of pictures by way of

    Summary     one embedding -> several tokens, LN(W e)                                    plain; with two layers: FaceID
    Each        each of the encoder's own tokens by itself, LN(W2 gelu(W1 h))               full face
    Resampler   learnt queries that attend to the encoder's tokens and to each other        plus, plus face
                (Alayrac et al. 2022, 2204.14198, section 3.1):  z <- z + attention(LN(z), [LN(h), LN(z)]),  z <- z + mlp(LN(z))
    Face        the same with queries out of a face recogniser's embedding, as Summary makes them      FaceID plus
                (in its second version what it makes is added to these queries)

FLUX.1 Redux (Black Forest Labs 2024) needs no keys and values: its tokens, W2 silu(W1 h), are read as words are.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from unnoise.networks.attention import attend
from unnoise.networks.steering import KeysValues


class Projection(nn.Module, ABC):
    """What the encoder says of pictures -> tokens that prompt."""

    whole: bool
    """Whether it takes the encoder's tokens, of the layer before its last (n, L, D); otherwise its embedding (n, D)."""

    @abstractmethod
    def forward(self, seen: Tensor) -> Tensor:
        """-> (n, tokens, token_dim)."""


class ProjectionConfig(ABC):
    """A frozen dataclass. seen_dim: D above; token_dim: of the words' tokens."""

    seen_dim: int
    token_dim: int

    @abstractmethod
    def build(self) -> Projection: ...


@dataclass(frozen=True)
class SummaryConfig(ProjectionConfig):
    """hidden: width between its two layers; 0 for one layer."""

    seen_dim: int = 1024
    token_dim: int = 768
    tokens: int = 4
    hidden: int = 0

    def build(self) -> "Summary":
        return Summary(self)


class Summary(Projection):
    whole = False

    def __init__(self, config: SummaryConfig) -> None:
        super().__init__()
        self.config = config
        c = config.hidden or config.seen_dim
        self.hidden = nn.Sequential(nn.Linear(config.seen_dim, c), nn.GELU()) if config.hidden else nn.Identity()
        self.out = nn.Linear(c, config.tokens * config.token_dim)
        self.norm = nn.LayerNorm(config.token_dim)

    def forward(self, seen: Tensor) -> Tensor:
        return self.norm(self.out(self.hidden(seen)).unflatten(-1, (self.config.tokens, -1)))


@dataclass(frozen=True)
class EachConfig(ProjectionConfig):
    seen_dim: int = 1280
    token_dim: int = 768

    def build(self) -> "Each":
        return Each(self)


class Each(Projection):
    whole = True

    def __init__(self, config: EachConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden, self.out = nn.Linear(config.seen_dim, config.seen_dim), nn.Linear(config.seen_dim, config.token_dim)
        self.norm = nn.LayerNorm(config.token_dim)

    def forward(self, seen: Tensor) -> Tensor:
        return self.norm(self.out(nn.functional.gelu(self.hidden(seen))))


@dataclass(frozen=True)
class ResamplerConfig(ProjectionConfig):
    """width: of its queries, of which there are `tokens`; head_dim: channels of each of its heads."""

    seen_dim: int = 1280
    token_dim: int = 768
    tokens: int = 16
    width: int = 768
    depth: int = 4
    heads: int = 12
    head_dim: int = 64
    hidden: int = 3072

    def build(self) -> "Perceiver":
        return Resampler(self)


class ResamplerBlock(nn.Module):
    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_dim
        self.heads = config.heads
        self.norm_seen, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, inner, bias=False), nn.Linear(width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.hidden, bias=False),
            nn.GELU(),
            nn.Linear(config.hidden, width, bias=False),
        )

    def attended(self, own: Tensor, seen: Tensor) -> Tensor:
        """What the queries find in what was seen and in each other: own (n, tokens, width), normalised, seen (n, L, width) -> as
        own."""
        q = self.q(own).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        around = torch.cat([self.norm_seen(seen), own], 1)
        k, v = self.kv(around).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, z: Tensor, seen: Tensor) -> Tensor:
        """z (n, tokens, width), seen (n, L, width) -> as z."""
        z = z + self.attended(self.norm(z), seen)
        return z + self.mlp(z)


class Perceiver(Projection, ABC):
    """All of a resampler but its queries."""

    whole = True

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Linear(config.seen_dim, config.width)
        self.blocks = nn.ModuleList(ResamplerBlock(config) for _ in range(config.depth))
        self.leave, self.norm = nn.Linear(config.width, config.token_dim), nn.LayerNorm(config.token_dim)

    def answers(self, z: Tensor, seen: Tensor) -> Tensor:
        """Queries z (n, tokens, width), seen (n, L, seen_dim) -> (n, tokens, token_dim)."""
        h = self.enter(seen)
        for block in self.blocks:
            z = block(z, h)
        return self.norm(self.leave(z))


class Resampler(Perceiver):
    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__(config)
        self.queries = nn.Parameter(torch.randn(1, config.tokens, config.width) / config.width**0.5)

    def forward(self, seen: Tensor) -> Tensor:
        return self.answers(self.queries.expand(len(seen), -1, -1), seen)


@dataclass(frozen=True)
class FaceConfig(ResamplerConfig):
    """face: channels of the embedding; middle: between the two layers that make queries of it; added: to these, as in the second
    version, whose width is token_dim."""

    face: int = 512
    middle: int = 1024
    added: bool = False

    def build(self) -> "Face":
        return Face(self)


class Face(Perceiver):
    """seen (n, 1 + L, seen_dim): first the face's embedding, with zeros behind, then the encoder's tokens (`with_faces`)."""

    config: FaceConfig

    def __init__(self, config: FaceConfig) -> None:
        super().__init__(config)
        self.hidden = nn.Sequential(nn.Linear(config.face, config.middle), nn.GELU())
        self.out = nn.Linear(config.middle, config.tokens * config.width)
        self.face_norm = nn.LayerNorm(config.width)

    def forward(self, seen: Tensor) -> Tensor:
        face = self.hidden(seen[:, 0, : self.config.face])
        z = self.face_norm(self.out(face).unflatten(-1, (self.config.tokens, -1)))
        found = self.answers(z, seen[:, 1:])
        return z + found if self.config.added else found


def with_faces(faces: Tensor, tokens: Tensor) -> Tensor:
    """Embeddings (n, D) and the encoder's tokens (n, L, seen_dim), D <= seen_dim -> what `Face` takes."""
    return torch.cat([pad(faces, (0, tokens.shape[-1] - faces.shape[-1]))[:, None].to(tokens), tokens], 1)


@dataclass(frozen=True)
class ReduxConfig:
    """As a ProjectionConfig. hidden: width between its two layers."""

    seen_dim: int = 1152
    token_dim: int = 4096
    hidden: int = 3 * 4096

    def build(self) -> "Redux":
        return Redux(self)


class Redux(nn.Module):
    def __init__(self, config: ReduxConfig) -> None:
        super().__init__()
        self.config = config
        self.up, self.down = nn.Linear(config.seen_dim, config.hidden), nn.Linear(config.hidden, config.token_dim)

    def forward(self, seen: Tensor) -> Tensor:
        """What the encoder says of n pictures in its last layer (n, L, seen_dim) -> their tokens in one sequence,
        (1, n L, token_dim)."""
        return self.down(silu(self.up(seen.to(self.up.weight.dtype)))).flatten(0, 1)[None]


@dataclass(frozen=True)
class ImagePromptConfig:
    """widths: of the network's attention layers that see it, in the order of their numbers. bias: whether its keys and values have
    one: those of adapters for FLUX do."""

    projection: ProjectionConfig
    widths: tuple[int, ...]
    bias: bool = False

    def build(self) -> "ImagePrompt":
        return ImagePrompt(self)


class ImagePrompt(nn.Module):
    def __init__(self, config: ImagePromptConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = config.projection.build()
        dim, bias = config.projection.token_dim, config.bias
        self.keys = nn.ModuleList(nn.Linear(dim, width, bias) for width in config.widths)
        self.values = nn.ModuleList(nn.Linear(dim, width, bias) for width in config.widths)

    def tokens(self, seen: Tensor) -> Tensor:
        """What the encoder says of n pictures -> the tokens of all of them in one sequence, (1, n * tokens, token_dim)."""
        return self.projection(seen.to(next(self.keys.parameters()).dtype)).flatten(0, 1)[None]

    def forward(self, tokens: Tensor) -> list[KeysValues]:
        """(B, L, token_dim) -> keys and values for each layer."""
        return [(k(tokens), v(tokens)) for k, v in zip(self.keys, self.values)]
