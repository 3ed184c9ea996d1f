"""Networks beside the network: ControlNet, T2I-Adapter, IP-Adapter, Redux. Several at once, with scales and times, however guided.

    cond  <-  cond + sum_i  w_i(t) entries_i(x_t, t, cond, picture_i)         w_i(t) = scale_i where lo_i < t <= hi_i, else 0

What an attachment needs all the time (an encoded control picture, the tokens of a picture prompt) is prepared once a run, for the
side that guidance leads to and for the side that it leads away from, and travels in the condition as `attached.NUMBER.NAME`. At
each step it becomes entries that the network reads (`networks.steering`). Rows whose weight is 0 are not computed. Samplers,
guidance and perturbed networks see a denoiser and a condition as ever.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unnoise.control.guidance import Interval, check
from unnoise.core.codec import Codec
from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.predictions import Prediction
from unnoise.core.state import Cond, State, expand
from unnoise.modalities.image.decode import Target, fit
from unnoise.modalities.image.latents import Latents
from unnoise.networks.steering import Steerable, Steering, residual

SAME_SHAPE = 0.02
"""Pictures whose ratio of width to height differs by less, or by what whole codes and tokens make of it, are resized."""


def same_shape(a: Sequence[int], b: Sequence[int], share: float = SAME_SHAPE) -> bool:
    """Whether two heights and widths are of one ratio, but for this share of it."""
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) <= share


class Step(NamedTuple):
    """What the network is about to be called with."""

    network: nn.Module
    x: Tensor
    noise_level: Tensor
    cond: Cond


class Attachment(nn.Module, ABC):
    """One adapter with what it is to say.

    scale: 1 as it was trained, 0 none. interval: the times in which it acts; (0.3, 1) leaves the last steps to the model alone.
    name: of its file, for messages and for what samples say of how they were made.
    """

    leads: bool
    """Whether guidance has something to lead to, even without words."""
    worded: bool = False
    """Whether what it says is read as words, which other adapters are told too."""

    def __init__(self, name: str, scale: float, interval: Interval) -> None:
        super().__init__()
        check(scale, interval)
        self.name, self.scale, self.interval = name, scale, interval

    @abstractmethod
    def check_fit(self, network: nn.Module) -> None:
        """InputError for a network of another family than the one that it was trained beside."""

    @abstractmethod
    def prepare(self, codec: Codec) -> tuple[Cond, Cond]:
        """What it needs at every step, one row each: on the side that guidance leads to, and on the other. `weight` (1,) is among
        it, 0 where it is to keep silent. InputError for a picture that does not fit what the codec makes."""

    @abstractmethod
    def entries(self, number: int, step: Step, own: Cond, weight: Tensor) -> dict[str, Tensor]:
        """What the network is told beside its condition. number: of the attachment among all; own: what was prepared, a row for
        each of the step's; weight (B,): how much it is to say."""

    def settings(self) -> dict[str, Any]:
        """What samples say of how they were made."""
        return {"name": self.name, "scale": self.scale, "interval": list(self.interval)}


class Control(Attachment):
    """A ControlNet or a T2I-Adapter, and its control pictures.

    pictures: each uint8 (H, W, 3), or (H, W, 4) with opacity for a network that fills in what is transparent (`Steering.holes`),
    of the shape that is sampled: another size is resized, another shape refused. Several are shown
    at once to a network that was trained so (`Steering.several`), else one after another, and what it says of each adds up.
    guess: "guess mode": it acts on the conditional side alone, from 0.1 of its scale at the finest level to all of it in the
    middle, so that it is followed without words (Zhang et al. 2023, 2302.05543, section 3.4). modes: of a ControlNet for several
    kinds of control pictures, the number of each one's kind; none for the others.
    """

    def __init__(
        self, name: str, network: Steering, pictures: Sequence[np.ndarray], scale: float = 1.0, interval: Interval = (0.0, 1.0),
        guess: bool = False, modes: Sequence[int] = (),
    ) -> None:  # fmt: skip
        super().__init__(name, scale, interval)
        if not pictures:
            raise InputError(f"{name}: follows control pictures; give at least one")
        channels = 4 if network.holes else 3
        for picture in pictures:
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != channels:
                raise InputError(
                    f"{name}: a control picture is uint8 (height, width, {channels}), not {picture.dtype} {picture.shape}"
                )
            if network.holes and picture[..., 3].min() > 127:
                raise InputError(f"{name}: draws anew what is transparent in its picture, and nothing is")
        _check_modes(name, modes, network.kinds, len(pictures))
        self.network, self.guess, self.leads = network.eval().requires_grad_(False), guess, guess or network.one_sided
        self.pictures, self.modes = tuple(pictures), tuple(modes)

    def check_fit(self, network: nn.Module) -> None:
        if not isinstance(network, Steerable):
            raise InputError(f"{self.name}: a {type(network).__name__} takes no residuals; Stable Diffusion's networks and FLUX do")
        if why := self.network.misfit(network):
            raise InputError(f"{self.name} does not fit this model: {why}")

    def prepare(self, codec: Codec) -> tuple[Cond, Cond]:
        device = next(self.network.parameters()).device
        each = [self._hint(torch.tensor(_sized(p, codec, self.name), device=device)[None], codec) for p in self.pictures]
        own = {name: torch.stack([hint[name] for hint in each], 1) for name in each[0]}
        if self.modes:
            own["mode"] = torch.tensor([self.modes], device=device)
        one = torch.ones(1, device=device)
        return {**own, "weight": one}, {**own, "weight": torch.zeros_like(one) if self.leads else one}

    def _hint(self, x: Tensor, codec: Codec) -> dict[str, Tensor]:
        """Of one control picture, uint8 (1, H, W, C)."""

        def encode(shown: Tensor) -> Tensor:
            pictures = (255 * shown).round().to(torch.uint8).permute(0, 2, 3, 1)
            return _encoded(codec, pictures, self.network.centred).to(x.device)

        return self.network.hint(x.permute(0, 3, 1, 2) / 255, encode)

    def entries(self, number: int, step: Step, own: Cond, weight: Tensor) -> dict[str, Tensor]:
        assert isinstance(step.network, Steerable)
        x = self.network.seen(step.network, step.x, step.cond)
        shown = [own] if self.network.several else [{k: v[:, i] for k, v in own.items()} for i in range(len(self.pictures))]
        each = [self.network(x, step.noise_level, {**step.cond, **one}) for one in shown]
        said = {kind: [reduce(torch.add, several) for several in zip(*(one[kind] for one in each))] for kind in each[0]}
        depth = sum(map(len, said.values()))
        graded = self.guess and not self.network.one_sided
        shares = iter(torch.logspace(-1, 0, depth).tolist() if graded else [1.0] * depth)
        out: dict[str, Tensor] = {}
        for kind, several in said.items():
            scaled = [expand(weight * next(shares), h) * h for h in several]
            for place in range(step.network.places[kind] if scaled else 0):
                source = self.network.source(place, len(scaled), step.network.places[kind])
                if source < len(scaled):
                    out[residual(kind, place)] = scaled[source]
        return out

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "guess": self.guess, "pictures": len(self.pictures), "modes": list(self.modes)}


class Attachments(nn.Module):
    """All that is attached to a model."""

    def __init__(self, attached: Sequence[Attachment] = ()) -> None:
        super().__init__()
        if odd := [a for a in attached if not isinstance(a, Attachment)]:
            raise InputError(f"{odd[0]!r} is attached as controlnet(...) and picture_prompt(...) make it")
        self.each = nn.ModuleList(attached)

    def __iter__(self) -> Iterator[Attachment]:
        return (a for a in self.each if isinstance(a, Attachment))

    def __len__(self) -> int:
        return len(self.each)

    @property
    def lead(self) -> bool:
        return any(a.leads for a in self)

    def settings(self) -> list[dict[str, Any]]:
        return [a.settings() for a in self]

    @torch.no_grad()
    def prepare(self, codec: Codec) -> tuple[Cond, Cond]:
        """Entries of one row for the condition that guidance leads to, and for the other."""
        both = [a.prepare(codec) for a in self]
        towards, away = ({f"{_prefix(i)}{k}": v for i, own in enumerate(both) for k, v in own[side].items()} for side in (0, 1))
        return towards, away

    def check_fit(self, base: NetworkDenoiser) -> None:
        """InputError where one was trained beside a network of another family."""
        for a in self:
            a.check_fit(base.network)

    def around(self, denoiser: Denoiser, base: NetworkDenoiser) -> Denoiser:
        """The denoiser - `base`, or one that calls its network - told what they say."""
        return Attached(denoiser, base, self) if len(self) else denoiser


class Attached(Denoiser):
    """A denoiser that is told more at every step; with a condition that nothing was prepared for, no more than before."""

    def __init__(self, denoiser: Denoiser, base: NetworkDenoiser, attachments: Attachments) -> None:
        super().__init__()
        self.process, self.denoiser, self.base, self.attachments = denoiser.process, denoiser, base, attachments

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        x, noise_level = self.base.preconditioner.told(cond).before(self.process, x_t, t)
        if not isinstance(x, Tensor):
            raise InputError("adapters steer networks of pictures; this model's states have several fields")
        plain = {k: v for k, v in cond.items() if not k.startswith(_PREFIX)}
        more: dict[str, Tensor] = {}
        for worded in (True, False):
            step = Step(self.base.network, x, noise_level, {**plain, **more})
            for i, attachment in enumerate(self.attachments):
                own = {k.removeprefix(_prefix(i)): v for k, v in cond.items() if k.startswith(_prefix(i))}
                if own and attachment.worded == worded:
                    lo, hi = attachment.interval
                    weight = own.pop("weight") * attachment.scale * ((lo < t) & (t <= hi)).to(x.device)
                    for name, value in _said(attachment, i, step, own, weight).items():
                        more[name] = more[name] + value if name in more else value
        return self.denoiser(x_t, t, {**plain, **more})


def _check_modes(name: str, modes: Sequence[int], kinds: int, pictures: int) -> None:
    """InputError unless there is a mode for every picture of a network that tells kinds apart, and none for another."""
    told = f"mode {', '.join(map(str, modes)) or 'not told'}"
    if kinds == 0 and modes:
        raise InputError(f"{name}: {told}: it was trained on one kind of control picture; leave the mode out")
    if kinds and (len(modes) != pictures or not all(0 <= mode < kinds for mode in modes)):
        raise InputError(f"{name}: {told}: it tells kinds of control pictures apart; say one of 0 to {kinds - 1} for each picture")


def repeated(entries: Cond, n: int) -> Cond:
    """Entries of one row with n rows, in the same memory."""
    return {k: v.expand(n, *v.shape[1:]) for k, v in entries.items()}


def _said(attachment: Attachment, number: int, step: Step, own: Cond, weight: Tensor) -> dict[str, Tensor]:
    """Its entries, computed for the rows that it has a weight in, and 0 in the others."""
    rows = weight.nonzero()[:, 0]
    if len(rows) == 0:
        return {}
    if len(rows) == len(weight):
        return attachment.entries(number, step, own, weight)
    some = Step(step.network, step.x[rows], step.noise_level[rows], {k: v[rows] for k, v in step.cond.items()})
    said = attachment.entries(number, some, {k: v[rows] for k, v in own.items()}, weight[rows])
    return {k: v.new_zeros(len(weight), *v.shape[1:]).index_copy(0, rows, v) for k, v in said.items()}


_PREFIX = "attached."


def _prefix(number: int) -> str:
    return f"{_PREFIX}{number}."


def _sized(picture: np.ndarray, codec: Codec, name: str) -> np.ndarray:
    """uint8 (H, W, C) of the size that the codec makes. InputError for a picture of another shape."""
    config = getattr(codec, "config", None)
    height, width = getattr(config, "height", 0), getattr(config, "width", 0)
    if not height or not width:
        raise InputError(f"{name}: a {type(codec).__name__} codec makes no pictures that could be steered by one")
    h, w = picture.shape[:2]
    rounding = codec.config.autoencoder.factor / min(height, width) if isinstance(codec, Latents) else 0.0
    if not same_shape((h, w), (height, width), max(SAME_SHAPE, rounding)):
        raise InputError(
            f"{name}: its control picture is {h} x {w} (height x width), and {height} x {width} is drawn: cut it to that shape, or "
            "ask for pictures of its own (height, width)"
        )
    target = Target(height, width, picture.shape[-1], (0, 0, 0), pad=False)
    return fit(Image.fromarray(picture), target)


def _encoded(codec: Codec, pictures: Tensor, centred: bool) -> Tensor:
    """uint8 (B, H, W, 3) -> the states that they are; with the mean that the codec takes away, unless centred."""
    state = codec.encode(pictures)
    assert isinstance(state, Tensor)
    if centred or not isinstance(codec, Latents):
        return state
    return state + (codec.mean / codec.std)[:, None, None].to(state)
