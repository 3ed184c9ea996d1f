"""What tells a network how noisy its input is, and where each of its tokens lies.

Noise level x (B,), of order 1, becomes features sqrt(2) cos(f_i x + p_i): unit mean square over a full turn.
    Sinusoidal  f_i geometric, p_i alternating sine and cosine       (Vaswani et al. 2017, 1706.03762, section 3.5)
    Fourier     f_i ~ 2 pi bandwidth N(0, 1), p_i ~ U(0, 2 pi)       (Karras et al. 2023, 2312.02696, MP-Fourier)
    Learned     the frequencies and phases of Fourier as parameters
    Timesteps   plain cosines and sines of 1000 x, as Stable Diffusion's networks and FLUX read their timesteps
Fourier takes the quantiles of the two laws (paired by the golden ratio) in place of random draws: nothing to store, the
same in every process, and no loss of precision when a network is cast to bfloat16.
Sizes and crops of pictures (Podell et al. 2023, 2307.01952, section 2.2) are told as the harmonics of Timesteps too, one by one.

Positions are rotary (Su et al. 2021, 2104.09864) in two dimensions: half of the pairs turn with y, half with x, so q.k
depends on the two positions only through their difference. Coordinates are patches from the centre of the picture.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GOLDEN = (math.sqrt(5) - 1) / 2


class NoiseFeatures(ABC):
    """A frozen dataclass; `build(dim)` gives the module (B,) -> (B, dim), float32."""

    @abstractmethod
    def build(self, dim: int) -> nn.Module: ...


@dataclass(frozen=True)
class Sinusoidal(NoiseFeatures):
    """Angular frequencies from `slowest` to `fastest`, in radians a unit of noise level."""

    slowest: float = 0.1
    fastest: float = 100.0

    def build(self, dim: int) -> nn.Module:
        return SinusoidalFeatures(self, dim)


@dataclass(frozen=True)
class Fourier(NoiseFeatures):
    bandwidth: float = 1.0

    def build(self, dim: int) -> nn.Module:
        return FourierFeatures(self, dim)


@dataclass(frozen=True)
class Learned(NoiseFeatures):
    """Starts as Fourier(bandwidth)."""

    bandwidth: float = 1.0

    def build(self, dim: int) -> nn.Module:
        return LearnedFeatures(self, dim)


@dataclass(frozen=True)
class Timesteps(NoiseFeatures):
    """cos and sin of scale x / 10000^(2 i / dim), i = 0, 1, ...; of amplitude 1. For noise levels in [0, 1]."""

    scale: float = 1000.0

    def build(self, dim: int) -> nn.Module:
        return TimestepFeatures(self, dim)


def harmonics(x: Tensor, frequencies: Tensor, phases: Tensor) -> Tensor:
    """sqrt(2) cos(f x + p): (B,) -> (B, dim), in float32 at least: bfloat16 has no digits left for the angle."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return math.sqrt(2) * torch.cos(x[:, None] * frequencies.to(x.dtype) + phases.to(x.dtype))


def geometric(slowest: float, fastest: float, n: int, device: torch.device | None = None) -> Tensor:
    """n angular frequencies in geometric progression: (n,)."""
    return torch.linspace(math.log(fastest), math.log(slowest), n, device=device).exp()


def fourier_frequencies(bandwidth: float, dim: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Frequencies and phases, each (dim,)."""
    i = torch.arange(dim, device=device, dtype=torch.float32)
    return 2 * math.pi * bandwidth * torch.special.ndtri((i + 0.5) / dim), 2 * math.pi * (i * GOLDEN % 1)


class SinusoidalFeatures(nn.Module):
    def __init__(self, config: Sinusoidal, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"Sinusoidal features need an even width, not {dim}")
        self.config, self.dim = config, dim

    def forward(self, x: Tensor) -> Tensor:
        f = geometric(self.config.slowest, self.config.fastest, self.dim // 2, x.device)
        phase = torch.zeros_like(f)
        return harmonics(x, torch.cat([f, f]), torch.cat([phase - math.pi / 2, phase]))  # sines, then cosines


class FourierFeatures(nn.Module):
    def __init__(self, config: Fourier, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim

    def forward(self, x: Tensor) -> Tensor:
        return harmonics(x, *fourier_frequencies(self.config.bandwidth, self.dim, x.device))


class LearnedFeatures(nn.Module):
    def __init__(self, config: Learned, dim: int) -> None:
        super().__init__()
        frequencies, phases = fourier_frequencies(config.bandwidth, dim)
        self.frequencies, self.phases = nn.Parameter(frequencies), nn.Parameter(phases)

    def forward(self, x: Tensor) -> Tensor:
        return harmonics(x, self.frequencies, self.phases)


class TimestepFeatures(nn.Module):
    def __init__(self, config: Timesteps, dim: int) -> None:
        super().__init__()
        self.config, self.dim = config, dim

    def forward(self, x: Tensor) -> Tensor:
        return number_features(x.to(torch.promote_types(x.dtype, torch.float32)) * self.config.scale, self.dim)


def number_features(x: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of x / 10000^(2 i / dim), i < dim / 2 (dim even): (...,) -> (..., dim)."""
    f = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=x.device, dtype=torch.float32) / (dim // 2))
    angle = x[..., None] * f.to(x.dtype)
    return torch.cat([angle.cos(), angle.sin()], -1)


def size_features(sizes: Tensor, dim: int = 256) -> Tensor:
    """What SDXL is told of a picture beside its text: (B, 6) -> (B, 6 dim), for the end of its `vector`.

    sizes, in pixels: the original height and width, the top and left of the crop, the height and width aimed at.
    """
    return number_features(sizes.float(), dim).flatten(1)


def guidance_features(scale: Tensor, dim: int) -> Tensor:
    """What consistency students are told of the scale they stand for (Luo et al. 2023, 2310.04378, section 4.2): (B,) -> (B, dim).

    Sines, then cosines, of 1000 (scale - 1) 10000^(-i / (n - 1)), i < n = dim / 2. All in float32, as they were trained: angles
    reach thousands, where its rounding shows.
    """
    n, scale = dim // 2, scale.float()
    f = torch.exp(torch.arange(n, device=scale.device, dtype=torch.float32) * -(scale.new_tensor(10_000.0).log() / (n - 1)))
    angle = (scale[:, None] - 1) * 1000 * f
    return torch.cat([angle.sin(), angle.cos()], -1)


class NoiseEmbedding(nn.Module):
    """Features of the noise level, an MLP, and the condition's `vector` added: (B,), (B, vector_dim) -> (B, dim)."""

    def __init__(self, features: NoiseFeatures, width: int, dim: int, vector_dim: int) -> None:
        super().__init__()
        self.features = features.build(width)
        self.hidden, self.out = nn.Linear(width, dim), nn.Linear(dim, dim)
        self.vector = nn.Linear(vector_dim, dim) if vector_dim else None

    def forward(self, noise_level: Tensor, vector: Tensor | None) -> Tensor:
        features = self.features(noise_level).to(self.hidden.weight.dtype)
        emb = self.out(nn.functional.silu(self.hidden(features)))
        if self.vector is not None and vector is not None:
            emb = emb + self.vector(vector.to(self.vector.weight.dtype))
        return emb


class TwoLayers(nn.Module):
    """W2 silu(W1 x)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(c_in, c_out), nn.Linear(c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.silu(self.hidden(x.to(self.hidden.weight.dtype))))


class EmbeddingSum(nn.Module):
    """The sum of what two layers make of the noise level, of the summary `vector` and, if asked for, of a guidance scale."""

    def __init__(self, features: NoiseFeatures, c_features: int, width: int, vector_dim: int, guidance: bool = False) -> None:
        super().__init__()
        self.features, self.vector_dim = features.build(c_features), vector_dim
        self.noise = TwoLayers(c_features, width)
        self.vector = TwoLayers(vector_dim, width) if vector_dim else None
        self.guidance = TwoLayers(c_features, width) if guidance else None

    def forward(
        self, noise_level: Tensor, vector: Tensor | None, guidance: Tensor | None = None, more: Tensor | None = None
    ) -> Tensor:
        """noise_level (B,); vector (B, vector_dim), zeros where absent; guidance (B,), 1 where absent -> (B, width).

        more (B, c_features): added to the features of the noise level.
        """
        features = self.features(noise_level)
        emb = self.noise(features if more is None else features + more)
        if self.vector is not None:
            emb = emb + self.vector(emb.new_zeros(len(emb), self.vector_dim) if vector is None else vector)
        if self.guidance is not None:
            emb = emb + self.guidance(self.features(torch.ones_like(noise_level) if guidance is None else guidance))
        return emb


def centred_grid(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """y and x of every patch, row by row, from the centre of the picture, in patches: two of (height * width,)."""
    y = torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2
    x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
    return y.repeat_interleave(width), x.repeat(height)


def sincos_2d(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Absolute positions as harmonics of y and of x: (height * width, dim); dim divisible by 4."""
    f = geometric(0.01, 1.0, dim // 4, device)
    angles = [c[:, None] * f for c in centred_grid(height, width, device)]
    return torch.cat([g(a) for a in angles for g in (torch.sin, torch.cos)], -1)


def sincos_stretched(rows: int, columns: int, unit: float, dim: int, device: torch.device | None = None) -> Tensor:
    """Absolute positions of open transformers: sines and cosines of x, then of y, of all patches, row by row.

    (rows * columns, dim), dim divisible by 4. Coordinates run from 0 to `unit` along either side: the i-th of n is i unit / n.
    """

    def along(n: int) -> Tensor:
        cos, sin = number_features(torch.arange(n, device=device, dtype=torch.float64) * unit / n, dim // 2).chunk(2, -1)
        return torch.cat([sin, cos], -1).float()

    return torch.cat([along(columns).repeat(rows, 1), along(rows).repeat_interleave(columns, 0)], -1)


def rotary_2d(height: int, width: int, dim: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """cos and sin of the angle of each pair of a head's `dim` channels (divisible by 4): two of (height * width, dim / 2)."""
    f = geometric(0.01, 1.0, dim // 4, device)
    y, x = centred_grid(height, width, device)
    angle = torch.cat([y[:, None] * f, x[:, None] * f], -1)
    return angle.cos(), angle.sin()


def rotary_axes(positions: Tensor, dims: tuple[int, ...], theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin for `rotate_neighbours` of tokens at positions (N, axes): two of (N, sum(dims) / 2).

    Axis a turns its own dims[a] channels (even) of a head, by its coordinate times theta^(-2 i / dims[a]).
    """
    angles = [
        p[:, None].double() * theta ** (-torch.arange(0, d, 2, device=p.device, dtype=torch.float64) / d)
        for p, d in zip(positions.unbind(1), dims)
    ]
    angle = torch.cat(angles, -1)
    return angle.cos().float(), angle.sin().float()


def rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `rotate`, of the pairs (x_2i, x_2i+1): how FLUX was trained."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + D/2}) of (..., N, D) by the angles whose cos and sin are (N, D/2)."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
