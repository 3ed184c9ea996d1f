"""A foreign checkpoint as our parts: codec, conditioner, network, process, preconditioner, and how it is usually sampled.

Networks are built without memory of their own (`unfilled`) and take the checkpoint's weights as they lie in the file,
unless another precision is asked for. What a network is told is decided by its family (`telling`).
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from unnoise.checkpoints.foreign.scheduler import read_scheduler
from unnoise.checkpoints.foreign.telling import (
    NetworkConfig,
    Told,
    flux_told,
    needed,
    pixart_told,
    sana_told,
    sd3_told,
    skipping,
    unet_told,
)
from unnoise.checkpoints.foreign.vae_names import read_autoencoder
from unnoise.control.sampling import Sampling
from unnoise.core.codec import Buildable, Conditioner, Unconditional, UnconditionalConfig
from unnoise.core.errors import UNSOUND, InputError
from unnoise.core.preconditioning import Preconditioner
from unnoise.core.processes import Process
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.networks.flux import FluxConfig
from unnoise.networks.packed import Rows, pack
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.unfilled import unfilled

SIDE = 128
"""Of the states, where the network's configuration does not say for which size it was trained (FLUX.1)."""


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
            conditioner_config, conditioner = _words(skipping(family.told(told), clip_skip, told), network_config, foreign)
    if more := beyond(foreign.pipeline, foreign.where, getattr(network_config, "picture_channels", 0)):
        warnings.warn(more, stacklevel=2)
    if not is_known(foreign.pipeline):
        near = f"{nearest_pipeline(foreign.pipeline)}; it is run by what its parts are, as {family_of_network(part) or family.name}"
        warnings.warn(f"{foreign.where}: a {foreign.pipeline} is not known here{near}", stacklevel=2)
    return Built(codec, conditioner, network, conditioner_config, network_config, process, preconditioner, usual)


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


FAMILIES: Mapping[str, Family] = {
    "UNet2DConditionModel": Family("Stable Diffusion 1, 2 and XL", unet_config, UNET_TABLE, unet_told),
    "SD3Transformer2DModel": Family("Stable Diffusion 3 and 3.5", sd3_config, SD3_TABLE, sd3_told, SD3_UNUSED),
    "FluxTransformer2DModel": Family("FLUX.1", flux_config, FLUX_TABLE, flux_told),
    "PixArtTransformer2DModel": Family("PixArt", pixart_config, PIXART_TABLE, pixart_told),
    "SanaTransformer2DModel": Family("Sana", sana_config, SANA_TABLE, sana_told),
}
"""By the class of theirs that denoises."""
