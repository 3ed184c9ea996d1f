"""Names in LoRA files: which module of a network, and what of its change, every usual naming means by a key.

A key is (what it belongs to) (a module) (a role):

    unet.down_blocks.1...attn1.to_q.lora_A.weight                          diffusers, PEFT; transformer. and text_encoder. likewise
    down_blocks.1...attn1.processor.to_q_lora.down.weight                  diffusers before 2023
    lora_unet_down_blocks_1_..._attn1_to_q.lora_down.weight                kohya: diffusers' module names, dots as underscores ...
    lora_unet_input_blocks_4_1_..._attn1_to_q.lora_down.weight             ... or those of the original network (SDXL, FLUX)
    diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight             the original names, as ComfyUI has them (FLUX, SD3, SDXL)
    double_blocks.0.processor.qkv_lora1.down.weight                        XLabs
    lycoris_transformer_blocks_0_attn_to_q.lokr_w1                         LyCORIS
    double_blocks.0.img_attn.norm.query_norm.scale                         no change: what normalises queries and keys instead, in
    transformer.transformer_blocks.0.attn.norm_q.weight                    control LoRAs of FLUX.1; theirs, and diffusers' own

So modules are looked up by their names with all dots as underscores, under every name that they go by.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn

from unnoise.checkpoints.diffusers_names import FLUX_TABLE, SD3_TABLE, UNET_TABLE, Table, lookup, sources_of
from unnoise.checkpoints.foreign.dit_names import PIXART_TABLE, sana_table
from unnoise.checkpoints.foreign.original_names import FLUX, sd3_swapped, sd3_table, unet_table
from unnoise.control.low_rank import Layer, Place
from unnoise.core.errors import InputError
from unnoise.networks.flux import Flux
from unnoise.networks.pixart import PixArt
from unnoise.networks.sana import Sana
from unnoise.networks.sd3 import SD3
from unnoise.networks.sd_unet import SDUNet

NETWORK = "network"
_BELONGS = {
    "base_model.model.": NETWORK,
    "model.diffusion_model.": NETWORK,
    "diffusion_model.": NETWORK,
    "transformer.": NETWORK,
    "unet.": NETWORK,
    "lora_unet_": NETWORK,
    "lora_transformer_": NETWORK,
    "lycoris_": NETWORK,
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "t5xxl",
    "text_encoders.clip_l.transformer.": "clip_l",
    "text_encoders.clip_g.transformer.": "clip_g",
    "text_encoders.t5xxl.transformer.": "t5xxl",
}
"""What keys begin with -> what they belong to; keys that begin with none of these belong to the network."""

_LYCORIS = (
    *(f"hada_{x}" for x in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *(f"lokr_{x}" for x in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    *("diff", "diff_b", "alpha", "dora_scale"),
)
_ROLES = {
    **{f".{role}{more}": role for role in _LYCORIS for more in ("", ".default", ".weight")},
    ".w_norm": "diff",  # LyCORIS's, of normalisations
    ".b_norm": "diff_b",
    **{f"{stem}.{a}.weight": a for stem in (".lora", "_lora", ".lora_linear_layer", "") for a in ("down", "up")},
    **{f".lora_{role}.weight": role for role in ("down", "up", "mid")},
    **{f".lora_{a}{more}.weight": role for a, role in (("A", "down"), ("B", "up")) for more in ("", ".default")},
    **{f".lora_B{more}.bias": "up_bias" for more in ("", ".default")},
    **{f".lora_magnitude_vector{more}": "magnitude" for more in ("", ".weight", ".default", ".default.weight")},
}
"""What keys end with -> what of a change they are."""
_VALUES = re.compile(r"(.*\b(?:(?:query|key)_norm|norm_(?:added_)?[qk]))\.(?:scale|weight)")
"""Keys of whole weights, of a module."""


class Name(NamedTuple):
    """belongs: NETWORK, or to a text encoder, see `encoders_of`. module: flat. role: what of a change, see `lora_file`."""

    belongs: str
    module: str
    role: str


_OTHER = {r"\.oft_(blocks|diag|R)\b": "an OFT or BOFT", r"\.on_input$": "an (IA)3", r"\.[ab][12]\.weight$": "a GLoRA"}
"""What keys that are not read look like -> whose they are."""
_BESIDE = re.compile(r"image_proj\..*|ip_adapter\.\d+\.to_[kv]_ip\.weight")
"""Keys of FaceID that are the IP-Adapter's."""


def has_low_rank(keys: Iterable[str]) -> bool:
    """Whether a file of these keys is an IP-Adapter with a LoRA beside it, as FaceID's are."""
    return any(key.startswith("ip_adapter.") and "_lora." in key for key in keys)


def beside_low_rank(key: str) -> bool:
    """Whether a key of such a file is none of its LoRA's."""
    return _BESIDE.fullmatch(key) is not None


def name_of(key: str) -> Name:
    """InputError for a key that no known kind of LoRA has."""
    if tail := max((t for t in _ROLES if key.endswith(t)), key=len, default=None):
        module, role = key.removesuffix(tail), _ROLES[tail]
    elif values := _VALUES.fullmatch(key):
        module, role = values[1], "values"
    else:
        kind = next((kind for sign, kind in _OTHER.items() if re.search(sign, key)), "")
        raise InputError(
            f"{key!r} is no part of a LoRA{kind and f' but of {kind}'}: low-rank pairs, LoHa, LoKr, differences and DoRA's "
            "magnitudes are known"
        )
    belongs, module = _within(module)
    return Name(belongs, flat(module.replace(".processor.", ".")), role)


def _within(module: str) -> tuple[str, str]:
    """What a module belongs to, and its name there."""
    belongs = NETWORK
    while prefix := max((p for p in _BELONGS if module.startswith(p)), key=len, default=""):
        module, belongs = module.removeprefix(prefix), _BELONGS[prefix]
    return belongs, module


def dotted(key: str) -> str:
    """The module of a key as its network calls it, for names that have dots."""
    return _within(spelling(key))[1]


def spelling(key: str) -> str:
    """A key without its role: as this file spells a module, beside other spellings of the same."""
    tail = max((t for t in _ROLES if key.endswith(t)), key=len, default="")
    return key.removesuffix(tail)


_FIRST = ("transformer.", "unet.", "text_encoder.", "text_encoder_2.", "text_encoder_3.", "lora_transformer_")
"""What keys of diffusers' begin with, the ones it prefers first; it reads no others of a file where there are these as well."""


def preferred(spellings: Iterable[str]) -> str:
    """Of several spellings of one module the one that diffusers reads."""
    return min(spellings, key=lambda s: next((i for i, first in enumerate(_FIRST) if s.startswith(first)), len(_FIRST)))


def flat(module: str) -> str:
    return module.replace(".", "_")


Names = Mapping[str, tuple[Place | None, ...]]
"""Flat name of a module -> where its rows lie, in order; None for rows that nothing reads. diffusers' names come first."""


@dataclass(frozen=True)
class Naming:
    """How a kind of network is called. called: for messages. part: by diffusers. table: the network -> its modules by diffusers.

    originals: the network -> more names, with diffusers' modules that the rows of each make up. swapped: the network -> those
    of these whose halves change places. shares: of the parts in the rows of a layer of ours that is joined from unlike ones.
    """

    called: str
    part: str
    table: Callable[[Any], Table]
    originals: Callable[[Any], tuple[Table, ...]] = lambda network: ()
    swapped: Callable[[Any], Collection[str]] = lambda network: ()
    shares: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


_MODULES: Table = {name.removesuffix(".scale"): tuple(t.removesuffix(".weight") for t in theirs) for name, theirs in FLUX.items()}
"""Of FLUX.1, normalisations among them, whose weights have names of their own in the original files."""

_XLABS: Table = {  # what follows a name is taken off: _lora.down.weight, of double blocks .down.weight
    "double_blocks.*.qkv_lora1": tuple(f"transformer_blocks.*.attn.to_{x}" for x in "qkv"),
    "double_blocks.*.qkv_lora2": tuple(f"transformer_blocks.*.attn.add_{x}_proj" for x in "qkv"),
    "double_blocks.*.proj_lora1": ("transformer_blocks.*.attn.to_out.0",),
    "double_blocks.*.proj_lora2": ("transformer_blocks.*.attn.to_add_out",),
    "single_blocks.*.qkv": tuple(f"single_transformer_blocks.*.attn.to_{x}" for x in "qkv"),
    "single_blocks.*.proj": ("single_transformer_blocks.*.proj_out",),
}

NAMINGS: Mapping[type[nn.Module], Naming] = {
    SDUNet: Naming(
        "Stable Diffusion",
        "unet",
        lambda net: UNET_TABLE,
        lambda net: (unet_table(tuple((net.config.blocks, d != 0) for d in net.config.depths)),),
    ),
    SD3: Naming(
        "Stable Diffusion 3",
        "transformer",
        lambda net: SD3_TABLE,
        lambda net: (sd3_table(net.config.depth),),
        lambda net: sd3_swapped(net.config.depth),
    ),
    Flux: Naming(
        "FLUX.1",
        "transformer",
        lambda net: FLUX_TABLE,
        lambda net: (_MODULES, _XLABS),
        lambda net: ("final_layer.adaLN_modulation.1",),
        {"inner": (1, 1, 1, 4)},
    ),
    PixArt: Naming("PixArt", "transformer", lambda net: PIXART_TABLE),
    Sana: Naming("Sana", "transformer", lambda net: sana_table(net.config)),
}
_VERSIONS = {768: "1", 1024: "2", 1280: "XL's refiner", 2048: "XL"}
"""Of Stable Diffusion, by the width of the words that the U-Net reads."""


def naming(network: nn.Module) -> Naming:
    """InputError for a network that LoRA files are not known for."""
    if type(network) not in NAMINGS:
        known = ", ".join(n.called for n in NAMINGS.values())
        raise InputError(f"a {type(network).__name__}: LoRA files are known for {known}")
    return NAMINGS[type(network)]


def places_of(network: nn.Module) -> dict[str, Place]:
    """Where the layers of theirs, by diffusers' names, lie in ours; normalisations are such too."""
    kind, out = naming(network), dict[str, Place]()
    table = kind.table(network)
    for name, layer in network.named_modules():
        if not isinstance(layer, Layer):
            continue
        theirs, start = [s.rpartition(".")[0] for s in sources_of(f"{name}.weight", table)], 0
        shares = kind.shares.get(name.rpartition(".")[2], (1,) * len(theirs))
        for module, share in zip(theirs, shares):
            rows = len(layer.weight) * share // sum(shares)
            out[module] = Place(name, start, rows)
            start += rows
    return out


def names_of_network(network: nn.Module) -> Names:
    """All names of its layers."""
    kind, places = naming(network), places_of(network)
    out: dict[str, tuple[Place | None, ...]] = {flat(m): (p,) for m, p in places.items()}
    out |= {flat(m.removesuffix(".0")): (p,) for m, p in places.items() if m.endswith(".to_out.0")}  # diffusers before 2023
    swapped = kind.swapped(network)
    for table in kind.originals(network):
        back = {module: (original,) for original, theirs in table.items() for module in theirs}
        for original in {found[1][0] for m in places if (found := lookup(m, back))}:
            _, theirs = lookup(original, table) or (original, [])
            several = tuple(places.get(m) for m in theirs)
            out[flat(original)] = _halves_exchanged(several) if original in swapped else several
    if isinstance(network, SDUNet):  # FaceID counts attentions: on the way down, on the way up, in the middle
        attentions = sorted((m.removesuffix(".to_q") for m in places if re.search(r"\.attn[12]\.to_q$", m)), key=_way)
        for i, attention in enumerate(attentions):
            parts = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
            out |= {f"ip_adapter_{i}_to_{x}": (places[f"{attention}.{part}"],) for x, part in parts.items()}
    for m in places:  # of SD3's last block, whose words ask nothing
        if m.endswith("add_k_proj"):
            out.setdefault(flat(m.replace("add_k_proj", "add_q_proj")), (None,))
    return out


def _way(module: str) -> tuple[int, list[int]]:
    """What sorts modules of a U-Net by diffusers' names as it lists them."""
    return ("down_blocks", "up_blocks", "mid_block").index(module.partition(".")[0]), [int(n) for n in re.findall(r"\d+", module)]


def _halves_exchanged(places: tuple[Place | None, ...]) -> tuple[Place | None, ...]:
    (place,) = places
    assert place is not None
    half = place.rows // 2
    return replace(place, start=place.start + half, rows=half), replace(place, rows=half)


def names_of_encoder(network: nn.Module) -> Names:
    """All names of the layers of a CLIP or T5 of transformers, which has called some of them otherwise at times."""
    out: dict[str, tuple[Place | None, ...]] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.LayerNorm):
            for alias in (name, encoder_key(name), name.removeprefix("text_model.")):
                place = (Place(name, 0, len(layer.weight)),)
                out[flat(alias)] = out[re.sub(r"_([qkv]|out)_proj$", r"_to_\1", flat(alias))] = place
    return out


def encoder_key(module: str) -> str:
    """A module's name in files, where CLIP's transformer always lies in text_model."""
    return f"text_model.{module}" if module.startswith(("encoder.layers.", "final_layer_norm")) else module


def convolutions(network: nn.Module) -> tuple[str, ...]:
    """Ends of the names of linear layers of ours that are 1 x 1 convolutions in theirs: those around the transformers of
    Stable Diffusion 1, which has as many heads on all levels, where its successors have heads of as many channels."""
    return ("proj_in", "proj_out") if isinstance(network, SDUNet) and len(set(network.config.heads)) == 1 else ()


def called(network: nn.Module) -> str:
    """Its family, for messages."""
    return _u_net(network.config.token_dim) if isinstance(network, SDUNet) else naming(network).called


def called_by(keys: Mapping[str, tuple[int, ...]]) -> str:
    """The family of a LoRA's network, from its keys and their tensors' shapes."""
    by_name = {name_of(key): shape for key, shape in keys.items()}
    mine = {name: shape for name, shape in by_name.items() if name.belongs == NETWORK}
    told = " ".join(name.module for name in mine)
    if not mine:
        return "text encoders alone"
    kind = next((kind for kind, signs in _SIGNS.items() if re.search(signs, told)), "another kind of network")
    if kind != "Stable Diffusion":
        return kind
    widths = (shape[1] for name, shape in mine.items() if name.role == "down" and name.module.endswith("attn2_to_k"))
    return _u_net(next(widths, None))


_SIGNS = {
    "FLUX.1": "single_blocks|double_blocks|single_transformer_blocks",
    "Stable Diffusion 3": "joint_blocks|add_q_proj|add_k_proj|norm1_context",
    "Stable Diffusion": "down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block",
    "Sana": "conv_inverted|linear_attn",
    "PixArt": "adaln_single|caption_projection|transformer_blocks_[0-9]+_attn2",
    "Wan, a model of video": "blocks_[0-9]+_cross_attn",
}
"""What in modules' names tells their family, the first that is found."""


def _u_net(width: int | None) -> str:
    if width is None:
        return "Stable Diffusion"
    return f"Stable Diffusion {_VERSIONS[width]}" if width in _VERSIONS else f"a U-Net for words of width {width}"
