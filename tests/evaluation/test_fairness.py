"""Shares of groups: against scipy where they are known, against the truth where a classifier must tell them; quality by group."""

import numpy as np
import pytest
import torch
from scipy import stats
from stand_ins import Brightness, Itself, attribute, noise_pictures

from unnoise.core.errors import InputError
from unnoise.evaluation import fairness
from unnoise.evaluation.fairness import fairness_section, group_quality, known_shares, predicted_shares, target_of
from unnoise.modalities.image.measure import Pictures

THIRDS = torch.full((3,), 1 / 3, dtype=torch.float64)


def by_name(section):
    return {m.name: m for m in section.measures}


def test_known_shares_have_the_chi_squares_p_value():
    counts, target = torch.tensor([120, 90, 90]), torch.tensor([0.4, 0.35, 0.25]).double()
    found = known_shares(counts, target)
    wanted = stats.chisquare(counts.numpy(), 300 * target.numpy()).pvalue
    # a share of 10,000 simulations, 5 deviations, and what the chi-square distribution is but nearly
    assert abs(found.p_value - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 10_000) + 0.01
    low = stats.binomtest(120, 300).proportion_ci(method="wilson").low
    assert found.shares[0].low == pytest.approx(low)


def test_a_target_that_was_counted_has_the_p_value_of_two_samples():
    made, real = np.array([130, 80, 90]), np.array([180, 160, 160])
    found = known_shares(torch.from_numpy(made), torch.from_numpy(real / 500), counted=500)
    wanted = stats.chi2_contingency(np.stack([made, real])).pvalue
    assert abs(found.p_value - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 10_000) + 0.015
    assert found.p_value > 1.5 * known_shares(torch.from_numpy(made), torch.from_numpy(real / 500)).p_value


def test_what_cannot_be_is_the_rarest_of_all():
    found = known_shares(torch.tensor([99, 1, 0]), torch.tensor([1.0, 0, 0]).double())
    assert found.p_value == pytest.approx(1 / 10_001)


def test_confusion_is_undone_exactly_where_counts_are_as_expected():
    m = torch.tensor([[80, 15, 5], [10, 85, 5], [20, 10, 70]])
    truth = torch.tensor([0.6, 0.3, 0.1]).double()
    called = (truth @ (m / 100.0).double() * 100_000).round().long()
    found = predicted_shares(called, m * 100, truth)
    assert [s.value for s in found.shares] == pytest.approx(truth.tolist(), abs=1e-3)
    assert found.p_value > 0.5
    assert predicted_shares(called, m * 100, THIRDS).p_value < 0.001


def test_a_group_that_is_always_called_right_needs_no_correction():
    found = predicted_shares(torch.tensor([30, 60, 10]), torch.diag(torch.tensor([500, 500, 0])), THIRDS)
    assert [s.value for s in found.shares] == pytest.approx([0.3, 0.6, 0.1], abs=1e-4)


def test_intervals_hold_the_truth_and_p_values_their_level(monkeypatch):
    """40 worlds with their own confusion counts. Hits of a 95 % interval, and rejections at 10 %, are binomial; the bootstrap may
    miss by a few hundredths, which is given; what remains is below 1e-4.
    """
    monkeypatch.setattr(fairness, "_DRAWS", 200)
    monkeypatch.setattr(fairness, "_SIMULATED", 1000)
    m, truth = np.array([[0.8, 0.15, 0.05], [0.1, 0.85, 0.05], [0.2, 0.1, 0.7]]), np.array([0.6, 0.3, 0.1])
    hits = rejected = 0
    for i in range(40):
        rng = np.random.default_rng(i)
        confusion = np.stack([rng.multinomial(80, row) for row in m])
        called = rng.multinomial(400, truth @ m)
        found = predicted_shares(torch.from_numpy(called), torch.from_numpy(confusion), torch.from_numpy(truth), i)
        hits += sum(s.low <= t <= s.high for s, t in zip(found.shares, truth))
        rejected += found.p_value <= 0.1
    assert hits >= 120 - 3 * stats.binom.ppf(1 - 1e-5, 40, 0.08)  # the three shares of a world are not independent
    assert rejected <= stats.binom.ppf(1 - 1e-5, 40, 0.13)


def test_a_group_of_its_own_distribution_is_near_and_another_far():
    rng = np.random.default_rng(0)
    held, same, moved = (torch.from_numpy(rng.normal(m, 1, (300, 4))) for m in (0, 0, 0.7))
    near, far = group_quality(same, held), group_quality(moved, held)
    assert near.made.p_value > 1e-4  # uniform for one distribution, but for 200 permutations: at least 1 / 200
    assert near.made.value < near.made.high < far.made.low
    assert far.made.p_value == 1 / 200


CODES = np.arange(600) % 3


def test_tables_and_asked_classes_are_counted_as_they_are():
    train, held = noise_pictures(0, 600, codes=CODES), noise_pictures(1, 300, codes=CODES[:300])
    made = noise_pictures(2, 300, codes=np.array([0] * 200 + [1] * 80 + [2] * 20))
    found = by_name(fairness_section(train, held, made))
    assert found["distance of the shares"].value == pytest.approx(200 / 300 - 1 / 3)
    assert found["distance of the shares"].p_value < 0.001
    assert found["share of a"].value == pytest.approx(2 / 3)
    assert found["share of a"].floor == pytest.approx(1 / 3)
    section = fairness_section(train, held, made, target={"a": 20, "b": 8, "c": 2})
    assert by_name(section)["distance of the shares"].value == pytest.approx(0)
    assert by_name(section)["distance of the shares"].p_value == 1
    assert len(section.drawings) == 2


def test_a_classifiers_mistakes_do_not_move_the_shares_and_the_worst_group_is_found():
    """30 % of every group are called the next; made rows are 5:3:2 and those of group c are of another spread."""
    train, held = noise_pictures(0, 600, codes=CODES), noise_pictures(1, 900, codes=np.arange(900) % 3)
    good = noise_pictures(2, 800, codes=np.array([0] * 500 + [1] * 300)).array()
    bad = noise_pictures(3, 200, codes=np.full(200, 2), spread=60).array()
    made = Pictures.of(np.concatenate([good, bad]))
    section = fairness_section(train, held, made, classifier=Brightness(0.3), encoder=Itself())
    found = by_name(section)
    for value, truth in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        m = found[f"share of {value}"]
        # the interval, half as wide again on either side: some 2.9 of its deviations; the test's stream is fixed
        slack = 0.5 * (m.high - m.low)
        assert m.low - slack < truth < m.high + slack
        assert abs(m.value - truth) < 0.08
    assert any("corrected" in n for n in section.notes)
    plain = fairness_section(train, held, made, classifier=Brightness(0.0), encoder=Itself())
    assert "distance of c (worst)" in by_name(plain)["quality gap between groups"].note
    assert by_name(plain)["quality gap between groups"].low > 0


def test_what_is_missing_is_said():
    train, held = noise_pictures(0, 90, codes=CODES[:90]), noise_pictures(1, 45, codes=CODES[:45])
    bare = noise_pictures(2, 40)
    assert "no attribute" in fairness_section(bare, bare, bare).notes[0]
    assert "no classifier" in fairness_section(train, held, bare).notes[0]
    assert "there are no groups" in fairness_section(*[noise_pictures(0, 30, codes=np.zeros(30, int))] * 3).notes[0]
    assert "'d'" in fairness_section(train, held, train, target={"d": 1.0}).notes[0]
    assert "not all 0" in fairness_section(train, held, train, target={"a": 0.0}).notes[0]
    few = fairness_section(train, held, train.take(range(30)))
    assert any("not measured for 3 of 3 groups" in n for n in few.notes)
    assert target_of(attribute([0, 0, 1, -1])) == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": 0})
    with pytest.raises(InputError, match="known of no row"):
        target_of(attribute([-1, -1]))
