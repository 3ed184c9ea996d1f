"""unnoise sample MODEL ["a prompt" ...]: make new data with a trained model."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tqdm import tqdm

from unnoise.checkpoints.foreign.lora import one_name, parse_loras
from unnoise.checkpoints.foreign.memory import Wanted
from unnoise.checkpoints.foreign.textual_inversion import textual_inversion
from unnoise.checkpoints.shipped import FOLDER, shipped, suited
from unnoise.cli.adapters import loras_of, numbers_of, read_adapters
from unnoise.cli.again import own, told
from unnoise.cli.arrange import arrange, arranges, check_arrange
from unnoise.cli.budget import check_beside, fit
from unnoise.cli.given import begun, check_given, filled, kept, shaped, side, sized
from unnoise.cli.terminal import free_folder, parse, refuse_existing
from unnoise.control.budget import Precision, Way, parse_seconds
from unnoise.control.layout.arranged import counts_or_places, spelled
from unnoise.control.layout.planner import check_signs
from unnoise.control.rules import find_rule
from unnoise.control.sampling import Samples, Start
from unnoise.control.self_guidance import chosen
from unnoise.control.step_caching import Every, StepCaching, Within
from unnoise.core.errors import InputError, option
from unnoise.core.state import State
from unnoise.loading import load, with_loras
from unnoise.modalities.words.emoji_names import named_emoji
from unnoise.model import DiffusionModel, Weaker


@dataclass(frozen=True)
class Sample:
    """Make new data with a trained model: pictures with their prompt, seed and settings inside, or a table."""

    model: tyro.conf.Positional[Path]
    """A model folder, a training run's folder, the name of a model that ships (scenes, stickers, larger), or an open checkpoint: a
    folder in the layout of diffusers, a single file (.safetensors, .gguf), or either's name on the hub (OWNER/NAME,
    OWNER/NAME/FILE). Left out before a prompt of several words, or with emoji: scenes where it understands the prompts (counts,
    colours, places, words on signs), else stickers."""
    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to make; several prompts give n samples each, none gives unconditional samples."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 4
    """Samples for every prompt."""
    out: Path | None = None
    """The folder to write into; must not exist yet, or be given with --overwrite. Not given: samples, or samples-2 and so on, the
    first that is free."""
    then: tuple[Path, ...] = ()
    """Models that go on, one after another, from what the one before made: enlargers, the decoder of a prior, SDXL's refiner."""
    seed: int = 0
    """Seed of the whole call; sample i gets a seed derived from (seed, i)."""
    sample_seeds: tuple[int, ...] | None = None
    """The samples' own seeds, as `unnoise info` prints them, in place of --seed and -n."""
    steps: int | None = None
    """Sampler steps, at least 1. Not given: as the model was saved."""
    budget: str | None = None
    """Seconds or minutes to draw in, such as 10s, once the model is loaded and timed: picks precision (int8 too, where it is
    faster), steps, sampler and caching that are off by the least, and says by how much: what ways to draw are off by is measured
    once for a model."""
    error: float | None = None
    """What pictures may be off by from the usual ones, root mean square, of 0 to 1, such as 0.01: picks the fastest within it."""
    trials: int = 9
    """Of --budget and --error: pictures to measure on; with m of them, m of m + 1 pictures stay within what is said."""
    sampler: str | None = None
    """ddpm, ddim, euler, heun, dpmpp-2m, dpmpp-3m, dpmpp-2m-sde, unipc, deis, euler-maruyama, pc, restart ..."""
    grid: str | None = None
    """Where the steps stand in time: uniform, karras, log-snr, quadratic, shifted. Not given: as the model was saved, else the
    sampler's own; of an open checkpoint, its timesteps as diffusers' class of that sampler walks them."""
    guidance: float | None = None
    """Guidance scale: 1 conditional, 0 unconditional, 2 to 7 exaggerate the prompt."""
    interval: tuple[float, float] | None = None
    """Times between which guidance acts; 0 is data, 1 is noise."""
    rescale: float | None = None
    """0 ... 1: bring back the spread that a large guidance scale inflates."""
    rule: str | None = None
    """How guidance combines its two sides: linear, apg (no oversaturation at large scales), cfg-zero."""
    threshold: float | None = None
    """Pixels only: keep this quantile of every prediction (such as 0.995) within the range of pictures."""
    inner: str | None = None
    """Guidance by a weaker version of the network itself, with or without a prompt: internal (its middle head), pag, seg."""
    inner_scale: float | None = None
    """Scale of --inner; 1 is none."""
    inner_interval: tuple[float, float] | None = None
    """Times between which --inner acts."""
    blocks: tuple[int, ...] | None = None
    """The network's blocks that pag and seg perturb. Not given: the middle one."""
    cache: int | None = None
    """Faster: compute the network's deep features at every n-th call alone, and forecast them in between. 2 or 3 are usual."""
    cache_within: float | None = None
    """In place of --cache: compute them anew once what the network says is off by this share, as estimated; such as 0.03."""
    cache_order: int | None = None
    """Of --cache and --cache-within: 0 reuses the features, 1 and 2 follow their course, for many steps that lie close. Not given:
    0 with --cache, where nothing watches over it, and 1 with --cache-within."""
    weaker: Path | None = None
    """A model or run to lead away from: the same kind, trained less or smaller (autoguidance); best with --guidance 1."""
    weaker_scale: float = 2.0
    """Scale of --weaker; 1 is none."""
    height: int | None = None
    """Height of the pictures in pixels, if not the model's own; without --width they are square. Best a shape it was trained on."""
    width: int | None = None
    """Width of the pictures in pixels."""
    original: tuple[int, int] | None = None
    """For models that are told sizes: draw pictures as if they had been of this height and width before they were resized."""
    start: tuple[Path, ...] = ()
    """Pictures to begin with, in place of noise: one, or one a sample. Open checkpoints draw these, and those of the options below,
    in their own shape, as large in all as the model's pictures, unless --height and --width say another: then their middle."""
    strength: float | None = None
    """Of --start and --fill: the share of the steps that is walked, 1 all. Not given: 0.5 of --start; of --fill 1, where nothing is
    seen of what lies under the mask."""
    arrange: float | None = None
    """Counts and places as the prompts say ("three cats left of a dog"): each kind of thing is drawn alone and put where a layout
    says; then this share of the steps goes over the whole. 0: none, for stickers, whose parts are transparent, at twice their
    size; 0.4 to 0.7 where things bring their background with them. Not given: 0 where no model is named and stickers is meant."""
    fill: tuple[Path, ...] = ()
    """Pictures to fill in: one, or one a sample. Models that were trained for that (inpainting, FLUX.1 Fill) look at them; others
    draw what goes with the rest, which is kept at every step."""
    mask: tuple[Path, ...] = ()
    """Of --fill: pictures that are white where something new is to be drawn, as many."""
    change: tuple[Path, ...] = ()
    """Pictures to change as the prompt says, with a model for that (InstructPix2Pix, FLUX.1 Kontext): one, or one a sample. Kontext
    sees the whole of them, whatever it draws."""
    follow: tuple[Path, ...] = ()
    """Pictures to follow, such as edges or depth, with a model that was trained for that (FLUX.1 Canny, Depth) or becomes so by
    a --lora: one, or one a sample. Other models follow pictures with a ControlNet beside them: --control."""
    picture_guidance: float | None = None
    """Of --change: how closely to keep to the pictures; 1.2 to 1.8 are usual."""
    negative: str | None = None
    """A prompt to lead away from."""
    true_guidance: float | None = None
    """For models that are told the guidance scale (FLUX.1 dev): classifier-free guidance besides, which takes twice as long and
    leads away from --negative; 1.5 to 4 are usual."""
    exact: bool = False
    """Bit for bit the same sample for a seed, alone or in any batch (slower: fixed-shape micro-batches in float32)."""
    bf16: bool = False
    """Run the network in bfloat16: faster where the processor is fast at it. An open checkpoint is read so: half the memory."""
    int8: bool = False
    """As --bf16, with wide layers in whole numbers of eight bits: on processors with VNNI a step of Stable Diffusion is 1.3
    to 1.6 times faster, and further from the usual picture. Merges --lora; what --then and --weaker name stays in bfloat16.
    --budget and --error pick it themselves where it pays."""
    packed: bool = False
    """Weights of GGUF and float8 files, T5's too, stay as they are, and are unpacked at every call: the memory of the files, for
    some more time. With --int8 they are unpacked once."""
    clip_skip: int | None = None
    """Of Stable Diffusion: the hidden layer, from the end, that CLIP answers by, as in A1111: 2 for models that were trained so.
    Not given: 1, of XL and 3 it is 2. diffusers counts from there: its clip_skip 1 is one more."""
    device: str | None = None
    """Where it is computed: cpu, cuda, cuda:1 ... Not given: a GPU where there is one."""
    variant: str | None = None
    """Which weights of an open checkpoint, such as fp16, where it has several. Not given: the plain ones."""
    beside: tuple[Path, ...] = ()
    """For an open checkpoint in a single file: files and folders with what it lacks: text encoders, tokenizers, an autoencoder; for
    a network alone, a whole model's file that has them. For one in a folder: networks in place of its own, such as the U-Net of
    SDXL-Lightning or of LCM, a tuned transformer, TAESD; a folder with parts that it lacks. Here and below, OWNER/NAME/FILE may
    stand for a file that lies on the hub."""
    lora: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A LoRA for an open checkpoint: FILE, FILE:0.7 (its weight), FILE:0.7:0.3 (the network's and the words'). A
    folder of one, or its name on the hub, may stand for FILE. May be repeated."""
    embedding: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A textual inversion for an open checkpoint, whose word prompts may then use; may be repeated."""
    control: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A ControlNet or T2I-Adapter for an open checkpoint, and its picture: FOLDER:PICTURE, FOLDER:PICTURE:0.8 (its scale) or
    FOLDER:PICTURE:0.8:0.3:1 (and the times between which it acts); may be repeated. FOLDER:PICTURE=3,PICTURE=1:0.8 for one that
    knows several kinds of pictures: the number of each one's kind."""
    guess: bool = False
    """Of --control: follow the pictures where no words are told (guess mode)."""
    picture_prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An IP-Adapter or Redux for an open checkpoint, and pictures that prompt: FILE:PICTURE, FILE:PICTURE,PICTURE:0.6; as
    --control. Of FaceID what a recogniser says of a face, FILE:FACE.npy; of FaceID plus with its picture, FILE:FACE.npy,PICTURE."""
    picture_encoder: str | None = None
    """Of --picture-prompt: the CLIP or SigLIP that sees its pictures, a folder or OWNER/NAME. Not given: image_encoder near the
    FILE; a folder that has one keeps to it."""
    batch: int = 64
    """Samples that go through the network together."""
    overwrite: bool = False
    """Write into a folder that exists, over files of the same name."""


_PART_OF: Mapping[str, tuple[str, ...]] = {
    "cache_order": ("cache", "cache_within"), "strength": ("start", "fill"), "trials": ("budget", "error"), "guess": ("control",),
    "weaker_scale": ("weaker",), "mask": ("fill",), "picture_encoder": ("picture_prompt",),
}  # fmt: skip
"""Options that say more of others, and say nothing without them."""
_PLACED = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|dozen|hundred|left of|right of|above|below|behind|"
    r"in front of|sign that says)\b|\b(?:[2-9]|[1-9]\d+)(?: [\w-]+){1,3}s\b", re.I,
)  # fmt: skip
"""Words of prompts that count or place things, or have a sign."""
_PLACE = re.compile(r"~/|\.\.?/|/.*/|.*\.(?:safetensors|gguf|ckpt)$|[A-Za-z]:\\", re.DOTALL)
"""Paths, which no prompt looks like."""


def run(argv: list[str]) -> None:
    args = parse(Sample, argv, "unnoise sample")
    name = next((a for a in argv if Path(a) == args.model), str(args.model))  # as it was typed: a Path drops "./"
    there = os.path.exists(name)  # Path.exists() raises for names longer than a file's may be
    if (" " in name.strip() or ("/" not in name and named_emoji(name) != name)) and not there:  # a prompt, and no model named
        if _PLACE.match(name):
            raise InputError(f"{name}: no such model: no folder or file is there")
        asked = (name, *args.prompts)
        args = replace(args, model=FOLDER / suited(asked), prompts=asked)
        if args.arrange is None and args.model.name == "stickers" and arranges(args):
            print("stickers, each thing drawn alone and put where the prompt says (--arrange 0)", file=sys.stderr)
            args = replace(args, arrange=0.0)
        elif (
            args.arrange is None
            and args.model.name == "stickers"
            and (hard := next((p for p in asked if _PLACED.search(spelled(p))), None))
        ):
            seldom = "is drawn at once, which this model seldom counts and places right"
            print(f"{hard!r} {seldom}; {_instead(hard)}", file=sys.stderr)
    elif not ({"/", "."} & {*name} or args.prompts or there or name in shipped()):
        known, alone = ", ".join(shipped()), shlex.quote(name)
        raise InputError(
            f"{name}: no such model: no folder or file of that name is here, and {known} ship; to draw it: "
            f"unnoise sample {suited([name])} {alone}"
        )
    out = args.out or free_folder(Path("samples"), args.overwrite)
    refuse_existing(out, args.overwrite)
    if args.batch < 1:
        raise InputError(f"batch {args.batch}: at least 1")
    check_beside(args)
    _check_alone(args)
    check_arrange(args)
    args = replace(args, bf16=args.bf16 or args.int8)
    seconds = None if args.budget is None else parse_seconds(args.budget)
    rule, caching = None if args.rule is None else find_rule(args.rule), _caching(args)
    check_given(args)  # what may take minutes to load comes after
    model = _opened(args, args.bf16)
    args = shaped(args, model)
    dtype = torch.bfloat16 if args.bf16 else None
    device, away = _device(args), args.negative
    later = [load(path, dtype, wanted=Wanted(batch=_wanted(args).batch, device=str(device))).to(device) for path in args.then]
    if later:
        from unnoise.recipes.cascade import check_follows, go_on, refines  # recipes are slow to import

        scale = model.config.sampling.guidance if args.guidance is None else args.guidance
        if any(map(refines, later)) and scale == 1:
            away = None  # meant for those that refine: the first model is led away from nothing
        for before, stage in zip([model, *later], later):
            check_follows(stage, before.codec)  # refuse what cannot before any work
    inner = chosen(model.config.sampling.inner, args.inner, args.inner_scale, args.inner_interval, args.blocks)
    weaker = (
        Weaker(load(args.weaker, dtype, wanted=_wanted(args)).to(device), args.weaker_scale) if args.weaker is not None else None
    )
    prompts, n, total = args.prompts or None, _each(args), _total(args)
    given, fill = filled(args, model, total), kept(args, model, total)
    start = None if fill else begun(args, model, total)
    if seconds is not None or args.error is not None:
        settings: dict[str, Any] = {
            "grid": args.grid, "guidance": args.guidance, "interval": args.interval, "rescale": args.rescale, "rule": rule,
            "threshold": args.threshold, "inner": inner, "true_guidance": args.true_guidance,
        }  # fmt: skip
        usual = replace(model.config.sampling, **{k: v for k, v in settings.items() if v is not None})
        plain = Way(usual, Precision.BFLOAT16 if args.bf16 else Precision.OWN)
        way, model = fit(
            model, lambda: _opened(args, True), plain, args.prompts, n, args.batch, side(args), away, seconds, args.error,
            args.trials,
        )  # fmt: skip
        args = replace(args, steps=way.sampling.steps, sampler=way.sampling.named()["sampler"], bf16=way.bf16)
        caching = way.sampling.caching
    with tqdm(unit="step", desc=f"sampling {total}", disable=None, file=sys.stderr) as bar:

        def walk(
            prompts: Sequence[str] | None, n: int, seeds: Sequence[int] | None, start: Start | None, drawn: tuple[int, int] | None
        ) -> Samples:
            walked, rows = bar.n, n * len(prompts or [None])
            batches = rows if args.exact else -(-rows // args.batch)

            def watch(done: int, steps: int, x: State) -> None:
                bar.total = walked + steps * batches
                bar.update()

            height, width = drawn or (None, None)
            return model.sample(
                prompts, n, args.seed, sample_seeds=seeds, steps=args.steps, sampler=args.sampler, grid=args.grid,
                guidance=args.guidance, interval=args.interval, rescale=args.rescale, rule=rule,
                threshold=args.threshold, inner=inner, caching=caching, weaker=weaker, negative=away,
                exact=args.exact, bf16=args.bf16, batch=args.batch, watch=watch, height=height, width=width,
                original=args.original, start=start, fill=fill, given=given,
                picture_guidance=args.picture_guidance, true_guidance=args.true_guidance,
            )  # fmt: skip

        drawn = side(args)
        if args.arrange is None:
            samples = walk(prompts, n, args.sample_seeds, start, drawn)
        else:
            steps = model.config.sampling.steps if args.steps is None else args.steps
            codec = sized(args, model)
            samples = arrange(args, n, codec, steps, lambda p, s, begin: walk(p, 1, s, begin, drawn if begin else None))
    if later:
        samples = go_on(samples, later, negative=args.negative, exact=args.exact, bf16=args.bf16, batch=args.batch)
    samples = replace(samples, settings={**samples.settings, **told(args), "negative": args.negative}, own=own(args, total))
    try:
        files = samples.save(out)
    except OSError as e:
        raise InputError(f"--out {out}: {e.strerror or e}: the samples could not be written") from e
    shown = f"{files[-1].name} shows them; " if files[-1].suffix == ".png" else ""
    print(f"{len(samples)} sample{'s' * (len(samples) != 1)} in {out}/ ({shown}unnoise info {files[0]} tells how they were made)")


def _check_alone(args: Sample) -> None:
    """InputError for an option that says more of another one that is not given."""
    usual = {field.name: field.default for field in fields(Sample)}
    for name, others in _PART_OF.items():
        if getattr(args, name) != usual[name] and not any(getattr(args, other) not in (None, ()) for other in others):
            raise InputError(f"{option(name)}: says more of {' or '.join(map(option, others))}, which is not given")


def _instead(prompt: str) -> str:
    """What would have things counted and placed."""
    if counts_or_places(prompt):
        return "asked for by itself, in a square and without options that stand in the way, its things are drawn one at a time"
    try:
        check_signs(prompt)
    except InputError as e:
        return str(e)
    return 'it arranges one to ten of a kind, said as in "three owls left of a violin" or "two cats above a sign that says HELLO"'


def _each(args: Sample) -> int:
    """Samples for every prompt."""
    return args.n if args.sample_seeds is None else max(1, len(args.sample_seeds) // max(1, len(args.prompts)))


def _total(args: Sample) -> int:
    return _each(args) * max(1, len(args.prompts))


def _opened(args: Sample, bf16: bool) -> DiffusionModel:
    """The model with what is merged into its weights, and what is beside it."""
    loras = parse_loras(args.lora)
    said = {one_name(file) for file in loras}
    loras |= {file: 1.0 for file in loras_of(args.picture_prompt) if one_name(file) not in said}
    device, wanted = _device(args), _wanted(args, numbers_of(args.control, args.picture_prompt, args.picture_encoder, bf16))
    model = load(args.model, torch.bfloat16 if bf16 else None, args.variant, args.beside, wanted, args.packed, args.clip_skip)
    for file in args.embedding:
        textual_inversion(model, file)
    if loras:
        model = with_loras(model, loras)
    model = model.attached(*read_adapters(model, args.control, args.guess, args.picture_prompt, args.picture_encoder))
    return (model.to_int8() if args.int8 else model).to(device)


def _wanted(args: Sample, beside: int = 0) -> Wanted:
    height, width = side(args) or (None, None)
    batch = 1 if args.exact else min(args.batch, _total(args))
    true = 1.0 if args.true_guidance is None else args.true_guidance
    return Wanted(height, width, batch, args.guidance, beside, str(_device(args)), true, bool(args.change))


def _device(args: Sample) -> torch.device:
    """InputError for one that is not here."""
    on_cpu = "--int8" if args.int8 else "--packed" if args.packed else ""
    usual = "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"
    try:
        device = torch.device(args.device or usual)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as e:
        raise InputError(
            f"--device {args.device}: {str(e).splitlines()[0]}; cpu is always there, cuda where there is a GPU"
        ) from None
    if on_cpu and device.type != "cpu":
        raise InputError(f"--device {args.device} with {on_cpu}, which processors compute; leave one out")
    return device


def _caching(args: Sample) -> StepCaching | None:
    if args.cache is not None and args.cache_within is not None:
        raise InputError("--cache and --cache-within: one of the two says when features are computed")
    if args.cache_within is not None:
        return StepCaching(Within(args.cache_within), 1 if args.cache_order is None else args.cache_order)
    return None if args.cache is None else StepCaching(Every(args.cache), args.cache_order or 0)
