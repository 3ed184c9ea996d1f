"""Learned features and classifiers against known posteriors, and what is kept of them against tampering."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from scipy import stats

from unnoise.core.errors import InputError
from unnoise.core.measure import Attribute, Examples
from unnoise.evaluation import encoders
from unnoise.evaluation.encoders import fingerprint, train_classifier, train_self_supervised


@dataclass(frozen=True)
class Rows(Examples):
    """Rows of any shape, as they are."""

    x: torch.Tensor
    known: tuple[Attribute, ...] = ()
    kind = "rows"

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Sequence[int]) -> "Rows":
        which = torch.as_tensor(list(rows), dtype=torch.int64)
        return Rows(self.x[which], tuple(replace(a, codes=a.codes[which]) for a in self.known))

    def tensor(self, reference: Examples, rows: Sequence[int] | None = None) -> torch.Tensor:
        return self.x if rows is None else self.x[torch.as_tensor(list(rows), dtype=torch.int64)]

    def attributes(self) -> tuple[Attribute, ...]:
        return self.known

    def draw(self, rows):
        raise NotImplementedError

    def look(self, made):
        raise AssertionError("nobody looks at these")

    def measures(self, held, made, seed=0):
        raise NotImplementedError


def two_gaussians(n: int, share: float, seed: int, distance: float = 2.0, dim: int = 4) -> Rows:
    """N(0, I) and N((distance, 0, 0, 0), I), the second with this share: told apart at best Phi(distance / 2) of the time."""
    g = torch.Generator().manual_seed(seed)
    codes = (torch.rand(n, generator=g) < share).long()
    x = torch.randn(n, dim, generator=g)
    x[:, 0] += distance * codes
    return Rows(x, (Attribute("side", ("left", "right"), codes),))


def squares(n: int, seed: int, noise: float = 0.3) -> Rows:
    """Pictures of a bright square in one of four corners."""
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 4, (n,), generator=g)
    x = -torch.ones(n, 1, 8, 8)
    for i, c in enumerate(codes.tolist()):
        x[i, 0, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] = 1
    return Rows(x + noise * torch.randn(x.shape, generator=g), (Attribute("corner", ("nw", "ne", "sw", "se"), codes),))


@pytest.fixture(scope="module")
def real() -> Rows:
    return squares(200, 0)


@pytest.fixture(scope="module")
def classifier(real):
    return train_classifier(real, real.known[0], seed=3, steps=20)


@pytest.mark.parametrize("share", [0.5, 0.08])
def test_a_classifier_is_nearly_bayes_and_balanced(share):
    """Not better than the best balanced accuracy, Phi(1) = 0.841, by 5 standard deviations (false alarm 3e-7), and not 0.03 worse.

    A classifier that took the shares for granted would have (Phi(1 + a) + Phi(1 - a)) / 2, a = log(0.92 / 0.08) / 2: 0.68.
    """
    real, held = two_gaussians(4000, share, 0), two_gaussians(20000, share, 1)
    got = train_classifier(real, real.known[0], steps=200).balanced_accuracy(held, real)
    best = float(stats.norm.cdf(1.0))
    deviation = math.sqrt(best * (1 - best) * sum(1 / float((held.known[0].codes == v).sum()) for v in (0, 1))) / 2
    assert best - 0.03 < got < best + 5 * deviation


def test_accuracies_are_shares_by_values_of_the_same_name(real, classifier):
    held = squares(300, 1)
    told = classifier.probabilities(held, real)
    torch.testing.assert_close(told.sum(1), torch.ones(300))
    assert bool((told >= 0).all())
    right = (told.argmax(1) == held.known[0].codes).double()
    assert right.mean() > 0.95
    assert classifier.accuracy(held, real) == pytest.approx(float(right.mean()))
    by_value = [float(right[held.known[0].codes == v].mean()) for v in range(4)]
    assert classifier.balanced_accuracy(held, real) == pytest.approx(sum(by_value) / 4)
    # values told in another order, one that was never learned, and rows of which nothing is known
    theirs = Attribute("corner", ("moon", "se", "sw", "ne", "nw"), 4 - held.known[0].codes)
    theirs.codes[:10] = -1
    theirs.codes[10:20] = 0
    assert classifier.accuracy(replace(held, known=(theirs,)), real) == pytest.approx(float(right[20:].mean()))


def test_a_value_never_seen_is_never_told(real):
    wider = Attribute("corner", ("none", *real.known[0].values), real.known[0].codes + 1)
    told = train_classifier(real, wider, steps=20).probabilities(real, real)
    assert torch.equal(told[:, 0], torch.zeros(200))
    assert bool((told[:, 1:] > 0).all())


def test_rows_of_unknown_value_teach_nothing(real, classifier):
    noise = torch.full((100, 1, 8, 8), 7.0)
    codes = torch.cat([real.known[0].codes, torch.full((100,), -1)])
    more = Rows(torch.cat([real.x, noise]), (replace(real.known[0], codes=codes),))
    assert train_classifier(more, more.known[0], seed=3, steps=20).hash == classifier.hash


def test_the_seed_alone_decides(real, classifier):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with torch.no_grad():
        again = train_classifier(real, real.known[0], seed=3, steps=20)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.hash == classifier.hash
    assert again.name == f"classifier(corner), seed 3, {again.hash}"
    assert train_classifier(real, real.known[0], seed=4, steps=20).hash != classifier.hash


def test_features_are_of_each_row_alone(real, classifier):
    encoder = classifier.encoder()
    whole = encoder.features(real, real)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    assert whole.dtype == torch.float32
    torch.testing.assert_close(encoder.features(real.take(order), real), whole[order], rtol=1e-4, atol=1e-5)
    logits = classifier.network.tell(whole)  # the last hidden layer: what the values are told from
    torch.testing.assert_close(logits.softmax(1), classifier.probabilities(real, real), rtol=1e-3, atol=1e-5)


def blobs(n: int, seed: int) -> tuple[Rows, torch.Tensor]:
    """Pictures of a spot, bright or dark, and where it is (n, 2): of every pixel the mean is the same wherever the spot is."""
    g = torch.Generator().manual_seed(seed)
    place = 2 + 12 * torch.rand(n, 2, generator=g)
    sign = 2 * torch.randint(0, 2, (n, 1, 1), generator=g) - 1
    grid = torch.arange(16.0)
    dy, dx = grid - place[:, :1], grid - place[:, 1:]
    return Rows((sign * torch.exp(-(dy[:, :, None] ** 2 + dx[:, None, :] ** 2) / 8))[:, None]), place


def determined(f_train: torch.Tensor, y_train: torch.Tensor, f: torch.Tensor, y: torch.Tensor) -> float:
    """The share of y's variance that a linear map of the features (with a slight ridge) tells on other rows."""
    mean, std = f_train.mean(0), f_train.std(0) + 1e-6
    a, b = (torch.cat([(v - mean) / std, torch.ones(len(v), 1)], 1).double() for v in (f_train, f))
    w = torch.linalg.solve(a.T @ a + 1e-2 * len(a) * torch.eye(a.shape[1]), a.T @ y_train.double())
    return 1 - float((b @ w - y).square().mean() / y.var())


@pytest.mark.parametrize("shape", ["picture", "sequence", "vector"])
def test_self_supervised_features_tell_what_was_never_told(shape):
    """Where the spot is explains the pictures, and no label said so. A linear map of the pictures does not know it."""
    (real, place), (held, truth) = blobs(400, 0), blobs(300, 1)
    if shape == "sequence":
        real, held = (Rows(e.x[:, 0]) for e in (real, held))
    if shape == "vector":
        real, held = (Rows(e.x.flatten(1)) for e in (real, held))
    encoder = train_self_supervised(real, steps=50)
    assert determined(real.x.flatten(1), place, held.x.flatten(1), truth) < 0.1
    assert determined(encoder.features(real, real), place, encoder.features(held, real), truth) > 0.8


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (Rows(torch.randn(49, 3)), "at least 50 rows"),
        (Rows(torch.ones(60, 3)), "all equal"),
        (Rows(torch.full((60, 3), math.nan)), "finite"),
        (Rows(torch.randn(60, 1, 2, 2, 2)), "of shape"),
        (Rows(torch.randn(60, 0)), "of shape"),
    ],
)
def test_rows_that_teach_nothing_are_refused(rows, told):
    with pytest.raises(InputError, match=told):
        train_self_supervised(rows)
    with pytest.raises(InputError, match=told):
        train_classifier(rows, Attribute("a", ("x", "y"), torch.arange(len(rows)) % 2))


def test_bad_labels_steps_and_sizes_are_refused(real, classifier):
    corner = real.known[0]
    with pytest.raises(InputError, match='at least two values; all have the same, "ne"'):
        train_classifier(real, replace(corner, codes=torch.ones(200, dtype=torch.int64)))
    with pytest.raises(InputError, match="at least two values; no row"):
        train_classifier(real, replace(corner, codes=torch.full((200,), -1)))
    with pytest.raises(InputError, match="for 7 rows, and there are 200"):
        train_classifier(real, replace(corner, codes=corner.codes[:7]))
    with pytest.raises(InputError, match="steps 3"):
        train_self_supervised(real, steps=3)
    with pytest.raises(InputError, match=r"\(1, 8, 8\); these are \(1, 9, 9\)"):
        classifier.probabilities(Rows(torch.randn(4, 1, 9, 9)), real)
    with pytest.raises(InputError, match="no rows"):
        classifier.encoder().features(real.take([]), real)
    with pytest.raises(InputError, match='do not tell their "corner"'):
        classifier.accuracy(Rows(real.x), real)
    with pytest.raises(InputError, match="that was learned"):
        classifier.accuracy(replace(real, known=(Attribute("corner", ("moon",), torch.zeros(200, dtype=torch.int64)),)), real)


def test_a_fingerprint_is_of_every_value_and_of_no_block(real, monkeypatch):
    whole = fingerprint(real)
    changed = real.x.clone()
    changed[150, 0, 7, 7] += 1e-6
    others = [Rows(changed), real.take(range(199)), real.take([1, 0, *range(2, 200)]), Rows(real.x.flatten(1)), Rows(real.x.mT)]
    assert len({whole, *map(fingerprint, others)}) == 6
    monkeypatch.setattr(encoders, "_AT_ONCE", 7)
    assert fingerprint(Rows(real.x.clone())) == whole


def test_what_is_not_kept_in_memory_is_read_again(real, classifier, monkeypatch):
    monkeypatch.setattr(encoders, "_KEPT", 0)
    monkeypatch.setattr(encoders, "_AT_ONCE", 7)
    assert train_classifier(real, real.known[0], seed=3, steps=20).hash == classifier.hash


def forbidden(*_):
    raise AssertionError("it was trained again")


def test_a_kept_network_is_found_again(real, classifier, tmp_path, monkeypatch):
    where = tmp_path / "kept"
    first = train_classifier(real, real.known[0], seed=3, steps=20, folder=where)
    encoder = train_self_supervised(real, steps=10, folder=where)
    files = sorted(f.name for f in where.iterdir())
    assert [f.split("-")[0] + "." + f.split(".")[1] for f in files] == [
        "classifier.json",
        "classifier.safetensors",
        "self.json",
        "self.safetensors",
    ]
    monkeypatch.setattr(encoders, "_learn", forbidden)
    for other in [  # whatever could change the outcome is part of the key
        lambda: train_classifier(real, real.known[0], seed=4, steps=20, folder=where),
        lambda: train_classifier(real, real.known[0], seed=3, steps=21, folder=where),
        lambda: train_classifier(real, replace(real.known[0], codes=real.known[0].codes.flip(0)), 3, 20, folder=where),
        lambda: train_classifier(real, replace(real.known[0], name="side"), seed=3, steps=20, folder=where),
        lambda: train_classifier(Rows(real.x + 1e-6), real.known[0], seed=3, steps=20, folder=where),
    ]:
        with pytest.raises(AssertionError, match="trained again"):
            other()
    again = train_classifier(real, real.known[0], seed=3, steps=20, folder=where)
    assert again.hash == first.hash == classifier.hash
    assert torch.equal(again.probabilities(real, real), first.probabilities(real, real))
    assert train_self_supervised(real, steps=10, folder=where).name == encoder.name


@pytest.mark.parametrize("harm", ["truncated", "edited", "gone", "other settings", "no json", "weights renamed"])
def test_a_harmed_file_is_not_trusted(real, tmp_path, harm):
    first = train_self_supervised(real, steps=10, folder=tmp_path)
    (weights,), (about,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    whole = weights.read_bytes()
    if harm == "truncated":
        weights.write_bytes(whole[:-100])
    if harm == "edited":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    if harm == "gone":
        weights.unlink()
    if harm == "other settings":
        about.write_text(about.read_text().replace('"seed": 0', '"seed": 1'))
    if harm == "no json":
        about.write_text("{")
    if harm == "weights renamed":
        document = json.loads(about.read_text())
        document["sha256"] = []
        about.write_text(json.dumps(document))
    with pytest.warns(UserWarning, match="trained anew"):
        again = train_self_supervised(real, steps=10, folder=tmp_path)
    assert again.hash == first.hash
    assert weights.read_bytes() == whole
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_costs_no_network(real, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be kept"):
        encoder = train_self_supervised(real, steps=10, folder=tmp_path / "file" / "folder")
    assert encoder.hash == train_self_supervised(real, steps=10).hash
