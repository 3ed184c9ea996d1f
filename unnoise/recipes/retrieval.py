"""Recipe `retrieval`: a network that says how well pictures and words agree, trained on any captioned pictures.

It judges what models draw (`unnoise evaluate --retrieval`) and gives unCLIP its embeddings (`unclip`); it must be trained apart
from what it judges. Every picture is seen in a new variation each time (`augment`), beside one of its captions and the name of
another picture that shares words with its own: the wrong answer that teaches most. Rows are drawn by their weights, where they have
any; with --flip half of the pictures are mirrored, but for those whose names speak of sides or of writing.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.evaluation.retrieval import (
    AMONG,
    Names,
    Retrieval,
    RetrievalConfig,
    load_retrieval,
    readable_ids,
    save_retrieval,
)
from unnoise.modalities.conditioning import TextConfig, normalised
from unnoise.modalities.image.augment import laid, varied
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.embeddings import seen
from unnoise.networks.contrastive import Contrastive, ContrastiveConfig, PictureTowerConfig, contrastive_loss
from unnoise.networks.text import TextEncoderConfig
from unnoise.recipes.options import Options
from unnoise.recipes.run import AnyRun, Preview, account, first_process, interrupted
from unnoise.recipes.sources import Opened, OpenPictures, PictureSource
from unnoise.training.config import AdamWConfig, LinearDecay, TrainConfig
from unnoise.training.distributed import device, join
from unnoise.training.loop import fit
from unnoise.training.task import Task

_NEAR = 8  # names that are kept as hard wrong answers to each
_SOME = 4  # rows that share one of them: reading costs as much as looking
_LONGEST = 48  # bytes of a caption that are read
_SIDED = re.compile(
    r"\b(left|right|leftwards|rightwards|clockwise|counterclockwise|arrows?|facing|o.clock|flag|button|keycap|letters?|says)\b"
)


@dataclass(frozen=True)
class RetrievalRun(AnyRun):
    """Everything about the training of a retrieval network."""

    data: PictureSource
    network: ContrastiveConfig
    train: TrainConfig
    preview: Preview = Preview()

    def afterwards(self, out: Path) -> str:
        return f"judge with: unnoise evaluate MODEL --data DATA --retrieval {out}"

    def fit(self, opened: Opened, out: Path, resume: bool) -> Retrieval:
        """The network with averaged weights; it lies in out/model. InputError for data without pictures."""
        if not isinstance(opened, OpenPictures):
            raise InputError(f"{self.data.path}: a retrieval network learns from pictures with captions")
        share = self.data.options.held_out
        rest, held = opened.pictures.split(share) if share > 0 else (opened.pictures, None)
        torch.manual_seed(self.train.seed)
        task = RetrievalTask(self.network.build()).to(device())
        pairs = Pairs.of(rest, self.network)
        if first_process() and not resume:
            print(account(self.train, opened, "Contrastive network", task, pairs), flush=True)
        about = RetrievalConfig(self.network, f"{len(rest):,} pictures of {self.data.name()}")
        hook = _Recall(self.train.sample_every, about, held, opened.told(), out)
        result = fit(task, pairs, self.train, out, [hook] if held is not None else [], resume)
        if first_process():
            task.load_state_dict(result.ema[self.train.ema_widths[-1]])
            metrics = hook.measured(task.network) if held is not None else {}
            save_retrieval(out / "model", replace(about, metrics=metrics), task.network)
        join(device()).any(False)  # all wait until it is written
        if result.interrupted:
            raise interrupted(result.steps, self.train, out)
        return load_retrieval(out / "model")


def retrieval(opened: OpenPictures, source: PictureSource, options: Options) -> RetrievalRun:
    """InputError for pictures that are all called the same, or nothing."""
    data = opened.pictures
    captions = {c for several in data.captions for c in several}
    if len({c[0] for c in data.captions if c}) < 2:
        raise InputError(f"{source.path}: recipe 'retrieval' needs pictures with at least two different captions")
    text = TextConfig.of(captions, TextEncoderConfig(width=128, depth=1, heads=2, buckets=8192, pieces=12)).encoder
    tower = PictureTowerConfig(data.height, data.width, 1 if data.channels == 1 else 3, features=options.width or 192, dropout=0.2)
    batch = options.batch or min(128, len(data))
    steps = options.steps if options.steps is not None else math.ceil(max(90 * len(data), 30_000) / batch)
    return RetrievalRun(
        source,
        ContrastiveConfig(tower, replace(text, length=min(text.length, _LONGEST))),
        TrainConfig(
            steps=steps,
            batch=batch,
            seed=options.seed,
            optimiser=options.optimiser(AdamWConfig(options.lr or 2e-3, (0.9, 0.98), weight_decay=0.1)),
            warmup=min(100, steps // 10),
            decay=LinearDecay(),
            ema_widths=(0.05,),
            checkpoint_every=max(1, min(500, steps // 4)),
            snapshot_every=0,
            sample_every=max(1, steps // 10),
        ),
    )


class RetrievalTask(Task):
    """The contrastive loss is over the rows that go through together: smaller micro-batches have fewer wrong answers."""

    def __init__(self, network: Contrastive) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Any], rng: Streams) -> dict[str, Tensor]:
        pictures = self.network.picture(varied(batch["pixels"], rng, batch["around"]))
        texts = self.network.text(torch.cat([batch["caption"], batch["wrong"][::_SOME]]))
        said = torch.cat([batch["name"], batch["wrong_name"][::_SOME]])
        loss = contrastive_loss(pictures, texts, batch["name"][:, None] == said, self.network.scale())
        return {"loss": loss.mean(), "scale": self.network.scale().detach()}


@dataclass(frozen=True)
class Pairs:
    """What the training loop reads: pictures, each with a caption and the name of a like picture. The first caption is the name."""

    data: PictureData
    """Those with captions."""
    mirrored: Tensor = field(repr=False)
    """Whether each may be mirrored, bool."""
    names: Tensor = field(repr=False)
    """The number of each picture's name, by row of the data, int64."""
    ids: Tensor = field(repr=False)
    """The distinct names as the text tower reads them: (M, L)."""
    near: Tensor = field(repr=False)
    """For each name the numbers of others that share words with it: (M, K)."""
    config: ContrastiveConfig

    @staticmethod
    def of(data: PictureData, config: ContrastiveConfig) -> "Pairs":
        data = data.take([i for i, c in enumerate(data.captions) if c])
        said = [normalised(c[0]) for c in data.captions]
        distinct = {n: i for i, n in enumerate(dict.fromkeys(said))}
        mirrored = torch.tensor([data.options.flip and not _SIDED.search(n) for n in said], dtype=torch.bool)
        near = torch.tensor(near_names(list(distinct), _NEAR))
        names = torch.tensor([distinct[n] for n in said])
        return Pairs(data, mirrored, names, readable_ids(list(distinct), config.text.length), near, config)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, rows: Sequence[int], rng: Streams) -> dict[str, Tensor]:
        which = list(self.data.drawn(rows, rng))
        drawn = rng.uniform("caption").tolist()
        texts = [self.data.captions[i][int(u * len(self.data.captions[i]))] for i, u in zip(which, drawn)]
        names = self.names[which]
        wrong = self.near[names, rng.integers("wrong", self.near.shape[1])]
        pixels, around = laid(torch.from_numpy(self.data.pictures(which)), rng)
        turned = self.mirrored[which] & (rng.uniform("flip") < 0.5)
        pixels = torch.where(turned[:, None, None, None], pixels.flip(2), pixels)
        return {
            "pixels": seen(pixels, self.config.picture),
            "around": around.expand(-1, self.config.picture.channels),
            "caption": readable_ids(texts, self.config.text.length),
            "name": names,
            "wrong": self.ids[wrong],
            "wrong_name": wrong,
        }


def near_names(names: Sequence[str], k: int) -> list[list[int]]:
    """For each of M >= 2 names the numbers of k others, the most alike first: by the words they share, rare ones counting more.

    The likeness of two names is the sum over shared words of 1 / (names that have the word). Where fewer than k share any, the
    list is repeated, or the next names stand in.
    """
    having: dict[str, list[int]] = defaultdict(list)
    words = [set(n.replace(",", " ").replace(":", " ").split()) for n in names]
    for i, several in enumerate(words):
        for word in sorted(several):
            having[word].append(i)
    out = []
    for i, several in enumerate(words):
        likeness: dict[int, float] = defaultdict(float)
        for word in sorted(several):
            for j in having[word][:500]:  # "of" and "the" tell nothing apart
                likeness[j] += 1 / len(having[word])
        likeness.pop(i, None)
        best = sorted(likeness, key=lambda j: -likeness[j])[:k] or [(i + 1) % len(names)]
        out.append([best[j % len(best)] for j in range(k)])
    return out


@dataclass
class _Recall:
    """The hook that measures while training: recall@1 on held-out pictures, a line a time in recall.jsonl."""

    every: int
    config: RetrievalConfig
    held: PictureData | None
    told: Sequence[str | None]
    out: Path

    def __call__(self, step: int, task_with_ema_weights: Task) -> None:
        assert isinstance(task_with_ema_weights, RetrievalTask)
        with (self.out / "recall.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, **self.measured(task_with_ema_weights.network)}) + "\n")

    def measured(self, network: Contrastive) -> dict[str, float]:
        """Of held-out pictures among all names of the set."""
        if self.held is None:
            return {}
        names = Names.of(Retrieval(self.config, network.eval(), ""), [t for t in self.told if t])
        known = [i for i, c in enumerate(self.held.captions) if c]
        got = intervals.mean(names.recall(self.held.pictures(known), [self.held.captions[i][0] for i in known]))
        return {
            f"recall@1 among {min(AMONG, len(names.place))}": got.value,
            "low": got.low,
            "high": got.high,
            "pictures": len(known),
        }
