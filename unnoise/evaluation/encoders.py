"""What rows are compared by: features of small networks that learned from the real rows themselves, frozen, hashed and kept.

    classifier       cross-entropy of logits + log(share of the value): then softmax(logits) is the posterior as if all values were
                     equally frequent, and its mistakes are balanced (logit adjustment, Menon et al. 2020, 2007.07314, eq. 10)
    self-supervised  a denoising autoencoder (Vincent et al. 2010, JMLR 11): from a row of which a part is hidden, the network's F
                     features and one linear layer are to foretell the whole row, |x - D f(hidden(x))|^2 / dimensions
Both are learned as in `learning`.
"""

import hashlib
import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from tqdm import tqdm

from unnoise.checkpoints.folder import file_hash, tensors_hash
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.core.measure import FEWEST, Attribute, Examples
from unnoise.core.random import derive
from unnoise.evaluation.learning import drawing_from, trained
from unnoise.evaluation.views import hidden, moved
from unnoise.networks.features import feature_network
from unnoise.training.distributed import device

VERSION = 1
"""Of what the kept networks were made by: to be raised with any change to networks or training, so that old ones are not found."""
_KEPT = 1 << 26  # numbers (256 MB) up to which the training rows are held in memory; above, they are read again when needed
_AT_ONCE = 4096  # rows that are read at once; a table's are scaled by its reference in every reading
_OFTEN = 5  # times that each row is seen in training, above which it is moved a little: fewer, and moving it costs accuracy


class Encoder(ABC):
    """A frozen network that turns rows into vectors."""

    name: str
    """What it was trained on and how, its seed and its hash: as a report names it."""
    hash: str
    """16 hex digits of the sha256 of its weights and their names."""

    @abstractmethod
    def features(self, x: Examples, reference: Examples, progress: bool = False) -> Tensor:
        """Of every row of x, in order: (N, F) float32, computed in blocks. `reference`: the real training rows.

        Raises InputError if the rows are not of the kind or the size that it takes.
        """


@dataclass(frozen=True)
class NetworkEncoder(Encoder):
    """network: rows (n, *shape) -> (n, F), in eval."""

    name: str
    hash: str
    shape: tuple[int, ...]
    network: nn.Module = field(repr=False)

    def features(self, x: Examples, reference: Examples, progress: bool = False) -> Tensor:
        return _through(self.network, self.shape, x, reference, self.name, progress)


@dataclass(frozen=True)
class Classifier:
    """What says which value of an attribute a row has; frozen.

    attribute: its name and its values, in the order of the probabilities; it holds no codes.
    """

    name: str
    hash: str
    attribute: Attribute
    shape: tuple[int, ...]
    network: "_Telling" = field(repr=False)

    def probabilities(self, x: Examples, reference: Examples, progress: bool = False) -> Tensor:
        """(N, K) float32: of each value, as if all were equally frequent; rows sum to 1. A value never seen in training has 0."""
        logits = _through(self.network, self.shape, x, reference, self.name, progress)
        out = torch.zeros(len(logits), len(self.attribute.values))
        out[:, self.network.seen.cpu()] = logits.softmax(1)
        return out

    def accuracy(self, x: Examples, reference: Examples) -> float:
        """The share of the rows of x, of those whose value is known, for which its value is the likeliest."""
        _, right = self._right(x, reference)
        return float(right.double().mean())

    def balanced_accuracy(self, x: Examples, reference: Examples) -> float:
        """The mean over the values of that share among the rows that have it: guessing gets 1 / values."""
        truth, right = self._right(x, reference)
        return float(torch.stack([right[truth == v].double().mean() for v in truth.unique()]).mean())

    def encoder(self) -> Encoder:
        """Its last hidden layer, under its own name and hash."""
        return NetworkEncoder(self.name, self.hash, self.shape, self.network.features)

    def _right(self, x: Examples, reference: Examples) -> tuple[Tensor, Tensor]:
        """Of the rows whose value is known: their codes as here, and whether they were told right."""
        theirs = next((a for a in x.attributes() if a.name == self.attribute.name), None)
        if theirs is None:
            raise InputError(f'the rows to be judged do not tell their "{self.attribute.name}", so no accuracy can be had')
        place = {v: i for i, v in enumerate(self.attribute.values)}
        ours = torch.tensor([*(place.get(v, -1) for v in theirs.values), -1])  # the last: codes of -1
        truth = ours[theirs.codes]
        known = (truth >= 0).nonzero()[:, 0]
        if not len(known):
            raise InputError(f'no row to be judged has a "{self.attribute.name}" that was learned, so no accuracy can be had')
        told = self.probabilities(x.take(known.tolist()), reference).argmax(1)
        return truth[known], told == truth[known]


class _Telling(nn.Module):
    """Features and what tells values from them. seen: (K',) int64, the values that there were."""

    seen: Tensor

    def __init__(self, shape: tuple[int, ...], seen: Tensor) -> None:
        super().__init__()
        self.features = feature_network(shape)
        self.tell = nn.Linear(self.features.width, len(seen))
        self.register_buffer("seen", seen)

    def forward(self, x: Tensor) -> Tensor:
        return self.tell(self.features(x))


def train_classifier(
    real: Examples,
    attribute: Attribute,
    seed: int = 0,
    steps: int | None = None,
    progress: bool = False,
    folder: Path | None = None,
) -> Classifier:
    """A network that tells the values of `attribute` apart, trained on `real`; rows of unknown value (code -1) are left out.

    steps: of the optimiser; None: chosen from the number of rows. folder: where trained ones are kept and found again.
    On a CPU the same seed gives the same network; the caller's random state is left as it was.
    Raises InputError for fewer than 50 rows of known value, for a single value, and for rows that are all equal or not finite.
    """
    if len(attribute.codes) != len(real):
        raise InputError(f'"{attribute.name}" is told for {len(attribute.codes)} rows, and there are {len(real)}')
    known = (attribute.codes >= 0).nonzero()[:, 0]
    seen, codes, counts = attribute.codes[known].unique(return_inverse=True, return_counts=True)
    title = f"classifier({attribute.name}), seed {seed}"
    if len(seen) < 2:
        had = f'all have the same, "{attribute.values[int(seen[0])]}"' if len(seen) else "no row has one that is known"
        raise InputError(f'a classifier of "{attribute.name}" needs rows of at least two values; {had}')
    rows = _Rows(real.take(known.tolist()), real, f'a classifier of "{attribute.name}"')
    plan = _Plan.of(rows, steps, seed)
    often = plan.steps * plan.batch > _OFTEN * len(rows)
    prior = (counts / counts.sum()).log()

    def loss(network: nn.Module, x: Tensor, which: Tensor, where: torch.device) -> Tensor:
        logits = network((moved(x) if often else x).to(where))
        return cross_entropy(logits + prior.to(where), codes[which].to(where), label_smoothing=0.05)

    labels = hashlib.sha256(attribute.codes.to(torch.int64).numpy().tobytes()).hexdigest()
    settings = {"what": "classifier", "attribute": attribute.name, "values": list(attribute.values), "codes": labels}
    task = _Task(title, settings, lambda: _Telling(rows.shape, seen), loss)
    network = _learned(task, rows, plan, folder, progress)
    assert isinstance(network, _Telling)
    digest = _digest(network)
    values = replace(attribute, codes=torch.empty(0, dtype=torch.int64))
    return Classifier(f"{title}, {digest}", digest, values, rows.shape, network)


class _Completing(nn.Module):
    """Features and, for training alone, the whole row from them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.features = feature_network(shape)
        self.complete = nn.Linear(self.features.width, math.prod(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.complete(self.features(x)).view(x.shape)


def train_self_supervised(
    real: Examples, seed: int = 0, steps: int | None = None, progress: bool = False, folder: Path | None = None
) -> Encoder:
    """A network trained on `real` without labels; arguments, determinism and errors as in `train_classifier`."""
    title = f"self-supervised, seed {seed}"
    rows = _Rows(real, real, "a self-supervised encoder")

    def loss(network: nn.Module, x: Tensor, which: Tensor, where: torch.device) -> Tensor:
        return mse_loss(network(hidden(x).to(where)), x.to(where))

    task = _Task(title, {"what": "self-supervised"}, lambda: _Completing(rows.shape), loss)
    network = _learned(task, rows, _Plan.of(rows, steps, seed), folder, progress)
    assert isinstance(network, _Completing)
    digest = _digest(network.features)
    return NetworkEncoder(f"{title}, {digest}", digest, rows.shape, network.features)


def fingerprint(examples: Examples) -> str:
    """64 hex digits: the sha256 of the kind, the shape and every value of the rows as a network sees them, read in blocks."""
    h = hashlib.sha256(f"{examples.kind} {len(examples)}".encode())
    for first in range(0, len(examples), _AT_ONCE):
        x = examples.tensor(examples, range(first, min(first + _AT_ONCE, len(examples)))).contiguous()
        if first == 0:
            h.update(f"{tuple(x.shape[1:])}".encode())
        h.update(x.numpy().tobytes())
    return h.hexdigest()


def in_blocks(call: Callable[[Sequence[int]], Tensor], n: int, at_once: int, title: str, progress: bool) -> Tensor:
    """call(row numbers) for all n >= 1 rows, so many at once, one after another: (n, ...). No gradients are kept."""
    if n < 1:
        raise InputError(f"{title}: there are no rows to look at")
    parts = []
    with torch.inference_mode(), tqdm(total=n, desc=title, unit="row", disable=not progress, leave=False) as bar:
        for first in range(0, n, at_once):
            parts.append(call(range(first, min(first + at_once, n))))
            bar.update(len(parts[-1]))
    return torch.cat(parts).clone()


def cached(
    folder: Path | None, settings: Mapping[str, Any], build: Callable[[], nn.Module], make: Callable[[], nn.Module]
) -> nn.Module:
    """make(), kept in `folder` as safetensors and json under the hash of `settings`; or what was kept before, put into build().

    What was kept is used only if its settings are these and its file is byte for byte what was written; otherwise it is made
    anew, with a warning. A folder that cannot be written costs a warning, not the network.
    """
    if folder is None:
        return make()
    wanted = json.loads(json.dumps(settings))
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
    weights, about = (Path(folder) / f"{settings['what']}-{key}.{end}" for end in ("safetensors", "json"))
    if about.exists() or weights.exists():
        try:
            network = build()
            told = json.loads(about.read_text(encoding="utf-8"))
            if told["settings"] != wanted or told["sha256"] != file_hash(weights):
                raise ValueError("it is not what was written")
            network.load_state_dict(load_file(weights))
            return network.eval().requires_grad_(False)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
            warnings.warn(f"{weights}: missing, truncated or edited ({e}); trained anew", stacklevel=2)
    network = make()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with atomically(weights) as partial:
            save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, partial)
            digest = file_hash(partial)
        with atomically(about) as partial:
            document = {"settings": wanted, "sha256": digest}
            partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, InputError) as e:
        warnings.warn(f"{folder}: the trained network could not be kept ({e})", stacklevel=2)
    return network


class _Rows:
    """The training rows as tensors: read once and kept if they are not too many, else read when they are asked for.

    Raises InputError for rows that nothing can be learned from.
    """

    def __init__(self, real: Examples, reference: Examples, what: str) -> None:
        if len(real) < FEWEST:
            raise InputError(f"{what} needs at least {FEWEST} rows to learn from; there are {len(real)}")
        self.real, self.reference = real, reference
        first = self._read([0])
        self.shape = tuple(first.shape[1:])
        size = math.prod(self.shape)
        if len(self.shape) not in (1, 2, 3) or size == 0:
            raise InputError(f"{what} takes rows of shape (D,), (T, C) or (C, H, W); these are {self.shape}")
        self.kept = torch.empty(len(real), *self.shape) if len(real) * size <= _KEPT else None
        varies = False
        for start in range(0, len(real), _AT_ONCE):
            block = self._read(range(start, min(start + _AT_ONCE, len(real))))
            if not bool(block.isfinite().all()):
                raise InputError(f"{what} cannot learn from values that are not finite numbers")
            varies = varies or bool((block != first).any())
            if self.kept is not None:
                self.kept[start : start + len(block)] = block
        if not varies:
            raise InputError(f"{what} cannot learn from rows that are all equal")

    def __len__(self) -> int:
        return len(self.real)

    def __call__(self, which: Tensor) -> Tensor:
        return self._read(which.tolist()) if self.kept is None else self.kept[which]

    def _read(self, rows: Sequence[int]) -> Tensor:
        return self.real.tensor(self.reference, rows)


@dataclass(frozen=True)
class _Plan:
    """So many steps of so many rows at the learning rate `rate`."""

    seed: int
    steps: int
    batch: int
    rate: float

    @staticmethod
    def of(rows: _Rows, steps: int | None, seed: int) -> "_Plan":
        """As long as it pays: thirty times through the rows, within what a slow CPU does in half a minute."""
        if steps is not None and steps < 10:
            raise InputError(f"steps {steps}: at least 10; a few hundred are usual")
        vectors = len(rows.shape) == 1
        batch = min(256 if vectors else 64, len(rows))
        most = 1500 if vectors else 300
        return _Plan(seed, steps or min(most, max(150, 30 * len(rows) // batch)), batch, 3e-3 if vectors else 1e-2)


@dataclass(frozen=True)
class _Task:
    """settings: what beside rows and plan decides on the outcome. loss(network, rows, their numbers, the network's device)."""

    title: str
    settings: Mapping[str, Any]
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor, torch.device], Tensor]


def _learned(task: _Task, rows: _Rows, plan: _Plan, folder: Path | None, progress: bool) -> nn.Module:
    """The task's network, in eval, frozen: found in `folder` or trained."""
    settings = {**task.settings, "version": VERSION, **asdict(plan)}
    if folder is not None:
        settings["rows"] = fingerprint(rows.reference)
    with drawing_from(0):  # building what a kept network is put into draws too
        return cached(folder, settings, task.build, lambda: _learn(task, rows, plan, progress))


def _learn(task: _Task, rows: _Rows, plan: _Plan, progress: bool) -> nn.Module:
    batches = _batches(len(rows), plan)

    def loss(network: nn.Module, where: torch.device) -> Tensor:
        which = next(batches)
        return task.loss(network, rows(which), which, where)

    return trained(task.build, loss, plan.steps, plan.rate, derive(plan.seed, task.settings["what"]), task.title, progress)


def _batches(n: int, plan: _Plan) -> Iterator[Tensor]:
    """Row numbers, without replacement until less than a batch is left of them."""
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(plan.steps):
        if len(left) < plan.batch:
            left = torch.randperm(n)
        which, left = left[: plan.batch], left[plan.batch :]
        yield which


def _through(network: nn.Module, shape: tuple[int, ...], x: Examples, reference: Examples, name: str, progress: bool) -> Tensor:
    where = device()
    network.to(where)

    def some(rows: Sequence[int]) -> Tensor:
        block = x.tensor(reference, rows)
        if block.shape[1:] != shape:
            raise InputError(f"{name} learned from rows of shape {shape}; these are {tuple(block.shape[1:])}")
        return network(block.to(where)).float().cpu()

    return in_blocks(some, len(x), _AT_ONCE if len(shape) == 1 else 256, name, progress)


def _digest(network: nn.Module) -> str:
    return tensors_hash(network.state_dict())[:16]
