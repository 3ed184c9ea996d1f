"""The short options of `unnoise train`; each overrides one choice of a recipe. None leaves it to the recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unnoise.training.config import AdamWConfig, MuonConfig


@dataclass(frozen=True)
class Options:
    steps: int | None = None
    """Optimiser steps; the recipe decides from the data. Where something else is trained first, these are of what comes after it:
    an autoencoder has --first.train.steps of its own, thousands unless given, an embedder --embedder.train.steps."""
    batch: int | None = None
    """Rows an optimiser step."""
    size: int | None = None
    """Side of the training pictures in pixels; the recipe takes the pictures' own, up to 64."""
    lr: float | None = None
    """Learning rate after the warm-up."""
    seed: int = 0
    """Decides the first weights, the order of the data, all noise."""
    width: int | None = None
    """Width of the network."""
    depth: int | None = None
    """Blocks of the network."""
    background: str | None = None
    """What transparent pictures are laid over: a colour name or #rrggbb. Not given: white."""
    alpha: bool | None = None
    """Keep transparency of pictures, instead of laying them over the background. Not given: in latent models and autoencoders,
    where some pixel is transparent, unless a background is given."""
    buckets: int | None = None
    """For pictures of several shapes: train each at the nearest of a few sizes of one area, their sides multiples of this."""
    flip: bool = False
    """Mirror half of the pictures at random; wrong for letters, digits and faces of clocks."""
    recaption: bool = False
    """Make several captions of different lengths for each picture, of the name, keywords, group and style that the set gives it."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """How often pictures of a group are drawn, against the others: flags 0.25 variants 0.5. Variants are those with skin tones."""
    embedder: str | None = None
    """For unCLIP: the folder of a network that the recipe retrieval trained, for its embeddings; else one is trained first."""
    factor: int = 2
    """For super-resolution: how many times the sides of a picture are to grow."""
    muon: bool = False
    """Train the weight matrices with Muon, the rest with AdamW."""
    transport: bool = False
    """For pictures: pair noise and pictures within each batch by optimal transport (needs scipy)."""
    internal_guidance: bool = False
    """For transformers: train a middle head along, which `unnoise sample --inner internal` leads away from."""
    codec: str | None = None
    """For latent models: the folder of a codec that was trained before, by the recipe autoencoder; else one is trained first."""
    compression: int | None = None
    """For autoencoders: pixels along a side for one code, a power of two; the recipe aims at 8 x 8 codes."""
    text_encoder: str | None = None
    """A text encoder that was trained before: a frozen CLIP, T5 or sentence encoder by its hub name or folder (several with
    commas between; CLIP+CLIP and CLIP+CLIP,T5 as SDXL and SD3 join them), or the folder of the recipe distil-text; for that recipe,
    the teacher. Not given: a small one is trained along."""
    spelling: bool = False
    """For captions of free text: tell the network the words in quotes, and behind "says", letter by letter too."""
    begin_with: str | None = None
    """A model to begin with: a folder, a run, or the name of one that ships. Its network and codec are kept, its weights gone on
    from."""
    condition: str | None = None
    """For tables: the column of categories whose values become prompts."""

    def optimiser(self, usual: AdamWConfig) -> AdamWConfig | MuonConfig:
        """The recipe's AdamW, or Muon at the same learning rate with it for the rest."""
        return MuonConfig(lr=usual.lr, weight_decay=usual.weight_decay, rest=usual) if self.muon else usual
