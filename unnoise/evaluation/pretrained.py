"""Features of networks that others trained on millions of pictures, from files that the user has.

    inception:FILE   the pooled 2048 features of the Fréchet inception distance (Heusel et al. 2017, 1706.08500) and of KID
                     (Binkowski et al. 2018, 1801.01401): torch-fidelity's weights, converted to safetensors (see PICKLED)
    dinov2:WHERE     the class token after the last normalisation, as in FD-DINOv2 (Stein et al. 2023, 2306.04675)
    clip:WHERE       the projected picture embedding, not normalised, as in CMMD (Jayasumana et al. 2024, 2401.09603) before its
                     division by the length
WHERE is a folder in transformers' format or a name on its hub; size, crop, mean and deviation of the pictures are read there too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unnoise.checkpoints.folder import tensors_hash
from unnoise.core.errors import InputError
from unnoise.core.measure import Examples
from unnoise.evaluation.encoders import Encoder, in_blocks
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.image.preparation import Preparation as Preparation
from unnoise.networks.inception import Inception
from unnoise.training.distributed import device

PICKLED = (
    "pickled weights can run code, so they are not read here. Convert a file that you trust once:\n"
    "  import torch; from safetensors.torch import save_file\n"
    "  save_file({k: v.contiguous() for k, v in torch.load('weights.pth', weights_only=True).items()}, 'weights.safetensors')"
)
_AT_ONCE = 32


@dataclass(frozen=True)
class PictureEncoder(Encoder):
    """prepare: uint8 (n, 3, H, W) -> what `network` takes; network: that -> (n, F)."""

    name: str
    hash: str
    prepare: Callable[[Tensor], Tensor] = field(repr=False)
    network: nn.Module = field(repr=False)

    def features(self, x: Examples, reference: Examples, progress: bool = False) -> Tensor:
        if not isinstance(x, Pictures):
            raise InputError(f"{self.name} looks at pictures; these rows are a {x.kind}")
        x.tensor(reference, [0] if len(x) else [])  # refuses pictures of another size than the reference's
        where = device()
        network = self.network.to(where)

        def some(rows: Sequence[int]) -> Tensor:
            return network(self.prepare(_rgb(x.array(rows), self.name)).to(where)).float().cpu()

        return in_blocks(some, len(x), _AT_ONCE, self.name, progress)


def find_encoder(name: str) -> Encoder:
    """ "inception:FILE", "dinov2:FOLDER_OR_HUB_NAME", "clip:FOLDER_OR_HUB_NAME".

    Raises InputError for another name, a file that is missing, pickled or of another network, and a hub that cannot be reached.
    """
    kind, _, where = name.partition(":")
    if kind not in _KINDS or not where:
        raise InputError(
            f'"{name}" is no network for features; there are inception:FILE, dinov2:FOLDER_OR_HUB_NAME and clip:FOLDER_OR_HUB_NAME'
        )
    return _KINDS[kind](where)


def _rgb(array: Any, name: str) -> Tensor:
    """uint8 (n, H, W, 1 or 3) -> (n, 3, H, W), grey repeated."""
    x = torch.from_numpy(array).permute(0, 3, 1, 2)
    if x.shape[1] not in (1, 3):
        raise InputError(f"{name} looks at grey pictures and at red, green and blue; these have {x.shape[1]} channels")
    return x.expand(-1, 3, -1, -1).contiguous()


def _inception(where: str) -> Encoder:
    path = Path(where)
    if not path.is_file():
        raise InputError(f"{path}: no such file; inception:FILE wants torch-fidelity's Inception weights as safetensors")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: {PICKLED}")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{path}: not readable as safetensors ({e})") from e
    network = Inception()
    own = network.state_dict()
    # the classifier is not needed; counters of training steps were not in all conversions
    tensors = {k: v for k, v in tensors.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    own = {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}
    wrong = sorted(own.keys() ^ tensors.keys()) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise InputError(
            f"{path}: not the Inception of the Fréchet distance in torch-fidelity's names: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, the first {wrong[0]}"
        )
    network.load_state_dict(tensors, strict=False)
    digest = tensors_hash(tensors)[:16]
    return PictureEncoder(f"Inception-v3 (FID), {digest}", digest, lambda x: x, network.eval().requires_grad_(False))


class _ClassToken(nn.Module):
    """DINOv2's."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).pooler_output


class _Projected(nn.Module):
    """CLIP's picture half."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.look, self.project = model.vision_model, model.visual_projection

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.look(pixel_values=x).pooler_output)


def _transformers(where: str, title: str, classes: Mapping[str, str], read: Callable[[Any], nn.Module]) -> Encoder:
    """classes: transformers' class by the model type in the folder's config.json. read: what is taken from the model."""
    try:
        import transformers
    except ImportError as e:
        raise InputError(f'{title} needs transformers: pip install "unnoise[text]"') from e
    if not Path(where).is_dir() and (Path(where).is_absolute() or where.startswith(".") or where.count("/") != 1):
        raise InputError(f"{where}: no such folder, and not a name on the hub, which is OWNER/NAME")
    try:
        kind = transformers.AutoConfig.from_pretrained(where).model_type
        if kind not in classes:
            raise InputError(f"{where}: a model of the type {kind}; {title} is of the type {' or '.join(classes)}")
        # safetensors alone: no pickle is opened
        model, info = getattr(transformers, classes[kind]).from_pretrained(where, use_safetensors=True, output_loading_info=True)
        told = transformers.AutoImageProcessor.from_pretrained(where).to_dict()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as e:
        if isinstance(e, InputError):
            raise
        why = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        origin = "could not be loaded" if Path(where).is_dir() else "is no folder here, and could not be had from the hub"
        raise InputError(f"{where}: {origin}: {why}") from e
    if info["missing_keys"]:
        raise InputError(f"{where}: {len(info['missing_keys'])} weights are missing, the first {min(info['missing_keys'])}")
    network = read(model).eval().requires_grad_(False)
    digest = tensors_hash(network.state_dict())[:16]
    return PictureEncoder(f"{title} ({Path(where).name}), {digest}", digest, Preparation.of(told, where), network)


_DINOV2 = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
_CLIP = {"clip": "CLIPModel", "clip_vision_model": "CLIPVisionModelWithProjection"}
_KINDS: Mapping[str, Callable[[str], Encoder]] = {
    "inception": _inception,
    "dinov2": lambda where: _transformers(where, "DINOv2", _DINOV2, _ClassToken),
    "clip": lambda where: _transformers(where, "CLIP", _CLIP, _Projected),
}
