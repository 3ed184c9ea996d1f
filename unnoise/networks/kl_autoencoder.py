"""The autoencoder of Stable Diffusion 1, 2, XL and 3, FLUX and PixArt (Rombach et al. 2021, 2112.10752, section 3.1, appendix G).

    encoder  a convolution; levels of residual blocks, between which a convolution of stride 2 halves the sides; in the middle two
             residual blocks, self-attention of one head over all positions between them; norm, silu, a convolution to the moments
    q(z | x) = N(mean, exp(log variance)),   (mean, log variance) = moments, mixed by a 1 x 1 convolution in Stable Diffusion
    decoder  the mirror image with one residual block more a level; sides double by repeating pixels before a convolution
Halving pads with zeros to the right and below alone, so that pixel 2 i is the first that code i sees.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import pad

from unnoise.networks.autoencoder import NormalisedResidual, silu_over
from unnoise.networks.doubling import Doubling
from unnoise.networks.layers import wide
from unnoise.networks.norm import GroupNorm
from unnoise.networks.picture_autoencoder import PictureAutoencoder, PictureAutoencoderConfig, channels_last, refuse_uneven
from unnoise.networks.unet import SelfAttention

EPS = 1e-6


@dataclass(frozen=True)
class KLAutoencoderConfig(PictureAutoencoderConfig):
    """widths: channels of every level, the finest first; blocks: residual blocks of each in the encoder, one more in the decoder.

    attention: in the middle. mixed_moments, mixed_codes: whether a 1 x 1 convolution stands before and behind the code.
    force_upcast: that it overflows float16, in which nothing is computed here: for those who read what is exported.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    attention: bool = True
    mixed_moments: bool = True
    mixed_codes: bool = True
    force_upcast: bool = True

    def __post_init__(self) -> None:
        if min(self.channels, self.latent_channels, self.blocks, self.groups) < 1 or not self.widths:
            raise ValueError(f"{self}: at least one level, and positive numbers are meant")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"widths {self.widths} do not divide into {self.groups} groups")

    @property
    def factor(self) -> int:
        return 2 ** (len(self.widths) - 1)

    @property
    def reach(self) -> None:
        return None

    def build(self) -> "KLAutoencoder":
        return KLAutoencoder(self)


class Halving(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad(input, (0, 1, 0, 1)))


class Level(nn.Module):
    """Residual blocks, then what changes the sides; a last level has nothing there."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, resample: nn.Module | None) -> None:
        super().__init__()
        self.residuals = nn.Sequential(*(_residual(outputs if i else inputs, outputs, groups) for i in range(blocks)))
        self.resample = nn.Identity() if resample is None else resample

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(self.residuals(x))


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(_residual(channels, channels, groups) for _ in range(2))
        self.attention = SelfAttention(channels, channels, groups, EPS) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.residuals[1](self.attention(self.residuals[0](x)))


def _residual(inputs: int, outputs: int, groups: int) -> NormalisedResidual:
    return NormalisedResidual(inputs, outputs, groups, EPS)


class Encoder(nn.Module):
    def __init__(self, config: KLAutoencoderConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.first = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.down = nn.Sequential(
            *(
                Level(widths[max(i - 1, 0)], w, config.blocks, config.groups, Halving(w) if i < last else None)
                for i, w in enumerate(widths)
            )
        )
        self.middle = Middle(widths[-1], config.groups, config.attention)
        self.norm = GroupNorm(config.groups, widths[-1], EPS)
        self.last = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(silu_over(self.norm(self.middle(self.down(self.first(x))))))


class Decoder(nn.Module):
    def __init__(self, config: KLAutoencoderConfig) -> None:
        super().__init__()
        widths, last = config.widths[::-1], len(config.widths) - 1
        self.first = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], config.groups, config.attention)
        self.up = nn.Sequential(
            *(
                Level(widths[max(i - 1, 0)], w, config.blocks + 1, config.groups, Doubling(w, w) if i < last else None)
                for i, w in enumerate(widths)
            )
        )
        self.norm = GroupNorm(config.groups, widths[-1], EPS)
        self.last = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(silu_over(self.norm(self.up(self.middle(self.first(z))))))


class KLAutoencoder(PictureAutoencoder):
    """Works in the dtype of its weights, channels last; gives float32 at least."""

    def __init__(self, config: KLAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        c = config.latent_channels
        self.mix_moments = nn.Conv2d(2 * c, 2 * c, 1) if config.mixed_moments else nn.Identity()
        self.mix_codes = nn.Conv2d(c, c, 1) if config.mixed_codes else nn.Identity()

    def encode(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        refuse_uneven(x, self.config.factor)
        moments = self.mix_moments(self.encoder(channels_last(x, self.encoder.first.weight)))
        mean, log_variance = moments.to(wide(moments)).chunk(2, 1)
        return mean, (0.5 * log_variance.clamp(-30, 20)).exp()

    def decode(self, z: Tensor) -> Tensor:
        x = self.decoder(self.mix_codes(channels_last(z, self.decoder.first.weight)))
        return x.to(wide(x))
