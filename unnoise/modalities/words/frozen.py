"""Frozen text encoders: CLIP, T5, and sentence encoders of BERT's kind. A model's folder names them, it does not hold them.

A prompt is cut into windows: BREAK starts one, and so does the end of the last (75 tokens for CLIP; see `windows`). Each is
encoded by itself, with its own start and end, and their tokens are laid end to end; the vector is the first window's.
Told nothing means the empty prompt, as in the models that were trained with these encoders.

    CLIP       tokens: a hidden layer at all 77 places, padding included, as Stable Diffusion sees them; weights keep their mean
    T5         tokens: the last layer; at `length` places, padding included (SD3, FLUX), or those of the text alone
    sentence   tokens: the last layer; vector: their mean, of length 1, as sentence-transformers' all-* models give it

Weights scale the tokens (see `emphasis`): only CLIP's have a mean to keep; MiniLM's, for one, is -0.001 of a deviation of 0.45.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from itertools import groupby
from pathlib import PurePath
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unnoise.core.codec import Conditioner
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words.book import Book, Row
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig, padded, scaled, scaled_keeping_mean
from unnoise.modalities.words.source import Opened, model_type, open_encoder
from unnoise.modalities.words.syntax import Said, Span
from unnoise.modalities.words.windows import BACK, Ids, Piece, windows

T = TypeVar("T")

REMEMBERED = 4096
"""Prompts whose embeddings stay in memory."""
AT_ONCE = 32
"""Windows that go through an encoder together."""
_T5 = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
_CLIP = ("clip", "clip_text_model")


class Window(NamedTuple):
    """ids (L,) int64 with start, end and padding, and the weight of each (L,)."""

    ids: Tensor
    weights: Tensor


class Told(Protocol):
    """What the configuration of every frozen encoder says: a frozen dataclass. Fields as CLIPTextConfig's."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def source(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def most(self) -> int: ...


class Frozen(Emphatic, ABC):
    """cond: tokens (B, L, width), mask (B, L), and vector (B, V) where the encoder has one; all of it made by `prepare`.

    The network is no part of this module: it is neither trained nor saved, nor copied.
    """

    def __init__(self, config: Told, opened: Opened, width: int, places: int, padded: bool) -> None:
        """width: of the tokens. places: of a window, which are filled up where `padded`. InputError for another encoder."""
        super().__init__()
        if width != config.width:
            was = f"this model was trained with one of width {config.width:,}"
            raise InputError(f"{config.source}: a text encoder of width {width:,}; {was}")
        if opened.hash != config.hash:
            was = f"its hash is {opened.hash}, not {config.hash}"
            raise InputError(f"{config.source}: not the text encoder that this model was trained with ({was})")
        self.config, self.opened, self.book = config, opened, Book.empty()
        self.several = _several(opened.tokenizer)  # ids that stand for several: words of more than one vector
        self.taught: dict[str, str] = {}  # words it was not trained with, and hashes of what was learnt of them
        self._recent: OrderedDict[Said, Row] = OrderedDict()
        self._start, self._end = _specials(opened.tokenizer)
        self._room, self._filled = places - len(self._start) - len(self._end), places if padded else 0
        self._comma: int | None = None  # its id, where windows end behind commas

    @property
    def identity(self) -> str:
        """Names the encoder and how it is read, but not where it lies: embeddings under one identity are the same."""
        told = repr(replace(self.config, source="", most=0)) + ("" if self._comma is None else f" {BACK}")
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def apart(self) -> Opened:
        """The network and the tokenizer, from now on this encoder's own, to be changed. What it has encoded is forgotten."""
        self.opened, self.book = self.opened.apart() if self.opened.shared else self.opened, Book.empty()
        self._recent.clear()
        return self.opened

    @abstractmethod
    def encode(self, ids: Tensor, weights: Tensor) -> Row:
        """Windows (n, L) of one length -> tokens (n, L, width), vector (n, V)."""

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        """-> what the network is told, on the CPU. Prompts that were asked for lately, or lie in the book, are not encoded again.

        InputError for a prompt of more windows than are read.
        """
        asked = [Said.plain("") if s is None else s for s in said]
        missing = [s for s in dict.fromkeys(asked) if s not in self._recent and not self._written(s)]
        self._recent.update(zip(missing, self._encoded(missing)))
        rows = [self.book[s.text] if self._written(s) else self._recent[s] for s in asked]
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        if not rows:
            return {}
        tokens, mask = padded([r.tokens for r in rows])
        vectors = torch.stack([r.vector for r in rows])
        return {"tokens": tokens, "mask": mask} | ({"vector": vectors} if vectors.shape[1] else {})

    def forward(self, prepared: Cond) -> Cond:
        return prepared

    def rows(self, texts: Sequence[str]) -> list[Row]:
        """What texts, as they stand, are told as: for a book."""
        return self._encoded([Said.plain(t) for t in texts])

    def _written(self, said: Said) -> bool:
        return said == Said.plain(said.text) and said.text in self.book

    @torch.no_grad()
    def _encoded(self, said: Sequence[Said]) -> list[Row]:
        """Each prompt's own row. Windows of one length go through the network together."""
        cut = [[self._window(w) for w in self._windows(s)] for s in said]
        places = [(i, k) for i, windows in enumerate(cut) for k in range(len(windows))]
        places.sort(key=lambda at: len(cut[at[0]][at[1]].ids))
        device = next(self.opened.network.parameters()).device
        made: dict[tuple[int, int], Row] = {}
        for _, alike in groupby(places, lambda at: len(cut[at[0]][at[1]].ids)):
            several = list(alike)
            for some in (several[a : a + AT_ONCE] for a in range(0, len(several), AT_ONCE)):
                ids, weights = (torch.stack(column).to(device) for column in zip(*(cut[i][k] for i, k in some)))
                with torch.autocast(device.type, enabled=False):
                    tokens, vector = self.encode(ids, weights)
                made |= {at: Row(t, v) for at, t, v in zip(some, tokens.float().cpu(), vector.float().cpu())}
        whole = [[made[i, k] for k in range(len(windows))] for i, windows in enumerate(cut)]
        return [Row(torch.cat([r.tokens for r in rows]), rows[0].vector) for rows in whole]

    def _windows(self, said: Said) -> list[Ids]:
        """Ids and weights of a prompt, cut where a BREAK stands and where a window is full."""
        cut = [window for chunk in said.chunks for window in windows(self._spoken(chunk), self._room, self._comma)]
        if len(cut) > self.config.most:
            start, most = said.text[:37] + "...", self.config.most
            takes = f"takes {len(cut):,} windows of {self._room} tokens; this model reads {most} at most"
            raise InputError(f"the prompt {start!r} {takes}: shorten it")
        return cut

    def _spoken(self, chunk: Sequence[Span]) -> list[Piece]:
        return [(self.several.get(i, (i,)), weight) for text, weight in chunk for i in self._ids(text)]

    def _ids(self, text: str) -> list[int]:
        whole = text.encode(errors="replace").decode()  # half a surrogate pair is no character
        return self.opened.tokenizer(whole, add_special_tokens=False)["input_ids"]

    def _window(self, words: Sequence[tuple[int, float]]) -> Window:
        """Words that fit, with start, end and padding."""
        ids = [*self._start, *(i for i, _ in words), *self._end]
        weights = [1.0] * len(self._start) + [w for _, w in words] + [1.0] * len(self._end)
        more = max(0, self._filled - len(ids))
        return Window(torch.tensor(ids + [self.opened.tokenizer.pad_token_id] * more), torch.tensor(weights + [1.0] * more))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.opened.network.to(fn(torch.empty(0)).device)  # it follows the model to its device, not into another precision
        super()._apply(fn, recurse)
        return self


@dataclass(frozen=True)
class CLIPTextConfig(EmphaticConfig):
    """The text half of CLIP (Radford et al. 2021, 2103.00020).

    source: see `source`; hash: of its weights, and width: of its tokens, as `read_encoder` finds them. skip: the hidden layer, from
    the end: 1 the last, 2 the one before ("clip skip 2"). normed: with the final normalisation after it. projected: the vector is
    the end token's projection into the space shared with pictures; otherwise the end token itself. most: windows a prompt.
    half: the weights are held in bfloat16, of which the hash is then; embeddings are float32 all the same. variant: which of the
    weights at the source, such as fp16; empty for the plain ones, or those there are. commas: a full window ends behind one, see
    `windows`.
    """

    source: str
    hash: str
    width: int
    skip: int = 1
    normed: bool = True
    projected: bool = False
    most: int = 10
    half: bool = field(default=False, repr=False)  # no part of `identity`: the hash tells embeddings in bfloat16 apart
    variant: str = field(default="", repr=False)
    commas: bool = field(default=True, repr=False)  # nor is this: `BACK` is

    def build(self) -> "CLIPText":
        return CLIPText(self)


def clip_class(projected: bool) -> str:
    """transformers' class of a CLIP's text half."""
    return "CLIPTextModelWithProjection" if projected else "CLIPTextModel"


class CLIPText(Frozen):
    def __init__(self, config: CLIPTextConfig) -> None:
        opened = open_encoder(config.source, clip_class(config.projected), config.half, config.variant)
        told = opened.network.config
        super().__init__(config, opened, told.hidden_size, told.max_position_embeddings, padded=True)
        self.skip, self.normed, self.projected = config.skip, config.normed, config.projected
        self._comma = self._ids(",")[0] if config.commas else None
        if not 1 <= config.skip <= told.num_hidden_layers:
            raise InputError(f"{config.source}: skip {config.skip}, but the encoder has {told.num_hidden_layers} layers")

    def encode(self, ids: Tensor, weights: Tensor) -> Row:
        out = self.opened.network(input_ids=ids, output_hidden_states=True)
        tokens = out.hidden_states[-self.skip]
        if self.normed:
            network = self.opened.network
            tokens = getattr(network, "text_model", network).final_layer_norm(tokens)
        return Row(scaled_keeping_mean(tokens.float(), weights), out.text_embeds if self.projected else out.pooler_output)


def answering(config: T, layer: int) -> T:
    """A conditioner's configuration, all of whose CLIPs answer by that hidden layer from the end (`skip`)."""
    if isinstance(config, CLIPTextConfig):
        return replace(config, skip=layer)
    if isinstance(config, tuple):
        return cast(T, tuple(answering(item, layer) for item in config))
    if not is_dataclass(config) or isinstance(config, type):
        return config
    return replace(config, **{f.name: answering(getattr(config, f.name), layer) for f in fields(config) if f.init})


@dataclass(frozen=True)
class T5TextConfig(EmphaticConfig):
    """The encoder of a T5 (Raffel et al. 2020, 1910.10683). source, hash, width, most, half, variant: as CLIPTextConfig's.

    length: places of a window. padded: fill it, and let everything look at the padding, as SD3 and FLUX do; otherwise only the
    text's own tokens are told.
    """

    source: str
    hash: str
    width: int
    length: int = 256
    padded: bool = False
    most: int = 10
    half: bool = field(default=False, repr=False)
    variant: str = field(default="", repr=False)

    def build(self) -> "T5Text":
        return T5Text(self)


class T5Text(Frozen):
    config: T5TextConfig

    def __init__(self, config: T5TextConfig) -> None:
        opened = open_encoder(config.source, _T5[model_type(config.source)], config.half, config.variant)
        super().__init__(config, opened, opened.network.config.d_model, config.length, config.padded)

    def encode(self, ids: Tensor, weights: Tensor) -> Row:
        tokens = self.opened.network(input_ids=ids).last_hidden_state.float()
        return Row(scaled(tokens, weights), tokens.new_zeros(len(ids), 0))


@dataclass(frozen=True)
class SentenceConfig(EmphaticConfig):
    """A sentence encoder of BERT's kind (Reimers & Gurevych 2019, 1908.10084). Fields as T5TextConfig's."""

    source: str
    hash: str
    width: int
    length: int = 256
    most: int = 10

    def build(self) -> "Sentence":
        return Sentence(self)


class Sentence(Frozen):
    def __init__(self, config: SentenceConfig) -> None:
        opened = open_encoder(config.source, "AutoModel")
        super().__init__(config, opened, opened.network.config.hidden_size, config.length, padded=False)

    def encode(self, ids: Tensor, weights: Tensor) -> Row:
        tokens = scaled(self.opened.network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state, weights)
        return Row(tokens, normalize(tokens.mean(1), dim=-1))


def encoders_of(conditioner: Conditioner) -> dict[str, Frozen]:
    """The frozen encoders in a conditioner as diffusers calls them (text_encoder, text_encoder_2, text_encoder_3): as their source
    says, else in order; and again as ComfyUI does (clip_l, clip_g, t5xxl)."""
    frozen = [m for m in conditioner.modules() if isinstance(m, Frozen)]
    told = [PurePath(e.config.source).name for e in frozen]
    places = ["text_encoder", *(f"text_encoder_{i}" for i in range(2, len(frozen) + 1))]
    out = {name if name.startswith("text_encoder") else place: e for name, place, e in zip(told, places, frozen)}
    out |= dict(zip(("clip_l", "clip_g"), (e for e in frozen if isinstance(e, CLIPText))))
    return out | dict(zip(("t5xxl",), (e for e in frozen if isinstance(e, T5Text))))


FrozenConfig = CLIPTextConfig | T5TextConfig | SentenceConfig


def read_encoder(source: str) -> FrozenConfig:
    """The usual configuration of the encoder at `source`: CLIP's last layer, T5's own tokens, anything else as a sentence encoder.

    Reads its weights once, for their hash. Raises InputError for a source that is missing or is no text encoder.
    """
    kind = model_type(source)
    if kind in _CLIP:
        opened = open_encoder(source, "CLIPTextModel")
        return CLIPTextConfig(source, opened.hash, opened.network.config.hidden_size)
    if kind in _T5:
        opened = open_encoder(source, _T5[kind])
        return T5TextConfig(source, opened.hash, opened.network.config.d_model)
    opened = open_encoder(source, "AutoModel")
    told = opened.network.config
    if not hasattr(told, "hidden_size") or opened.network.get_input_embeddings().weight.ndim != 2:
        raise InputError(f"{source}: a {kind}, not a text encoder; CLIP, T5 and encoders of BERT's kind are known")
    most = min(told.max_position_embeddings, opened.tokenizer.model_max_length, SentenceConfig.length)
    return SentenceConfig(source, opened.hash, told.hidden_size, most)


def _several(tokenizer: Any) -> dict[int, tuple[int, ...]]:
    """Learnt words that a tokenizer has already: WORD, WORD_1, WORD_2 ..., as diffusers calls a word's vectors."""
    added: dict[str, int] = tokenizer.get_added_vocab()
    out = {}
    for word, first in added.items():
        ids = [first]
        while (more := added.get(f"{word}_{len(ids)}")) is not None:
            ids.append(more)
        if len(ids) > 1:
            out[first] = tuple(ids)
    return out


def _specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and behind a text."""
    body, whole = (tokenizer("a", add_special_tokens=more)["input_ids"] for more in (False, True))
    at = next(k for k in range(len(whole)) if whole[k : k + len(body)] == body)
    return whole[:at], whole[at + len(body) :]
