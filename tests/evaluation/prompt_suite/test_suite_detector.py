"""The detector: what it is to learn, read back, is the scene; its loss is the formula; it is kept and found again."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from unnoise.core.errors import InputError
from unnoise.evaluation.prompt_suite import detector as d
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import COLOURS, SHAPES
from unnoise.modalities.image.scenes.world import Scene, Thing, holds
from unnoise.networks.detection import DetectionNetwork, Found

WORLD = World(Shapes(), 11, Split(0.0))


class Knowing(nn.Module):
    """A network that is told the truth of the next pictures."""

    def __init__(self, scenes):
        super().__init__()
        self.anywhere, self.scenes = nn.Parameter(torch.zeros(1)), list(scenes)

    def forward(self, x):
        found = Found(
            torch.full((len(x), 4, 16, 16), -9.0),
            torch.zeros(len(x), 4, 4, 16, 16),
            tuple(torch.zeros(len(x), 4, n, 16, 16) for n in (16, 10)),
        )
        for i in range(len(x)):
            t = d._target(self.scenes.pop(0))
            for s, r, c, reach, (name, colour) in zip(t.scale, t.row, t.column, t.reach, t.labels.tolist()):
                found.centre[i, s, r, c] = 9.0
                found.reach[i, s, :, r, c] = reach
                found.labels[0][i, s, name, r, c] = found.labels[1][i, s, colour, r, c] = 9.0
        return found


def test_what_the_network_is_to_say_reads_back_as_what_was_asked():
    """Over random scenes of all kinds: targets and their decoding are each other's inverse; words are the reader's."""
    scenes = [WORLD.scene(row) for row in range(150)]
    pictures = np.stack([render(s, WORLD.sprites, 64) for s in scenes])
    found = d.Detector("knowing", Knowing(scenes)).scenes(pictures)
    for row, (scene, seen) in enumerate(zip(scenes, found)):
        request = WORLD.request(row)
        words = tuple(s.__class__(t.word, s.box) for s, t in zip(seen.signs, scene.signs))
        assert len(seen.signs) == len(scene.signs)
        assert holds(Scene(seen.objects, words, seen.backdrop), request, 1e-3), request


def test_peaks_that_mostly_coincide_are_one_thing_and_others_are_two():
    apart = (Thing("star", "red", "small", (0.1, 0.1, 0.3, 0.3)), Thing("star", "red", "small", (0.5, 0.1, 0.7, 0.3)))
    same = (Thing("star", "red", "medium", (0.1, 0.1, 0.38, 0.38)), Thing("star", "red", "small", (0.13, 0.13, 0.38, 0.38)))
    others = (same[0], Thing("cup", "blue", "large", (0.13, 0.13, 0.38, 0.38), 1.0))
    for things, count in ((apart, 2), (same, 1), (others, 2)):
        found = d.Detector("knowing", Knowing([Scene(things)])).scenes(render(Scene(things), WORLD.sprites, 64)[None])
        assert len(found[0].objects) == count


def test_the_loss_is_its_formula_cell_by_cell():
    scenes = [WORLD.scene(row) for row in (0, 3, 8)]
    torch.manual_seed(0)
    found = DetectionNetwork(4, (16, 10), 8).eval().requires_grad_(False)(torch.randn(3, 3, 64, 64))
    found.centre.normal_()
    things = [(i, o) for i, s in enumerate(scenes) for o in (*s.objects, *s.signs)]
    y, rest = torch.zeros(3, 4, 16, 16), 0.0
    for i, o in things:
        x0, y0, x1, y1 = (v * 16 for v in o.box)
        r, c = int((y0 + y1) / 2), int((x0 + x1) / 2)
        s = ("small", "medium", "large").index(o.size) if isinstance(o, Thing) else 3
        for rr in range(max(r - 1, 0), min(r + 2, 16)):
            for cc in range(max(c - 1, 0), min(c + 2, 16)):
                y[i, s, rr, cc] = max(y[i, s, rr, cc], 0.6 ** ((rr - r) ** 2 + (cc - c) ** 2))
        wanted = (c + 0.5 - x0, r + 0.5 - y0, x1 - c - 0.5, y1 - r - 0.5)
        rest += sum(abs(float(found.reach[i, s, k, r, c]) - wanted[k]) for k in range(4)) / 4
        if isinstance(o, Thing):
            rest -= float(found.labels[0][i, s, :, r, c].log_softmax(0)[SHAPES.index(o.name)])
            rest -= float(found.labels[1][i, s, :, r, c].log_softmax(0)[list(COLOURS).index(o.colour)])
    for target, logit in zip(y.flatten().tolist(), found.centre.flatten().tolist()):
        p = 1 / (1 + math.exp(-logit))
        rest -= (1 - p) ** 2 * math.log(p) if target == 1 else (1 - target) ** 4 * p**2 * math.log(1 - p)
    assert float(d._loss(found, [d._target(s) for s in scenes])) == pytest.approx(rest / len(things), rel=1e-4)


def test_a_detector_is_kept_and_found_again_and_leaves_the_callers_draws_alone(tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    made = d.train_detector(tmp_path, pictures=4, steps=2, batch=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert d.train_detector(tmp_path, pictures=4, steps=2, batch=2).name == made.name
    assert d.train_detector(None, pictures=4, steps=3, batch=2).name != made.name
    assert len(list(tmp_path.glob("scene-detector-*.safetensors"))) == 1


def test_pictures_of_other_sizes_are_resized_and_other_kinds_refused():
    picture = render(WORLD.scene(0), WORLD.sprites, 256)
    small = render(WORLD.scene(0), WORLD.sprites, 64)
    assert float((d.as_input(picture[None]) - d.as_input(small[None])).abs().mean()) < 0.06
    for bad in (picture[None].astype(np.float32), picture[None, ..., :1], picture, picture[None][:0]):
        with pytest.raises(InputError, match="colour pictures"):
            d.as_input(bad)


def test_the_network_never_mixes_pictures():
    torch.manual_seed(1)
    network, x = DetectionNetwork(4, (3, 2), 8).eval(), torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        together, alone = network(x), network(x[1:2])
    assert torch.allclose(together.centre[1:2], alone.centre, atol=1e-5)
    assert torch.allclose(together.labels[1][1:2], alone.labels[1], atol=1e-5)
    assert bool((together.reach >= 0).all())
