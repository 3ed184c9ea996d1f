"""What CLIP's picture half (Radford et al. 2021, 2103.00020) or SigLIP's (Zhai et al. 2023, 2303.15343) sees in pictures: frozen,
read by transformers (extra `text`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.modalities.image.preparation import Preparation
from unnoise.modalities.words.source import quiet

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in the pictures that CLIP was trained on."""
HALF = (0.5, 0.5, 0.5)
"""What SigLIP takes for both."""


class Seen(NamedTuple):
    """embeddings (n, D), of CLIP projected, not normalised; tokens (n, L, width) of the layer before the last, and of the last as
    they leave the network."""

    embeddings: Tensor
    tokens: Tensor
    last: Tensor


class PictureEncoder:
    """source: a folder in transformers' format, or a name on its hub. Raises InputError for one that is missing or is neither CLIP
    nor SigLIP."""

    def __init__(self, source: str | Path) -> None:
        self.source, self.network = str(source), _open(str(source))
        self.siglip = self.network.config.model_type == "siglip_vision_model"
        self.side = int(self.network.config.image_size)
        mean, std = (HALF, HALF) if self.siglip else (MEAN, STD)
        self.cut = Preparation(None, "bicubic", (self.side, self.side), 1 / 255, mean, std)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[np.ndarray]) -> Seen:
        """uint8 (H, W, 3), of any sizes. Of what is no square, CLIP sees the middle, and SigLIP all of it, stretched."""
        return self._seen(torch.cat([self.cut(self._resized(p).permute(2, 0, 1)[None]) for p in pictures]))

    @torch.no_grad()
    def nothing(self) -> Seen:
        """Of no picture, as IP-Adapters were trained to be told it: embeddings of zeros, and the tokens of a picture of zeros."""
        seen = self._seen(torch.zeros(1, 3, self.side, self.side))
        return seen._replace(embeddings=torch.zeros_like(seen.embeddings))

    def black(self) -> Seen:
        """Of a black picture, which IP-Adapters for FLUX are told in place of no picture."""
        return self([np.zeros((self.side, self.side, 3), np.uint8)])

    def _resized(self, picture: np.ndarray) -> Tensor:
        """The shorter side as long as is seen, both for SigLIP. By Pillow, as their own preparation does it to the last bit."""
        height, width = picture.shape[:2]
        size = [self.side if self.siglip else int(self.side * side / min(height, width)) for side in (width, height)]
        return torch.tensor(np.asarray(Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.BICUBIC)))

    def _seen(self, x: Tensor) -> Seen:
        out = self.network(pixel_values=x, output_hidden_states=True)
        return Seen(out.pooler_output if self.siglip else out.image_embeds, out.hidden_states[-2], out.last_hidden_state)


def _open(source: str) -> Any:
    try:
        import transformers
    except ImportError as e:
        raise InputError(f'the picture encoder {source} needs transformers: pip install "unnoise[text]"') from e
    local = Path(source).is_dir()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") != 1):
        raise InputError(f"{source}: no such folder, and not a name on the hub, which is OWNER/NAME")
    try:
        told = transformers.AutoConfig.from_pretrained(source).model_type
        if told not in ("clip", "clip_vision_model", "siglip", "siglip_vision_model"):
            raise ValueError(f"it is a {told}, neither CLIP nor SigLIP")
        kind: Any = transformers.CLIPVisionModelWithProjection if told.startswith("clip") else transformers.SiglipVisionModel
        with quiet(transformers.utils.logging) if local else nullcontext():  # what is fetched shows how far it is
            network, info = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as e:
        why = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        where = "could not be loaded" if local else "is no folder here, and could not be had from the hub"
        raise InputError(f"picture encoder {source}: {where}: {why.strip()}") from e
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{source}: {len(missing)} weights of an encoder of pictures are missing, the first {missing[0]}")
    return network.float().eval().requires_grad_(False)
