"""Pictures as prompts, attached to a model (`adapters`): IP-Adapters and FLUX.1 Redux, with what an encoder says of pictures."""

from typing import Any

import torch
from torch import Tensor, nn

from unnoise.control.adapters import Attachment, Step
from unnoise.control.guidance import Interval
from unnoise.control.low_rank import Adapted
from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.state import Cond, expand
from unnoise.networks.flux import Flux
from unnoise.networks.image_prompt import ImagePrompt, Redux
from unnoise.networks.int8 import in_int8
from unnoise.networks.sd3 import SD3
from unnoise.networks.steering import Pictured, Shown, picture_entries, picture_tokens
from unnoise.networks.timed_prompt import TimedPrompt


class PicturePrompt(Attachment):
    """An IP-Adapter, and what an encoder of pictures says of one or several of them, which prompt together.

    seen (n, D) or (n, L, D), as the adapter's projection takes it; nothing: the same of a picture of nothing, with one row.
    low_rank: the file of the LoRA that it was trained with, which is to be on the network; empty where there is none.
    """

    leads = True

    def __init__(
        self, name: str, network: ImagePrompt, seen: Tensor, nothing: Tensor, scale: float = 1.0, interval: Interval = (0.0, 1.0),
        low_rank: str = "",
    ) -> None:  # fmt: skip
        super().__init__(name, scale, interval)
        self.low_rank = low_rank
        _check_seen(name, seen, network.config.projection.seen_dim, network.projection.whole)
        if nothing.shape[1:] != seen.shape[1:]:
            raise InputError(f"{name}: {tuple(nothing.shape)} of a picture of nothing, beside {tuple(seen.shape)} of pictures")
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("seen", seen)
        self.register_buffer("nothing", nothing[:1].expand_as(seen).clone())

    def check_fit(self, network: nn.Module) -> None:
        config = self.network.config
        if not isinstance(network, Pictured):
            raise InputError(
                f"{self.name}: a {type(network).__name__} takes no picture prompts; Stable Diffusion 1, 2 and XL and FLUX.1 do"
            )
        mine, theirs = (config.widths, config.projection.token_dim), (tuple(network.picture_widths), network.token_dim)
        if mine != theirs:
            mine_is, theirs_is = (f"{len(w)} layers of {min(w)} to {max(w)} and tokens of {d}" for w, d in (mine, theirs))
            raise InputError(f"{self.name} does not fit this model: it is for {mine_is}; this model has {theirs_is}")
        if self.low_rank and self.low_rank not in Adapted.of(network).adapters and not in_int8(network):
            raise InputError(
                f"{self.name}: was trained with a LoRA that its file has, too: give it first, beside others that there are "
                f"(with_loras(model, {{{self.low_rank!r}: 1.0}}))"
            )

    def prepare(self, codec: Codec) -> tuple[Cond, Cond]:
        tokens = [self.network.tokens(x) for x in (self.get_buffer("seen"), self.get_buffer("nothing"))]
        towards, away = ({"tokens": t, "weight": t.new_ones(1)} for t in tokens)
        return towards, away

    def entries(self, number: int, step: Step, own: Cond, weight: Tensor) -> dict[str, Tensor]:
        pairs = self.network(own["tokens"])
        scaled = [Shown(keys, expand(weight, values) * values) for keys, values in pairs]
        return {name: x for layer, pair in enumerate(scaled) for name, x in picture_entries(number, layer, pair).items()}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pictures": len(self.get_buffer("seen"))}


class PictureWords(Attachment):
    """FLUX.1 Redux, and what SigLIP says of one or several pictures in its last layer, which are read behind the words.

    seen (n, L, D). scale: of the tokens. On the side that guidance leads away from there are none.
    """

    leads = worded = True

    def __init__(self, name: str, network: Redux, seen: Tensor, scale: float = 1.0, interval: Interval = (0.0, 1.0)) -> None:
        super().__init__(name, scale, interval)
        _check_seen(name, seen, network.config.seen_dim, whole=True)
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("seen", seen)

    def check_fit(self, network: nn.Module) -> None:
        if not isinstance(network, Flux):
            raise InputError(f"{self.name}: FLUX.1 Redux is for FLUX.1 alone; this model has a {type(network).__name__}")
        mine, theirs = self.network.config.token_dim, network.config.token_dim
        if mine != theirs:
            raise InputError(f"{self.name} does not fit this model: it makes tokens of {mine}; this model reads tokens of {theirs}")

    def prepare(self, codec: Codec) -> tuple[Cond, Cond]:
        tokens = self.network(self.get_buffer("seen"))
        one = tokens.new_ones(1)
        return {"tokens": tokens, "weight": one}, {"tokens": tokens, "weight": torch.zeros_like(one)}

    def entries(self, number: int, step: Step, own: Cond, weight: Tensor) -> dict[str, Tensor]:
        return picture_tokens(number, expand(weight, own["tokens"]) * own["tokens"])

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pictures": len(self.get_buffer("seen"))}


class TimedPicturePrompt(Attachment):
    """An IP-Adapter of Stable Diffusion 3.5, told the noise level at every step, and what SigLIP says of one or several pictures.

    seen (n, L, D), of the layer before SigLIP's last; guidance leads away from zeros in its place.
    """

    leads = True

    def __init__(self, name: str, network: TimedPrompt, seen: Tensor, scale: float = 1.0, interval: Interval = (0.0, 1.0)) -> None:
        super().__init__(name, scale, interval)
        _check_seen(name, seen, network.config.seen_dim, whole=True)
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("seen", seen)

    def check_fit(self, network: nn.Module) -> None:
        mine = self.network.config
        if not isinstance(network, SD3):
            raise InputError(f"{self.name}: is for Stable Diffusion 3.5; this model has a {type(network).__name__}")
        theirs = network.config
        if (mine.layers, mine.width, mine.head_dim) != (theirs.depth, theirs.width, theirs.width // theirs.heads) or theirs.dual:
            own = f"{mine.layers} blocks of {mine.width}, heads of {mine.head_dim}"
            twice = f", {len(theirs.dual)} with a second attention" if theirs.dual else ""
            has = f"{theirs.depth} of {theirs.width}, heads of {theirs.width // theirs.heads}{twice}"
            raise InputError(f"{self.name} does not fit this model: it is for {own}; this model has {has}")

    def prepare(self, codec: Codec) -> tuple[Cond, Cond]:
        seen = self.get_buffer("seen")[None]
        one = seen.new_ones(1)
        return {"seen": seen, "weight": one}, {"seen": torch.zeros_like(seen), "weight": one}

    def entries(self, number: int, step: Step, own: Cond, weight: Tensor) -> dict[str, Tensor]:
        layers = enumerate(self.network(own["seen"], step.noise_level, weight))
        return {name: x for layer, shown in layers for name, x in picture_entries(number, layer, shown).items()}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "pictures": len(self.get_buffer("seen"))}


def _check_seen(name: str, seen: Tensor, width: int, whole: bool) -> None:
    """InputError unless what an encoder says of pictures is (n, width), or (n, L, width) of a whole one."""
    if seen.ndim != 2 + whole or seen.shape[-1] != width or len(seen) == 0:
        shape = f"(pictures, {'places, ' * whole}{width})"
        raise InputError(f"{name}: takes {shape} from an encoder of pictures, not {tuple(seen.shape)}: another encoder's")
