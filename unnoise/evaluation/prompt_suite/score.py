"""Whether pictures show what was asked: found, read and compared by program; shares with 95 % intervals, by level."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from unnoise.core.intervals import Interval, share
from unnoise.evaluation.learning import drawing_from
from unnoise.evaluation.prompt_suite.augment import worn
from unnoise.evaluation.prompt_suite.detector import SIDE, Detector
from unnoise.evaluation.prompt_suite.lists import Prompt
from unnoise.evaluation.prompt_suite.reader import Reader
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.place import place
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.world import Scene, holds

SLACK = 2.5 / SIDE
"""What boxes that were found may be wrong by, where they have to lie beside or in one another."""
Draw = Callable[[Sequence[Prompt], int], np.ndarray]
"""Prompts and the number of the first of them -> uint8 (B, H, W, 3)."""


@dataclass(frozen=True)
class Judge:
    """Detector and reader: what a picture shows."""

    detector: Detector
    reader: Reader

    def scenes(self, pictures: np.ndarray) -> list[Scene]:
        """Of uint8 pictures (B, H, W, 3), in order."""
        scenes = self.detector.scenes(pictures)
        signs = [(i, s.box) for i, scene in enumerate(scenes) for s in scene.signs]
        if signs:
            words = iter(self.reader.words(pictures[[i for i, _ in signs]], [box for _, box in signs]))
            scenes = [replace(s, signs=tuple(replace(sign, word=next(words)) for sign in s.signs)) for s in scenes]
        return scenes


def right(judge: Judge, prompts: Sequence[Prompt], draw: Draw, batch: int = 100) -> list[bool]:
    """For each prompt whether the picture that was drawn for it is what it asks for, entirely."""
    out: list[bool] = []
    for first in range(0, len(prompts), batch):
        some = prompts[first : first + batch]
        out += [holds(scene, p.request, SLACK) for scene, p in zip(judge.scenes(draw(some, first)), some)]
    return out


def by_level(prompts: Sequence[Prompt], right: Sequence[bool]) -> Mapping[str, Interval]:
    """For each level, in order, the share that is right; "all": of all of them."""
    levels = dict.fromkeys(p.level for p in prompts)
    told = {level: [r for p, r in zip(prompts, right) if p.level == level] for level in levels}
    return {k: share(sum(v), len(v)) for k, v in {**told, "all": list(right)}.items() if v}


def oracle(world: World, size: int = SIDE, seed: int = 1) -> Draw:
    """Real renders of the prompts: what a model that is always right would score, less what detector and reader get wrong."""
    return _rendered(world, size, seed, lambda scene: scene)


def exchanged(world: World, size: int = SIDE, seed: int = 1) -> Draw:
    """Real renders with what is in front behind, and the other way round: of prompts that ask for either, what passes wrongly."""
    return _rendered(
        world, size, seed, lambda scene: replace(scene, objects=tuple(replace(t, depth=-t.depth) for t in scene.objects))
    )


def weathered(draw: Draw) -> Draw:
    """Pictures as a generator makes them, blurred, noisy and off in colour, each by a draw of its own."""

    def drawn(some: Sequence[Prompt], first: int) -> np.ndarray:
        x = torch.from_numpy(draw(some, first)).movedim(-1, 1).float() / 127.5 - 1
        with drawing_from(first):
            x = worn(x.repeat_interleave(2, 0))[::2]  # every second one is worn
        return np.asarray(((x + 1) * 127.5).round().byte().movedim(1, -1))

    return drawn


def _rendered(world: World, size: int, seed: int, changed: Callable[[Scene], Scene]) -> Draw:
    def draw(prompts: Sequence[Prompt], first: int) -> np.ndarray:
        pictures = []
        for i, p in enumerate(prompts, first):
            rng = np.random.Generator(np.random.Philox(key=[seed, i]))
            pictures.append(render(changed(place(p.request, rng, world.sprites, world.split)), world.sprites, size))
        return np.stack(pictures)

    return draw


def shuffled(world: World, prompts: Sequence[Prompt], size: int = SIDE, seed: int = 1) -> Draw:
    """Real renders of other prompts of the same aspect: what is scored by a model that does not listen."""
    of_others = np.random.Generator(np.random.Philox(key=[seed, len(prompts)])).permutation(len(prompts))
    render_all = oracle(world, size, seed)

    def draw(some: Sequence[Prompt], first: int) -> np.ndarray:
        return render_all([prompts[j] for j in of_others[first : first + len(some)].tolist()], first)

    return draw
