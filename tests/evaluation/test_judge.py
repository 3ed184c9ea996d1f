"""What the judge of a comparison finds, of rows and stand-ins whose answers are known."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from stand_ins import Brightness, Itself, attribute, noise_pictures

from unnoise.core.measure import Attribute
from unnoise.evaluation.frechet import frechet
from unnoise.evaluation.judge import Judge
from unnoise.evaluation.kernel import kid
from unnoise.evaluation.manifold import density_coverage, precision_recall
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.image.stacked import divergence_from_uniform, stacked_digits

N = 120
CODES = np.arange(2 * N) // 2 % 3  # of either half of the rows held out
TRAIN, HELD = noise_pictures(0, 90, codes=np.arange(90) % 3), noise_pictures(1, 2 * N, codes=CODES)


def judge(**more) -> Judge:
    return Judge(TRAIN, HELD, N, **{"attribute": "class", "encoder": Itself(), "classifier": None, "digits": None, **more})


def figures(real: torch.Tensor, made: torch.Tensor) -> dict[str, float]:
    found = [frechet(real, made), kid(real, made), *precision_recall(real, made), *density_coverage(real, made)]
    return dict(zip(("frechet", "kid", "precision", "recall", "density", "coverage"), (i.value for i in found)))


def test_made_rows_and_real_ones_are_compared_with_the_same_half_of_those_held_out() -> None:
    """Real rows stand beside with the other half: no row is compared with itself. Precision is of what was made."""
    x = HELD.tensor(TRAIN).flatten(1)
    made = noise_pictures(2, N, spread=8)  # of one kind, amid the real ones
    asked = [None] * N
    for got, y in ((judge().scores(made, asked), made.tensor(TRAIN).flatten(1)), (judge().real, x[1::2])):
        expected = figures(x[::2], y)
        assert {k: got[k] for k in expected} == pytest.approx(expected)
    assert figures(x[::2], made.tensor(TRAIN).flatten(1))["precision"] != figures(x[::2], made.tensor(TRAIN).flatten(1))["recall"]


def test_rows_show_what_they_were_asked_for_as_far_as_they_were_asked() -> None:
    codes = np.arange(N) % 2  # the third class is never shown
    made = noise_pictures(3, N, codes=codes)
    asked = [None if i % 4 == 0 else "abc"[i // 2 % 3] for i in range(N)]
    told = [(c, a) for c, a in zip(codes, asked) if a is not None]
    right = sum("abc"[c] == a for c, a in told) / len(told)
    assert 0.2 < right < 0.5
    seen = judge(classifier=Brightness(attribute=attribute(())))
    for one in (judge(), seen):  # as the rows say, and as a classifier sees
        assert one.scores(made, asked)["accuracy"] == pytest.approx(right)
        assert "accuracy" not in one.scores(made, [None] * N)
    assert seen.scores(made, asked)["modes"] == 2
    assert seen.real["accuracy"] == 1
    assert "modes" not in judge().real


@dataclass(frozen=True)
class Reader:
    """Reads a channel of stacked digits by looking it up."""

    known: dict[bytes, int]
    name: str = "reader"
    attribute: Attribute = attribute((), tuple("0123456789"), "digit")

    def probabilities(self, x, reference, progress=False):
        shown = torch.tensor([self.known[p.tobytes()] for p in x.array()])
        return torch.nn.functional.one_hot(shown, 10).float()


def test_modes_of_stacked_digits_are_the_triples_that_are_read() -> None:
    pytest.importorskip("sklearn")
    stacked = stacked_digits(N, seed=5)
    digits = np.stack([stacked.modes // 100, stacked.modes // 10 % 10, stacked.modes % 10], 1)
    known = {p[..., c].tobytes(): int(d[c]) for p, d in zip(stacked.pixels, digits) for c in range(3)}
    rows = Pictures.of(stacked.pixels)
    found = Judge(rows, rows, N // 2, "", Itself(), None, Reader(known)).scores(rows, [None] * N)
    assert found["modes"] == len(set(stacked.modes.tolist()))
    counts = torch.bincount(torch.from_numpy(stacked.modes), minlength=1000)
    assert found["mode_kl"] == pytest.approx(divergence_from_uniform(counts))
