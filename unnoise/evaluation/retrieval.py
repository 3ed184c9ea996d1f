"""Does a picture agree with what it was asked to be? A network that was trained apart picks its name out of a hundred.

    recall@1 among K    the share of pictures whose own name scores above K - 1 wrong ones, drawn at random from all M names

For one picture the mean over all choices of the wrong names is known exactly. If b of the M - 1 wrong names score as high as the
right one or higher, none of these is among K - 1 drawn without replacement with probability (hypergeometric)

    C(M - 1 - b, K - 1) / C(M - 1, K - 1)

so no names are drawn, and all of the doubt lies in the pictures. The same network picks the names of held-out real pictures, which
it never saw: what a perfect generator would get.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unnoise.checkpoints.config import allow
from unnoise.checkpoints.folder import read_folder, write_folder
from unnoise.checkpoints.kinds import RETRIEVAL, kind_at
from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.core.measure import Examples, Measure
from unnoise.evaluation.encoders import in_blocks
from unnoise.evaluation.maker import Maker
from unnoise.evaluation.section import Section
from unnoise.modalities.conditioning import normalised
from unnoise.modalities.image.embeddings import seen
from unnoise.modalities.image.measure import Pictures
from unnoise.networks.contrastive import Contrastive, ContrastiveConfig, PictureTowerConfig
from unnoise.networks.text import TextEncoderConfig, encode_bytes

AMONG = 100
_AT_ONCE = 256


@dataclass(frozen=True)
class RetrievalConfig:
    """A retrieval network as it is saved: the two towers, and what they learned from. metrics: as measured on held-out pictures."""

    network: ContrastiveConfig
    data: str = "not stated"
    metrics: Mapping[str, float] = field(default_factory=dict)


RETRIEVAL_CLASSES = allow(RetrievalConfig, ContrastiveConfig, PictureTowerConfig, TextEncoderConfig)


@dataclass(frozen=True)
class Retrieval:
    """A trained network, frozen. hash: 16 hexadecimal digits of the sha256 of its file."""

    config: RetrievalConfig
    network: Contrastive = field(repr=False)
    hash: str

    @property
    def name(self) -> str:
        return f"retrieval network {self.hash}, trained on {self.config.data}"

    def pictures(self, pixels: np.ndarray | Tensor, progress: bool = False) -> Tensor:
        """uint8 (N, H, W, C), C = 1, 3 or 4 -> (N, D), of length 1. Other sizes are resized, transparency is laid over white."""
        x, tower = torch.as_tensor(pixels), self.config.network.picture

        def some(rows: Sequence[int]) -> Tensor:
            return self.network.picture(seen(x[rows[0] : rows[-1] + 1], tower).to(self._device())).cpu()

        return in_blocks(some, len(x), _AT_ONCE, "looking", progress)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D), of length 1."""
        ids = readable_ids(texts, self.config.network.text.length)

        def some(rows: Sequence[int]) -> Tensor:
            return self.network.text(ids[rows[0] : rows[-1] + 1].to(self._device())).cpu()

        return in_blocks(some, len(ids), _AT_ONCE, "reading", False)

    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def readable_ids(texts: Sequence[str], length: int) -> Tensor:
    """Texts of any kind as ids (N, length); one that is too long is cut."""
    cut = [normalised(t).encode()[: length - 1].decode(errors="ignore") for t in texts]
    return torch.stack([encode_bytes(t, length) for t in cut])


def save_retrieval(folder: Path, config: RetrievalConfig, network: nn.Module) -> str:
    """Write the network's folder; returns the hash of its tensors. Raises InputError on a full disk."""
    measured = "".join(f"| {k} | {v:.4g} |\n" for k, v in config.metrics.items())
    card = f"""# A retrieval network

Says how well pictures agree with words; made with unnoise. Trained on {config.data}.

| measure | value |
|---|---|
{measured}
    unnoise evaluate MODEL --data DATA --retrieval THIS_FOLDER
"""
    return write_folder(folder, config, network.state_dict(), card)


def load_retrieval(folder: str | Path) -> Retrieval:
    """From a folder that `save_retrieval` wrote, or the run that trained it. Raises InputError for what is not one."""
    folder = Path(folder)
    inner = folder / "model"
    place = inner if (inner / "config.json").is_file() else folder
    if (kind := kind_at(place)) not in (None, RETRIEVAL):
        assert kind is not None
        raise InputError(f"{folder}: no retrieval network (the recipe retrieval makes one), but {kind.said(folder)}")
    config, tensors, digest = read_folder(place, RetrievalConfig, RETRIEVAL_CLASSES)
    network = config.network.build()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as e:
        raise InputError(
            f"{place / 'model.safetensors'}: not the weights of its config.json ({str(e).splitlines()[-1].strip()})"
        ) from e
    return Retrieval(config, network.eval().requires_grad_(False), digest[:16])


# -- the measure ----------------------------------------------------------------------------------------------------------------


def recall_at_1(pictures: Tensor, texts: Tensor, right: Tensor, among: int = AMONG) -> Tensor:
    """Of each picture the probability that its name is picked from `among`: (N,) float64.

    pictures (N, D), texts (M, D) of M distinct names, right (N,) int64: the number of each picture's own. A tie is a mistake.
    Raises InputError for fewer than 2 names. Of fewer than `among` names, all are there.
    """
    m = len(texts)
    if m < 2:
        raise InputError(f"{m} name to choose from: picking the right one needs at least 2")
    drawn = min(among, m) - 1
    scores = pictures.double() @ texts.double().T
    own = scores.gather(1, right[:, None])
    better = (scores >= own).sum(1) - 1  # the right name is as high as itself
    chance = torch.zeros(m, dtype=torch.float64)  # by the number of better names
    b = torch.arange(m - drawn, dtype=torch.float64)  # beyond, one of them must be drawn
    chance[: m - drawn] = (_log_choose(m - 1 - b, drawn) - _log_choose(torch.tensor(m - 1.0).double(), drawn)).exp()
    return chance[better]


def _log_choose(n: Tensor, k: int) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(torch.tensor(k + 1.0, dtype=torch.float64)) - torch.lgamma(n - k + 1)


@dataclass(frozen=True)
class Names:
    """The distinct names that pictures may have, as the network reads them. texts: (M, D)."""

    retrieval: Retrieval
    place: Mapping[str, int]
    texts: Tensor = field(repr=False)

    @staticmethod
    def of(retrieval: Retrieval, names: Sequence[str]) -> "Names":
        distinct = list(dict.fromkeys(normalised(n) for n in names))
        if len(distinct) < 2:
            raise InputError("the pictures have fewer than two different names: there is nothing to pick from")
        return Names(retrieval, {n: i for i, n in enumerate(distinct)}, retrieval.texts(distinct))

    def recall(self, pixels: np.ndarray | Tensor, asked: Sequence[str], progress: bool = False) -> Tensor:
        """Of each picture, as `recall_at_1`. Names that are not among these join the choice."""
        new = [n for n in dict.fromkeys(normalised(a) for a in asked) if n not in self.place]
        place = {**self.place, **{n: len(self.place) + i for i, n in enumerate(new)}}
        texts = torch.cat([self.texts, self.retrieval.texts(new)]) if new else self.texts
        right = torch.tensor([place[normalised(a)] for a in asked])
        return recall_at_1(self.retrieval.pictures(pixels, progress), texts, right)


def agreement_section(
    maker: Maker,
    retrieval: Retrieval,
    held: Examples,
    told: Sequence[str | None],
    names: Sequence[str],
    n: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Section:
    """n pictures are made, of what the held-out rows `held` are said to be (told, one a row).

    names: what pictures of this set may be called. Raises InputError for rows that are not pictures, or have no names.
    """
    if not isinstance(held, Pictures):
        raise InputError(f"the retrieval network looks at pictures; these rows are a {held.kind}")
    known = [i for i, t in enumerate(told) if t]
    if len(known) < 2:
        raise InputError("fewer than two held-out pictures have a name to be picked")
    choice = Names.of(retrieval, names)
    real = _mean(choice.recall(held.array(known), [told[i] or "" for i in known], progress))
    prompts = [told[known[i * len(known) // n]] or "" for i in range(n)]
    made = maker.make(prompts, seed)
    assert isinstance(made, Pictures)
    got = _mean(choice.recall(made.array(), prompts, progress))
    among = min(AMONG, len(choice.place))
    note = f"{n} pictures, each name among {among} of {len(choice.place):,}"
    return Section(
        "Agreement",
        (
            Measure(f"recall@1 among {among}", got.value, got.low, got.high, floor=real.value, best="high", note=note),
            Measure(
                f"recall@1 among {among}, real rows", real.value, real.low, real.high, best="high",
                note=f"{len(known)} held-out pictures: the network's own accuracy",
            ),
        ),
        notes=(
            f"Names are picked by {retrieval.name}. Had it been trained on the rows held out here, its accuracy would say nothing.",
        ),
    )  # fmt: skip


def _mean(values: Tensor) -> Interval:
    """With the ends of the interval within 0 ... 1."""
    found = intervals.mean(values)
    return Interval(found.value, max(0.0, found.low), min(1.0, found.high))
