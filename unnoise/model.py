"""DiffusionModel: codec, conditioner, denoiser and how to sample it, put together, sampled and saved."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from unnoise.checkpoints.card import About, card
from unnoise.checkpoints.folder import tensors_hash, write_folder
from unnoise.checkpoints.foreign.building import Built
from unnoise.checkpoints.foreign.export import write_diffusers
from unnoise.control.adapters import Attachment, Attachments, repeated
from unnoise.control.asking import Asked, beside, check_words, in_stages, prepared, rows_of
from unnoise.control.exact import MICRO_BATCH, microbatched
from unnoise.control.filling import Fill, filled, known
from unnoise.control.guidance import bind, check, classifier_free_twice, guided, unmasked
from unnoise.control.layout.conditioner import Planned
from unnoise.control.low_rank import Adapted
from unnoise.control.rules import Rule, rule_name
from unnoise.control.sampling import Samples, Sampling, Start, check_finite
from unnoise.control.self_guidance import SelfGuidance, self_guidance_settings
from unnoise.control.step_caching import CachedDenoiser, StepCaching, caching_settings
from unnoise.control.switching import switched
from unnoise.control.thresholding import thresholded
from unnoise.core.codec import Buildable, Codec, Conditioner, Following, ToldGuidance, within
from unnoise.core.denoisers import Denoise, Denoiser, NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.hashing import Remembered
from unnoise.core.preconditioning import Preconditioner
from unnoise.core.processes import Process
from unnoise.core.random import Streams, derive
from unnoise.core.state import Cond, Shape, State, batch_size, tree_map
from unnoise.modalities.image.codec import resized
from unnoise.modalities.image.controlled import Controlled
from unnoise.modalities.image.editing import Editing
from unnoise.modalities.image.in_context import InContext
from unnoise.modalities.image.inpainting import Inpainting
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.emphasis import Emphatic
from unnoise.modalities.words.frozen import encoders_of
from unnoise.networks import int8
from unnoise.networks.flux import FluxConfig
from unnoise.networks.packed import has_packed
from unnoise.samplers.loop import sample

T = TypeVar("T")


@dataclass(frozen=True)
class ModelConfig:
    codec: Buildable
    conditioner: Buildable
    network: Buildable
    process: Process
    preconditioner: Preconditioner
    sampling: Sampling = Sampling()
    about: About = About()

    def build(self) -> "DiffusionModel":
        """A model with freshly drawn weights (torch's global generator decides them)."""
        return DiffusionModel(self, self.codec.build(), self.conditioner.build(), self.network.build())


@runtime_checkable
class Limited(Protocol):
    """A network whose states' sides are at most `largest`."""

    largest: int


@dataclass(frozen=True)
class Weaker:
    """Autoguidance: a weaker model of the same data that sampling leads away from (Karras et al. 2024, 2406.02507).

    Best one of the same kind, trained for less long or with a smaller network. scale: 1 none, 1.5 to 3 are usual.
    """

    model: "DiffusionModel"
    scale: float = 2.0

    def __post_init__(self) -> None:
        check(self.scale, (0.0, 1.0))


class DiffusionModel:
    """What is saved, loaded and shared."""

    def __init__(self, config: ModelConfig, codec: nn.Module, conditioner: nn.Module, network: nn.Module) -> None:
        """The modules are what the configuration's codec, conditioner and network build."""
        if not isinstance(codec, Codec) or not isinstance(conditioner, Conditioner):
            raise InputError("a model needs a Codec and a Conditioner; the configuration builds other things in their place")
        self.config = config
        self.path: str | None = None  # where it was loaded from: what it makes says so
        self.codec: Codec = codec
        self.conditioner: Conditioner = conditioner
        self.denoiser: NetworkDenoiser = NetworkDenoiser(network, config.process, config.preconditioner)
        self.attachments = Attachments()
        self._hash = Remembered()

    # -- weights -----------------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> nn.ModuleDict:
        return nn.ModuleDict({"codec": self.codec, "conditioner": self.conditioner, "denoiser": self.denoiser})

    def hash(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of the weights: it names the model in what it makes."""
        return self._hash.of(self.parts.state_dict())[:16]

    @property
    def in_int8(self) -> bool:
        """Whether its network multiplies whole numbers of eight bits, see `to_int8`."""
        return int8.in_int8(self.denoiser)

    def to_int8(self) -> "DiffusionModel":
        """This model, from now on with the wide layers of its network in whole numbers of eight bits (`networks.int8`).

        With all else in bfloat16 a step of Stable Diffusion takes 0.6 to 0.75 of bfloat16's time, and the network half of its
        memory. The weights are gone: it samples as usual, but is not saved, trained or put on a GPU any more. LoRAs beside
        them are merged first, for good. Attached adapters stay as they are, and so does the model's name. Models that share its
        weights (`attached`) are in int8 with it. Raises InputError, before anything is changed, where `takes_int8` is false.
        """
        if against := self._against_int8():
            raise InputError(against)
        if not self.in_int8:
            self.hash()
            Adapted.of(self.denoiser.network).settle()
            int8.to_int8(self.denoiser.network)
            self._hash.fix()
        return self

    @property
    def takes_int8(self) -> bool:
        """Whether `to_int8` works here, with the network as it is; nothing is changed."""
        return not self._against_int8()

    def _against_int8(self) -> str:
        """What speaks against `to_int8`, and what to do about it; nothing for nothing."""
        if self.device.type != "cpu" or not int8.available():
            return "int8 is for processors with VNNI or AMX, whose sums are exact; bfloat16 runs here (--bf16)"
        if has_packed(self.denoiser) and any(w for _, w in Adapted.of(self.denoiser.network).adapters.values()):
            return "int8 merges LoRAs, and weights that stay packed take none in: leave out one of the three (--packed)"
        if not self.in_int8 and not int8.has_suited(self.denoiser.network):
            name = self.path or self.config.about.name
            return f"int8: {name} has no plain layers of {int8.LEAST} channels and more, which alone gain by it"
        return ""

    @property
    def is_packed(self) -> bool:
        """Whether weights of its network, or of a text encoder, stay as their file packs them (`networks.packed`)."""
        encoders = encoders_of(self.conditioner).values() if isinstance(self.conditioner, nn.Module) else ()
        return any(map(has_packed, [self.denoiser, *(e.opened.network for e in encoders)]))

    def _check_whole(self, what: str) -> None:
        if self.is_packed:
            raise InputError(f"{what} a model whose weights stay packed: load it unpacked for that (without --packed)")
        if self.in_int8:
            raise InputError(f"{what} a model in int8, whose weights are rounded for this processor: load it again for that")

    def to(self, device: torch.device | str) -> "DiffusionModel":
        """InputError for a device without float64, in which times are held (Apple's), and for a model in int8, which stays."""
        if torch.device(device).type == "mps":
            raise InputError(f"{device} has no float64, in which times are held; the processor draws there")
        if torch.device(device).type != "cpu":
            self._check_whole(f"moving to {device}")
        self.parts.to(device)
        self.attachments.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def save(self, folder: str | Path, dtype: torch.dtype | None = None, sheet: Path | None = None) -> str:
        """Write the model folder; returns the hash of its tensors. Raises InputError, with nothing lost, on a full disk.

        dtype: what the weights are rounded to and stored as, bfloat16 for half the size; they are read back in their own. sheet: a
        PNG of samples, for the model card.
        """
        self._check_whole("saving")
        if left := self._not_saved():
            warnings.warn(f"{folder}: saved without {' and '.join(left)}; give these again when it is loaded", stacklevel=2)
        c, own = self.config, self.parts.state_dict()
        stored = {k: v.to(dtype) if dtype is not None and v.is_floating_point() else v for k, v in own.items()}
        digest = tensors_hash({k: v.to(own[k].dtype) for k, v in stored.items()})[:16]
        follows = isinstance(self.conditioner, Following)
        text = card(c.about, c.sampling, c.network, c.process, digest, sheet is not None, follows)
        return write_folder(Path(folder), c, stored, text, None if sheet is None else sheet.read_bytes())

    def _networks(self) -> list[nn.Module]:
        """The one that denoises, and its text encoders'."""
        encoders = encoders_of(self.conditioner).values() if isinstance(self.conditioner, nn.Module) else ()
        return [*self.denoiser.children(), *(encoder.opened.network for encoder in encoders)]

    def _not_saved(self) -> list[str]:
        """What lies beside the weights."""
        encoders = encoders_of(self.conditioner).values() if isinstance(self.conditioner, nn.Module) else ()
        words = sorted({word for encoder in encoders for word in encoder.taught})
        on = [Adapted.of(network) for network in self._networks()]
        loras = {name for i, a in enumerate(on) if i or not a.merged for name, (_, weight) in a.adapters.items() if weight}
        return [f"the learnt words {', '.join(words)}"] * bool(words) + [f"the LoRAs {', '.join(sorted(loras))}"] * bool(loras)

    def attached(self, *more: Attachment) -> "DiffusionModel":
        """This model with ControlNets, T2I-Adapters and IP-Adapters beside it, and those that it has already.

        They act when it is sampled, and are not saved with it. All weights are shared, and the model itself stays as it is; the
        adapters are brought to its device and precision, for every model that has them.
        Raises InputError for an adapter of another family.
        """
        other = copy(self)
        other.attachments = Attachments([*self.attachments, *more])
        other.attachments.check_fit(self.denoiser)
        other.attachments.to(self.device, next(self.denoiser.parameters()).dtype)
        return other

    def export(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder in the layout of the diffusers library, its LoRAs in the weights. dtype: of these; None for their own.

        InputError for a model that it has no pipeline for, and for weights beyond float16.
        """
        self._check_whole("exporting")
        c = self.config
        if not isinstance(self.codec, Latents) or not isinstance(self.conditioner, Emphatic):
            raise InputError(f"{self.path or c.about.name}: diffusers' pipelines are told words, and denoise codes of pictures")
        network = self.denoiser.get_submodule("network")
        built = Built(
            self.codec, self.conditioner, network, c.conditioner, c.network, c.process, c.preconditioner, c.sampling,
        )  # fmt: skip
        apart = [a for a in map(Adapted.of, self._networks()) if a.adapters and not a.merged]
        try:
            for adapted in apart:
                adapted.merge()
            write_diffusers(built, Path(folder), dtype)
        finally:
            for adapted in apart:
                adapted.unmerge()

    # -- sampling ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str | None] | str | None = None,
        n: int = 1,
        seed: int = 0,
        *,
        sample_seeds: Sequence[int] | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        grid: str | None = None,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
        rescale: float | None = None,
        rule: Rule | None = None,
        threshold: float | None = None,
        inner: SelfGuidance | None = None,
        caching: StepCaching | None = None,
        weaker: Weaker | None = None,
        negative: str | None = None,
        exact: bool = False,
        bf16: bool = False,
        batch: int = 64,
        watch: Callable[[int, int, State], None] | None = None,
        given: Cond | None = None,
        picture_guidance: float | None = None,
        true_guidance: float | None = None,
        height: int | None = None,
        width: int | None = None,
        original: tuple[int, int] | None = None,
        start: Start | None = None,
        fill: Fill | None = None,
        captions: bool = False,
    ) -> Samples:
        """n samples for every prompt (n in all without prompts); None among the prompts asks for anything.

        Sample i has the seed derived from (seed, i), or sample_seeds[i], the same alone and in any batch: to rounding, or bit for
        bit with `exact` (fixed-shape micro-batches, in float32). negative: a prompt to lead away from. bf16: run the network in
        bfloat16. batch: how many go through the network together. watch: called with (step, steps, x) for each batch.
        steps ... caching: in place of the model's usual ones, see `Sampling`. weaker: a model to lead away from, on every side.
        given: for a model that goes on from what another made, that, prepared (`Following.from_made`), one row a sample; for one
        that fills in pictures, these and their masks (`Inpainting.of`); for one that changes pictures, these (`editing(model).of`),
        to which picture_guidance leads; for one that follows pictures, these (`Controlled.of`). start: data to begin with, in place
        of noise.
        fill: pictures and masks, for a model that was not trained to fill in: what is not masked stays.
        height, width: in pixels, of pictures of another size than the model's; one alone asks for a square.
        original: height and width that a model that is told sizes takes the pictures to have been before they were resized; by
        default they are as large as they are drawn.
        captions: the prompts are those of data, and taken as in training: a word that the model cannot read is an unknown one.
        Raises InputError for prompts and settings that cannot be right.
        """
        usual = self.config.sampling
        how = Sampling(
            _or(steps, usual.steps), _or(sampler, usual.sampler), usual.grid_by(_or(sampler, usual.sampler), grid),
            _or(guidance, usual.guidance),
            _or(interval, usual.interval), _or(rescale, usual.rescale), _or(rule, usual.rule), _or(threshold, usual.threshold),
            _or(inner, usual.inner), _or(caching, usual.caching), _or(picture_guidance, usual.picture_guidance),
            _or(true_guidance, usual.true_guidance),
        )  # fmt: skip
        self._check(how, negative, exact, bf16, weaker)
        wanted = _per_sample(prompts, n)
        if batch < 1:
            raise InputError(f"batch {batch}: at least 1 sample goes through the network at a time")
        if not isinstance(negative, str | None):
            raise InputError(f"negative {negative!r}: one prompt for all samples is meant")
        Streams.of(seed, 0)  # refuses a seed that is none
        seeds = tuple(sample_seeds) if sample_seeds is not None else tuple(derive(seed, i) for i in range(len(wanted)))
        if len(seeds) != len(wanted):
            raise InputError(f"{len(seeds)} sample seeds for {len(wanted)} samples: one each is needed")
        chosen = how.choice()
        codec, side = self.codec, width if height is None else height
        if side is not None:
            width = side if width is None else width
            codec = resized(codec, side, width)
            self._check_size(codec, side, width)
            if (planned := within(self.conditioner, Planned)) and (side, width) != (planned.config.height, planned.config.width):
                own = f"{planned.config.height} x {planned.config.width}"
                raise InputError(f"{side} x {width} pixels: this model lays out pictures of {own}; leave the height and width out")
        times = chosen.grid.of(codec.shape()).times(how.steps, self.config.process)
        begin: State | None = None
        kept: tuple[Tensor, Tensor] | None = None
        if fill is not None:
            if start is not None:
                raise InputError("a start and a fill: what is filled in begins with its own pictures (its strength)")
            start, kept = Start(fill.data, fill.strength), known(codec, fill)
        if start is not None:
            times, begin = start.times(times, self.config.process), codec.encode(start.data) if kept is None else kept[0]
            rows_of("the start", batch_size(begin), len(wanted))
        if kept is not None and fill is not None and fill.strength == 1:
            begin = kept[0].masked_fill(kept[1], 0.0)  # of what lies under the mask nothing is seen
        told = sorted(given) if given else None
        given = beside(self.conditioner, given, len(wanted), how, side, width, original, codec.shape())
        self.parts.eval()
        more = self.attachments.prepare(codec)
        for _, said, not_said in in_stages(self.conditioner, wanted, negative, len(times) - 1):  # refuses bad ones before any work
            if not captions:
                check_words(self.conditioner, [*said, *not_said[:1]])
            prepared(self.conditioner, said, Streams.each(seeds))
            prepared(self.conditioner, not_said[:1], Streams.each(seeds[:1]), away=True)
        chunks = []
        size = 1 if exact else batch  # alone, so that no kernel of the sampler's own arithmetic sees company either
        for i in range(0, len(wanted), size):
            rows = slice(i, i + size)
            some = {k: v[rows] for k, v in given.items()}
            begun = None if begin is None else tree_map(lambda a, rows=rows: a[rows], begin)
            x = self._sample_batch(
                wanted[rows], seeds[rows], times, chosen.sampler, how, negative, exact, bf16, watch, some, weaker, codec.shape(),
                begun, more, kept and (kept[0][rows], kept[1][rows]),
            )  # fmt: skip
            check_finite(x, i)
            chunks.append(x)
        data = codec.decode(tree_map(lambda *c: torch.cat(c), *chunks))
        settings = {
            "model": self.config.about.name, "model_path": self.path, "model_hash": self.hash(), "seed": seed, "steps": how.steps,
            **how.named(), **({"grid": grid} if grid else {}), "guidance": how.guidance, "interval": list(how.interval),
            "rescale": how.rescale, "rule": rule_name(how.rule), "threshold": how.threshold, **self_guidance_settings(how.inner),
            **caching_settings(how.caching), "height": side, "width": width, "given": told,
            "picture_guidance": how.picture_guidance if how.picture_guidance != usual.picture_guidance else None,
            "true_guidance": how.true_guidance if how.true_guidance != usual.true_guidance else None,
            "weaker": weaker and weaker.model.path, "weaker_scale": weaker and weaker.scale,
            "negative": negative, "original": original, "strength": start and start.strength, "filled": fill is not None or None,
            "exact": exact, "bf16": bf16,
            "int8": self.in_int8 or None, "attached": self.attachments.settings() or None,
        }  # fmt: skip
        return Samples(data, tuple(wanted), seeds, settings, codec)

    def _sample_batch(
        self, prompts: Sequence[str | None], seeds: Sequence[int], times: Tensor, solver: Any, how: Sampling, negative: str | None,
        exact: bool, bf16: bool, watch: Callable[[int, int, State], None] | None, given: Cond, weaker: Weaker | None,
        shape: Shape, begun: State | None, more: tuple[Cond, Cond], kept: tuple[Tensor, Tensor] | None,
    ) -> State:  # fmt: skip
        device, rng = self.device, Streams.each(seeds)
        with _precision(self.denoiser, bf16):
            parts = [
                (float(times[step]), self._denoise(said, not_said, how, exact, given, weaker, rng, more))
                for step, said, not_said in in_stages(self.conditioner, prompts, negative, len(times) - 1)
            ]
            denoise = switched(parts)
            if kept is not None:
                denoise = filled(denoise, kept[0].to(device), kept[1].to(device))
            if begun is None:
                x = self.config.process.prior(shape, rng, device)
            else:
                at = times[:1].expand(len(seeds)).to(device)
                x = self.config.process.corrupt(tree_map(lambda a: a.to(device), begun), at, rng).x_t
            x = sample(denoise, self.config.process, x, times, solver, rng.scoped("sampler"), watch)
        if kept is None:
            return x
        x_0, m = (part.to(device) for part in kept)
        return tree_map(lambda a: torch.where(m, a, x_0), x)  # some walks end short of the data

    def _denoise(
        self, said: Asked, not_said: Asked, how: Sampling, exact: bool, given: Cond, weaker: Weaker | None, rng: Streams,
        more: tuple[Cond, Cond],
    ) -> Denoise:  # fmt: skip
        """The denoiser, told what is said and led away from what is not, under all guidance asked for.

        more: what attachments prepared, one row for either side.
        """
        denoiser = self._sharp(how.inner, exact, how.caching)
        kept = self.conditioner.kept(given)
        cond = {**self._told(said, given, rng), **repeated(more[0], len(said))}
        away = {**self._told(not_said, kept, rng, away=True), **repeated(more[1], len(said))}
        told = any(s is not None for s in (*said, *not_said)) or len(kept) < len(given) or self.attachments.lead
        # told nothing, there is nothing to exaggerate; told the scale, the network does so itself, and the true one comes on top
        distilled = within(self.conditioner, ToldGuidance) is not None
        scale = 1.0 if not told else how.true_guidance if distilled else how.guidance
        combine = how.rule.start(self.config.process)
        if weaker is None:
            nothing = {k: torch.zeros_like(v) if k == "picture" else v for k, v in away.items()}
            denoise = classifier_free_twice(
                denoiser, cond, away, nothing, scale, how.picture_guidance, how.interval, how.rescale, combine
            )
        else:
            weak, theirs = weaker.model._sharp(None, exact), weaker.model.to(self.device)._told
            towards = guided(bind(denoiser, cond), bind(weak, theirs(said, given, rng)), weaker.scale)
            other = self._sharp(how.inner, exact, how.caching)  # with a memory of its own
            back = guided(bind(other, away), bind(weak, theirs(not_said, kept, rng, away=True)), weaker.scale)
            denoise = guided(towards, back, scale, how.interval, how.rescale, combine)
        if how.threshold is not None and self.codec.bound is not None:
            return thresholded(denoise, how.threshold, self.codec.bound)
        return denoise

    def _sharp(self, inner: SelfGuidance | None, exact: bool, caching: StepCaching | None = None) -> Denoiser:
        """The denoiser, guided by its own network if asked to, or with a memory for one walk."""
        base = self.denoiser if caching is None else CachedDenoiser(self.denoiser, caching)
        denoiser = self.attachments.around(base if inner is None else inner.sharpen(self.denoiser), self.denoiser)
        return microbatched(denoiser, MICRO_BATCH) if exact else denoiser

    def _check(self, how: Sampling, negative: str | None, exact: bool, bf16: bool, weaker: Weaker | None) -> None:
        """InputError for what this model cannot be sampled by, and what does not go together."""
        name = self.config.about.name
        if exact and (self.in_int8 or bf16):
            other = "a model in int8" if self.in_int8 else "bfloat16"
            raise InputError(f"exact, which is in float32, with {other}: one or the other")
        if exact and how.caching is not None:
            raise InputError("step caching with exact, which cuts batches up: a sample comes out the same with one or the other")
        self._check_guidance(how, negative)
        if how.threshold is not None and self.codec.bound is None:
            raise InputError(f"threshold {how.threshold}: the states of a {type(self.codec).__name__} codec have no bound to keep")
        if how.picture_guidance != 1 and within(self.conditioner, Editing) is None:
            raise InputError(f"picture guidance {how.picture_guidance}: {name} changes no pictures")
        if weaker is not None:
            self._check_weaker(weaker.model)
            if how.picture_guidance != 1:
                raise InputError("a weaker model with picture guidance: one or the other leads a model that changes pictures")

    def _check_guidance(self, how: Sampling, negative: str | None) -> None:
        """InputError for a scale that there is none of here, and for what changes no guidance because there is none."""
        name = self.config.about.name
        asked = ("interval", "rescale", "rule")
        idle = " and ".join(what for what in asked if getattr(how, what) != getattr(self.config.sampling, what))
        if within(self.conditioner, ToldGuidance) is None:
            if how.true_guidance != 1:
                raise InputError(f"true guidance {how.true_guidance}: {name} is told no scale; it is guided by --guidance")
            if negative is not None and how.guidance == how.picture_guidance == 1:
                raise InputError(
                    f"negative {negative!r}: at guidance 1 nothing is led away from; give a larger scale (--guidance 3)"
                )
            if idle and how.guidance == how.picture_guidance == 1:
                raise InputError(f"{idle}: at guidance 1 there is none that this could change; give a larger scale (--guidance 3)")
        elif how.true_guidance == 1:
            besides = (
                f"{name} is told the guidance scale, and led away from nothing but by true guidance besides (--true-guidance 2)"
            )
            if negative is not None:
                raise InputError(f"negative {negative!r}: {besides}")
            if idle:
                raise InputError(f"{idle}: {besides}")

    def _check_size(self, codec: Codec, height: int, width: int) -> None:
        """InputError for pictures that the network has no positions for."""
        network, shape = getattr(self.denoiser, "network", None), codec.shape()
        if isinstance(network, Limited) and isinstance(shape, tuple) and max(shape[-2:]) > network.largest:
            most = max(height, width) * network.largest // max(shape[-2:])
            raise InputError(
                f"pictures of {height} x {width} pixels (height x width): this network has positions for {most} at most"
            )

    def _check_weaker(self, other: "DiffusionModel") -> None:
        """InputError unless the other model denoises the same states."""
        mine, theirs = (
            (m.config.process, m.codec.shape(), type(m.codec), tensors_hash(m.codec.state_dict())) for m in (self, other)
        )
        if mine != theirs:
            what = next(name for name, a, b in zip(("process", "shape", "codec", "codec's weights"), mine, theirs) if a != b)
            raise InputError(
                f"{other.path or other.config.about.name} cannot be the weaker model: its {what} differs from this model's"
            )
        other.parts.eval()

    def _told(self, said: Asked, given: Cond, rng: Streams, away: bool = False) -> Cond:
        """What the network is told, on its device."""
        told = {**prepared(self.conditioner, said, rng, away), **given}
        return unmasked(self.conditioner({k: v.to(self.device) for k, v in told.items()}))


def inpainting(model: DiffusionModel) -> Inpainting:
    """The conditioner of a model that fills in pictures, whose `of` says what such a model is `given`. InputError for another."""
    if conditioner := within(model.conditioner, Inpainting):
        return conditioner
    raise InputError(
        f"{model.path or model.config.about.name} was not trained to fill in pictures; sample(fill=Fill(...)) keeps what is to stay"
    )


def editing(model: DiffusionModel) -> Editing | InContext:
    """The conditioner of a model that changes pictures, whose `of` says what such a model is `given`. InputError for another."""
    if conditioner := within(model.conditioner, Editing) or within(model.conditioner, InContext):
        return conditioner
    flux = isinstance(model.config.network, FluxConfig) and not model.config.network.picture_channels
    instead = "; a file of FLUX.1 Kontext is known by 'kontext' in its name" if flux else ""
    raise InputError(
        f"{model.path or model.config.about.name} was not trained to change pictures; --start begins with one{instead}"
    )


def controlled(model: DiffusionModel) -> Controlled:
    """The conditioner of a model that follows pictures, whose `of` says what such a model is `given`. InputError for another."""
    if conditioner := within(model.conditioner, Controlled):
        return conditioner
    name = model.path or model.config.about.name
    raise InputError(f"{name} was not trained to follow pictures; a ControlNet beside it does (--control FOLDER:PICTURE)")


def _or(given: T | None, usual: T) -> T:
    return usual if given is None else given


def _per_sample(prompts: Sequence[str | None] | str | None, n: int) -> list[str | None]:
    if n < 1:
        raise InputError(f"n {n}: ask for at least 1 sample")
    if prompts is None:
        return [None] * n
    each: list[str | None] = (
        [prompts] if isinstance(prompts, str) else list(prompts) if isinstance(prompts, Iterable) else [prompts]
    )
    if odd := [p for p in each if p is not None and not isinstance(p, str)]:
        raise InputError(f"{odd[0]!r}: no prompt; a prompt is text, and several are a list of them")
    return [p for p in each for _ in range(n)] or [None] * n


def _precision(network: nn.Module, bf16: bool) -> AbstractContextManager:
    first = next(network.parameters())
    return torch.autocast(first.device.type, dtype=torch.bfloat16) if bf16 and first.dtype != torch.bfloat16 else nullcontext()
