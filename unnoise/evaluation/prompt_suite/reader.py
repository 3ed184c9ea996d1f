"""Reads the word on a sign that was found: columns of a small network, each a letter or a blank, trained on real renders alone.

Loss: connectionist temporal classification (Graves et al. 2006). A word is read off greedily: the likeliest symbol of each
column, repeats taken once, blanks left out.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, ctc_loss, grid_sample
from tqdm import tqdm

from unnoise.checkpoints.folder import tensors_hash
from unnoise.core.random import derive
from unnoise.evaluation.encoders import cached
from unnoise.evaluation.learning import drawing_from, trained
from unnoise.evaluation.prompt_suite.augment import worn
from unnoise.evaluation.prompt_suite.detector import SIDE, as_input
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.place import place
from unnoise.modalities.image.scenes.requests import SIGNS, draw_request
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.world import Box
from unnoise.networks.detection import ReadingNetwork

VERSION = 1
"""Of how readers are made: to be raised with any change, so that kept ones are made anew."""
LETTERS = string.ascii_uppercase
_AROUND = 2  # pixels about a sign: found boxes are wrong by that
_WIDE = 128  # pixels of a line: enough for every shape of sign
_SEED = 7002


@dataclass(frozen=True)
class Reader:
    """Frozen. name: how a report calls it, with its hash."""

    name: str
    network: ReadingNetwork = field(repr=False)

    def words(self, pictures: np.ndarray, boxes: Sequence[Box]) -> list[str]:
        """The word in one box of each picture, uint8 (B, H, W, 3); "" where nothing can be read."""
        where = next(self.network.parameters()).device
        with torch.inference_mode():
            best = self.network(_lines(as_input(pictures), torch.tensor(boxes)).to(where)).argmax(2).cpu()
        return ["".join(LETTERS[s - 1] for s in row.unique_consecutive().tolist() if s) for row in best]


def _lines(x: Tensor, boxes: Tensor) -> Tensor:
    """The boxes (B, 4) of pictures (B, 3, H, W), each with its surroundings, as lines (B, 3, 24, 128).

    They are twice as wide as they were, so that letters have columns; right of them the last column is repeated; what is too long
    for a line is squeezed.
    """
    boxes = boxes + torch.tensor([-1, -1, 1, 1]) * (_AROUND / SIDE)
    low, side = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    line = torch.stack([side[:, 0].maximum(side[:, 1] * (_WIDE / ReadingNetwork.HEIGHT / 2)), side[:, 1]], 1)
    theta = torch.zeros(len(x), 2, 3)  # of the grid of [-1, 1]
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = line[:, 0], line[:, 1], 2 * low + line - 1
    grid = affine_grid(theta, [len(x), 3, ReadingNetwork.HEIGHT, _WIDE], align_corners=False)
    end = (2 * boxes[:, 2] - 1)[:, None, None, None]
    grid = torch.cat([grid[..., :1].minimum(end), grid[..., 1:]], -1)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


def train_reader(
    folder: Path | None = None, pictures: int = 30_000, steps: int = 4000, batch: int = 32, progress: bool = False
) -> Reader:
    """From so many renders of signs; kept in `folder` and found there again. A few minutes on one core."""
    settings = {"what": "sign-reader", "version": VERSION, "pictures": pictures, "steps": steps, "batch": batch}

    def build() -> ReadingNetwork:
        return ReadingNetwork(len(LETTERS))

    def learn() -> nn.Module:
        rng, sprites = np.random.Generator(np.random.Philox(_SEED)), Shapes()
        scenes = []
        for _ in tqdm(range(pictures), "signs", unit="picture", disable=not progress, leave=False):
            scenes.append(place(draw_request(rng, sprites, Split(0.0), SIGNS), rng, sprites))
        pixels = torch.from_numpy(np.stack([render(s, sprites, SIDE) for s in scenes]))
        boxes = torch.tensor([s.signs[0].box for s in scenes])
        words = [torch.tensor([LETTERS.index(c) + 1 for c in s.signs[0].word]) for s in scenes]

        def loss(network: nn.Module, where: torch.device) -> Tensor:
            rows = torch.randint(pictures, (batch,))
            astray = (torch.rand(batch, 4) - 0.5) * torch.tensor([7, 4, 7, 4]) / SIDE  # as a detector's boxes are
            x = worn(pixels[rows].movedim(-1, 1).float() / 127.5 - 1)
            with torch.autocast(where.type, torch.bfloat16):
                logits = network(_lines(x, boxes[rows] + astray).to(where))
            log_p = logits.float().log_softmax(2).transpose(0, 1)
            wanted = [words[i] for i in rows.tolist()]
            lengths = torch.tensor([len(w) for w in wanted])
            columns = torch.full((batch,), len(log_p))
            return ctc_loss(log_p, torch.cat(wanted).to(where), columns, lengths)

        return trained(build, loss, steps, 3e-3, derive(_SEED, "reader"), "reader", progress)

    with drawing_from(0):
        network = cached(folder, settings, build, learn)
    assert isinstance(network, ReadingNetwork)
    return Reader(f"sign reader {tensors_hash(network.state_dict())[:16]}", network)
