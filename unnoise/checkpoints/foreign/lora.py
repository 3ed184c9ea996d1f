"""LoRA files: safetensors of every usual naming (`lora_names`) as adapters (`low_rank`) of a model's network and text encoders.

    adapted = low_rank(model, {"style.safetensors": 0.7, "person.safetensors": (1.0, 0.5)})   # network 1, words 0.5
    low_rank(model, {"style.safetensors": 0.3})                                               # in place of those before
    adapted.merge()                                                                           # free of cost; unmerge() undoes it

Of each layer a file holds a pair A, B and perhaps an alpha (the change is alpha / rank B A; without an alpha, B A), or what LyCORIS
makes. Where PEFT keeps the alphas beside the tensors, they are read there.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors.torch import save_file
from torch import Tensor, nn

from unnoise.checkpoints.foreign.control_lora import roomy
from unnoise.checkpoints.foreign.hub import refuse_address
from unnoise.checkpoints.foreign.lora_file import Alpha, Group, LoraFile, change_of
from unnoise.checkpoints.foreign.lora_names import (
    NETWORK,
    Names,
    called,
    called_by,
    convolutions,
    encoder_key,
    names_of_encoder,
    names_of_network,
    naming,
    places_of,
)
from unnoise.control.low_rank import Adapted, Adapter, Change, Layer, LowRank, Place
from unnoise.core.codec import Conditioner
from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.modalities.words.frozen import Frozen, encoders_of
from unnoise.networks.int8 import in_int8
from unnoise.networks.layers import RMSNorm

Weight = float | tuple[float, float]
"""Of network and words alike, or of each."""


class Model(Protocol):
    """What of a DiffusionModel takes adapters."""

    @property
    def denoiser(self) -> Denoiser: ...
    @property
    def conditioner(self) -> Conditioner: ...


@dataclass(frozen=True)
class AdaptedModel:
    parts: tuple[Adapted, ...]

    def merge(self) -> None:
        """See `Adapted.merge`. After an InputError nothing is merged."""
        for part in self.parts:
            part.check_merge()
        for part in self.parts:
            part.merge()

    def unmerge(self) -> None:
        """Every weight is what it was, bit for bit."""
        for part in self.parts:
            part.unmerge()


def low_rank(model: Model, files: Mapping[str | Path, Weight]) -> AdaptedModel:
    """The model under these LoRA files (or folders, or names on the hub), in place of those before; no files take all away.

    Words that OneTrainer has put into a file are for `textual_inversion`: a warning says so where the model knows them not.
    A weight of 0 for the words leaves the text encoders' part of a file unread. A model that is saved is saved without them, but
    for what is merged into its network.
    InputError for a file that is no LoRA, or one for another family of models; then nothing has changed. One that follows pictures
    needs a model with room for them: `loading.with_loras` makes it.
    """
    network, encoders = network_of(model.denoiser), encoders_of(model.conditioner)
    ours: dict[str, tuple[Adapter, float]] = {}
    theirs: dict[Frozen, dict[str, tuple[Adapter, float]]] = {e: {} for e in encoders.values()}
    named: set[str] = set()
    for path, weight in files.items():
        of_network, of_words = weight if isinstance(weight, tuple) else (weight, weight)
        if not (math.isfinite(of_network) and math.isfinite(of_words)):
            raise InputError(f"{path}: weight {weight}; a number is wanted, 1 is the LoRA as it was trained")
        if (name := one_name(path)) in named:
            raise InputError(f"{path}: given twice; give it once, with the weight it is to have")
        named.add(name)
        file = LoraFile.read(Path(path))
        if unknown := [word for word in file.words if not any(word in e.taught for e in encoders.values())]:
            told = f"{path}: its learnt words ({', '.join(unknown)}) are left aside; give it as an --embedding too"
            warnings.warn(told, stacklevel=2)
        for belongs, groups in file.parts.items():
            if belongs == NETWORK:
                ours[name] = (
                    _adapter(file, network, groups, names_of_network(network), f"this model, {called(network)},"),
                    of_network,
                )
            elif of_words:
                if (e := encoders.get(belongs)) is None:
                    raise InputError(
                        f"{path}: changes {belongs}, which this model has not; a weight of 0 for the words leaves it out"
                    )
                coder = e.opened.network
                theirs[e][name] = _adapter(file, coder, groups, names_of_encoder(coder), f"this model's {belongs}"), of_words
    adapted = [Adapted.of(network)]
    adapted[0].set(ours)
    for encoder, adapters in theirs.items():
        if adapters or not encoder.opened.shared:
            adapted.append(Adapted.of(encoder.apart().network))
            adapted[-1].set(adapters)
    return AdaptedModel(tuple(adapted))


def one_name(path: str | Path) -> str:
    """The same for a file or folder however its path is spelt; a name on the hub as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)


def network_of(denoiser: Denoiser) -> nn.Module:
    """The one network that a denoiser calls. InputError for a denoiser of several, or of none."""
    if not isinstance(denoiser, NetworkDenoiser):
        raise InputError(f"a {type(denoiser).__name__} has no one network that LoRA files could change")
    if in_int8(denoiser.network):
        raise InputError("LoRA on a network in int8, whose weights are gone: load the model again, LoRAs first, then to_int8()")
    return denoiser.network


def _adapter(file: LoraFile, network: nn.Module, groups: Mapping[str, Group], names: Names, mine: str) -> Adapter:
    """mine: what the network is called. InputError if some of the changes have no place in it."""
    changes: list[tuple[Place, Change]] = []
    odd = []
    copies = _copies(groups, names)
    for module, group in groups.items():
        if module in copies:
            continue
        places = names.get(module)
        if places is None:
            odd += [] if group.nought() else [group.key]
            continue
        try:
            changes += _placed(network, places, group, file.alpha(group))
        except InputError as e:
            raise InputError(f"{file.where}: {e}") from None
        except (RuntimeError, ValueError, TypeError, IndexError):
            odd += [] if group.nought() else [group.key]
    if odd:
        shapes = ", ".join(f"{key!r} {file.keys[key]}" for key in odd[:3])
        raise InputError(f"{file.where}: a LoRA for {called_by(file.keys)}; {mine} has no place for {shapes}")
    return Adapter(changes)


def _copies(groups: Mapping[str, Group], names: Names) -> set[str]:
    """Modules whose rows the file names a second time, by a name that comes first in `names`: diffusers reads the file so."""
    taken: dict[str, list[Place]] = {}
    out = set()
    for module in (m for m in names if m in groups):
        places = [p for p in names[module] if p is not None]
        if any(p.start < q.start + q.rows and q.start < p.start + p.rows for p in places for q in taken.get(p.layer, ())):
            out.add(module)
        else:
            for p in places:
                taken.setdefault(p.layer, []).append(p)
    return out


def _placed(network: nn.Module, places: tuple[Place | None, ...], group: Group, alpha: Alpha) -> list[tuple[Place, Change]]:
    """The change at every place that its rows come to, cut where these are not side by side. ValueError if it does not fit."""
    known = [p for p in places if p is not None]
    if not known:  # a layer whose answers nothing reads
        return []
    layer = network.get_submodule(known[0].layer)
    assert isinstance(layer, Layer)
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        raise ValueError("a convolution of each channel by itself")
    if isinstance(layer, RMSNorm) and "diff_b" in group.tensors:
        raise ValueError("a normalisation that has no offset")
    sizes = [known[0].rows if p is None else p.rows for p in places]
    whole = change_of(roomy(network, known[0], group), alpha, (sum(sizes), *layer.weight.shape[1:]))
    first, ends = known[0], [p.start + p.rows for p in known[:-1]]
    if len(known) == len(places) and ends == [p.start for p in known[1:]] and {p.layer for p in known} == {first.layer}:
        return [(Place(first.layer, first.start, sum(sizes)), whole)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [(p, whole.narrowed(start, p.rows)) for p, start in zip(places, starts) if p is not None]


def save_low_rank(file: str | Path, model: Model, adapter: Adapter, words: Mapping[str, Adapter] | None = None) -> None:
    """Write adapters of the model's network, and of its text encoders (text_encoder ...), as diffusers and PEFT name things.

    Their scales are multiplied into B, as these take alpha for the rank. InputError for changes that are not low-rank, or of rows
    that are no whole layers of theirs, and for a place that cannot be written.
    """
    file, network, encoders = Path(file), network_of(model.denoiser), encoders_of(model.conditioner)
    tensors = _written(adapter, {f"{naming(network).part}.{m}": p for m, p in places_of(network).items()}, convolutions(network))
    for belongs, more in (words or {}).items():
        if belongs not in encoders:
            raise InputError(f"{belongs}: this model has the text encoders {', '.join(encoders)}")
        encoder = encoders[belongs].opened.network
        names = {
            f"{belongs}.{encoder_key(n)}": Place(n, 0, len(m.weight))
            for n, m in encoder.named_modules()
            if isinstance(m, nn.Linear)
        }
        tensors |= _written(more, names, ())
    with atomically(file) as partial:
        save_file(tensors, str(partial), {"format": "pt"})


def _written(adapter: Adapter, names: Mapping[str, Place], convolved: tuple[str, ...]) -> dict[str, Tensor]:
    """convolved: ends of the names of those that are 1 x 1 convolutions there."""
    out = {}
    for place, change in adapter.items():
        if not isinstance(change, LowRank) or change.offset is not None:
            raise InputError(
                f"{place.layer}: a {type(change).__name__} change; this format has place for low-rank ones without offset"
            )
        end = place.start + place.rows
        theirs = {n: p for n, p in names.items() if p.layer == place.layer and place.start <= p.start and p.start + p.rows <= end}
        if sum(p.rows for p in theirs.values()) != place.rows:
            raise InputError(f"{place.layer}: rows {place.start} to {end} are no whole layers of diffusers'")
        for name, p in theirs.items():
            down, up = change.down.data, change.scale * change.up.data[p.start - place.start :][: p.rows]
            if name.endswith(convolved):
                down = down[:, :, None, None]
            out[f"{name}.lora_A.weight"] = down.contiguous().clone()
            out[f"{name}.lora_B.weight"] = up.reshape(*up.shape, *(1,) * (down.ndim - 2)).contiguous()
    return out


def parse_lora(text: str) -> tuple[Path, Weight]:
    """FILE, FILE:WEIGHT or FILE:NETWORK:WORDS, as the command line takes it. InputError for weights that are no numbers, and for
    an address."""
    refuse_address(text)
    file, *told = [text] if text and Path(text).exists() else text.split(":")
    try:
        weights = [float(w) for w in told]
    except ValueError:
        raise InputError(f"{text}: FILE, FILE:0.7 or FILE:0.7:0.3 (network, words) are wanted") from None
    if not file:
        raise InputError(f"{text!r}: names no file; FILE, FILE:0.7 or FILE:0.7:0.3 (network, words) are wanted")
    if len(weights) > 2:
        raise InputError(f"{text}: at most two weights, of the network and of the words")
    return Path(file), (weights[0], weights[1]) if len(weights) == 2 else (weights or [1.0])[0]


def parse_loras(texts: Iterable[str]) -> dict[str | Path, Weight]:
    """Several as `parse_lora` reads each. InputError too for a file that is named twice, whose weight is one of two."""
    out: dict[str | Path, Weight] = {}
    for text in texts:
        file, weight = parse_lora(text)
        if before := [w for other, w in out.items() if one_name(other) == one_name(file)]:
            raise InputError(
                f"{file}: given twice, with weights {before[0]} and {weight}; give it once, with the weight it is to have"
            )
        out[file] = weight
    return out
