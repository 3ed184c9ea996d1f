"""ControlNets, T2I-Adapters, IP-Adapters and Redux from their files, one call each:

edges, cat = controlnet("canny", "edges.png", 0.8), picture_prompt("ip-adapter.safetensors", ["cat.png"])
model = load("stable-diffusion").attached(edges, cat)
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unnoise.checkpoints.foreign.adapter_names import image_prompt, redux, steering, timed_prompt
from unnoise.checkpoints.foreign.control_configs import controlnet_of_diffusers
from unnoise.checkpoints.foreign.control_on_base import lacks_base, on_base
from unnoise.checkpoints.foreign.folder import PICKLED, read_config, read_part
from unnoise.checkpoints.foreign.hub import CONFIG, at_hand, fetch_first, fetch_part, is_hub_name
from unnoise.checkpoints.foreign.lora import one_name
from unnoise.checkpoints.foreign.lora_names import has_low_rank
from unnoise.checkpoints.foreign.original_configs import controlnet as original_controlnet
from unnoise.checkpoints.foreign.original_configs import part
from unnoise.checkpoints.foreign.parts import MappedTensors, Part
from unnoise.checkpoints.foreign.pieces import SafetensorsStore
from unnoise.checkpoints.foreign.recognise import converting, refuse_pickle, refuse_unrun
from unnoise.control.adapters import Control
from unnoise.control.guidance import Interval
from unnoise.control.picture_prompts import PicturePrompt, PictureWords, TimedPicturePrompt
from unnoise.core.errors import UNSOUND, InputError
from unnoise.modalities.image.clip import PictureEncoder
from unnoise.modalities.image.decode import Target, Unreadable, decode, inspect
from unnoise.modalities.image.preparation import Preparation
from unnoise.networks.image_prompt import FaceConfig, ImagePrompt, Redux, with_faces
from unnoise.networks.timed_prompt import TimedPrompt

Picture = str | Path | np.ndarray | Image.Image
"""A file, uint8 (H, W, 1 or 3), or PIL's."""
ENCODER = "image_encoder"
"""The folder beside an IP-Adapter, or beside the folder it lies in, that holds the encoder of pictures it was trained with."""
EMBEDDER, FEATURES = "image_embedder", "feature_extractor"
"""The folders beside that one, of FLUX.1 Redux in diffusers' layout: its own weights, and how pictures are prepared."""
_NEAR = (
    *(f"{up}{ENCODER}/{name}" for up in ("", "../") for name in (CONFIG, "model.safetensors")),
    f"{FEATURES}/preprocessor_config.json",
)
"""What is read beside an IP-Adapter's or Redux's file."""
_IN_REDUX = (
    f"{EMBEDDER}/{CONFIG}", f"{ENCODER}/{CONFIG}", f"{ENCODER}/model.safetensors", f"{FEATURES}/preprocessor_config.json",
)  # fmt: skip
"""What is read of Redux in diffusers' layout, beside its own weights."""
_NESTED = "{f'{a}.{k}': v for a, part in d.items() for k, v in part.items()}"
"""The tensors of a pickled IP-Adapter, for `converting`."""


def controlnet(
    where: str | Path, picture: Picture | Sequence[Picture], scale: float = 1.0, interval: Interval = (0.0, 1.0),
    guess: bool = False, mode: int | Sequence[int] = (), beside: nn.Module | None = None,
) -> Control:  # fmt: skip
    """A ControlNet (for Stable Diffusion 1, 2, XL and 3, for FLUX) or a T2I-Adapter, with its control picture or pictures.

    where: a folder of diffusers, one file of weights in it, or a ControlNet in a single file: under diffusers' names, or for Stable
    Diffusion 1, 2 and XL under those of its makers; or the name of any of these on the hub. One that fills in
    (control_v11p_sd15_inpaint is known by its name, those for Stable Diffusion 3 and FLUX by their tensors) draws anew what is
    transparent in its picture. mode: of every picture, for a ControlNet that tells kinds of them apart. beside: the network that it
    is to steer (`model.denoiser.network`), whose weights a Control-LoRA is put together with. The rest as `Control`'s.
    Raises InputError for what is missing, and for what cannot be run.
    """
    read = _steering_part(Path(where), beside)
    names = f"{Path(where).name} {Path(read.where).name}"  # a folder's, for a file in it
    holes = {"holes": True} if "inpaint" in names.lower() else {}  # of those for Stable Diffusion 1 no tensor says it
    try:
        network = steering(read.kind, {**read.config, **holes}, read.tensors)
    except KeyError as e:
        raise InputError(f"{where}: its configuration lacks {e}") from None
    except ValueError as e:
        raise InputError(f"{where}: {e}") from None
    except UNSOUND as e:
        raise InputError(f"{where}: its settings are none that a network can have ({type(e).__name__}: {e})") from e
    pictures = [picture] if isinstance(picture, Picture) else picture
    modes = [mode] if isinstance(mode, int) else mode
    shown = [read_picture(p, 4 if network.holes else 3) for p in pictures]
    return Control(Path(where).stem, network, shown, scale, interval, guess, modes)


def steering_at_hand(path: Path) -> Path:
    """A ControlNet's or T2I-Adapter's file or folder, as it was fetched where it has the name of one on the hub."""
    path = at_hand(path)
    return fetch_part(str(path)) if is_hub_name(str(path)) and not path.exists() else path


def prompt_at_hand(file: Path, encoder: str | Path | None) -> Path:
    """The same of an IP-Adapter or Redux; without an encoder, with what lies near it. By OWNER/NAME the folder of Redux."""
    if file.suffix in PICKLED:  # of which `_picture_network` says more
        return file
    if is_hub_name(str(file)) and not file.exists():
        return fetch_first(str(file), [f"{EMBEDDER}/diffusion_pytorch_model.safetensors"], _IN_REDUX)
    return at_hand(file, _NEAR if encoder is None else ())


def _steering_part(path: Path, beside: nn.Module | None) -> Part:
    path = steering_at_hand(path)
    if path.is_dir():
        return read_part(path)
    if not path.exists():
        wanted = "a ControlNet or T2I-Adapter is a folder with a config.json and its weights, or such a model's name on the hub"
        raise InputError(f"{path}: no such file or folder; {wanted}")
    refuse_pickle(path)
    store = SafetensorsStore(path)
    if lacks_base(store.shapes):
        return on_base(store, beside, str(path))
    for prefix in ("control_model.", ""):
        if {f"{prefix}input_hint_block.0.weight", f"{prefix}input_blocks.0.0.weight"} <= set(store.shapes):
            read = part(store, prefix, original_controlnet, str(path))
            return replace(read, config={**read.config, "global_pool_conditions": "shuffle" in path.stem})  # no tensor says it
    refuse_unrun(store.shapes, path)
    if (path.parent / "config.json").is_file():
        return read_part(path.parent, file=path.name)
    try:
        config = controlnet_of_diffusers(store.shapes)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    if config is not None:
        return Part({**config, "global_pool_conditions": "shuffle" in path.stem}, MappedTensors([path]), str(path))
    raise InputError(
        f"{path}: not a ControlNet for Stable Diffusion as its makers wrote it, nor one for it or FLUX under diffusers' names; "
        "others are read in diffusers' layout, with the config.json beside them"
    )


def picture_prompt(
    file: str | Path, pictures: Picture | Sequence[Picture], encoder: str | Path | None = None, scale: float = 1.0,
    interval: Interval = (0.0, 1.0),
) -> PicturePrompt | PictureWords | TimedPicturePrompt:  # fmt: skip
    """An IP-Adapter (plain, plus, plus face, full face; XLabs' for FLUX, InstantX' for Stable Diffusion 3.5), or FLUX.1 Redux, with
    the picture or pictures that prompt it, all of them together.

    file: or its name on the hub; of Redux a file, a folder in diffusers' layout, or the folder's name on the hub. encoder: the CLIP
    or SigLIP that it was trained with, a folder or a name on the hub; by default the folder image_encoder near the file. Raises
    InputError for a file that is none, no pictures, and an encoder that is missing or another adapter's.
    """
    named, file = Path(file).name, prompt_at_hand(Path(file), encoder)
    network = _picture_network(file)
    shown = [pictures] if isinstance(pictures, Picture) else pictures
    if not shown:
        raise InputError(f"{file}: prompts with pictures; give at least one")
    look = PictureEncoder(encoder_near(file) if encoder is None else encoder)
    seen = look([read_picture(p) for p in shown])
    if not isinstance(network, ImagePrompt):
        _check_siglip(file, look)
        if isinstance(network, Redux):
            return PictureWords(named if file.is_dir() else file.stem, network, seen.last, scale, interval)
        return TimedPicturePrompt(file.stem, network, seen.tokens, scale, interval)
    nothing = look.black() if network.config.bias else look.nothing()
    if isinstance(network.config.projection, FaceConfig) or brings_low_rank(file):
        raise InputError(
            f"{file}: is told what a recogniser says of faces (FaceID), not pictures alone: in a file of numpy's, FACE.npy, in "
            "Python face_prompt(file, embeddings)"
        )
    if network.projection.whole:
        return PicturePrompt(file.stem, network, seen.tokens, nothing.tokens, scale, interval)
    return PicturePrompt(file.stem, network, seen.embeddings, nothing.embeddings, scale, interval)


def face_prompt(
    file: str | Path, embeddings: Tensor, scale: float = 1.0, interval: Interval = (0.0, 1.0), pictures: Sequence[Picture] = (),
    encoder: str | Path | None = None,
) -> PicturePrompt:  # fmt: skip
    """An IP-Adapter that is told embeddings (n, D) as they are, such as a recogniser's of faces (FaceID), and 0 for no picture.

    pictures: of FaceID plus, of the faces as the recogniser cut them out, one for each embedding; its second version is known by
    `plusv2` in the file's name. encoder: as for `picture_prompt`, of these. The LoRA that FaceID's files have beside it has to be
    on the model before: `with_loras(model, {file: 1.0})`.
    Raises InputError for a file that is none, for embeddings of another width, and for other pictures than it looks at.
    """
    where = prompt_at_hand(Path(file), encoder) if pictures else at_hand(file, ())
    network = _picture_network(where)
    if not isinstance(network, ImagePrompt):
        raise InputError(f"{file}: reads pictures, not embeddings: it is FLUX.1 Redux, or for Stable Diffusion 3.5")
    seen, nothing, config = embeddings, torch.zeros_like(embeddings), network.config.projection
    if isinstance(config, FaceConfig):
        if len(pictures) != len(embeddings) or not pictures or embeddings.shape[1:] != (config.face,):
            takes = f"embeddings (n, {config.face}) and as many pictures of the faces"
            raise InputError(f"{file}: takes {takes}, not {tuple(embeddings.shape)} and {len(pictures)} pictures")
        look = PictureEncoder(encoder_near(where) if encoder is None else encoder)
        tokens, none = look([read_picture(p) for p in pictures]).tokens, look.nothing().tokens
        if tokens.shape[-1] != config.seen_dim:
            raise InputError(f"{file}: takes {config.seen_dim} channels of an encoder; {look.source} has {tokens.shape[-1]}")
        seen, nothing = with_faces(embeddings, tokens), with_faces(nothing[:1], none)
    elif pictures:
        raise InputError(f"{file}: is told embeddings alone; pictures are for FaceID plus")
    return PicturePrompt(Path(file).stem, network, seen, nothing, scale, interval, one_name(file) if brings_low_rank(where) else "")


def brings_low_rank(file: Path) -> bool:
    """Whether an IP-Adapter's file has a LoRA of the network, too, as FaceID's do."""
    return file.is_file() and has_low_rank(MappedTensors([file]))


def read_picture(picture: Picture, channels: int = 3) -> np.ndarray:
    """uint8 (H, W, 3); what is transparent is black, grey is repeated. With 4 channels, opacity is the last.

    InputError for a file that is missing or no picture.
    """
    if isinstance(picture, np.ndarray):
        known = (1, 3) if channels == 3 else (channels,)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] not in known:
            takes = f"uint8 (height, width, {' or '.join(map(str, known))})"
            raise InputError(f"a picture is {takes}, not {picture.dtype} {picture.shape}")
        return picture.repeat(3, -1) if picture.shape[-1] == 1 else picture
    if isinstance(picture, Image.Image):
        picture.convert("RGBA").save(png := BytesIO(), "PNG")
        png.seek(0)
        return decode(png, Target(picture.height, picture.width, channels, (0, 0, 0), pad=False))
    path = Path(picture)
    if not path.is_file():
        raise InputError(f"{path}: no such picture")
    try:
        with path.open("rb") as file:
            header = inspect(file)
            file.seek(0)
            return decode(file, Target(header.height, header.width, channels, (0, 0, 0), pad=False))
    except Unreadable as e:
        raise InputError(f"{path}: {e}") from None


def _picture_network(file: Path) -> ImagePrompt | Redux | TimedPrompt:
    if file.suffix in PICKLED:
        raise InputError(
            f"{file}: a pickle, which can run code when it is opened; take the .safetensors of the same name, or convert it: "
            f"{converting(file, _NESTED)}"
        )
    if file.is_dir() and weights_in(file) == file:
        raise InputError(f"{file}: a folder without {EMBEDDER}, so not FLUX.1 Redux; of an IP-Adapter the file is meant")
    tensors = read_part(weights_in(file)).tensors if file.is_dir() else MappedTensors([file])
    refuse_unrun(tensors, file)
    try:
        if "redux_up.weight" in tensors:
            return redux(tensors)
        if "ip_adapter.0.norm_ip.linear.weight" in tensors:
            return timed_prompt(tensors)
        return image_prompt(tensors, added="plusv2" in re.sub(r"[^a-z0-9]", "", file.name.lower()))
    except ValueError as e:
        raise InputError(str(e) if str(file) in str(e) else f"{file}: {e}") from None


def weights_in(where: Path) -> Path:
    """What holds an IP-Adapter's or Redux's own weights."""
    return where / EMBEDDER if (where / EMBEDDER).is_dir() else where


def _check_siglip(file: Path, look: PictureEncoder) -> None:
    """InputError for an encoder that is no SigLIP, and where another preparation of pictures than SigLIP's lies beside it."""
    if not look.siglip:
        raise InputError(f"{look.source}: is a CLIP; {file.name} was trained with SigLIP")
    told = (file if file.is_dir() else file.parent) / FEATURES / "preprocessor_config.json"
    if told.is_file() and Preparation.of(read_config(told), str(told)) != replace(look.cut, size=(look.side, look.side), crop=None):
        raise InputError(f"{told}: prepares pictures otherwise than for SigLIP of {look.side} pixels, which is all that is known")


def encoder_near(file: Path) -> Path:
    """The encoder's folder. InputError where there is none."""
    near = [folder / ENCODER for folder in (*([file] if file.is_dir() else []), file.parent, file.parent.parent)]
    found = next((folder for folder in near if folder.is_dir()), None)
    if found is None:
        raise InputError(
            f"{file}: no folder {ENCODER} beside it: name the CLIP or SigLIP it was trained with, a folder or OWNER/NAME"
        )
    return found
