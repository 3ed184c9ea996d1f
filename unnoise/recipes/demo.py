"""The demonstration: eight prompts to each of the models that ship, at once; then learn to write digits from 1797 real ones, in a
few minutes on two cores, and draw everything that happens."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.checkpoints.shipped import EXACT, FREE
from unnoise.control.layout.arranged import arranged, counts_or_places
from unnoise.core.errors import InputError
from unnoise.core.state import State
from unnoise.loading import load
from unnoise.modalities.image.examples import DIGITS, write_digits
from unnoise.modalities.image.show import path_strip, save_png, sheet
from unnoise.model import DiffusionModel
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.options import Options
from unnoise.recipes.run import Run
from unnoise.recipes.train import plan, start, step_seconds
from unnoise.training.config import TrainConfig

PROMPTS = {
    EXACT: (
        "three red apples left of a sign that says OPEN", "ten small blue fish", "a pink star inside a yellow ring",
        "two purple cups above three orange hearts", "a sign that says HELLO", "a large brown moon on a mint background",
        "a green tree right of a blue house", "seven pink hearts",
    ),
    FREE: (
        "a cat", "rocket, in the style of noto", "a blue banana", "grinning face wearing a crown", "sunset", "three strawberries",
        "a green heart", "icon of anchor",
    ),
}  # fmt: skip
SECONDS = 150.0
"""Training time that is aimed at, on whatever machine this is."""


def demo(out: Path, overwrite: bool = False, steps: int | None = None) -> DiffusionModel:
    """Fill the folder `out`: scenes.png, stickers.png, digits/ (the data), run/, samples/, digits.png, path.png, loss.png.

    steps: optimiser steps; None fits them to SECONDS. Returns the trained model. Raises InputError if `out` has something in it
    (but an earlier demo, with `overwrite`).
    """
    _make_room(out, overwrite)
    for name, prompts in PROMPTS.items():
        began = time.perf_counter()
        pictures, settings = pictures_of(load(name), prompts)
        file = out / f"{name}.png"
        save_png(file, sheet(pictures, prompts, columns=4, smallest=128), settings)
        took = time.perf_counter() - began
        print(f"{file}: {len(prompts)} prompts to {name}, which ships, in {took:.1f} s", flush=True)
    print("Now a model is trained here:", flush=True)
    write_digits(out / "digits")
    planned = plan(str(out / "digits"), Options(batch=64))
    run = planned.run
    assert isinstance(run, Run)
    network = run.model.network
    if isinstance(network, DiffusionTransformerConfig):  # strokes of 8 x 8 pixels need no more than 16 patches
        run = replace(run, model=replace(run.model, network=replace(network, patch=2, width=128, depth=4)))
    if steps is None:
        steps = max(300, min(4000, math.floor(SECONDS / step_seconds(replace(planned, run=_shortened(run, 1000))))))
    model = start(replace(planned, run=_shortened(run, steps)), out / "run")
    _draw(model, out)
    return model


def pictures_of(model: DiffusionModel, prompts: Sequence[str], seed: int = 7) -> tuple[list[Tensor], Mapping[str, Any]]:
    """A picture of each as `unnoise sample` draws it: what cannot count by itself arranges what a prompt counts and places."""
    made = model.sample(prompts, n=1, seed=seed)
    if model.config.about.name != FREE:
        return list(made.data), made.settings

    def draw(names: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return np.asarray(model.sample(names, n=1, sample_seeds=seeds).data)

    finer = made.data.repeat_interleave(2, 1).repeat_interleave(2, 2)  # as fine as what is arranged
    pictures = [
        torch.from_numpy(arranged([prompt], [own], draw, len(x))[0]) if counts_or_places(prompt) else x
        for prompt, own, x in zip(prompts, made.seeds, finer)
    ]
    return pictures, made.settings


def _shortened(run: Run, steps: int) -> Run:
    train: TrainConfig = replace(
        run.train, steps=steps, warmup=min(100, steps // 10), sample_every=max(1, steps // 3), snapshot_every=0
    )
    return replace(run, train=train)


def _make_room(out: Path, overwrite: bool) -> None:
    ours = {*(f"{name}.png" for name in PROMPTS), "digits", "run", "samples", "digits.png", "path.png", "loss.png"}
    there = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the demo wants a folder")
    if there and (not overwrite or there - ours):
        raise InputError(
            f"{out} exists and holds {', '.join(sorted(there - ours)[:3]) or 'an earlier demo (--overwrite replaces it)'}"
        )
    for name in there:
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    out.mkdir(parents=True, exist_ok=True)


def _draw(model: DiffusionModel, out: Path) -> None:
    frames: list[Tensor] = []
    with tqdm(unit="step", desc="drawing zero ... nine", leave=False) as bar:

        def progress(done: int, steps: int, x: State) -> None:
            bar.total = steps
            bar.update()

        samples = model.sample(DIGITS, n=6, seed=7, watch=progress)
        samples.save(out / "samples")

        def remember(done: int, steps: int, x: State) -> None:
            if done in _spread(steps, 8):
                frames.append(model.codec.decode(x))

        model.sample(["seven", "eight"], n=1, seed=7, watch=remember)
    save_png(
        out / "digits.png", sheet(list(samples.data), [str(p) for p in samples.prompts], columns=6, smallest=64), samples.settings
    )
    title = "from noise to a digit: DPM-Solver++ 2M, noise on the left"
    save_png(out / "path.png", path_strip([list(f) for f in frames], title=title), samples.settings)
    if (out / "run" / "loss.png").is_file():
        shutil.copy(out / "run" / "loss.png", out / "loss.png")


def _spread(steps: int, n: int) -> Sequence[int]:
    return sorted({round(1 + i * (steps - 1) / (n - 1)) for i in range(n)})
