"""Which parts belong to which: the family of a network, of a pipeline's class and of text encoders, compared before anything is
built of them; and what is said of networks and pipelines that are not known.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from unnoise.checkpoints.diffusers_names import Table
from unnoise.checkpoints.foreign.original_names import star
from unnoise.checkpoints.foreign.parts import Foreign, Part
from unnoise.core.errors import InputError, nearest


class Kin(NamedTuple):
    """A family. pipeline: the class of diffusers' that draws from words alone; starts: how the names of its classes begin, the
    longest counts; sign: a tensor of its network that none of those before it in `KIN` has; encoders: what it has for text
    encoders, by the beginnings of their model_type."""

    pipeline: str
    starts: tuple[str, ...]
    sign: str
    encoders: Mapping[str, str]


_SD, _XL = "Stable Diffusion 1 and 2", "SDXL"
KIN: Mapping[str, Kin] = {
    _XL: Kin(
        "StableDiffusionXLPipeline",
        ("StableDiffusionXL", "LEditsPPPipelineStableDiffusionXL"),
        "add_embedding.linear_1.weight",
        {"text_encoder": "clip", "text_encoder_2": "clip"},
    ),
    _SD: Kin(
        "StableDiffusionPipeline",
        (
            "StableDiffusion",
            "LatentConsistencyModel",
            "SemanticStableDiffusion",
            "CycleDiffusion",
            "LEditsPPPipelineStableDiffusion",
        ),
        "conv_in.weight",
        {"text_encoder": "clip"},
    ),
    "FLUX.1": Kin(
        "FluxPipeline",
        ("Flux",),
        "single_transformer_blocks.0.norm.linear.weight",
        {"text_encoder": "clip", "text_encoder_2": "t5"},
    ),
    "Stable Diffusion 3": Kin(
        "StableDiffusion3Pipeline",
        ("StableDiffusion3",),
        "transformer_blocks.0.attn.add_q_proj.weight",
        {"text_encoder": "clip", "text_encoder_2": "clip", "text_encoder_3": "t5"},
    ),
    "PixArt": Kin("PixArtSigmaPipeline", ("PixArt",), "adaln_single.linear.weight", {"text_encoder": "t5"}),
    "Sana": Kin("SanaPipeline", ("Sana",), "time_embed.linear.weight", {"text_encoder": "gemma"}),
}
_READ = {"clip": "CLIP", "t5": "T5", "gemma": "Gemma 2"}
_TASKS = (
    "Img2Img|Inpaint(ing)?|InstructPix2Pix|ControlNet|ControlNetUnion|ControlNetXS|Control|PAG|Adapter|Fill|Kontext|PriorRedux|"
    "Sprint|SAG|Panorama|DiffEdit|AttendAndExcite|ModelEditing|Paradigms|Pix2PixZero|KDiffusion|ImageToVideo|Video|Modular"
)
_PIPELINE = re.compile(
    rf"(Semantic)?(StableDiffusion(XL|3)?|Flux|PixArt(Alpha|Sigma)|Sana|LatentConsistencyModel|CycleDiffusion)({_TASKS})*"
    r"Pipeline(Legacy|Safe)?|LEditsPPPipelineStableDiffusion(XL)?"
)

_ENDING = re.compile(r"(Pipeline|(Transformer)?\d?D?(Condition)?Model)$")


def is_known(pipeline: str) -> bool:
    """Whether a pipeline's class is one of diffusers' for families that are run here."""
    return _PIPELINE.fullmatch(pipeline) is not None


_BEYOND = re.compile(
    r"ControlNet|(?<!T2I)Adapter|PAG|SAG|Panorama|DiffEdit|AttendAndExcite|ModelEditing|Paradigms|Pix2PixZero|Video|Semantic|LEditsPP|"
    "CycleDiffusion"
)
_GIVEN = {
    "ControlNet": "; its ControlNet is given by --control {0}/controlnet:PICTURE",
    "Adapter": "; its adapter is given by --control {0}/adapter:PICTURE",
    "PAG": "; --inner pag guides as it does",
}


def beyond(pipeline: str, where: str, picture_channels: int) -> str | None:
    """What to say of a pipeline that does more than its network, which is run here as it is; None of one that does not."""
    found = _BEYOND.search(pipeline)
    if found is None and not ("InstructPix2Pix" in pipeline and not picture_channels):
        return None
    how = _GIVEN.get(found[0], "").format(where) if found else "; its network sees no pictures"
    return f"{where}: a {pipeline} does more than its network alone, which is what is run here{how}"


def family_of_pipeline(pipeline: str) -> str | None:
    """None for a class that is not known."""
    starts = {start: name for name, kin in KIN.items() for start in kin.starts if pipeline.startswith(start)}
    return starts[max(starts, key=len)] if starts and is_known(pipeline) else None


def network_of_pipeline(pipeline: str) -> str | None:
    """What its network is called in a folder; None for a class that is not known."""
    family = family_of_pipeline(pipeline)
    return None if family is None else "unet" if family in (_SD, _XL) else "transformer"


def family_of_network(network: Part) -> str | None:
    """By its tensors, under diffusers' names: a file that takes another's place may have had that one's configuration lent. None
    for one that has no sign of a family."""
    return next((name for name, kin in KIN.items() if kin.sign in network.tensors), None)


def as_known(foreign: Foreign, network: Part) -> str:
    """The pipeline's class; for one that is not known that of the network's family."""
    family = family_of_network(network)
    return foreign.pipeline if is_known(foreign.pipeline) or family is None else KIN[family].pipeline


def nearest_pipeline(pipeline: str) -> str:
    """In words, behind a semicolon; nothing where none is near."""
    names = {kin.pipeline: name for name, kin in KIN.items()}
    return "".join(f"; the nearest is {near} ({names[near]})" for near in _nearest(pipeline, names))


def check_belongs(foreign: Foreign, network: Part) -> None:
    """InputError where the network is of another family than the pipeline, or a text encoder than the network."""
    family, wanted = family_of_network(network), family_of_pipeline(foreign.pipeline)
    if family is None:
        return
    if wanted not in (None, family):
        other = f"{foreign.where} is a {foreign.pipeline}, of {wanted}"
        raise InputError(f"{network.where}: parts of different models: this network is of {family}, and {other}")
    for name, kind in KIN[family].encoders.items():
        part = foreign.parts.get(name)
        told = str(part.config.get("model_type", kind)) if part else kind
        if part and not told.startswith(kind):
            raise InputError(
                f"{part.where}: parts of different models: this {name} is a {part.kind} ({told}), and {family}, which the network "
                f"is of, reads {_READ[kind]} there"
            )


def unknown_network(network: Part, pipeline: str, known: Mapping[str, tuple[str, Table]]) -> str:
    """What there is to say of a class of networks that is not known: the nearest that is, by its tensors or else by its name, and
    which tensors of it have no place there. known: classes, and their families with tables of names."""
    what, names = f"an unknown architecture, a {network.kind} of a {pipeline}", sorted(network.tensors)
    strange = {kind: [n for n in names if not _placed(n, _sources(table))] for kind, (_, table) in known.items()}
    best = min(strange, key=lambda kind: len(strange[kind]))
    if not names or len(strange[best]) == len(names):
        best = next(iter(_nearest(network.kind, known)), "")
        if not best:
            return f"{what}, near none that is run here"
    some = ", ".join(repr(n) for n in strange[best][:3]) + (" ..." if len(strange[best]) > 3 else "")
    lacks = (
        f"no place for {len(strange[best])} of its {len(names)} tensors: {some}" if strange[best] else "a place for every tensor"
    )
    return f"{what}; the nearest is {known[best][0]} ({best}), which has {lacks}"


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most one of these classes, whose names alike end in what says nothing."""
    stems = {_ENDING.sub("", other): other for other in known}
    return [stems[stem] for stem in nearest(_ENDING.sub("", name), stems, 1)]


def _sources(table: Table) -> Collection[str]:
    return {star(source) for sources in table.values() for source in sources}


def _placed(name: str, sources: Collection[str]) -> bool:
    return star(name) in sources or star(name.rpartition(".")[0]) in sources
