"""A model of a few thousand weights that reads words and draws 8 x 8 pictures, for tests of what surrounds networks."""

from dataclasses import replace

import torch

from unnoise.control.sampling import Sampling
from unnoise.core.preconditioning import EDM
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow
from unnoise.modalities.conditioning import TextConfig
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.model import DiffusionModel, ModelConfig
from unnoise.networks.text import TextEncoderConfig
from unnoise.networks.transformer import DiffusionTransformerConfig


def tiny_config() -> ModelConfig:
    encoder = TextEncoderConfig(width=32, depth=1, heads=2, buckets=64)
    return ModelConfig(
        codec=PixelsConfig(8, 8, 1),
        conditioner=TextConfig.of(["zero", "one", "two", "three"], encoder),
        network=DiffusionTransformerConfig(1, patch=2, width=32, depth=2, heads=2, vector_dim=32, token_dim=32),
        process=Gaussian(RectifiedFlow()),
        preconditioner=EDM(0.5),
        sampling=Sampling(steps=5, guidance=2.0),
    )


def tiny_model(seed: int = 0) -> DiffusionModel:
    """Networks start as zero maps; here every weight is drawn, so that everything has an influence."""
    torch.manual_seed(seed)
    model = tiny_config().build()
    with torch.no_grad():
        for p in model.parts.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def wide_model() -> DiffusionModel:
    """Of layers as wide as int8 takes them; every weight is drawn, too."""
    network = DiffusionTransformerConfig(1, patch=2, width=128, depth=2, heads=2, vector_dim=32, token_dim=32)
    torch.manual_seed(0)
    model = replace(tiny_config(), network=network).build()
    with torch.no_grad():
        for p in model.parts.parameters():
            p.add_(0.03 * torch.randn_like(p))
    return model
