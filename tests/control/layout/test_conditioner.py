"""What the network is told of a prompt or of a scene; whose chance it is; and that training tells what was drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unnoise.control.layout.conditioner import Planned, PlannedConfig
from unnoise.control.layout.generator import OBJECTIVE, PROCESS, STD, LayoutGeneratorConfig
from unnoise.control.layout.rows import LaidOut
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.conditioning import TextConfig
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import InMemory, PictureData, PictureOptions
from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.grammar import parse
from unnoise.modalities.image.scenes.rows import Rendered, World
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.world import LONGEST, Scene, Sign, holds
from unnoise.networks.text import TextEncoderConfig

WORLD = World(seed=2)
SPOKEN = "three red apples left of a sign that says OPEN"


def config(size: int = 16, finer: int = 1) -> PlannedConfig:
    seen = [c for row in range(40) for c in WORLD.captions(row)] + ["abcdefghijklmnopqrstuvwxyz, please do paint me something nice"]
    words = TextConfig.of(seen, TextEncoderConfig(width=24, depth=1, heads=2, buckets=64, length=128))
    plain = PlannedConfig(words, Shapes(), size, size, finer, channels=5)
    kinds = plain.layouts
    return replace(plain, generator=LayoutGeneratorConfig(kinds.kinds, len(kinds.palette), 21, 24, 24, 32, 1, 2, steps=2))


def built(**sizes: int) -> Planned:
    torch.manual_seed(0)
    return config(**sizes).build().eval()


def row(prepared: dict[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    return {k: v[i] for k, v in prepared.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_a_plan_belongs_to_the_sample() -> None:
    """The same alone and in any batch, another for another seed."""
    planned, rng = built(), Streams.of(7, 3)
    together = planned.prepare_for([SPOKEN, "a star", SPOKEN], rng)
    assert same(row(planned.prepare_for([SPOKEN], rng[2:]), 0), row(together, 2))
    assert not torch.equal(together["box"][0], together["box"][2])
    again = planned.prepare([SPOKEN, SPOKEN])
    assert same(again, planned.prepare([SPOKEN, SPOKEN]))
    assert not torch.equal(again["box"][0], again["box"][1])


def test_prompts_beyond_the_grammar_are_planned_too() -> None:
    scene = built().scene("please do paint three red apples next to a tree", seed=1)
    assert sum(t.name == "apple" and t.colour == "red" for t in scene.objects) == 3
    with pytest.raises(InputError, match="nothing in the prompt"):
        replace(config(), generator=None).build().scene("something nice", seed=1)


def test_what_is_planned_is_what_is_told() -> None:
    planned = built()
    prepared = planned.prepare([SPOKEN])
    scene = planned.layouts.decode(prepared["kind"][0], prepared["colour"][0], prepared["box"][0], ["OPEN"])
    assert holds(scene, parse(SPOKEN), slack=1e-6)  # boxes in float32


def test_null_is_an_empty_layout_without_words() -> None:
    planned = built()
    null = planned.null(2)
    assert not null["kind"].any()
    assert not null["glyphs"].any()
    assert not null["letters"].any()
    empty = planned(null)["picture"]
    assert torch.allclose(empty, empty[:, :, :1, :1].expand_as(empty))  # the same everywhere


def test_letters_are_told_with_their_places() -> None:
    """Anagrams have the same letters and other tokens; the mask counts letters; words on other signs are other words."""
    planned = built()

    def letters(*words: str) -> tuple[torch.Tensor, torch.Tensor]:
        signs = tuple(Sign(w, (0.1, 0.1 + 0.3 * i, 0.9, 0.3 + 0.3 * i)) for i, w in enumerate(words))
        cond = planned(planned.told(["a sign"], [Scene((), signs)]))
        return cond["tokens"][0, -3 * LONGEST :], cond["mask"][0, -3 * LONGEST :]

    (stop, mask), (pots, _) = letters("STOP"), letters("POTS")
    assert mask.tolist() == [True] * 4 + [False] * (3 * LONGEST - 4)
    assert not torch.allclose(stop[:4], pots[:4])
    s_first, s_last = stop[0] - planned.place.weight[0], pots[3] - planned.place.weight[3]
    assert torch.allclose(s_first, s_last, atol=1e-6)  # the letter itself is the same
    two, mask = letters("A", "A")
    assert torch.allclose(two[LONGEST] - two[0], planned.sign.weight[1] - planned.sign.weight[0], atol=1e-6)
    assert int(mask.sum()) == 2


def test_latent_states_are_told_the_same_in_more_channels() -> None:
    """8 x 8 codes of 64 x 64 pixels: the glyphs fold into 64 channels, the boxes are covered to the cell."""
    planned = built(size=8, finer=8)
    cond = planned(planned.told([None], [Scene((), (Sign("HI", (0.1, 0.25, 0.9, 0.5)),))]))
    assert cond["picture"].shape == (1, 5 + 64, 8, 8)
    pixels = built(size=64)
    fine = pixels(pixels.told([None], [Scene((), (Sign("HI", (0.1, 0.25, 0.9, 0.5)),))]))["picture"][:, 5:]
    assert torch.allclose(torch.nn.functional.pixel_shuffle(cond["picture"][:, 5:], 8), fine)


def test_the_generator_learns_by_its_own_loss() -> None:
    """Its last layer starts at 0, so it first predicts 0: the loss is the mean square of the rows, weighted."""
    planned = built()
    assert planned.generator is not None
    prepared = planned.told(["a cup", None], [WORLD.scene(0), None])
    rng = Streams.of(3, 2)
    t = OBJECTIVE.times.draw(rng, PROCESS)
    rows = planned.generator.rows(prepared)
    expected = OBJECTIVE.loss.weight(PROCESS.schedule, t) * rows.square().mean((1, 2))
    assert torch.allclose(planned.learn(prepared, planned(prepared), rng).double(), expected.double(), rtol=1e-4)
    assert float(rows[0].square().mean().sqrt()) == pytest.approx(STD, rel=0.1)
    back = planned.generator.slots(rows)
    used = prepared["kind"] > 0
    assert torch.equal(back["kind"], prepared["kind"])
    assert torch.equal(back["colour"], prepared["colour"])
    assert torch.allclose(back["box"][used], prepared["box"][used], atol=1e-6)


def pictures(options: PictureOptions = PictureOptions(), n: int = 50) -> PictureData:
    captions, names = tuple(map(WORLD.captions, range(n))), tuple(map(str, range(n)))
    return PictureData(Rendered(WORLD, 16), 16, 16, 3, names, captions, None, (), (), options)


def test_training_tells_the_layout_of_the_picture() -> None:
    data = LaidOut(pictures(PictureOptions(caption_drop=0.5)), PixelsConfig(16, 16, 3).build(), built())
    rows = list(range(12))
    batch = data.batch(rows, Streams.of(0, 12))
    shown = np.stack([render(WORLD.scene(r), WORLD.sprites, 16) for r in rows])
    assert torch.equal(batch["x"], data.codec.encode(shown))
    truth = data.conditioner.layouts.encode([WORLD.scene(r) for r in rows])
    told = batch["cond"]["kind"].any(1)
    assert 0 < int(told.sum()) < 12
    for name, value in truth.items():
        assert torch.equal(batch["cond"][name][told], value[told])
    assert torch.equal(told, batch["cond"]["words.ids"][:, 1] > 0)  # what is not told is not laid out
    some = LaidOut(pictures().take([7, 3]), data.codec, data.conditioner).batch([1], Streams.of(0, 1))
    assert torch.equal(some["x"][0], batch["x"][3])


def test_pictures_that_cannot_be_laid_out_are_refused() -> None:
    codec, planned = PixelsConfig(16, 16, 3).build(), built()
    with pytest.raises(InputError, match="--flip"):
        LaidOut(pictures(PictureOptions(flip=True)), codec, planned)
    photos = replace(pictures(), pixels=InMemory(np.zeros((50, 16, 16, 3), dtype=np.uint8)))
    with pytest.raises(InputError, match="train it on scenes"):
        LaidOut(photos, codec, planned)
