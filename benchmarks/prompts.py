"""Whether a model draws what it is told: counts, colours, places, sizes and words, scored by programs on prompts of scenes.

    python benchmarks/prompts.py --oracle                  real renders of the prompts: what the suite itself can be trusted with
    python benchmarks/prompts.py --shuffled                real renders of other prompts: what not listening scores
    python benchmarks/prompts.py --exchanged --aspects relation --levels behind "in front of"
                                                           real renders in the wrong order: what passes wrongly
    python benchmarks/prompts.py --model runs/scenes       a model folder or run
    python benchmarks/prompts.py --model runs/scenes --each 15 --aspects relation spelling    a first look

--oracle ends with status 1 where detector and reader together pass fewer than 99.5 % of the real renders.
With --worn pictures are blurred, noisy and off in colour, as a generator's are. Another --seed: other prompts and other renders.

For each aspect two rows, prompts of combinations that scenes train on and of combinations that they never show, by level (number of
things, number of colours, relation, size, letters), each with its 95 % interval. The detector and the reader are trained the first
time (some minutes) and kept in --kept.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unnoise.evaluation.prompt_suite.detector import train_detector
from unnoise.evaluation.prompt_suite.lists import ASPECTS, Prompt, prompts
from unnoise.evaluation.prompt_suite.reader import train_reader
from unnoise.evaluation.prompt_suite.score import Draw, Judge, by_level, exchanged, oracle, right, shuffled, weathered
from unnoise.loading import load
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.show import sheet
from unnoise.model import DiffusionModel

TRUSTED = 0.995
"""Share of real renders that detector and reader must pass."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--model", type=Path)
    who.add_argument("--oracle", action="store_true")
    who.add_argument("--shuffled", action="store_true")
    who.add_argument("--exchanged", action="store_true")
    parser.add_argument("--worn", action="store_true")
    parser.add_argument("--each", type=int, default=100, help="prompts for every level")
    parser.add_argument("--aspects", nargs="+", default=list(ASPECTS), choices=list(ASPECTS))
    parser.add_argument("--failures", type=Path, help="a folder for sheets of what was not right, with its prompts")
    parser.add_argument("--levels", nargs="+", help="of each aspect; all by default")
    parser.add_argument("--steps", type=int, help="of the model's sampler; its own by default")
    parser.add_argument("--guidance", type=float, help="the model's own by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("~/.cache/unnoise/prompts").expanduser())
    args = parser.parse_args()
    world = World()
    judge = Judge(train_detector(args.kept, progress=True), train_reader(args.kept, progress=True))
    model = load(args.model) if args.model else None
    who_draws = args.model or next(name for name in ("oracle", "shuffled", "exchanged") if getattr(args, name))
    print(f"{who_draws}{', worn' * args.worn}, {args.each} prompts a level; judged by {judge}")
    passed: list[bool] = []
    for aspect in args.aspects:
        for unseen in (False, True):
            asked = prompts(world, aspect, args.each, unseen, args.seed)
            asked = [p for p in asked if args.levels is None or p.level in args.levels]
            if model is not None:
                draw = drawn_by(model, args.steps, args.guidance, args.seed)
            elif args.shuffled:
                draw = shuffled(world, asked, seed=args.seed + 1)
            else:
                draw = (oracle if args.oracle else exchanged)(world, seed=args.seed + 1)
            drawn: list[np.ndarray] = []
            told = right(judge, asked, remembered(weathered(draw) if args.worn else draw, drawn))
            passed += told
            print(f"\n{aspect}, {'never trained on' if unseen else 'trained on'}")
            for level, found in by_level(asked, told).items():
                print(f"  {level:12} {found.value:6.1%}  [{found.low:.1%}, {found.high:.1%}]", flush=True)
            if args.failures and not all(told):
                args.failures.mkdir(parents=True, exist_ok=True)
                wrong = [i for i, passed in enumerate(told) if not passed][:64]
                failures = sheet([drawn[i] for i in wrong], [asked[i].text for i in wrong], columns=8)
                failures.save(args.failures / f"{aspect}{'-unseen' * unseen}.png")
    together = sum(passed) / max(len(passed), 1)
    print(f"\ntogether {together:.2%} of {len(passed):,}")
    if args.oracle and not args.worn and together < TRUSTED:
        raise SystemExit(f"below {TRUSTED:.1%}: detector and reader are not to be trusted with what a model draws")


def remembered(draw: Draw, drawn: list[np.ndarray]) -> Draw:
    """The same pictures, which are added to `drawn` too."""

    def draw_and_keep(some: Sequence[Prompt], first: int) -> np.ndarray:
        pictures = draw(some, first)
        drawn.extend(pictures)
        return pictures

    return draw_and_keep


def drawn_by(model: DiffusionModel, steps: int | None, guidance: float | None, seed: int) -> Draw:
    """Prompt i with sample i of the seed; transparent pictures on white."""

    def draw(some: Sequence[Prompt], first: int) -> np.ndarray:
        seeds = [(seed << 32) + first + i for i in range(len(some))]
        pictures = np.asarray(model.sample([p.text for p in some], sample_seeds=seeds, steps=steps, guidance=guidance).data)
        if pictures.shape[-1] == 4:
            alpha = pictures[..., 3:] / 255
            pictures = np.round(pictures[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return pictures.repeat(3, -1) if pictures.shape[-1] == 1 else pictures

    return draw


if __name__ == "__main__":
    main()
