"""What adapters tell a network beside its words, as further entries of a condition; a network that is told none is as it was.

    residual.KIND.NUMBER (B, ...)                   added to what the network has at a place of its own
    pictures.ADAPTER.LAYER.keys, .values (B, L, D)  seen by the attention of a layer in a softmax of their own (IP-Adapter)
    pictures.ADAPTER.LAYER.q_norm ... (`Among`)     beside these: seen in one softmax with the picture's own keys (in SD3.5)
    pictures.ADAPTER.tokens (B, L, D), .mask (B, L) read behind the words' tokens, as those are (FLUX.1 Redux)

Residuals of several adapters add up. How strong an adapter is, and for which rows, is in the numbers: a scaled residual, scaled
values. So guidance, several adapters and samplers compose, and no network has a flag for any of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from unnoise.networks.attention import attend
from unnoise.networks.layers import rms_normalise

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one picture prompt for one layer, each (B, L, width)."""


class Among(NamedTuple):
    """How a picture prompt is asked in one softmax with the picture itself. q_norm, k_norm (B, D): weights by which the picture's
    own queries and keys are RMS-normalised a head; weight (B,): of what is found."""

    q_norm: Tensor
    k_norm: Tensor
    weight: Tensor


class Shown(NamedTuple):
    """Of one picture prompt, to one layer: keys and values (B, L, width). among: None where they have a softmax of their own."""

    keys: Tensor
    values: Tensor
    among: Among | None = None


@runtime_checkable
class Steerable(Protocol):
    """A network that takes residuals. places: how many of each kind."""

    places: Mapping[str, int]


@runtime_checkable
class Pictured(Protocol):
    """A network whose attention sees picture prompts. picture_widths: of its layers, in the order of their numbers."""

    picture_widths: Sequence[int]
    token_dim: int


def residual(kind: str, number: int) -> str:
    """The name of an entry."""
    return f"residual.{kind}.{number}"


def steered(h: Tensor, cond: Mapping[str, Tensor], kind: str, number: int) -> Tensor:
    """h with the residual of this place added, if the condition has one."""
    more = cond.get(residual(kind, number))
    return h if more is None else h + more.to(h.dtype)


def picture_entries(adapter: int, layer: int, shown: Shown) -> dict[str, Tensor]:
    named = {"keys": shown.keys, "values": shown.values, **(shown.among._asdict() if shown.among else {})}
    return {f"pictures.{adapter}.{layer}.{name}": x for name, x in named.items()}


def pictures_by_layer(cond: Mapping[str, Tensor], dtype: torch.dtype) -> dict[int, list[Shown]]:
    """layer -> what it sees of every picture prompt."""
    out: dict[int, list[Shown]] = {}
    for name in cond:
        if name.startswith("pictures.") and name.endswith(".keys"):
            place = name.removesuffix("keys")
            own = {leaf: cond[place + leaf].to(dtype) for leaf in ("keys", "values", *Among._fields) if place + leaf in cond}
            among = Among(*(own[leaf] for leaf in Among._fields)) if "weight" in own else None
            out.setdefault(int(name.split(".")[2]), []).append(Shown(own["keys"], own["values"], among))
    return out


def picture_tokens(adapter: int, tokens: Tensor) -> dict[str, Tensor]:
    """Tokens (B, L, D) that are read behind the words'."""
    return {f"pictures.{adapter}.tokens": tokens, f"pictures.{adapter}.mask": tokens.new_ones(tokens.shape[:2], dtype=torch.bool)}


def with_picture_tokens(cond: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A condition whose `tokens` are those of its words and then those of pictures; `mask` where some do not count."""
    said = [name.removesuffix(".tokens") for name in cond if name.startswith("pictures.") and name.endswith(".tokens")]
    if not said:
        return cond
    tokens, masks = [cond[f"{name}.tokens"] for name in said], [cond[f"{name}.mask"] for name in said]
    words = cond.get("tokens", tokens[0][:, :0])
    out = {**cond, "tokens": torch.cat([words, *(t.to(words.dtype) for t in tokens)], 1)}
    if "mask" in cond or not all(bool(mask.all()) for mask in masks):  # attention is slower with a mask
        mask = cond["mask"] if "mask" in cond else masks[0].new_ones(words.shape[:2])
        out["mask"] = torch.cat([mask, *masks], 1)
    return out


def found(q: Tensor, pictures: Sequence[Shown]) -> Iterator[Tensor]:
    """What queries q (B, heads, N, D) find in each picture prompt that has a softmax of its own, as q."""
    for shown in pictures:
        if shown.among is None:
            yield attend(q, *_by_head(shown, q.shape[1]))


def found_among(q: Tensor, k: Tensor, v: Tensor, pictures: Sequence[Shown]) -> Iterator[Tensor]:
    """What the picture's own queries find in itself and each picture prompt together, as q. q, k, v (B, heads, N, D), not
    normalised."""
    for shown in pictures:
        if shown.among is not None:
            q_norm, k_norm, weight = shown.among
            keys, values = _by_head(shown, q.shape[1])
            own = rms_normalise(k) * k_norm[:, None, None]
            more = attend(rms_normalise(q) * q_norm[:, None, None], torch.cat([own, keys], 2), torch.cat([v, values], 2))
            yield weight[:, None, None, None] * more


def _by_head(shown: Shown, heads: int) -> KeysValues:
    """Its keys and values (B, heads, L, D)."""
    keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (shown.keys, shown.values))
    return keys, values


class Steering(nn.Module, ABC):
    """An adapter's own network: residuals for another network, out of a control picture and whatever that one is told."""

    centred: bool = True
    """Whether it was trained on encoded pictures as states have them, of mean 0; otherwise their mean was left in."""
    kinds: int = 0
    """How many kinds of control picture it tells apart by the entry `mode`; 0 where it was trained on one."""
    one_sided: bool = False
    """Whether it was trained to be heard on the side alone that guidance leads to."""
    several: bool = False
    """Whether it is shown several control pictures at once: then entries of `hint` and `mode` are (B, n, ...)."""

    holes: bool = False
    """Whether its control picture has a fourth channel, opacity, and something new is to be drawn where it is transparent."""

    @abstractmethod
    def misfit(self, network: nn.Module) -> str:
        """Why its residuals do not fit the network; empty where they do."""

    @abstractmethod
    def hint(self, picture: Tensor, encode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """What it needs of a control picture (B, 3, H, W) in [0, 1], 4 channels where it has `holes`, computed once for all steps.

        encode: such pictures -> states as the network is given them, (B, C, h, w), without noise.
        """

    @abstractmethod
    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """x (B, C, h, w) and noise_level (B,) as the steered network has them, cond as well, with the entries of `hint` added
        -> its own residuals of each kind, in order of depth."""

    def seen(self, network: nn.Module, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """What it is given as x, where it begins behind the first layer of the network that it steers."""
        return x

    def source(self, place: int, own: int, places: int) -> int:
        """Which of `own` residuals goes to a place out of `places`."""
        return place
