"""Autoencoders: the codec of latent models, trained on pictures alone. `unnoise train DATA --recipe autoencoder`

With x^ the reconstruction of x, weights w, every term a mean (Rombach et al. 2022, 2112.10752, section 3.1 and appendix G; the
slopes keep edges sharp):

    loss = w1 |x^ - x| + w2 (x^ - x)^2 + w3 |grad x^ - grad x| + w4 features(x^, x) + w5 adversary(x^, x) + bottleneck

features   distance in a frozen network that learned from these pictures themselves (see `evaluation.encoders`); of fewer than 50
           none is learnt
adversary  the relativistic game (`core.adversarial`) about patches, each reconstructed one against the real one of the same place
Transparent pictures are compared over a random background, the same for both, and in their opacity; in `features` premultiplied.

A code that is turned, mirrored or halved should be that of the picture turned, mirrored or halved: such codes are simpler, and a
generator learns them sooner (EQ-VAE, Kouzelis et al. 2025, 2502.09509; scale equivariance, Skorokhodov et al. 2025, 2502.14831).
So for a share of the pictures the decoder is given the changed code, and is compared with the changed picture.

Three recipes, which differ in their bottleneck: autoencoder (KL), autoencoder-vq (codebook), autoencoder-fsq (finite scalars).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from unnoise.checkpoints.codec import load_codec, save_codec
from unnoise.core.adversarial import relativistic
from unnoise.core.codec import Unconditional
from unnoise.core.errors import InputError
from unnoise.core.measure import FEWEST
from unnoise.core.random import Streams
from unnoise.evaluation.encoders import NetworkEncoder, train_self_supervised
from unnoise.modalities.image.alpha import over
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.latents import Latents, LatentsConfig
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.image.show import save_png, sheet
from unnoise.networks.autoencoder import AutoencoderConfig, deep_compression
from unnoise.networks.bottlenecks import BottleneckConfig, CodebookConfig, FiniteScalarsConfig, KLConfig
from unnoise.networks.features import PictureFeatures, feature_distance
from unnoise.networks.gan import PictureCriticConfig, PictureShape
from unnoise.networks.layers import pad_to_multiple
from unnoise.recipes.options import Options
from unnoise.recipes.run import AnyRun, Preview, account, first_process, interrupted, say_what_was_skipped, sheet_file
from unnoise.recipes.sources import Opened, OpenPictures, PictureSource
from unnoise.training.config import AdamWConfig, LinearDecay, TrainConfig
from unnoise.training.data import Batch
from unnoise.training.distributed import device, join
from unnoise.training.loop import fit
from unnoise.training.task import Task

_SHOWN = 18  # pictures on a sheet of reconstructions


@dataclass(frozen=True)
class ReconstructionLosses:
    """Weights, for pictures in -1 ... 1; a term of weight 0 is left out."""

    absolute: float = 1.0
    squared: float = 2.0
    slope: float = 0.5
    features: float = 0.1
    adversarial: float = 0.0
    penalty: float = 1.0
    """gamma of the adversary's gradient penalties."""
    patch: int = 32
    """Side of the patches that the adversary judges, in pixels."""
    critic_width: int = 64
    turned: float = 0.0
    """Share of the pictures whose codes are turned and mirrored, one of eight ways."""
    halved: float = 0.0
    """Share of every batch whose codes are halved: averaged over 2 x 2."""

    def __post_init__(self) -> None:
        if not (0 <= self.turned <= 1 and 0 <= self.halved < 1):
            raise InputError(f"shares of codes turned {self.turned} (0 to 1) and halved {self.halved} (0 to below 1)")
        if min(self.absolute, self.squared, self.slope, self.features, self.adversarial) < 0 or self.absolute + self.squared <= 0:
            raise InputError("weights of losses are not negative, and absolute or squared must be positive")


@dataclass(frozen=True)
class AutoencoderRun(AnyRun):
    """Everything about the training of an autoencoder."""

    data: PictureSource
    codec: LatentsConfig
    train: TrainConfig
    losses: ReconstructionLosses = ReconstructionLosses()
    preview: Preview = Preview()

    def fit(self, opened: Opened, out: Path, resume: bool) -> Latents:
        """The codec, with averaged weights and its latents' mean and spread measured; it lies in out/model."""
        assert isinstance(opened, OpenPictures)
        pictures = opened.kept()
        torch.manual_seed(self.train.seed)
        task = AutoencoderTask(self.codec, self.losses, self._features(pictures, out)).to(device())
        data = pictures.training(PixelsConfig(self.codec.height, self.codec.width, self.codec.channels).build(), Unconditional())
        if first_process() and not resume:
            said = account(self.train, opened, f"{self.codec.autoencoder.factor}x autoencoder", task, data)
            few = f" Fewer than {FEWEST} pictures: they are compared without learnt features." if len(pictures) < FEWEST else ""
            print(said + few, flush=True)
        result = fit(task, data, self.train, out, [_Sheets(self, opened, out)], resume)
        codec = self.codec.build().eval()
        if first_process():
            codec.autoencoder.load_state_dict(autoencoder_weights(result.ema[self.train.ema_widths[-1]]))
            codec.to(device()).settle(blocks(pictures, 4096))
            codec.measure(blocks(pictures, 4096))
            save_codec(codec.cpu(), out / "model", self._card(codec, opened))
            say_what_was_skipped(opened)
        join(device()).any(False)  # all wait until it is written
        if result.interrupted:
            raise interrupted(result.steps, self.train, out)
        return load_codec(out / "model")

    def afterwards(self, out: Path) -> str:
        return f"train on its latents with: unnoise train DATA --recipe latent --codec {out}"

    def _features(self, pictures: PictureData, out: Path) -> PictureFeatures | None:
        if not self.losses.features:
            return None
        if len(pictures) < FEWEST:
            raise InputError(
                f"{len(pictures)} pictures are too few to learn features from: {FEWEST} are the least; give the loss of features a "
                "weight of 0 (losses.features)"
            )
        encoder = train_self_supervised(Pictures.read(pictures), self.train.seed, progress=first_process(), folder=out / "features")
        assert isinstance(encoder, NetworkEncoder)
        assert isinstance(encoder.network, PictureFeatures)
        return encoder.network

    def _card(self, codec: Latents, opened: OpenPictures) -> str:
        share = self.data.options.held_out
        seen = f"{share:.0%} unseen pictures" if share else "the pictures it was trained on"
        sample = spread_pictures(opened.pictures.split(share)[1] if share else opened.pictures, 512)
        c = self.codec
        return f"""# An autoencoder of {self.data.name()}

A codec of latent models, made with unnoise: {c.width} x {c.height} pixels of {c.channels} channels <-> {codec.shape()} numbers.
Weights {codec.hash()[:16]}; config.json holds everything else.

- Trained on: {len(opened.pictures):,} pictures from {self.data.name()}
- Reconstructs {seen} at a PSNR of {psnr(codec, sample):.2f} dB

    unnoise train DATA --recipe latent --codec THIS_FOLDER
"""


class AutoencoderTask(Task):
    def __init__(self, codec: LatentsConfig, losses: ReconstructionLosses, features: PictureFeatures | None) -> None:
        super().__init__()
        network = codec.autoencoder
        if not isinstance(network, AutoencoderConfig):
            raise InputError(f"this recipe trains unnoise's own autoencoders, not a {type(network).__name__}")
        self.losses, self.factor, self.weight = losses, network.factor, network.bottleneck.weight
        self.autoencoder = network.build()
        self.features = features
        sides = (codec.height, codec.width)
        halves = (-(-n // network.factor) // 2 * network.factor for n in sides)
        self.side = min(losses.patch, *(halves if losses.halved else sides))
        shape = PictureShape(codec.channels, self.side, self.side)
        self.critic = PictureCriticConfig(shape, losses.critic_width).build() if losses.adversarial else None

    def train(self, mode: bool = True) -> "AutoencoderTask":
        super().train(mode)
        if self.features is not None:
            self.features.eval()  # frozen: its statistics too
        return self

    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        x = batch["x"]
        assert isinstance(x, Tensor)
        x = pad_to_multiple(x, self.factor)
        code_shape = (self.autoencoder.bottleneck.channels, x.shape[2] // self.factor, x.shape[3] // self.factor)
        code = self.autoencoder.code(x, rng.normal("code", code_shape, device=x.device))
        z, x = self._turned(code.z, x, rng)
        whole = len(x) - int(self.losses.halved * len(x))
        out = self._compared(self.autoencoder.picture(z[:whole]), x[:whole], rng[:whole])
        if whole < len(x):  # losses are means over pictures: each counts the same, whatever its size
            made = self.autoencoder.picture(avg_pool2d(z[whole:], 2))
            halves = avg_pool2d(x[whole:], 2)[..., : made.shape[-2], : made.shape[-1]]  # without the last of an odd number of codes
            half = self._compared(made, halves, rng[whole:])
            share = whole / len(x)
            out = {name: share * out[name] + (1 - share) * half[name] for name in out}
        if self.weight:
            out["code"] = code.loss.mean()
            out["loss"] = out["loss"] + self.weight * out["code"]
        return {**{name: v if name == "loss" else v.detach() for name, v in out.items()}, **code.logged}

    def _turned(self, z: Tensor, x: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
        """Codes and pictures, `losses.turned` of them turned and mirrored alike; only square ones."""
        if not self.losses.turned or x.shape[-1] != x.shape[-2]:
            return z, x
        ways = torch.where(rng.uniform("turned") < self.losses.turned, rng.integers("way", 8), 0).tolist()
        z, x = (torch.stack([turned(p, way) for p, way in zip(of, ways)]) for of in (z, x))
        return z, x

    def _compared(self, made: Tensor, x: Tensor, rng: Streams) -> dict[str, Tensor]:
        """The terms of the loss, and their weighted sum `loss`, for pictures (B, C, H, W)."""
        made = made.float()
        background = rng.uniform("background", (3,), device=x.device)
        real, fake = _shown(x, background), _shown(made, background)
        w, error = self.losses, fake - real
        out = {
            "absolute": error.abs().mean(),
            "squared": error.square().mean(),
            "slope": sum((error.diff(dim=d).abs().mean() for d in (2, 3)), error.new_zeros(())),
        }
        loss = w.absolute * out["absolute"] + w.squared * out["squared"] + w.slope * out["slope"]
        if self.features is not None:
            out["features"] = feature_distance(self.features, made, x).mean()
            loss = loss + w.features * out["features"]
        if self.critic is not None:
            game = relativistic(self.critic, self._patches(real, rng), self._patches(fake, rng), w.penalty)
            loss = loss + w.adversarial * game.generator + game.critic
            out |= {"critic": game.critic, "lead": game.lead}
        return {"loss": loss, **out}

    def _patches(self, x: Tensor, rng: Streams) -> Tensor:
        """One from every picture, at the place that its stream says: (B, C, side, side)."""
        s = self.side
        top, left = (rng.integers(name, n - s + 1).tolist() for name, n in (("top", x.shape[2]), ("left", x.shape[3])))
        return torch.stack([p[:, i : i + s, j : j + s] for p, i, j in zip(x, top, left)])


def turned(x: Tensor, way: int) -> Tensor:
    """One of the eight symmetries of a square, of (..., S, S); 0 is the identity."""
    x = x.rot90(way % 4, (-2, -1))
    return x.flip(-1) if way >= 4 else x


def _shown(x: Tensor, background: Tensor) -> Tensor:
    """As pictures are compared: transparent ones (B, 4, H, W) over their background (B, 3), with their opacity; in -1 ... 1."""
    if x.shape[1] < 4:
        return x
    x = (x + 1) / 2
    return torch.cat([over(x, background), x[:, 3:]], 1) * 2 - 1


def autoencoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a task's state dict, those of the autoencoder, under its own names."""
    prefix = "autoencoder."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def spread_pictures(pictures: PictureData, n: int) -> PictureData:
    """At most n of them, evenly spread."""
    most = min(n, len(pictures))
    return pictures.take([i * len(pictures) // most for i in range(most)])


def blocks(pictures: PictureData, most: int, at_once: int = 64) -> Iterator[Tensor]:
    """At most so many of the pictures, evenly spread, in batches uint8 (B, H, W, C)."""
    some = spread_pictures(pictures, most)
    for first in range(0, len(some), at_once):
        yield torch.from_numpy(some.pictures(range(first, min(first + at_once, len(some)))))


def psnr(codec: Latents, pictures: PictureData) -> float:
    """10 log10(255^2 / mean squared error) in dB, one mean over all numbers; transparent pictures as the codec's states hold them,
    premultiplied.
    """
    pixels, total, count = codec.pixels, 0.0, 0
    for x in blocks(pictures, len(pictures)):
        error = pixels.encode(codec.decode(codec.encode(x))) - pixels.encode(x)
        total, count = total + float((error * 127.5).double().square().sum()), count + error.numel()
    return 10 * math.log10(255**2 / max(total / count, 1e-12))


@dataclass
class _Sheets:
    """The hook that draws pictures beside what becomes of them: unseen ones where some are held out."""

    run: AutoencoderRun
    opened: OpenPictures
    out: Path
    every: int = field(init=False)

    def __post_init__(self) -> None:
        self.every = self.run.train.sample_every
        self.codec = self.run.codec.build().eval()
        share = self.run.data.options.held_out
        shown = spread_pictures(self.opened.pictures.split(share)[1] if share else self.opened.pictures, _SHOWN)
        self.pictures = torch.from_numpy(shown.pictures(range(len(shown))))

    def __call__(self, step: int, task_with_ema_weights: Task) -> None:
        self.codec.autoencoder.load_state_dict(autoencoder_weights(task_with_ema_weights.state_dict()))
        made = self.codec.decode(self.codec.encode(self.pictures))
        pairs = [p for pair in zip(self.pictures, made) for p in pair]
        save_png(
            sheet_file(self.out, step), sheet(pairs, columns=6, title="in pairs: a picture, its reconstruction"), {"step": step}
        )


# -- recipes -----------------------------------------------------------------------------------------------------------------


def autoencoder(opened: OpenPictures, source: PictureSource, options: Options) -> AutoencoderRun:
    return autoencoder_run(opened, source, options, KLConfig(latent_channels(factor_of(opened.pictures, options))))


def autoencoder_vq(opened: OpenPictures, source: PictureSource, options: Options) -> AutoencoderRun:
    return autoencoder_run(opened, source, options, CodebookConfig())


def autoencoder_fsq(opened: OpenPictures, source: PictureSource, options: Options) -> AutoencoderRun:
    return autoencoder_run(opened, source, options, FiniteScalarsConfig())


def autoencoder_run(opened: OpenPictures, source: PictureSource, options: Options, bottleneck: BottleneckConfig) -> AutoencoderRun:
    data = opened.pictures
    network: AutoencoderConfig = deep_compression(data.channels, factor_of(data, options), bottleneck, options.width or 48)
    blocks_each = options.depth
    network = replace(network, blocks=tuple(blocks_each or min(i + 1, 2) for i in range(len(network.widths))))
    batch = options.batch or min(32, len(data))
    seen = min(max(30 * len(data), 60_000), 160_000)
    steps = options.steps if options.steps is not None else math.ceil(seen / batch)
    return AutoencoderRun(
        data=source,
        codec=LatentsConfig(data.height, data.width, data.channels, network),
        losses=ReconstructionLosses(features=0.1 if len(opened.kept()) >= FEWEST else 0.0, adversarial=0.05),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            seed=options.seed,
            optimiser=options.optimiser(AdamWConfig(options.lr or 1e-3, (0.9, 0.99))),
            warmup=min(200, steps // 10),
            decay=LinearDecay(start=0.5),
            ema_widths=(0.05,),
            checkpoint_every=max(1, min(500, steps // 4)),
            snapshot_every=0,
            sample_every=max(250, steps // 8),
        ),
    )


def factor_of(data: PictureData, options: Options) -> int:
    """Pixels along a side for one code: about 8 x 8 codes a picture, 32 pixels each at most."""
    if options.compression is not None:
        return options.compression
    return 2 ** min(5, max(1, round(math.log2(max(data.height, data.width) / 8))))


def latent_channels(factor: int) -> int:
    """Numbers a code of a KL autoencoder has, where it stands for factor x factor pixels."""
    return 16 if factor <= 8 else 32
