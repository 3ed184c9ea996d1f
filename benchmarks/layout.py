"""What a layout drawn first is good for: plans, the generator beside the grammar, and pictures told less than all.

    python benchmarks/layout.py plans RUN         does what is planned hold, by the world's geometry, and how long does it take
    python benchmarks/layout.py generator RUN     the same of what the generator draws by itself, unchecked, and how many draws it
                                                  takes until one holds
    python benchmarks/layout.py told RUN          pictures of the suite's prompts, told all, no boxes, no glyphs
    python benchmarks/layout.py noise MODEL       a model that is told words alone, with the layout in its starting noise
    python benchmarks/layout.py train FOLDER      the recipe trained anew for --steps: as it is, without boxes, without glyphs, told
                                                  words alone; each scored, the last also with the layout in its noise

RUN is a run of the recipe `scenes`. Prompts are the suite's, --each of a level, of combinations that were never trained on (one of
a thing always was); shares with 95 % intervals. The suite's detector and reader are trained once and kept in --kept.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor

from unnoise.control.guidance import classifier_free
from unnoise.control.layout.conditioner import Planned, PlannedConfig
from unnoise.control.layout.planner import plan, sound
from unnoise.control.layout.rows import LaidOut
from unnoise.control.layout.start import price, shift_of, shifted
from unnoise.core.codec import Codec, Conditioner
from unnoise.core.errors import InputError
from unnoise.core.intervals import share
from unnoise.core.processes.gaussian import tensor
from unnoise.core.random import Streams
from unnoise.core.state import Cond
from unnoise.evaluation.prompt_suite.detector import train_detector
from unnoise.evaluation.prompt_suite.lists import Prompt, prompts
from unnoise.evaluation.prompt_suite.reader import train_reader
from unnoise.evaluation.prompt_suite.score import Draw, Judge, oracle, right
from unnoise.loading import load
from unnoise.modalities.image.codec import Pixels
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.grammar import caption, plainly
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.source import read_scenes
from unnoise.modalities.image.scenes.vocabulary import BACKDROPS, COLOURS
from unnoise.modalities.image.scenes.world import Group, Request, Scene, holds
from unnoise.model import DiffusionModel
from unnoise.networks.patched import PatchedConfig
from unnoise.recipes.options import Options
from unnoise.recipes.run import fit_denoiser
from unnoise.recipes.scenes import scenes
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.samplers.loop import sample

ASPECTS = ("count", "relation", "spelling")
STRENGTHS = (0.0, 0.3, 0.6, 1.0, 1.5)
WORLD = World()
LESS = {"all": None, "no boxes": "kind", "no glyphs": "glyphs"}
"""What is told, and which entry of the conditioner's is hidden."""


def asked(aspect: str, each: int) -> list[Prompt]:
    """Never trained on; where a level has no such combination (one of a thing), those that were."""
    unseen = prompts(WORLD, aspect, each, unseen=True)
    levels = {p.level for p in unseen}
    return [p for p in prompts(WORLD, aspect, each, unseen=False) if p.level not in levels] + unseen


def line(name: str, told: Sequence[tuple[str, bool]]) -> str:
    """A row of the table: name, then each level's share, then all of them with its interval."""
    levels = dict.fromkeys(level for level, _ in told)
    shares = [sum(ok for at, ok in told if at == level) / sum(at == level for at, _ in told) for level in levels]
    whole = share(sum(ok for _, ok in told), len(told))
    by = " ".join(f"{level} {s:.0%}" for level, s in zip(levels, shares))
    return f"{name:<24} {whole.value:6.1%} [{whole.low:.1%}, {whole.high:.1%}]   {by}"


def plans(model: DiffusionModel, each: int) -> None:
    sprites = planned_of(model).config.sprites
    for aspect in ASPECTS:
        these, began = asked(aspect, each), time.perf_counter()
        made = [plan(p.text, sprites, np.random.Generator(np.random.Philox(key=i))) for i, p in enumerate(these)]
        seconds = (time.perf_counter() - began) / len(these)
        told = [(p.level, holds(scene, p.request)) for p, scene in zip(these, made)]
        print(f"{line(aspect, told)}   {1000 * seconds:.1f} ms a plan", flush=True)


def generator(model: DiffusionModel, each: int, draws: int = 32) -> None:
    planned = planned_of(model)
    for aspect in ASPECTS[:2]:
        first, ever, needed = [], [], []
        for i, p in enumerate(asked(aspect, each)):
            drawn = planned.drawn(p.text, p.request.words, Streams.of(i, draws))
            good = [sound(scene) and holds(scene, p.request) for scene in drawn]
            first.append((p.level, sum(good) / draws))
            ever.append((p.level, any(good)))
            needed += [good.index(True) + 1] if any(good) else []
        levels = dict.fromkeys(level for level, _ in first)
        by = " ".join(f"{v} {np.mean([s for at, s in first if at == v]):.0%}" for v in levels)
        print(f"{aspect}: of single draws {np.mean([s for _, s in first]):.1%} hold   {by}")
        print(f"  {line(f'in {draws} draws', ever)}; {np.mean(needed or [np.nan]):.1f} draws until one does", flush=True)


@dataclass(frozen=True)
class Hidden:
    """Rows to train on of which an entry of what is told is 0."""

    rows: LaidOut
    entry: str | None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Sequence[int], rng: Streams) -> dict:
        batch = self.rows.batch(rows, rng)
        return batch if self.entry is None else {**batch, "cond": hidden(batch["cond"], self.entry)}


def hidden(prepared: Cond, entry: str) -> dict[str, Tensor]:
    return {**prepared, entry: torch.zeros_like(prepared[entry])}


class Blind(Conditioner):
    """A planner that is told less than it plans."""

    def __init__(self, planned: Planned, entry: str | None) -> None:
        super().__init__()
        self.planned, self.entry = planned, entry

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        prepared = self.planned.prepare(raw)
        return prepared if self.entry is None else hidden(prepared, self.entry)

    def prepare_for(self, raw: Sequence[str | None], rng: Streams) -> Cond:
        prepared = self.planned.prepare_for(raw, rng)
        return prepared if self.entry is None else hidden(prepared, self.entry)

    def forward(self, prepared: Cond) -> Cond:
        return self.planned(prepared)


def told(model: DiffusionModel, each: int, judge: Judge) -> None:
    planned = planned_of(model)
    for name, entry in LESS.items():
        model.conditioner = Blind(planned, entry)
        scored(f"told {name}", drawn_by(model), each, judge)
    model.conditioner = planned


def scored(name: str, draw: Draw, each: int, judge: Judge) -> None:
    for aspect in ASPECTS:
        these = asked(aspect, each)
        ok = right(judge, these, draw)
        print(line(f"{name}: {aspect}", [(p.level, o) for p, o in zip(these, ok)]), flush=True)


def drawn_by(model: DiffusionModel) -> Draw:
    def draw(some: Sequence[Prompt], first: int) -> np.ndarray:
        return np.asarray(model.sample([p.text for p in some], sample_seeds=[first + i for i in range(len(some))]).data)

    return draw


def laid_in_noise(model: DiffusionModel, strength: float, lead: str = "") -> Draw:
    """A model that is told words alone, with a layout of the prompt in its starting noise: what the codec makes of the layout's
    render less its background. lead: before each prompt."""
    codec, usual = model.codec, model.config.sampling
    chosen = usual.choice()
    times = chosen.grid.of(codec.shape()).times(usual.steps, model.config.process)

    @torch.no_grad()
    def draw(some: Sequence[Prompt], first: int) -> np.ndarray:
        model.parts.eval()
        rng = Streams.each([first + i for i in range(len(some))])
        layouts = [plan(p.text, WORLD.sprites, np.random.Generator(np.random.Philox(key=s))) for p, s in zip(some, rng.seeds)]
        bare = [replace(scene, objects=(), signs=()) for scene in layouts]
        mean = shift_of(codec, shown(layouts, codec), shown(bare, codec), strength)
        said, nothing = (
            model.conditioner(model.conditioner.prepare(texts)) for texts in ([lead + p.text for p in some], [None] * len(some))
        )
        denoise = classifier_free(model.denoiser, said, nothing, usual.guidance, usual.interval)
        x = shifted(tensor(model.config.process.prior(codec.shape(), rng)), mean, 1.0)
        drawn = np.asarray(codec.decode(sample(denoise, model.config.process, x, times, chosen.sampler, rng.scoped("sampler"))))
        print(f"  (the shift costs {float(price(mean).mean()):.0f} nats a picture)")
        return on_white(drawn)

    return draw


def noise(model: DiffusionModel, each: int, strengths: Sequence[float], lead: str) -> None:
    """Counts alone, by patches of the colour that was asked for: the suite's detector searches long in what shows nothing."""
    rng = np.random.Generator(np.random.Philox(key=1))
    these = [in_one_piece(p, rng) for p in asked("count", each)]
    draws = {"real renders": oracle(WORLD)} | {f"{s:g} in noise": laid_in_noise(model, s, lead) for s in strengths}
    for name, draw in draws.items():
        pictures = np.concatenate([draw(these[i : i + 50], i) for i in range(0, len(these), 50)])
        ok = [patches(x, p.request.groups[0].colour or "") == p.request.groups[0].count for p, x in zip(these, pictures)]
        print(line(f"{name}: count", [(p.level, o) for p, o in zip(these, ok)]), flush=True)


def in_one_piece(p: Prompt, rng: np.random.Generator) -> Prompt:
    """The same count of something that is all of a colour."""
    name, colour = str(rng.choice(["circle", "square", "triangle", "diamond", "star", "heart"])), str(rng.choice(list(COLOURS)))
    request = Request((Group(name, p.request.groups[0].count, colour),))
    return replace(p, request=request, text=caption(request, plainly))


def patches(picture: np.ndarray, colour: str) -> int:
    """How many patches of 6 pixels and more are nearer to this colour than to the world's others."""
    known = np.array([*COLOURS.values(), *BACKDROPS.values()])
    nearest = np.square(picture[..., None, :].astype(int) - known).sum(-1).argmin(-1)
    marks, n = label(nearest == list(COLOURS).index(colour))
    return int((np.bincount(marks.ravel(), minlength=n + 1)[1:] >= 6).sum())


def shown(scenes: Sequence[Scene], codec: Codec) -> np.ndarray:
    """Scenes as uint8 pictures (B, H, W, C) that the codec encodes."""
    assert isinstance(codec, Pixels | Latents)
    pictures = np.stack([render(scene, WORLD.sprites, codec.config.height) for scene in scenes])
    opaque = np.full_like(pictures[..., :1], 255)
    return np.concatenate([pictures, opaque], -1) if codec.config.channels == 4 else pictures


def on_white(pictures: np.ndarray) -> np.ndarray:
    if pictures.shape[-1] == 4:
        alpha = pictures[..., 3:] / 255
        pictures = np.round(pictures[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return pictures


def train(folder: Path, steps: int, each: int, judge: Judge) -> None:
    opened = OpenPictures(read_scenes("scenes", PictureOptions(size=64, caption_drop=0.05)))
    run = scenes(opened, PictureSource("scenes", PictureOptions(size=64)), Options(steps=steps))
    run = replace(run, train=replace(run.train, sample_every=2 * steps))  # none
    for name, entry in LESS.items():
        out = made(folder / name.replace(" ", "-"))

        def rows(m: DiffusionModel, entry: str = entry) -> Hidden:
            return Hidden(LaidOut(opened.kept(), m.codec, m.conditioner), entry)

        model = fit_denoiser(run, run.model.build, rows, opened, out, False)
        model.conditioner = Blind(planned_of(model), entry)
        scored(f"trained, told {name}", drawn_by(model), each, judge)
    config, network = run.model.conditioner, run.model.network
    assert isinstance(config, PlannedConfig)
    assert isinstance(network, PatchedConfig)
    plain = replace(network, network=replace(network.network, picture_channels=0))
    run = replace(run, model=replace(run.model, conditioner=config.words, network=plain))
    words = fit_denoiser(
        run, run.model.build, lambda m: opened.training(m.codec, m.conditioner), opened, made(folder / "words"), False
    )
    for strength in STRENGTHS:
        scored(f"words, {strength:g} in noise", laid_in_noise(words, strength), each, judge)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def planned_of(model: DiffusionModel) -> Planned:
    if not isinstance(model.conditioner, Planned):
        raise InputError(f"{model.path} plans no layouts; train one with: unnoise train scenes --recipe scenes")
    return model.conditioner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plans", "generator", "told", "noise", "train"))
    parser.add_argument("where", type=Path)
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="of the layout in the noise")
    parser.add_argument("--lead", default="", help='of noise: before each prompt; "scene with " for stickers')
    parser.add_argument("--kept", type=Path, default=Path("~/.cache/unnoise/prompts").expanduser())
    args = parser.parse_args()
    if args.what == "plans":
        plans(load(args.where), args.each)
    elif args.what == "generator":
        generator(load(args.where), args.each)
    elif args.what == "noise":
        noise(load(args.where), args.each, args.strengths, args.lead)
    else:
        judge = Judge(train_detector(args.kept, progress=True), train_reader(args.kept, progress=True))
        if args.what == "told":
            told(load(args.where), args.each, judge)
        else:
            train(args.where, args.steps, args.each, judge)


if __name__ == "__main__":
    main()
