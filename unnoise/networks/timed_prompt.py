"""The IP-Adapter of Stable Diffusion 3.5 (InstantX 2024), which is told the noise level t, e = E(t):

    h = W s + e,  z queries learnt;  (b1, s1, b2, s2) = M silu(e) modulate each block of the resampler (`image_prompt`):
    z <- z + attention(y, [LN(h), y]),  y = (1 + s1) LN(z) + b1,      z <- z + mlp((1 + s2) LN(z) + b2),      p = LN(W z)
    keys and values of layer k:   RMS(W_k p_k),  W_v p_k,     p_k = (1 + s) LN(p) + b,  (b, s) = M_k silu(e)

The picture's own queries and keys, normalised with weights of the adapter's, and its values go into one softmax with these
(`steering.Among`): what is found is added to what the joint attention finds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from unnoise.networks.embedding import Timesteps, TwoLayers
from unnoise.networks.image_prompt import ResamplerBlock, ResamplerConfig
from unnoise.networks.layers import RMSNorm
from unnoise.networks.mmdit import modulated
from unnoise.networks.steering import Among, Shown


@dataclass(frozen=True)
class TimedPromptConfig:
    """resampler: its `token_dim` is the width of the network's blocks. layers: how many these are; head_dim: channels of a head of
    theirs. features: of the noise level."""

    resampler: ResamplerConfig
    layers: int = 38
    head_dim: int = 64
    features: int = 320

    @property
    def seen_dim(self) -> int:
        return self.resampler.seen_dim

    @property
    def width(self) -> int:
        return self.resampler.token_dim

    def build(self) -> "TimedPrompt":
        return TimedPrompt(self)


class TimedBlock(nn.Module):
    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.block, self.modulation = ResamplerBlock(config), nn.Linear(config.width, 4 * config.width)

    def forward(self, z: Tensor, seen: Tensor, emb: Tensor) -> Tensor:
        """z (n, tokens, width), seen (n, L, width), emb (n, width) -> as z."""
        b1, s1, b2, s2 = self.modulation(silu(emb))[:, None].chunk(4, -1)
        norm, *mlp = self.block.mlp
        z = z + self.block.attended(torch.addcmul(b1, self.block.norm(z), 1 + s1), seen)
        return z + nn.Sequential(*mlp)(torch.addcmul(b2, norm(z), 1 + s2))


class TimedLayer(nn.Module):
    """q_norm, k_norm: of the picture's own; own_norm: of its keys."""

    def __init__(self, config: TimedPromptConfig) -> None:
        super().__init__()
        width, d = config.width, config.head_dim
        self.modulation = nn.Linear(config.resampler.width, 2 * width)
        self.keys, self.values = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm, self.own_norm = RMSNorm(d), RMSNorm(d), RMSNorm(d)

    def forward(self, tokens: Tensor, emb: Tensor, weight: Tensor) -> Shown:
        """tokens (B, L, width), emb (B, C), weight (B,)."""
        shift, scale = self.modulation(silu(emb)).chunk(2, -1)
        p = modulated(tokens, shift, scale)
        keys = self.own_norm(self.keys(p).unflatten(-1, (-1, len(self.own_norm.weight)))).flatten(-2)
        q_norm, k_norm = (norm.weight.expand(len(weight), -1) for norm in (self.q_norm, self.k_norm))
        return Shown(keys, self.values(p), Among(q_norm, k_norm, weight))


class TimedPrompt(nn.Module):
    def __init__(self, config: TimedPromptConfig) -> None:
        super().__init__()
        own = config.resampler
        self.config, self.features = config, Timesteps().build(config.features)
        self.time = TwoLayers(config.features, own.width)
        self.queries = nn.Parameter(torch.randn(1, own.tokens, own.width) / own.width**0.5)
        self.enter = nn.Linear(own.seen_dim, own.width)
        self.blocks = nn.ModuleList(TimedBlock(own) for _ in range(own.depth))
        self.leave, self.norm = nn.Linear(own.width, own.token_dim), nn.LayerNorm(own.token_dim)
        self.layers = nn.ModuleList(TimedLayer(config) for _ in range(config.layers))

    def forward(self, seen: Tensor, noise_level: Tensor, weight: Tensor) -> list[Shown]:
        """What the encoder says of n pictures for each row (B, n, L, seen_dim), noise_level (B,) in [0, 1], weight (B,) of what is
        found -> what each layer is shown, the tokens of all n in one sequence."""
        emb, n = self.time(self.features(noise_level)), seen.shape[1]
        each = emb.repeat_interleave(n, 0)
        h = self.enter(seen.flatten(0, 1).to(self.enter.weight.dtype)) + each[:, None]
        z = self.queries.expand(len(h), -1, -1)
        for block in self.blocks:
            z = block(z, h, each)
        tokens = self.norm(self.leave(z)).unflatten(0, (-1, n)).flatten(1, 2)
        return [layer(tokens, emb, weight) for layer in self.layers]
