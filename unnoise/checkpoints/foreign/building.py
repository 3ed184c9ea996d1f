"""A foreign checkpoint as our parts: codec, conditioner, network, process, preconditioner, and how it is usually sampled.

Networks are built without memory of their own (`unfilled`) and take the checkpoint's weights as they lie in the file,
unless another precision is asked for. What a network is told is decided by its family:

    Stable Diffusion 1, 2   CLIP                         SDXL     two CLIPs, sizes; its refiner one, sizes and an aesthetic score
                            and students of guided sampling (LCM) its scale
    Stable Diffusion 3      two CLIPs and T5             FLUX.1   CLIP's summary, T5, in dev the guidance scale
    PixArt                  T5, in alpha at 1024 sizes   Sana     Gemma 2 behind an instruction
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from unnoise.checkpoints.diffusers_names import (
    FLUX_TABLE,
    SD3_TABLE,
    SD3_UNUSED,
    UNET_TABLE,
    Table,
    flux_config,
    sd3_config,
    sources_of,
    translate,
    unet_config,
)
from unnoise.checkpoints.foreign.belonging import (
    as_known,
    beyond,
    check_belongs,
    family_of_network,
    is_known,
    nearest_pipeline,
    network_of_pipeline,
    unknown_network,
)
from unnoise.checkpoints.foreign.corrected import network_as_run, scheduler_as_run
from unnoise.checkpoints.foreign.dit_names import PIXART_TABLE, SANA_TABLE, pixart_config, sana_config, sana_table
from unnoise.checkpoints.foreign.folder import COMPLETE
from unnoise.checkpoints.foreign.memory import Wanted, check_fits, spared
from unnoise.checkpoints.foreign.parts import AsType, Foreign, Part
from unnoise.checkpoints.foreign.pieces import packed_rows
from unnoise.checkpoints.foreign.recognise import class_family
from unnoise.checkpoints.foreign.scheduler import OF_SIGMA, PIPELINES, read_scheduler
from unnoise.checkpoints.foreign.single import open_single, unprojected
from unnoise.checkpoints.foreign.vae_names import read_autoencoder
from unnoise.control.sampling import Sampling
from unnoise.core.codec import Buildable, Conditioner, Unconditional, UnconditionalConfig
from unnoise.core.errors import UNSOUND, InputError
from unnoise.core.preconditioning import Preconditioner
from unnoise.core.processes import Process
from unnoise.modalities.image.controlled import ControlledConfig
from unnoise.modalities.image.editing import EditingConfig
from unnoise.modalities.image.in_context import InContextConfig
from unnoise.modalities.image.inpainting import CodedMaskConfig, WholeMaskConfig
from unnoise.modalities.image.latents import Latents, LatentsConfig
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.frozen import CLIPTextConfig, T5TextConfig, answering, clip_class
from unnoise.modalities.words.gemma import read_gemma
from unnoise.modalities.words.joined import SilentConfig, ZeroedConfig, flux, pixart, sd3, sdxl
from unnoise.modalities.words.settings import WithGuidanceConfig, WithShapeConfig, WithSizesConfig
from unnoise.modalities.words.source import NoTokenizer, Opened, lend, open_encoder
from unnoise.networks.flux import FluxConfig
from unnoise.networks.packed import Rows, pack
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.unfilled import unfilled

NetworkConfig = SDUNetConfig | SD3Config | FluxConfig | PixArtConfig | SanaConfig
SIDE = 128
"""Of the states, where the network's configuration does not say for which size it was trained (FLUX.1)."""
SCORES = (6.0, 2.5)
"""The aesthetic score that SDXL's refiner is asked for, and the one it is led away from."""

ALPHA_WORDS = 120
"""Tokens that PixArt-alpha reads at most."""


@dataclass(frozen=True)
class Built:
    """What makes a `DiffusionModel`: modules that hold the checkpoint's weights, and their configurations."""

    codec: Latents
    conditioner: Conditioner
    network: nn.Module
    conditioner_config: Buildable
    network_config: Buildable
    process: Process
    preconditioner: Preconditioner
    sampling: Sampling


class Told(NamedTuple):
    """What there is to know when a conditioner is chosen."""

    foreign: Foreign
    network: Any
    theirs: Mapping[str, Any]
    codec: LatentsConfig
    half: bool  # whether text encoders are held in bfloat16
    packed: bool = False  # whether T5's matrices stay as the file has them


@dataclass(frozen=True)
class Family:
    """One class of network. table and unused: see `diffusers_names.translate`."""

    name: str
    read: Callable[[Mapping[str, Any]], Any]
    table: Table
    told: Callable[[Told], EmphaticConfig]
    unused: tuple[str, ...] = ()


def build(
    foreign: Foreign, dtype: torch.dtype = torch.float32, wanted: Wanted = Wanted(), packed: bool = False,
    clip_skip: int | None = None, words: bool = True,
) -> Built:  # fmt: skip
    """dtype: of all weights, those of text encoders among them: float32 or bfloat16. wanted: what there must be memory for.
    packed: matrices of the network and of T5 stay as GGUF and float8 files have them, see `networks.packed`. clip_skip: the hidden
    layer, from the end, that CLIP answers by, in place of the usual. words: whether text encoders and tokenizers are read; without,
    they need not be there, and the model is told nothing.

    Raises InputError for a family that is not known here, for parts that are missing, for those of different models, where memory
    is too small, and where no file is packed that should stay so.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise InputError(f"weights in {dtype}: float32 or bfloat16, which has float32's range, is meant")
    part = denoiser_of(foreign)
    for each in foreign.parts.values():
        _check_depth(each)
    check_belongs(foreign, part)
    pipeline = as_known(foreign, part)
    part = network_as_run(part, pipeline)
    family = FAMILIES[part.kind]
    network_config = _config(part, family)
    vae = needed(foreign, "vae")
    with _sound(vae.where):
        codec = _codec(_as_decoded(vae, network_config), part, dtype)
    if codec.config.latent_channels != network_config.channels:
        both = f"the vae's codes have {codec.config.latent_channels} channels, the network's {network_config.channels}"
        raise InputError(f"{foreign.where}: parts of different models: {both}")
    if packed and not any(map(spared, foreign.parts.values())):
        raise InputError(f"{foreign.where}: --packed is for GGUF and float8 files, whose weights stay as they are; these are none")
    told = Told(foreign, network_config, part.config, codec.config, dtype == torch.bfloat16, packed)
    with _sound(f"{foreign.where}/scheduler"):
        process, preconditioner, sampling = read_scheduler(scheduler_as_run(foreign.scheduler, pipeline), pipeline)
    usual = _usual(told, sampling)
    guidance = usual.guidance if wanted.guidance is None else wanted.guidance
    scale = wanted.true_guidance if _is_told_scale(network_config) else guidance
    sides = 1 if scale == 1 else 2 if usual.picture_guidance == 1 else 3
    with _sound(part.where):
        check_fits(foreign, network_config, codec.config, dtype, wanted, sides, packed)
        network = _network(part, network_config, family, dtype, packed)
    conditioner_config: Buildable = UnconditionalConfig()
    conditioner: Conditioner = Unconditional()
    if words:
        with _sound(f"{foreign.where}: a text encoder or its tokenizer"):
            conditioner_config, conditioner = _words(_skipping(family.told(told), clip_skip, told), network_config, foreign)
    if more := beyond(foreign.pipeline, foreign.where, getattr(network_config, "picture_channels", 0)):
        warnings.warn(more, stacklevel=2)
    if not is_known(foreign.pipeline):
        near = f"{nearest_pipeline(foreign.pipeline)}; it is run by what its parts are, as {family_of_network(part) or family.name}"
        warnings.warn(f"{foreign.where}: a {foreign.pipeline} is not known here{near}", stacklevel=2)
    return Built(codec, conditioner, network, conditioner_config, network_config, process, preconditioner, usual)


def _skipping(config: EmphaticConfig, layer: int | None, told: Told) -> EmphaticConfig:
    """InputError where no CLIP tells more than a summary, which is of the last layer."""
    if layer is not None and not isinstance(told.network, SDUNetConfig | SD3Config):
        raise InputError(f"{told.foreign.where}: clip skip {layer}: the words of this model are not read by CLIP's layers")
    return config if layer is None else answering(config, layer)


@contextmanager
def _sound(where: str) -> Iterator[None]:
    """InputError where settings that are no numbers, or none that a model can have, make themselves felt."""
    try:
        yield
    except InputError:
        raise
    except UNSOUND as e:
        raise InputError(f"{where}: its settings are none that a model can have ({type(e).__name__}: {e})") from e


_DEEP = re.compile(r"layers|depth|blocks")
MOST_LAYERS = 1000
"""A network is taken apart before its tensors are looked at: of more layers than any has it would never end."""


def _check_depth(part: Part) -> None:
    """InputError for a number of layers, or of their kinds, that no network has."""
    for name, told in part.config.items():
        deepest = max((n for n in tree_leaves(told) if isinstance(n, int)), default=0) if _DEEP.search(name) else 0
        if deepest > MOST_LAYERS:
            raise InputError(f"{part.where}: {name} {deepest}: its settings are none that a model can have")


def _is_told_scale(network: NetworkConfig) -> bool:
    """Whether it is told the guidance scale, and called once a step."""
    if isinstance(network, FluxConfig):
        return network.guidance
    if isinstance(network, SanaConfig):
        return network.guidance is not None
    return isinstance(network, SDUNetConfig) and network.guidance_dim > 0


def _usual(told: Told, sampling: Sampling) -> Sampling:
    """How the model is usually sampled. Students that were taught to need few steps are known by what they are told, or by the
    timesteps that they are run at. Codes have no bound that their prediction could be kept within, whatever the file says."""
    sampling = replace(sampling, threshold=None)
    if isinstance(told.network, FluxConfig):
        return sampling if told.network.guidance else replace(sampling, steps=4, guidance=1.0)
    if isinstance(told.network, SDUNetConfig) and told.network.guidance_dim:
        return replace(sampling, steps=4, guidance=8.5, sampler="lcm", grid=sampling.grid_by("lcm"))
    if isinstance(told.network, SDUNetConfig) and told.network.picture_channels == told.network.channels:
        return replace(sampling, steps=100, picture_guidance=1.5)
    theirs = told.foreign.scheduler
    trailing = theirs.get("timestep_spacing") == "trailing" and theirs.get("prediction_type", "epsilon") == "epsilon"
    if trailing and str(theirs.get("_class_name")).startswith("Euler"):  # SD-Turbo and SDXL-Turbo
        if not _FAST.search(Path(told.foreign.where).name):
            fast = "its scheduler is that of models for few steps (Turbo), so 4 steps at guidance 1 are usual here"
            warnings.warn(f"{told.foreign.where}: {fast}; of another model say --steps and --guidance", stacklevel=2)
        return replace(sampling, steps=4, guidance=1.0)
    return sampling


_FAST = re.compile("turbo|lightning|hyper|lcm|schnell|distil", re.I)
"""What models for few steps are called."""


def denoiser_of(foreign: Foreign) -> Part:
    """The network that denoises, of a known family. InputError for another, where there is none, and for one of a known class that
    another pipeline uses for something else."""
    part = foreign.parts.get("unet") or foreign.parts.get("transformer")
    if part is not None and part.kind in FAMILIES and class_family(foreign.pipeline) is None:
        return part
    if foreign.pipeline == "FluxPriorReduxPipeline":
        raise InputError(
            f"{foreign.where}: this is FLUX.1 Redux, a picture prompt; give it with the model, a FLUX.1 (--picture-prompt)"
        )
    if not foreign.pipeline:
        held = " and ".join("an autoencoder" if name == "vae" else f"a {p.kind}" for name, p in foreign.parts.items())
        raise InputError(f"{foreign.where}: holds {held} and no network that draws: give it beside a model (--beside)")
    if part is None and (name := network_of_pipeline(foreign.pipeline)):
        raise InputError(f"{foreign.where}: no {name}, which a {foreign.pipeline} draws with; {COMPLETE}")
    kind = foreign.pipeline if part is None else f"{part.kind} of a {foreign.pipeline}"
    family = class_family(foreign.pipeline) or (part and class_family(part.kind))
    known = ", ".join(f.name for f in FAMILIES.values())
    if part is not None and not family:
        told = unknown_network(part, foreign.pipeline, {name: (f.name, f.table) for name, f in FAMILIES.items()})
        raise InputError(f"{part.where}: {told}; {known} are run here")
    what = f"{family} ({kind})" if family else f"a {kind}"
    raise InputError(f"{foreign.where}: {what} is not run here; {known} are{'' if family else nearest_pipeline(foreign.pipeline)}")


def needed(foreign: Foreign, name: str) -> Part:
    """The part of that name. InputError where there is none."""
    if name not in foreign.parts:
        single = "give a file or folder that has it beside this one (--beside)"
        how = COMPLETE if Path(foreign.where).is_dir() else single
        raise InputError(f"{foreign.where}: no {name}, which a {foreign.pipeline} needs; {how}")
    return foreign.parts[name]


def _config(part: Part, family: Family) -> Any:
    """The network's configuration as ours."""
    try:
        return family.read(part.config)
    except KeyError as e:
        raise InputError(f"{part.where}: the configuration of the network lacks {e}") from None
    except (InputError, ValueError) as e:
        raise InputError(f"{part.where}: {e}") from None
    except UNSOUND as e:
        raise InputError(f"{part.where}: its settings are none that a network can have ({type(e).__name__}: {e})") from e


def _network(part: Part, config: NetworkConfig, family: Family, dtype: torch.dtype, keep: bool) -> nn.Module:
    """keep: whether matrices stay packed where they are."""
    with unfilled():
        network = config.build()
    table = sana_table(config) if isinstance(config, SanaConfig) else family.table
    packed = _packed(network, part.tensors, table) if keep else {}
    apart = {f"{name}.weight": p for name in packed for p in network.get_submodule(name).parameters(recurse=False) if p.ndim == 2}
    done = [source.rpartition(".")[0] for name in apart for source in sources_of(name, table)]
    ours = {name: tensor for name, tensor in network.state_dict().items() if name not in apart}
    try:
        weights = translate(AsType(part.tensors, dtype), table, ours, (*family.unused, *done))
    except InputError as e:
        raise InputError(f"{part.where}: {e}") from None
    _filled(network, {**weights, **apart})
    pack(network, packed, dtype)
    return network


def _packed(network: nn.Module, theirs: Mapping[str, Tensor], table: Table) -> dict[str, list[Rows]]:
    """Of each linear layer, by its name, the rows of its weight as the file packs them; where it does so with all of them."""
    out: dict[str, list[Rows]] = {}
    for name, layer in network.named_modules():
        if type(layer) is nn.Linear:
            each = [packed_rows(theirs, source) for source in sources_of(f"{name}.weight", table)]
            rows = [r for some in each for r in some]
            fits = all(r.columns == layer.in_features for r in rows) and sum(r.count for r in rows) == layer.out_features
            if all(each) and fits:
                out[name] = rows
    return out


def _as_decoded(part: Part, network: NetworkConfig) -> Part:
    """The autoencoder without those statistics of its codes that the family's pipelines pass over: all do but for its scale, SDXL's
    but for each channel's mean and deviation, Stable Diffusion 3's and FLUX's but for the shift."""
    read: tuple[str, ...] = ("shift_factor",) if isinstance(network, SD3Config | FluxConfig) else ()
    if isinstance(network, SDUNetConfig) and network.vector_dim:
        read = ("latents_mean", "latents_std")
    passed_over = {"shift_factor", "latents_mean", "latents_std"}.difference(read)
    return replace(part, config={name: value for name, value in part.config.items() if name not in passed_over})


def _codec(part: Part, denoiser: Part, dtype: torch.dtype) -> Latents:
    """For pictures of the size that the network was trained on."""
    config, weights = read_autoencoder(replace(part, tensors=AsType(part.tensors, dtype)), 512, 512)
    size = denoiser.config.get("sample_size") or SIDE
    rows, columns = (size, size) if isinstance(size, int) else size
    config = replace(config, height=rows * config.autoencoder.factor, width=columns * config.autoencoder.factor)
    with unfilled():
        codec = config.build()
    _filled(codec, weights)
    return codec


def _filled(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A module on the meta device, with these tensors as its own."""
    module.load_state_dict(weights, assign=True)
    return module.eval()


def _words(config: EmphaticConfig, network: NetworkConfig, foreign: Foreign) -> tuple[EmphaticConfig, Emphatic]:
    """InputError where the text encoders are another model's. What nothing is told as is remembered, and needed in any case."""
    conditioner = config.build()
    with torch.no_grad():
        said = conditioner(conditioner.prepare_said([None]))
    summary = 0 if isinstance(network, PixArtConfig | SanaConfig) else network.vector_dim
    for entry, wanted in (("tokens", network.token_dim), ("vector", summary)):
        if entry in said and wanted and said[entry].shape[-1] != wanted:
            both = f"the text encoders' {entry} have a width of {said[entry].shape[-1]:,}, the network reads {wanted:,}"
            raise InputError(f"{foreign.where}: parts of different models: {both}")
    return config, conditioner


# -- what each family is told ----------------------------------------------------------------------------------------------


def clip(told: Told, name: str, projected: bool = False) -> CLIPTextConfig:
    source, opened = _encoder(told, name, clip_class(projected), CLIP_TOKENIZER)
    width, variant = opened.network.config.hidden_size, told.foreign.parts[name].variant
    return CLIPTextConfig(source, opened.hash, width, projected=projected, half=told.half, variant=variant)


def t5(told: Told, name: str) -> T5TextConfig:
    source, opened = _encoder(told, name, "T5EncoderModel", T5_TOKENIZER)
    width, variant = opened.network.config.d_model, told.foreign.parts[name].variant
    return T5TextConfig(source, opened.hash, width, half=told.half, variant=variant)


def _encoder(told: Told, name: str, architecture: str, tokenizer: str) -> tuple[str, Opened]:
    """A text encoder and its source: its folder, or the file that it is part of. tokenizer: where no folder has one."""
    foreign = told.foreign
    part = needed(foreign, name)
    if Path(part.where).is_dir():
        # a model that is saved here finds it again from anywhere; links stay, as the tokenizer lies beside them
        source = str(Path(part.where).absolute())
        return source, open_encoder(source, architecture, told.half, part.variant)
    source, beside = f"{Path(part.where).absolute()}/{name}", foreign.tokenizers.get(name.replace("text_encoder", "tokenizer"))
    return source, _lent(source, architecture, part, beside, tokenizer, told.half, told.packed)


def _lent(
    source: str, architecture: str, part: Part, beside: Path | None, tokenizer: str, half: bool, keep: bool = False
) -> Opened:
    """beside: its tokenizer's folder; None looks for one of its usual name where the file lies, and then takes `tokenizer`.
    keep: whether T5's matrices stay packed where they are."""
    file, _, name = source.rpartition("/")
    near = Path(file).parent / name.replace("text_encoder", "tokenizer")
    beside = near if beside is None and near.is_dir() else beside
    unpacked = part.where.lower().endswith(".gguf")  # all at once, T5-XXL would be 19 GB of float32
    tensors = AsType(part.tensors, torch.bfloat16) if half and unpacked else part.tensors
    packed = partial(packed_rows, part.tensors) if keep and spared(part) else None
    try:
        opened = lend(source, architecture, part.config, tensors, str(beside or tokenizer), half, packed)
    except NoTokenizer as e:
        needs = f"a folder {near.name} beside the file would do, or one with {near.name}/ in it (--beside FOLDER)"
        raise InputError(f"{file}: of its {name} only the tokenizer is missing: {e}; {needs}") from e
    if beside is None and part.config.get("hidden_act") == "gelu":  # OpenCLIP's pad with their first token
        opened.tokenizer.pad_token = "!"
    return opened


def lend_again(config: object) -> None:
    """Of a model that was saved: text encoders that lie in single files are read from there again. InputError for a broken file.

    Their tokenizers are those beside the files, or those that single files mean.
    """
    if isinstance(config, CLIPTextConfig | T5TextConfig) and (file := Path(config.source).parent).is_file():
        parts = open_single(file).parts
        part = parts.get(Path(config.source).name) or next((p for p in parts.values() if "model_type" in p.config), None)
        if part is None:
            raise InputError(f"{file}: the text encoder {Path(config.source).name} of this model lay in it, and lies there no more")
        if isinstance(config, T5TextConfig):
            _lent(config.source, "T5EncoderModel", part, None, T5_TOKENIZER, config.half)
        else:
            part = unprojected(part) if config.projected and "text_projection.weight" not in part.tensors else part
            _lent(config.source, clip_class(config.projected), part, None, CLIP_TOKENIZER, config.half)
    elif is_dataclass(config):
        for each in fields(config):
            lend_again(getattr(config, each.name))
    elif isinstance(config, tuple):
        for item in config:
            lend_again(item)


CLIP_TOKENIZER, T5_TOKENIZER = "openai/clip-vit-large-patch14", "google/t5-v1_1-xxl"
"""Whose tokenizers single files mean, which have none."""


def _unet_told(told: Told) -> EmphaticConfig:
    """Stable Diffusion 1, 2, XL and XL's refiner, which lacks the first encoder; with a mask, or a picture that is to change."""
    foreign, dim = told.foreign, told.theirs.get("addition_time_embed_dim")
    inner: EmphaticConfig
    if not told.network.vector_dim:
        inner = clip(told, "text_encoder")
    else:
        second = clip(told, "text_encoder_2", projected=True)
        if "text_encoder" in foreign.parts:
            zeroed = sdxl(clip(told, "text_encoder"), second)
        else:
            zeroed = ZeroedConfig(replace(second, skip=2, normed=False))
        inner = zeroed if foreign.settings.get("force_zeros_for_empty_prompt", True) else zeroed.part
        scores = SCORES if foreign.settings.get("requires_aesthetics_score") else None
        inner = WithSizesConfig(inner, told.codec.height, told.codec.width, dim or 256, scores)
    inner = WithGuidanceConfig(inner) if told.network.guidance_dim else inner
    c = told.network.channels
    by_level = foreign.scheduler.get("_class_name") in OF_SIGMA  # their own folders do not say it of CosXL Edit
    editing = partial(EditingConfig, scaled=bool(foreign.settings.get("is_cosxl_edit", by_level)))
    return _with_picture(told, inner, {c + 1: CodedMaskConfig, c: editing})


def _sd3_told(told: Told) -> EmphaticConfig:
    first, second = (clip(told, name, projected=True) for name in ("text_encoder", "text_encoder_2"))
    has = "text_encoder_3" in told.foreign.parts
    third = t5(told, "text_encoder_3") if has else SilentConfig(T5TextConfig.length, told.network.token_dim)
    return _with_picture(told, sd3(first, second, third), {told.network.channels + 1: CodedMaskConfig})


def _flux_told(told: Told) -> EmphaticConfig:
    words = flux(clip(told, "text_encoder"), t5(told, "text_encoder_2"))
    inner = WithGuidanceConfig(words) if told.network.guidance else words
    c = told.network.channels
    if not told.network.picture_channels and _is_kontext(told.foreign):
        return InContextConfig(inner)
    return _with_picture(told, inner, {c + told.codec.autoencoder.factor**2: WholeMaskConfig, c: ControlledConfig})


def _is_kontext(foreign: Foreign) -> bool:
    """By the class of the pipeline, or the file's name: no tensor says so."""
    where = denoiser_of(foreign).where
    return foreign.pipeline.startswith("FluxKontext") or (not Path(where).is_dir() and "kontext" in Path(where).name.lower())


def _pixart_told(told: Told) -> EmphaticConfig:
    words = pixart(t5(told, "text_encoder"), ALPHA_WORDS if told.foreign.pipeline.startswith("PixArtAlpha") else 300)
    return WithShapeConfig(words, told.codec.height, told.codec.width) if told.network.sizes else words


def _sana_told(told: Told) -> EmphaticConfig:
    part = needed(told.foreign, "text_encoder")
    source = str(Path(part.where).absolute()) if Path(part.where).is_dir() else part.where
    words = read_gemma(source, half=told.half, variant=part.variant)
    return words if told.network.guidance is None else WithGuidanceConfig(words)


Pictured = Callable[[EmphaticConfig], EmphaticConfig]


def _with_picture(told: Told, inner: EmphaticConfig, rooms: Mapping[int, Pictured]) -> EmphaticConfig:
    """With a picture, where the network has room for one. rooms: channels -> what lies there. InputError for other room, and for a
    pipeline that is not known: what is in that room no channel says, nor in which order."""
    there = told.network.picture_channels
    if there and not is_known(told.foreign.pipeline):
        known = f"known are those of diffusers for {', '.join(PIPELINES)}"
        raise InputError(f"{told.foreign.where}: a {told.foreign.pipeline} does unknown things with {there} channels more; {known}")
    if there and there not in rooms:
        known = f"0 (from words alone) and {', '.join(map(str, rooms))} (to fill in, change or follow pictures) are known here"
        beside = f"{there} channels beside the {told.network.channels} that it denoises"
        raise InputError(f"{told.foreign.where}: a network with {beside}; {known}")
    return rooms[there](inner) if there else inner


FAMILIES: Mapping[str, Family] = {
    "UNet2DConditionModel": Family("Stable Diffusion 1, 2 and XL", unet_config, UNET_TABLE, _unet_told),
    "SD3Transformer2DModel": Family("Stable Diffusion 3 and 3.5", sd3_config, SD3_TABLE, _sd3_told, SD3_UNUSED),
    "FluxTransformer2DModel": Family("FLUX.1", flux_config, FLUX_TABLE, _flux_told),
    "PixArtTransformer2DModel": Family("PixArt", pixart_config, PIXART_TABLE, _pixart_told),
    "SanaTransformer2DModel": Family("Sana", sana_config, SANA_TABLE, _sana_told),
}
"""By the class of theirs that denoises."""
