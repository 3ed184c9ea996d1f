"""Finds the things and signs of a scene: a small CenterNet trained on real renders, of every combination, and on nothing else.

Loss over the cells p of the map (Zhou et al. 2019, 1904.07850, eq. 1-3), y the centres spread by a narrow Gaussian:

    L = -1/N sum_p [y = 1] (1 - c)^2 log c + [y < 1] (1 - y)^4 c^2 log(1 - c)  +  1/N sum_centres (|reach - its|_1 / 4 + CE(labels))

A scene is read off: cells that are likelier than THRESHOLD and than their neighbours; of two that say the same of mostly the same
box the likelier. Things that touch one another, or that leave something unexplained, are settled by what a render of them would
look like (`overlaps`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, max_pool2d
from tqdm import tqdm

from unnoise.checkpoints.folder import tensors_hash
from unnoise.core.errors import InputError
from unnoise.core.random import derive
from unnoise.evaluation.encoders import cached
from unnoise.evaluation.learning import drawing_from, trained
from unnoise.evaluation.prompt_suite.augment import worn
from unnoise.evaluation.prompt_suite.overlaps import explained
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.place import place
from unnoise.modalities.image.scenes.requests import TRICKY, draw_request
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import BACKDROPS, COLOURS, SHAPES
from unnoise.modalities.image.scenes.world import SIZES, Backdrop, Box, Scene, Sign, Thing, overlap
from unnoise.networks.detection import STRIDE, DetectionNetwork, Found

VERSION = 1
"""Of how detectors are made: to be raised with any change, so that kept ones are made anew."""
SIDE = 64
"""Pixels: what pictures are resized to."""
THRESHOLD = 0.3
_SCALES = (*SIZES, "sign")
_SEED = 7001
_SPRITES, _EVERYTHING = Shapes(), Split(0.0)
"""It learns from every combination, for it has to judge those that a model never saw."""


@dataclass(frozen=True)
class Detector:
    """Frozen. name: how a report calls it, with its hash."""

    name: str
    network: DetectionNetwork = field(repr=False)

    def scenes(self, pictures: np.ndarray) -> list[Scene]:
        """What each of the pictures, uint8 (B, H, W, 3), shows. Signs have no word yet.

        Raises InputError for pictures of another kind.
        """
        x = as_input(pictures)
        return [scene for rows in np.array_split(np.arange(len(x)), -(-len(x) // 256)) for scene in self._some(x[rows])]

    def _some(self, x: Tensor) -> list[Scene]:
        with torch.inference_mode():
            found = self.network(x.to(next(self.network.parameters()).device))
        likely = found.centre.sigmoid().cpu()
        peaks = (likely >= THRESHOLD) & (likely == max_pool2d(likely, 3, 1, 1))
        reach, (names, colours) = found.reach.cpu(), (part.cpu() for part in found.labels)
        scenes = []
        for i in range(len(x)):
            spots = sorted(((float(likely[i, s, r, c]), int(s), int(r), int(c)) for s, r, c in peaks[i].nonzero()), reverse=True)
            kept: list[Thing] = []  # signs too, for now
            for _, s, r, c in spots:
                thing = Thing(
                    SHAPES[int(names[i, s, :, r, c].argmax())] if _SCALES[s] != "sign" else "sign",
                    tuple(COLOURS)[int(colours[i, s, :, r, c].argmax())] if _SCALES[s] != "sign" else "",
                    _SCALES[s],
                    _box(reach[i, s, :, r, c], r, c),
                )
                if not any(_twice(thing, other) for other in kept):
                    kept.append(thing)
            signs = tuple(Sign("", t.box) for t in kept if t.name == "sign")
            backdrop, picture = _backdrop(x[i]), (x[i].movedim(0, -1).numpy() + 1) * 127.5
            things = explained([t for t in kept if t.name != "sign"], picture, _SPRITES, signs)
            scenes.append(Scene(tuple(things), signs, backdrop))
        return scenes


def as_input(pictures: np.ndarray) -> Tensor:
    """float (B, 3, SIDE, SIDE) in [-1, 1], other sizes resized. InputError for what is not uint8 (B, H, W, 3)."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not len(pictures):
        raise InputError(f"the suite looks at colour pictures, uint8 (B, H, W, 3); these are {pictures.dtype} {pictures.shape}")
    if pictures.shape[1:3] != (SIDE, SIDE):
        resized = [Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for p in pictures]
        pictures = np.stack([np.asarray(p) for p in resized])
    return torch.from_numpy(pictures.copy()).movedim(-1, 1).float() / 127.5 - 1


def _box(reach: Tensor, row: int, column: int) -> Box:
    left, up, right, down = (float(v) for v in reach)
    x, y = column + 0.5, row + 0.5
    x0, y0, x1, y1 = (min(max(v * STRIDE / SIDE, 0.0), 1.0) for v in (x - left, y - up, x + right, y + down))
    return x0, y0, x1, y1


def _twice(a: Thing, b: Thing) -> bool:
    """Whether two finds are one thing: alike, in boxes whose intersection is more than half of their union."""
    common = overlap(a.box, b.box)
    union = sum((t.box[2] - t.box[0]) * (t.box[3] - t.box[1]) for t in (a, b)) - common
    return (a.name, a.colour) == (b.name, b.colour) and common > union / 2


def _backdrop(x: Tensor) -> Backdrop:
    """The colour along the upper edge, where nothing else stands."""
    middle = (x[:, 0].median(1).values + 1) * 127.5
    return Backdrop(min(BACKDROPS, key=lambda c: float((middle - torch.tensor(BACKDROPS[c])).abs().sum())))


# -- training --------------------------------------------------------------------------------------------------------------


def train_detector(
    folder: Path | None = None, pictures: int = 30_000, steps: int = 4000, batch: int = 32, progress: bool = False
) -> Detector:
    """From so many renders; kept in `folder` and found there again. A quarter of an hour on one core."""
    settings = {"what": "scene-detector", "version": VERSION, "pictures": pictures, "steps": steps, "batch": batch}

    def build() -> DetectionNetwork:
        return DetectionNetwork(len(_SCALES), (len(SHAPES), len(COLOURS)))

    def learn() -> nn.Module:
        rng = np.random.Generator(np.random.Philox(_SEED))
        scenes = []
        for _ in tqdm(range(pictures), "scenes", unit="picture", disable=not progress, leave=False):
            scenes.append(place(draw_request(rng, _SPRITES, _EVERYTHING, TRICKY), rng, _SPRITES, _EVERYTHING))
        pixels = torch.from_numpy(np.stack([render(s, _SPRITES, SIDE) for s in scenes]))
        targets = [_target(s) for s in scenes]

        def loss(network: nn.Module, where: torch.device) -> Tensor:
            rows = torch.randint(pictures, (batch,))
            x = worn(pixels[rows].movedim(-1, 1).float() / 127.5 - 1)
            with torch.autocast(where.type, torch.bfloat16):
                found = network(x.to(where))
            return _loss(found, [targets[i] for i in rows.tolist()])

        return trained(build, loss, steps, 3e-3, derive(_SEED, "detector"), "detector", progress)

    with drawing_from(0):
        network = cached(folder, settings, build, learn)
    assert isinstance(network, DetectionNetwork)
    return Detector(f"scene detector {tensors_hash(network.state_dict())[:16]}", network)


@dataclass(frozen=True)
class _Target:
    """Of each object and sign: its scale, its cell, its reach, its labels (name, colour; -1 for signs)."""

    scale: Tensor
    row: Tensor
    column: Tensor
    reach: Tensor
    labels: Tensor


def _target(scene: Scene) -> _Target:
    rows = [(_SCALES.index(t.size), t.box, SHAPES.index(t.name), list(COLOURS).index(t.colour)) for t in scene.objects] + [
        (_SCALES.index("sign"), s.box, -1, -1) for s in scene.signs
    ]
    boxes = torch.tensor([box for _, box, *_ in rows]) * (SIDE / STRIDE)
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    middle = torch.stack([x.floor() + 0.5, y.floor() + 0.5], 1)
    return _Target(
        torch.tensor([s for s, *_ in rows]),
        y.floor().long(),
        x.floor().long(),
        torch.cat([middle - boxes[:, :2], boxes[:, 2:] - middle], 1),
        torch.tensor([labels for _, _, *labels in rows]),
    )


def _loss(found: Found, targets: Sequence[_Target]) -> Tensor:
    where = found.centre.device
    centre = found.centre.float()
    image = torch.cat([torch.full_like(t.scale, i) for i, t in enumerate(targets)]).to(where)
    scale, row, column, reach, labels = (
        torch.cat([getattr(t, part) for t in targets]).to(where) for part in ("scale", "row", "column", "reach", "labels")
    )
    n = len(image)
    y = torch.zeros(found.centre.shape, device=where)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            r, c = (row + dr).clamp(0, y.shape[2] - 1), (column + dc).clamp(0, y.shape[3] - 1)
            spread = torch.full((n,), 0.6 ** (dr**2 + dc**2), device=where)
            y.view(-1).scatter_reduce_(0, ((image * y.shape[1] + scale) * y.shape[2] + r) * y.shape[3] + c, spread, "amax")
    log_c, log_not = logsigmoid(centre), logsigmoid(-centre)
    hit = y == 1
    focal = torch.where(hit, log_not.exp() ** 2 * log_c, (1 - y) ** 4 * log_c.exp() ** 2 * log_not).sum()
    near = (found.reach[image, scale, :, row, column].float() - reach).abs().sum() / 4
    thing = labels[:, 0] >= 0
    at = image[thing], scale[thing], slice(None), row[thing], column[thing]
    names, colours = (part[at].float() for part in found.labels)
    told = cross_entropy(names, labels[thing, 0], reduction="sum") + cross_entropy(colours, labels[thing, 1], reduction="sum")
    return (near + told - focal) / max(n, 1)
