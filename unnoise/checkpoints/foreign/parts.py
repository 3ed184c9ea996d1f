"""A foreign checkpoint, whatever file it came from: its networks in the terms of the diffusers library.

Every format ends here: a folder of diffusers as it is, single files and quantised ones renamed. So our networks, codecs, schedules
and text encoders are made in one way (`building`), and exporting is the way back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One network. config: what its config.json says, `_class_name` among it; tensors: by diffusers' (or transformers') names, read
    from the file only when they are asked for. where: the file or folder, for messages.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)
    where: str

    @property
    def kind(self) -> str:
        """The class of theirs, such as UNet2DConditionModel."""
        return str(self.config.get("_class_name", (self.config.get("architectures") or ["?"])[0]))


@dataclass(frozen=True)
class Foreign:
    """All that makes a model.

    pipeline: the class of theirs that runs it, such as StableDiffusionXLPipeline. parts: by diffusers' names: unet or transformer,
    vae, text_encoder, text_encoder_2, text_encoder_3, image_encoder. scheduler: what scheduler_config.json says. tokenizers:
    folders (tokenizer, tokenizer_2 ...), where there are any. where: file or folder.
    """

    pipeline: str
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any]
    tokenizers: Mapping[str, Path]
    where: str
