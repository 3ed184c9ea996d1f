"""Usefulness: scores against scikit-learn, and worlds in which it is known what made rows are good for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from stand_ins import attribute, noise_pictures

from unnoise.core.errors import InputError
from unnoise.evaluation.usefulness import Flat, Joined, Learner, Network, balanced, codes_of, usefulness_section
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.table.columns import Categorical, Numeric, Table
from unnoise.modalities.table.learners import Linear
from unnoise.modalities.table.measure import TableRows


@dataclass(frozen=True)
class Nearest(Learner):
    """Tells the class whose mean row is nearest: the best that can be done for `noise_pictures`."""

    name: str = "mean"

    def learn(self, rows, attribute, seed) -> Callable:
        x = rows.tensor(rows).flatten(1)
        means = torch.stack([x[attribute.codes == k].mean(0) for k in range(len(attribute.values))]).nan_to_num(1e6)
        return lambda others: torch.cdist(others.tensor(rows).flatten(1), means).argmin(1)


def by_name(section):
    return {m.name: m for m in section.measures}


CODES = np.arange(300) % 3
FAINT = {"step": 12}  # classes overlap


def test_the_score_is_balanced_accuracy():
    rng = np.random.default_rng(0)
    truth, told = np.repeat([0, 1, 4], (50, 30, 7)), rng.integers(0, 5, 87)
    found = balanced(torch.from_numpy(told == truth)[None], torch.from_numpy(truth))
    assert found.value == pytest.approx(np.mean([np.mean(told[truth == k] == k) for k in (0, 1, 4)]))
    same = np.where(np.isin(told, truth), told, 0)
    found = balanced(torch.from_numpy(same == truth)[None], torch.from_numpy(truth))
    assert found.value == pytest.approx(balanced_accuracy_score(truth, same))


def test_its_interval_holds_the_truth():
    """Classes told right with 0.9, 0.5 and 0.2 in 300 worlds; hits of 95 % are binomial, 0.90 of them 4 deviations off."""
    truth, p = torch.from_numpy(np.repeat([0, 1, 2], (60, 40, 30))), np.repeat([0.9, 0.5, 0.2], (60, 40, 30))
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        i = balanced(torch.from_numpy(rng.random(130) < p)[None], truth)
        hits += i.low <= (0.9 + 0.5 + 0.2) / 3 <= i.high
    assert hits >= 0.90 * 300


def test_rows_of_several_sets_keep_their_order():
    a, b = noise_pictures(0, 5, codes=np.zeros(5, int)), noise_pictures(1, 4, codes=np.ones(4, int))
    both = Joined.of(a, (a, [3, 1]), (b, [0, 2, 3]))
    wanted = torch.cat([a.tensor(a, [3, 1]), b.tensor(a, [0, 2, 3])])
    assert torch.equal(both.tensor(both), wanted)
    mixed = both.take([4, 0, 2])
    assert torch.equal(mixed.tensor(mixed), wanted[[4, 0, 2]])
    assert torch.equal(mixed.tensor(mixed, [2, 0]), wanted[[2, 4]])
    assert mixed.attributes()[0].codes.tolist() == [1, 0, 1]
    assert np.array_equal(np.asarray(mixed.draw([0])[0]), b.array([3])[0, ..., 0])
    assert len(mixed) == 3


def test_codes_are_told_by_name():
    other = Pictures.of(np.zeros((4, 2, 2, 1), np.uint8), (attribute([0, 1, 2, -1], ("c", "z", "a")),))
    assert codes_of(other, attribute(())).tolist() == [2, -1, 0, -1]
    assert codes_of(noise_pictures(0, 3), attribute(())).tolist() == [-1] * 3


def test_made_rows_of_the_data_are_as_good_as_real_ones_and_mislabelled_ones_are_not():
    """The difference's 95 % interval, twice as wide, holds 0 (9e-5); of rows whose labels are moved on nothing is told right."""
    train, held = noise_pictures(0, 300, codes=CODES, **FAINT), noise_pictures(1, 300, codes=CODES, **FAINT)
    good = noise_pictures(2, 300, codes=CODES, **FAINT)
    wrong = Pictures.of(good.array(), (attribute((CODES + 1) % 3),))
    section = usefulness_section(train, held, good, learners=[Nearest()], repeats=2)
    found = by_name(section)
    lost = found["mean: made less real"]
    assert 2 * lost.low - lost.value < 0 < 2 * lost.high - lost.value
    assert found["mean: learnt from made"].value > 0.7
    assert found["mean: learnt from real"].value == found["mean: learnt from made"].floor
    bad = by_name(usefulness_section(train, held, wrong, learners=[Nearest()], repeats=2))
    assert bad["mean: learnt from made"].high < 0.2
    assert bad["mean: made less real"].high < -0.5
    assert section.drawings[0].png.startswith(b"\x89PNG")


def test_a_rare_class_is_helped_by_rows_of_it():
    """Class b has 3 real rows left, and a learner that needs 10 of a class to see it."""

    @dataclass(frozen=True)
    class Slow(Nearest):
        def learn(self, rows, attribute, seed):
            counts = torch.bincount(attribute.codes, minlength=3)
            known = [k for k in range(3) if counts[k] >= 10]
            x = rows.tensor(rows).flatten(1)
            means = torch.stack([x[attribute.codes == k].mean(0) for k in known])
            return lambda others: torch.tensor(known)[torch.cdist(others.tensor(rows).flatten(1), means).argmin(1)]

    codes = np.array([0] * 130 + [1] * 60 + [2] * 110)
    train, held, made = (noise_pictures(s, 300, codes=codes) for s in (0, 1, 2))
    section = usefulness_section(train, held, made, learners=[Slow()], repeats=2, rare=3)
    found = by_name(section)
    assert found["mean: rare class alone"].value == 0
    assert found["mean: rare class filled up"].value > 0.95
    assert found["mean: rare class, gain"].low > 0.9
    assert any("'b'" in n for n in section.notes)
    chosen = usefulness_section(train, held, made, learners=[Slow()], repeats=1, rare=3, thin="c")
    assert any("'c'" in n for n in chosen.notes)
    assert any(
        "'z' was not thinned" in n for n in usefulness_section(train, held, made, learners=[Slow()], repeats=1, thin="z").notes
    )


def test_tables_leave_out_the_column_that_is_told():
    """A column that nothing depends on cannot be told: within 5 deviations of guessing. Were it an input, all would be right."""
    columns = (Numeric("x", (0.0, 1.0), (0.0, 1.0), 1, 0, 0), Categorical("free", ("p", "q")), Categorical("bound", ("u", "v")))

    def rows(seed, n):
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 1, n)
        codes = np.stack([rng.integers(2, size=n), (x > 0).astype(np.int64)], 1)
        return TableRows.of(Table(columns, torch.from_numpy(x[:, None]), torch.from_numpy(codes)))

    train, held, made = rows(0, 300), rows(1, 400), rows(2, 300)
    free = by_name(usefulness_section(train, held, made, "free", repeats=1, learners=[Flat(Linear())]))
    for what in ("real", "made"):
        assert abs(free[f"linear: learnt from {what}"].value - 0.5) < 5 * 0.5 / np.sqrt(400)
    bound = by_name(usefulness_section(train, held, made, "bound", repeats=1))
    assert bound["linear: learnt from made"].value > 0.95
    assert bound["boosted: learnt from real"].value > 0.95


def test_a_network_learns_from_pictures_of_several_sets():
    train, held = noise_pictures(0, 90, 8, codes=np.arange(90) % 3), noise_pictures(1, 60, 8, codes=np.arange(60) % 3)
    rows = Joined.of(train, (train, range(90)))
    tell = Network(steps=60).learn(rows, attribute(np.arange(90) % 3), 0)
    right = (tell(Joined.of(train, (held, range(60)))) == torch.arange(60) % 3).double().mean()
    assert right > 0.6  # of 60 rows, guessing gets a third: binomial, above 0.6 once in 10^5


def test_what_is_missing_is_said():
    train, bare = noise_pictures(0, 60, codes=CODES[:60]), noise_pictures(1, 60)
    assert "no attribute" in usefulness_section(bare, bare, bare).notes[0]
    assert "was not told" in usefulness_section(train, train, bare).notes[0]
    one = noise_pictures(0, 60, codes=np.zeros(60, int))
    assert "of 1 class;" in usefulness_section(train, train, one).notes[0]
    assert "10 held-out rows" in usefulness_section(train, train.take(range(10)), train).notes[0]

    @dataclass(frozen=True)
    class Unable(Learner):
        name: str = "unable"

        def learn(self, rows, attribute, seed):
            raise InputError("it cannot")

    assert any("it cannot" in n for n in usefulness_section(train, train, train, learners=[Unable()]).notes)
