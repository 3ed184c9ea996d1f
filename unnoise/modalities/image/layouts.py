"""Layouts: what lies where in a scene, as tensors that a network can be told or can draw; and the picture of its words.

    kind (B, K) int64     0 nothing, 1 a sign, 2 the backdrop, 3 + i the i-th name
    colour (B, K) int64   0 none, 1 + i the i-th colour, then those of backdrops
    box (B, K, 4) float32 (x0, y0, x1, y1) in 0 ... 1, y down             letters (B, S, L) int64   of S signs; 0 no letter
    glyphs (B, F F, H, W) uint8   the words of the signs where they are to stand, in Pillow's bundled font, painted F times as fine
                                  as the H x W numbers of a state and folded into channels: for pixels F = 1, for latents the
                                  autoencoder's factor (a glyph picture: Chen et al. 2023, TextDiffuser, 2305.10855; Yang et al.
                                  2023, GlyphControl, 2305.18259; Tuo et al. 2023, AnyText, 2311.03054)

Slots stand nearest first, as `networks.raster` wants them; the empty ones last.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.draw import MARGIN, lettering, pixels
from unnoise.modalities.image.scenes.vocabulary import BACKDROPS, COLOURS, Vocabulary
from unnoise.modalities.image.scenes.world import LONGEST, Backdrop, Box, Scene, Sign, Thing, size_of

ALPHABET = string.ascii_uppercase + string.digits
NOTHING, SIGN, BACKDROP, FIRST = 0, 1, 2, 3  # kinds
SIGNS = 3
"""Signs of one scene, at most."""
_CLEARER = 4  # pixels painted for each that stays, so that glyphs have smooth edges


@dataclass(frozen=True)
class Layouts:
    """How scenes become tensors: the words of their world, `slots` K, a state of `height` x `width`, `finer` F."""

    vocabulary: Vocabulary
    height: int
    width: int
    finer: int = 1
    slots: int = 21

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.finer, self.slots) < 1:
            raise InputError(
                f"a layout of {self.slots} slots for {self.height} x {self.width}, {self.finer} times finer: all positive"
            )

    @property
    def kinds(self) -> int:
        return FIRST + len(self.vocabulary.names)

    @property
    def palette(self) -> tuple[tuple[float, float, float], ...]:
        """Red, green and blue of every colour in [-1, 1], the first one for none; backdrops' last."""
        known = [COLOURS.get(name, (127, 127, 127)) for name in self.vocabulary.colours]
        known += [BACKDROPS.get(name, (255, 255, 255)) for name in self.vocabulary.backdrops]
        return ((0.0, 0.0, 0.0), *((r / 127.5 - 1, g / 127.5 - 1, b / 127.5 - 1) for r, g, b in known))

    def encode(self, scenes: Sequence[Scene | None]) -> dict[str, Tensor]:
        """Scenes -> tensors; None: nothing is told. InputError for more things than there are slots, or names of another world."""
        n, k = len(scenes), self.slots
        kind, colour = torch.zeros(n, k, dtype=torch.int64), torch.zeros(n, k, dtype=torch.int64)
        box, letters = torch.zeros(n, k, 4), torch.zeros(n, SIGNS, LONGEST, dtype=torch.int64)
        glyphs = np.zeros((n, self.height * self.finer, self.width * self.finer), dtype=np.uint8)
        for i, scene in enumerate(scenes):
            if scene is None:
                continue
            told = self._slots(scene)
            if len(told) > k or len(scene.signs) > SIGNS:
                raise InputError(
                    f"{len(told) - 1} things and signs of one scene: this layout has room for {k - 1}, {SIGNS} of them signs"
                )
            for j, (what, tint, where) in enumerate(told):
                kind[i, j], colour[i, j], box[i, j] = what, tint, torch.tensor(where)
            for j, sign in enumerate(scene.signs):
                letters[i, j, : len(sign.word)] = torch.tensor([1 + ALPHABET.index(c) for c in sign.word])
            glyphs[i] = glyph_picture(scene.signs, glyphs.shape[1], glyphs.shape[2])
        folded = pixel_unshuffle(torch.from_numpy(glyphs)[:, None], self.finer)
        return {"kind": kind, "colour": colour, "box": box, "letters": letters, "glyphs": folded}

    def _slots(self, scene: Scene) -> list[tuple[int, int, Box]]:
        names, colours = self.vocabulary.names, self.vocabulary.colours
        out: list[tuple[int, int, Box]] = [(SIGN, 0, s.box) for s in scene.signs]
        for thing in sorted(scene.objects, key=lambda t: t.depth):
            if thing.name not in names or (thing.colour and thing.colour not in colours):
                raise InputError(f"{thing.colour} {thing.name!r}".strip() + " is nothing of this layout's world")
            tint = 1 + colours.index(thing.colour) if thing.colour else 0
            out.append((FIRST + names.index(thing.name), tint, thing.box))
        backdrop = (
            self.vocabulary.backdrops.index(scene.backdrop.colour) if scene.backdrop.colour in self.vocabulary.backdrops else -1
        )
        return [*out, (BACKDROP, 1 + len(colours) + backdrop if backdrop >= 0 else 0, (0.0, 0.0, 1.0, 1.0))]

    def decode(self, kind: Tensor, colour: Tensor, box: Tensor, words: Sequence[str] = ()) -> Scene:
        """The way back, for one row (K,), (K,), (K, 4): signs get the `words` in order, and those without one are left out."""
        things, boards, backdrop = [], [], Backdrop()
        colours = ("", *self.vocabulary.colours, *self.vocabulary.backdrops)
        rows = zip(kind.tolist(), colour.tolist(), box.tolist())
        for depth, (what, tint, (x0, y0, x1, y1)) in enumerate(rows):
            where = (x0, y0, x1, y1)
            if what == SIGN:
                boards.append(where)
            elif what == BACKDROP and colours[tint] in self.vocabulary.backdrops:
                backdrop = Backdrop(colours[tint])
            elif what >= FIRST:
                things.append(Thing(self.vocabulary.names[what - FIRST], colours[tint], size_of(where), where, float(depth)))
        return Scene(tuple(things), tuple(Sign(w, b) for w, b in zip(words, boards)), backdrop)


def glyph_picture(signs: Sequence[Sign], height: int, width: int) -> np.ndarray:
    """uint8 (height, width): the words of signs in the middle of their boxes, 255 for ink."""
    canvas = Image.new("L", (width * _CLEARER, height * _CLEARER))
    for sign in signs:
        x0, y0, x1, y1 = _box(sign.box, canvas.width, canvas.height)
        margin = round(MARGIN * canvas.width)
        word = lettering(sign.word, max(1, x1 - x0 - 2 * margin), max(1, y1 - y0 - 2 * margin))
        canvas.paste(word, ((x0 + x1 - word.width) // 2, (y0 + y1 - word.height) // 2))
    return np.asarray(canvas.reduce(_CLEARER))


def _box(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    across, down = pixels((box[0], 0.0, box[2], 1.0), width), pixels((0.0, box[1], 1.0, box[3]), height)
    return across[0], down[1], across[2], down[3]
