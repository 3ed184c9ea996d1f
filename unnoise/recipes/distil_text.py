"""Recipe `distil-text`: a small text encoder of our own, taught by a frozen sentence encoder; it ships with the models it tells.

What it learns from: the captions of the data, every word of the teacher's vocabulary, and texts of such words and colours. With
u_i the student's vector of text i and v_i the teacher's, both of length 1,

    loss = mean_i (1 - u_i . v_i) + LIKENESS mean_ij (u_i . u_j - v_i . v_j)^2

the second term over all pairs of a batch: what is alike stays alike (relational distillation, Park et al. 2019, 1904.05068, here
with cosines). The table of words begins as the teacher's own, cut to its first principal components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive
from unnoise.modalities.words.book import Book
from unnoise.modalities.words.distilled import NOTHING, PADDING, Distilled, DistilledConfig
from unnoise.modalities.words.frozen import Sentence, SentenceConfig, read_encoder
from unnoise.modalities.words.pieces import UNKNOWN
from unnoise.networks.word_encoder import WordEncoderConfig
from unnoise.recipes.options import Options
from unnoise.recipes.run import AnyRun, Preview, account, first_process, interrupted, spread
from unnoise.recipes.sources import Opened, OpenPictures, PictureSource
from unnoise.recipes.text_encoders import learn_by_heart, load_distilled, save_distilled
from unnoise.training.config import AdamWConfig, LinearDecay, TrainConfig
from unnoise.training.distributed import device, join
from unnoise.training.loop import fit
from unnoise.training.task import Task

TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
LIKENESS = 10.0
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "golden", "silver")
_PARTS = 4  # of a batch, by length: padding costs as much as words


@dataclass(frozen=True)
class DistilRun(AnyRun):
    """Everything about the training of a text encoder.

    captions: of the data's, at most so many, evenly from all in their order; pairs: made-up texts of two words and more.
    """

    data: PictureSource
    teacher: SentenceConfig
    student: DistilledConfig
    train: TrainConfig
    captions: int = 15_000
    pairs: int = 8000
    preview: Preview = Preview()

    def afterwards(self, out: Path) -> str:
        return f"train with it: unnoise train DATA --text-encoder {out}"

    def fit(self, opened: Opened, out: Path, resume: bool) -> Distilled:
        """The student with averaged weights; it lies in out/model. InputError for data without pictures."""
        if not isinstance(opened, OpenPictures):
            raise InputError(f"{self.data.path}: a text encoder learns from pictures with captions")
        teacher = self.teacher.build()
        captions = set(spread(sorted({c for several in opened.pictures.captions for c in several}), self.captions))
        texts = lessons(captions, self.student, self.pairs, self.train.seed)
        if first_process():
            learn_by_heart(teacher, texts, out)
        join(device()).any(False)  # all wait until it is written
        if not first_process():
            learn_by_heart(teacher, texts, out, first=False)
        torch.manual_seed(self.train.seed)
        student = self.student.build()
        begin_with(student, teacher)
        task = DistilTask(student).to(device())
        data = Lessons(tuple(texts), student, teacher.book)
        if first_process() and not resume:
            print(account(self.train, opened, "text encoder", task, data), flush=True)
        result = fit(task, data, self.train, out, [], resume)
        if first_process():
            task.load_state_dict(result.ema[self.train.ema_widths[-1]])
            save_distilled(out / "model", student)
        join(device()).any(False)  # all wait until it is written
        if result.interrupted:
            raise interrupted(result.steps, self.train, out)
        return load_distilled(out / "model")


def distil_text(opened: OpenPictures, source: PictureSource, options: Options) -> DistilRun:
    """InputError for a teacher that is no sentence encoder with word pieces."""
    name = options.text_encoder or TEACHER
    config = read_encoder(name)
    if not isinstance(config, SentenceConfig):
        raise InputError(f"{name}: recipe 'distil-text' learns from a sentence encoder of BERT's kind")
    teacher = config.build()
    known = teacher.opened.tokenizer.get_vocab()
    pieces = [p for p in sorted(known, key=lambda p: known[p]) if p.isascii() and not p.startswith("[") and p.strip()]
    if not any(p.startswith("##") for p in pieces):
        raise InputError(f"{name}: its vocabulary has no word pieces; recipe 'distil-text' wants a BERT's, uncased")
    vocabulary = [PADDING, NOTHING, UNKNOWN, *pieces]
    encoder = WordEncoderConfig(len(vocabulary), config.width, width=options.width or 192, depth=options.depth or 2)
    steps = options.steps if options.steps is not None else 4000
    return DistilRun(
        source,
        config,
        DistilledConfig(encoder, "\n".join(vocabulary), f"{name}, {config.hash}"),
        TrainConfig(
            steps=steps,
            batch=options.batch or 256,
            seed=options.seed,
            optimiser=options.optimiser(AdamWConfig(options.lr or 2e-3, (0.9, 0.98))),
            warmup=min(100, steps // 10),
            decay=LinearDecay(start=0.4),
            ema_widths=(0.05,),
            checkpoint_every=max(1, min(250, steps // 4)),
            snapshot_every=0,
        ),
    )


def lessons(captions: set[str], student: DistilledConfig, pairs: int, seed: int) -> list[str]:
    """All texts to learn from, in a fixed order."""
    known = [p for p in student.vocabulary.split("\n")[3:] if p.isalpha() and len(p) > 2]
    rng = np.random.Generator(np.random.Philox(key=derive(seed, "pairs")))
    first, second, colour, form = (rng.integers(high, size=pairs) for high in (len(known), len(known), len(COLOURS), 5))
    made = [
        (f"{COLOURS[c]} {known[a]}", f"a {COLOURS[c]} {known[a]}", f"{known[a]} {known[b]}", f"{known[a]} and {known[b]}",
         f"a {COLOURS[c]} {known[a]} with a {known[b]}")[f]
        for a, b, c, f in zip(first, second, colour, form)
    ]  # fmt: skip
    return sorted({*captions, *known, *made})


@torch.no_grad()
def begin_with(student: Distilled, teacher: Sentence) -> None:
    """The table as the teacher's, centred, cut to the principal components of its rows and scaled to a deviation of 1."""
    known = teacher.opened.tokenizer.get_vocab()
    rows = torch.tensor([known[p] for p in student.config.vocabulary.split("\n")[3:]])
    theirs = teacher.opened.network.get_input_embeddings().weight.float().cpu()[rows]
    theirs = theirs - theirs.mean(0)
    _, directions = torch.linalg.eigh(theirs.T @ theirs)  # eigenvalues rise
    table = theirs @ directions[:, -student.config.encoder.rank :].flip(1)
    student.encoder.table.weight[3:] = (table / table.std()).to(student.encoder.table.weight)
    student.encoder.table.weight[:3] = 0  # padding, nothing and the unknown begin as the mean of all words


class DistilTask(Task):
    """The loss of one batch. Its likeness is over the rows that go through together."""

    def __init__(self, student: Distilled) -> None:
        super().__init__()
        self.encoder = student.encoder.requires_grad_(True)

    def forward(self, batch: Mapping[str, Any], rng: Streams) -> dict[str, Tensor]:
        ids, v = batch["ids"], batch["vector"]
        size = (ids > 0).sum(1)
        order = size.argsort()
        said = [self.encoder(ids[some, : int(size[some].max())])["vector"] for some in order.chunk(_PARTS)]
        u, v = normalize(torch.cat(said).float(), dim=-1), v[order]
        cosine, likeness = (u * v).sum(1), (u @ u.T - v @ v.T).square().mean()
        return {"loss": (1 - cosine).mean() + LIKENESS * likeness, "cosine": cosine.mean().detach(), "likeness": likeness.detach()}


@dataclass(frozen=True)
class Lessons:
    """What the training loop reads: texts as pieces, and what the teacher says of them."""

    texts: tuple[str, ...] = field(repr=False)
    student: Distilled = field(repr=False)
    book: Book = field(repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Sequence[int], rng: Streams) -> dict[str, Tensor]:
        """ids (B, L), at most the encoder's length, and the teacher's vectors (B, out)."""
        texts = [self.texts[i] for i in rows]
        ids = self.student.prepare(texts)["ids"][:, : self.student.config.encoder.length]
        return {"ids": ids, "vector": torch.stack([self.book[t].vector for t in texts])}
