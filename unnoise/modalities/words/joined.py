"""Several text encoders at once, as the large models join them.

Beside     tokens side by side along their channels, vectors end to end          SDXL (Podell et al. 2023, 2307.01952, section 2.1)
EndToEnd   tokens one sequence after the other, zero-padded to the widest        SD3 (Esser et al. 2024, 2403.03206, section 4)
Only       one encoder, of which only some entries are told                      FLUX: of CLIP the vector alone
Silent     an encoder that was left out: zeros in its place                      SD3 without T5
Zeroed     told nothing is all zeros, not the empty prompt                       SDXL
LowerCase  the words in lower case, with no space around them                   Sana
Cleaned    the words without addresses, sizes and the like (see `cleaning`)     PixArt
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words.cleaning import available, cleaned
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.frozen import CLIPTextConfig, T5TextConfig
from unnoise.modalities.words.syntax import Said, Span


class _Parts(Emphatic):
    """What the encoders have in common: every one is prepared for itself, under its number."""

    def __init__(self, parts: Sequence[EmphaticConfig]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(p.build() for p in parts)

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        """-> every part's prepared tensors, as "0.tokens" and so on."""
        told = [p.prepare_said(said) for p in self.parts if isinstance(p, Emphatic)]
        return {f"{i}.{k}": v for i, part in enumerate(told) for k, v in part.items()}

    def told(self, prepared: Cond) -> list[Cond]:
        """Every part's condition."""
        return [
            part({k.partition(".")[2]: v for k, v in prepared.items() if k.partition(".")[0] == str(i)})
            for i, part in enumerate(self.parts)
        ]


@dataclass(frozen=True)
class BesideConfig(EmphaticConfig):
    parts: tuple[EmphaticConfig, ...]

    def __post_init__(self) -> None:
        _several(self.parts)

    def build(self) -> "Beside":
        return Beside(self)


class Beside(_Parts):
    """cond: tokens (B, L, sum of the widths), mask, vector (B, sum of the dims). Shorter sequences are padded with zeros."""

    def __init__(self, config: BesideConfig) -> None:
        super().__init__(config.parts)
        self.config = config

    def forward(self, prepared: Cond) -> Cond:
        told = self.told(prepared)
        worded = [c for c in told if "tokens" in c]
        longest = max((c["tokens"].shape[1] for c in worded), default=0)
        tokens = [pad(c["tokens"], (0, 0, 0, longest - c["tokens"].shape[1])) for c in worded]
        masks = [pad(c["mask"], (0, longest - c["mask"].shape[1])) for c in worded]
        out = {"tokens": torch.cat(tokens, -1), "mask": torch.stack(masks).any(0)} if worded else {}
        return out | _vectors(told)


@dataclass(frozen=True)
class EndToEndConfig(EmphaticConfig):
    parts: tuple[EmphaticConfig, ...]

    def __post_init__(self) -> None:
        _several(self.parts)

    def build(self) -> "EndToEnd":
        return EndToEnd(self)


class EndToEnd(_Parts):
    """cond: tokens (B, sum of the lengths, the widest width), mask, vector (B, sum of the dims)."""

    def __init__(self, config: EndToEndConfig) -> None:
        super().__init__(config.parts)
        self.config = config

    def forward(self, prepared: Cond) -> Cond:
        told = self.told(prepared)
        worded = [c for c in told if "tokens" in c]
        widest = max((c["tokens"].shape[2] for c in worded), default=0)
        tokens = [pad(c["tokens"], (0, widest - c["tokens"].shape[2])) for c in worded]
        out = {"tokens": torch.cat(tokens, 1), "mask": torch.cat([c["mask"] for c in worded], 1)} if worded else {}
        return out | _vectors(told)


@dataclass(frozen=True)
class OnlyConfig(EmphaticConfig):
    """entries: of "tokens" (with its mask) and "vector", those that are told."""

    part: EmphaticConfig
    entries: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.entries or not set(self.entries) <= {"tokens", "vector"}:
            raise InputError(f"entries {self.entries}: 'tokens', 'vector' or both")

    def build(self) -> "Only":
        return Only(self)


class Only(_Parts):
    def __init__(self, config: OnlyConfig) -> None:
        super().__init__((config.part,))
        self.config = config

    def forward(self, prepared: Cond) -> Cond:
        kept = {*self.config.entries, *(("mask",) if "tokens" in self.config.entries else ())}
        return {k: v for k, v in self.told(prepared)[0].items() if k in kept}


@dataclass(frozen=True)
class ZeroedConfig(EmphaticConfig):
    part: EmphaticConfig

    def build(self) -> "Zeroed":
        return Zeroed(self)


class Zeroed(_Parts):
    def __init__(self, config: ZeroedConfig) -> None:
        super().__init__((config.part,))
        self.config = config

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return {**super().prepare_said(said), "nothing": torch.tensor([s is None for s in said], dtype=torch.bool)}

    def forward(self, prepared: Cond) -> Cond:
        (told,), nothing = self.told(prepared), prepared["nothing"]
        return {k: v if k == "mask" else v.masked_fill(nothing.reshape(-1, *(1,) * (v.ndim - 1)), 0) for k, v in told.items()}


@dataclass(frozen=True)
class LowerCaseConfig(EmphaticConfig):
    part: EmphaticConfig

    def build(self) -> "LowerCase":
        return LowerCase(self)


class LowerCase(Emphatic):
    def __init__(self, config: LowerCaseConfig) -> None:
        super().__init__()
        self.config, self.part = config, config.part.build()

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return self.part.prepare_said([s and lower_case(s) for s in said])

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return self.part.prepare_away([s and lower_case(s) for s in said])

    def forward(self, prepared: Cond) -> Cond:
        return self.part(prepared)


def lower_case(said: Said) -> Said:
    """Every chunk in lower case, without white space at its ends."""
    return Said(tuple(_trimmed([(text.lower(), weight) for text, weight in chunk]) for chunk in said.chunks))


def _trimmed(spans: list[Span]) -> tuple[Span, ...]:
    first, *_ = kept = [i for i, (text, _) in enumerate(spans) if text.strip()] or [0]
    inner = spans[first : kept[-1] + 1]
    inner[0] = (inner[0][0].lstrip(), inner[0][1])
    inner[-1] = (inner[-1][0].rstrip(), inner[-1][1])
    return tuple(inner)


@dataclass(frozen=True)
class CleanedConfig(EmphaticConfig):
    part: EmphaticConfig

    def build(self) -> "Cleaned":
        return Cleaned(self)


class Cleaned(Emphatic):
    """Without the packages that cleaning needs it is in lower case alone, as in diffusers; a warning says so."""

    def __init__(self, config: CleanedConfig) -> None:
        super().__init__()
        self.config, self.part = config, config.part.build()
        self.change = cleaned if available() else lower_case
        if not available():
            told = "this model's captions were cleaned of addresses, sizes and the like; prompts are only put into lower case here"
            warnings.warn(f'{told}: pip install "unnoise[captions]" brings what cleaning needs', stacklevel=2)

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return self.part.prepare_said([s and self.change(s) for s in said])

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return self.part.prepare_away([s and self.change(s) for s in said])

    def forward(self, prepared: Cond) -> Cond:
        return self.part(prepared)


@dataclass(frozen=True)
class SilentConfig(EmphaticConfig):
    """length, width: of the tokens."""

    length: int
    width: int

    def build(self) -> "Silent":
        return Silent(self)


class Silent(Emphatic):
    """cond: tokens (B, length, width), all zeros, and mask, all true."""

    def __init__(self, config: SilentConfig) -> None:
        super().__init__()
        self.config = config

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        mask = torch.ones(len(said), self.config.length, dtype=torch.bool)
        return {"tokens": torch.zeros(*mask.shape, self.config.width), "mask": mask}

    def forward(self, prepared: Cond) -> Cond:
        return prepared


def sdxl(first: CLIPTextConfig, second: CLIPTextConfig) -> ZeroedConfig:
    """CLIP-L and CLIP-G, the layers before their last; the vector is the second's projection alone."""
    layers = [replace(c, skip=2, normed=False) for c in (first, second)]
    return ZeroedConfig(BesideConfig((OnlyConfig(layers[0], ("tokens",)), replace(layers[1], projected=True))))


def sd3(first: CLIPTextConfig, second: CLIPTextConfig, t5: T5TextConfig | SilentConfig) -> EndToEndConfig:
    """CLIP-L beside CLIP-G, both projected, then T5, which may be left out. The vector is of the first 75 tokens."""
    clips = [replace(c, skip=2, normed=False, projected=True, commas=False) for c in (first, second)]
    return EndToEndConfig((BesideConfig(tuple(clips)), t5 if isinstance(t5, SilentConfig) else replace(t5, padded=True)))


def flux(clip: CLIPTextConfig, t5: T5TextConfig) -> EndToEndConfig:
    """T5's tokens (512 places) and CLIP-L's end token, not projected, of the first 75 tokens."""
    return EndToEndConfig(
        (OnlyConfig(replace(clip, projected=False, commas=False), ("vector",)), replace(t5, padded=True, length=512))
    )


def pixart(t5: T5TextConfig, length: int = 300) -> CleanedConfig:
    """T5's own tokens: 300 at most in Sigma, 120 in alpha."""
    return CleanedConfig(replace(t5, padded=False, length=length))


def _several(parts: Sequence[EmphaticConfig]) -> None:
    if not parts:
        raise InputError("joined text encoders: at least one is needed")


def _vectors(told: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    vectors = [c["vector"] for c in told if "vector" in c]
    return {"vector": torch.cat(vectors, -1)} if vectors else {}
