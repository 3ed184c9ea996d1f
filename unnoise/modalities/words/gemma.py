"""Gemma 2 as a text encoder (Gemma Team 2024, 2408.00118), asked to enhance the prompt, as in Sana (Xie et al. 2024, 2410.10629,
section 2.3, "complex human instruction").

A language model reads from left to right. What it is told before the prompt - to imagine it in more detail, with examples - is in
what it makes of the prompt's own tokens:

    tokens = last layer at the start and at the prompt's places of  [start, instruction, prompt]

Those of the instruction are not told. Nothing, and what guidance leads away from, is read without an instruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words.book import Row
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig, padded, scaled
from unnoise.modalities.words.frozen import Frozen
from unnoise.modalities.words.joined import LowerCaseConfig
from unnoise.modalities.words.source import model_type, open_encoder
from unnoise.modalities.words.syntax import Said, Span
from unnoise.modalities.words.windows import Piece

ENHANCE = "\n".join(
    (
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
        "generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships to "
        "create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully on a "
        "warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, a "
        "diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or "
        "evaluations:",
        "User Prompt: ",
    )
)
"""The instruction that Sana was trained with, word for word."""


@dataclass(frozen=True)
class GemmaTextConfig(EmphaticConfig):
    """source, hash, width, most, half, variant: as CLIPTextConfig's. length: places of a window, with the start, without the
    instruction.
    """

    source: str
    hash: str
    width: int
    instruction: str = ""
    length: int = 300
    most: int = 10
    half: bool = field(default=False, repr=False)
    variant: str = field(default="", repr=False)

    def build(self) -> "GemmaText":
        return GemmaText(self)


class GemmaText(Frozen):
    """Every prompt behind the same instruction, whose last token, a space, becomes part of the prompt's first."""

    def __init__(self, config: GemmaTextConfig) -> None:
        opened = open_encoder(config.source, "Gemma2Model", config.half, config.variant)
        super().__init__(config, opened, opened.network.config.hidden_size, config.length, padded=False)
        self.instruction = config.instruction
        self._hidden = self._ids(config.instruction)[:-1]
        self._start = [*self._start, *self._hidden]

    def _spoken(self, chunk: Sequence[Span]) -> list[Piece]:
        (first, weight), *more = chunk
        ids = self._ids(self.instruction + first)[len(self._hidden) :]
        return [(self.several.get(i, (i,)), weight) for i in ids] + super()._spoken(more)

    def encode(self, ids: Tensor, weights: Tensor) -> Row:
        tokens = scaled(self.opened.network(input_ids=ids, use_cache=False).last_hidden_state.float(), weights)
        start = len(self._start) - len(self._hidden)
        return Row(torch.cat([tokens[:, :start], tokens[:, len(self._start) :]], 1), tokens.new_zeros(len(ids), 0))


@dataclass(frozen=True)
class InstructedConfig(EmphaticConfig):
    """What is asked for is read with the part's instruction, all else without."""

    part: GemmaTextConfig

    def build(self) -> "Instructed":
        return Instructed(self)


class Instructed(Emphatic):
    """cond: tokens (B, L, width), mask (B, L)."""

    def __init__(self, config: InstructedConfig) -> None:
        super().__init__()
        self.config = config
        self.asked, self.plain = config.part.build(), replace(config.part, instruction="").build()

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        self.asked.prepare_said([s for s in said if s is not None])  # all together; then they are remembered
        rows = [(self.plain if s is None else self.asked).prepare_said([s]) for s in said]
        if not rows:
            return {}
        tokens, mask = padded([r["tokens"][0] for r in rows])
        return {"tokens": tokens, "mask": mask}

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return self.plain.prepare_said(said)

    def forward(self, prepared: Cond) -> Cond:
        return prepared


def read_gemma(source: str, instruction: str = ENHANCE, half: bool = False, variant: str = "") -> LowerCaseConfig:
    """How Sana is told its prompts, by the Gemma 2 at `source` (see `source`), whose weights are read once, for their hash.

    Raises InputError for a source that is missing or is another encoder.
    """
    if (kind := model_type(source)) != "gemma2":
        raise InputError(f"{source}: a {kind}, where Sana has a gemma2")
    opened = open_encoder(source, "Gemma2Model", half, variant)
    width = opened.network.config.hidden_size
    told = GemmaTextConfig(source, opened.hash, width, instruction, half=half, variant=variant)
    return LowerCaseConfig(InstructedConfig(told))
