"""The conditioner that plans: a prompt becomes a layout, and the network is told words, letters and a picture of what lies where.

    vector   the words' summary
    tokens   the words, then the letters of signs: e(letter) + e(place in its word) + e(which word)  (character tokens with
             positions: Liu et al. 2022, 2212.10562; Chen et al. 2023, TextDiffuser-2, 2311.16465)
    picture  the boxes (`networks.raster`), and the glyphs of the signs as they are to stand

Training tells the layout of the scene that was drawn (`told`), sampling one that is planned from the prompt (`prepare`). Null is an
empty layout without words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unnoise.control.layout.generator import LayoutGenerator, LayoutGeneratorConfig
from unnoise.control.layout.planner import fragments, plan, spoken
from unnoise.core.codec import Conditioner
from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive
from unnoise.core.state import Cond
from unnoise.modalities.conditioning import Text, TextConfig
from unnoise.modalities.image.layouts import ALPHABET, SIGNS, Layouts
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.world import LONGEST, Scene
from unnoise.networks.raster import Raster, RasterConfig


@dataclass(frozen=True)
class PlannedConfig:
    """words: what reads the prompt; sprites: the world that layouts are of; height, width: of the state; finer: how much finer the
    picture is than that; channels: of the boxes' picture; generator: None for a grammar alone.
    """

    words: TextConfig
    sprites: Sprites
    height: int
    width: int
    finer: int = 1
    slots: int = 21
    channels: int = 16
    generator: LayoutGeneratorConfig | None = None

    @property
    def layouts(self) -> Layouts:
        return Layouts(self.sprites.vocabulary, self.height, self.width, self.finer, self.slots)

    @property
    def picture_channels(self) -> int:
        return self.channels + self.finer**2

    def build(self) -> "Planned":
        return Planned(self)


class Planned(Conditioner):
    """cond: `vector` (B, D), `tokens` (B, L + SIGNS LONGEST, D), `mask`, `picture` (B, channels + finer^2, height, width)."""

    def __init__(self, config: PlannedConfig) -> None:
        super().__init__()
        self.config, self.layouts = config, config.layouts
        dim = config.words.encoder.width
        self.words: Text = config.words.build()
        self.letter = nn.Embedding(1 + len(ALPHABET), dim)
        self.place, self.sign = nn.Embedding(LONGEST, dim), nn.Embedding(SIGNS, dim)
        raster = RasterConfig(self.layouts.kinds, self.layouts.palette, config.channels, extra=config.finer**2)
        self.raster: Raster = raster.build()
        self.generator: LayoutGenerator | None = None if config.generator is None else config.generator.build()

    # -- from prompts ------------------------------------------------------------------------------------------------------

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        """Plans a layout for every prompt: by a hash of the prompt, and of how often it came before in this batch."""
        before: dict[str | None, int] = {}
        seeds = []
        for prompt in raw:
            before[prompt] = before.get(prompt, 0) + 1
            seeds.append(derive(before[prompt], prompt or ""))
        return self.prepare_for(raw, Streams.each(seeds))

    def prepare_for(self, raw: Sequence[str | None], rng: Streams) -> Cond:
        """Plans a layout for every prompt, from the sample's own stream. InputError for prompts that it cannot."""
        texts = self.words.prepare(raw)  # refuses what it cannot read, before any work
        for prompt in raw:
            if prompt is not None and {*"()[]"} & {*prompt}:
                raise InputError(f"the prompt {prompt[:60]!r}: this model reads sentences; weights and brackets mean nothing to it")
        return self.told_as(texts, [None if p is None else self.scene(p, seed) for p, seed in zip(raw, rng.seeds)])

    def scene(self, prompt: str, seed: int) -> Scene:
        """The layout of a prompt."""
        rng = np.random.Generator(np.random.Philox(key=derive(seed, "layout")))
        pieces = fragments(prompt, self.config.sprites)

        def draw(n: int) -> list[Scene]:
            return self.drawn(prompt, spoken(prompt, pieces), Streams.of(derive(seed, "drawn"), n))

        return plan(prompt, self.config.sprites, rng, None if self.generator is None else draw)

    @torch.no_grad()
    def drawn(self, prompt: str, words: Sequence[str], rng: Streams) -> list[Scene]:
        """What the generator draws for a prompt, unchecked: a layout for each stream, whose signs say `words`."""
        if self.generator is None:
            raise InputError("this model plans by grammar alone; it has no generator of layouts")
        device = next(self.parameters()).device
        ids = {k: v.to(device) for k, v in self.words.prepare([prompt, None]).items()}
        told, away = ({k: v[i : i + 1].expand(len(rng), *v.shape[1:]) for k, v in self.words(ids).items()} for i in (0, 1))
        slots = {k: v.cpu() for k, v in self.generator.draw(told, away, rng).items()}
        return [self.layouts.decode(slots["kind"][i], slots["colour"][i], slots["box"][i], words) for i in range(len(rng))]

    # -- from scenes -------------------------------------------------------------------------------------------------------

    def told(self, raw: Sequence[str | None], scenes: Sequence[Scene | None]) -> Cond:
        """Captions and the scenes that they are of, prepared: what training tells."""
        return self.told_as(self.words.prepare(raw), scenes)

    def told_as(self, texts: Cond, scenes: Sequence[Scene | None]) -> Cond:
        return {**{f"words.{k}": v for k, v in texts.items()}, **self.layouts.encode(scenes)}

    # -- what the network is told ------------------------------------------------------------------------------------------

    def forward(self, prepared: Cond) -> Cond:
        words = self._words(prepared)
        tokens, mask = self._letters(prepared["letters"])
        return {
            "vector": words["vector"],
            "tokens": torch.cat([words["tokens"], tokens.to(words["tokens"].dtype)], 1),
            "mask": torch.cat([words["mask"], mask], 1),
            "picture": self._picture(prepared),
        }

    def learn(self, prepared: Cond, told: Cond, rng: Streams) -> Tensor:
        """The generator's own loss on the layouts of a training batch, (B,): 0 where there is none. told: what `forward` made."""
        if self.generator is None:
            return torch.zeros(len(prepared["kind"]), device=prepared["kind"].device)
        words = told["tokens"].shape[1] - SIGNS * LONGEST
        said = {"vector": told["vector"], "tokens": told["tokens"][:, :words], "mask": told["mask"][:, :words]}
        return self.generator.losses(prepared, said, rng)

    def _words(self, prepared: Cond) -> Mapping[str, Tensor]:
        return self.words({k.removeprefix("words."): v for k, v in prepared.items() if k.startswith("words.")})

    def _letters(self, letters: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, L) -> (B, S L, D) and (B, S L)."""
        device = letters.device
        place, sign = torch.arange(LONGEST, device=device), torch.arange(SIGNS, device=device)
        tokens = self.letter(letters) + self.place(place) + self.sign(sign)[:, None]
        return tokens.flatten(1, 2), (letters > 0).flatten(1)

    def _picture(self, prepared: Cond) -> Tensor:
        glyphs = prepared["glyphs"].float() / 127.5  # ink 2, paper 0: as far apart as black and white
        return self.raster(prepared, glyphs, (self.config.height, self.config.width))
