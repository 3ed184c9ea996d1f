"""Planted copies are found, fresh rows are not accused, and p-values keep their word."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from stand_ins import Itself, noise_pictures, normal

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.evaluation.memorisation import Losses, closeness, copy_score, memorisation_section, near_copies
from unnoise.evaluation.neighbours import Nearest, Vectors, nearest
from unnoise.modalities.image.measure import Pictures


def by_name(section):
    return {m.name: m for m in section.measures}


def test_planted_copies_are_found_and_fresh_rows_are_not():
    """12 exact and 12 slightly noised copies among 400 fresh rows. That so many fresh rows score below 0.5 that one more is called
    would need a held-out threshold there: the score of normals in 36 dimensions is near 0.9, with deviations of 0.03.
    """
    train, held, made = noise_pictures(0, 800), noise_pictures(1, 500), noise_pictures(2, 424).array().copy()
    made[:12] = train.array(range(12))
    noise = np.random.default_rng(3).integers(-3, 4, (12, 6, 6, 1))
    made[12:24] = np.clip(train.array(range(12, 24)).astype(int) + noise, 0, 255)
    section = memorisation_section(train, held, Pictures.of(made), encoders=[Itself()])
    found = by_name(section)
    assert found["exact copies"].value == 12 / 424
    assert found["exact copies"].floor == 0
    for space in ("", ", features of the rows themselves"):
        copies = found[f"near copies{space}"]
        accused = round(copies.value * 424) - 24
        assert accused >= 0
        # false alarms among the 400 are beta-binomial (rank 1 of 500)
        assert intervals.below_rank(accused, 400, 1, 500) > 1e-4
        assert copies.p_value < 1e-8
        assert copies.floor == pytest.approx(1 / 501)
    assert section.drawings[0].about
    assert Image.open(io.BytesIO(section.drawings[0].png)).size[0] > 100


def test_the_right_rows_are_called():
    train, held, fresh = normal(0, 600, 10), normal(1, 400, 10), normal(2, 300, 10)
    made = torch.cat([fresh, train[:7] + 0.01 * normal(3, 7, 10)])
    score = [copy_score(nearest(Vectors.of(x), Vectors.of(train), 33)) for x in (made, held)]
    called = near_copies(score[0], score[1]).called
    assert bool(called[300:].all())
    assert intervals.below_rank(int(called[:300].sum()), 300, 1, 400) > 1e-4


def test_a_generator_of_fresh_rows_is_not_accused_more_often_than_the_rate_says():
    """Mean over 60 worlds of the share called, against the rate r / (h + 1): within 4.5 deviations, 7e-6."""
    shares = []
    for i in range(60):
        train, held, made = (Vectors.of(normal(1000 + 3 * i + j, 120, 4)) for j in range(3))
        score = [copy_score(nearest(x, train, 9)) for x in (made, held)]
        copies = near_copies(score[0], score[1], rate=0.05)
        shares.append(float(copies.called.double().mean()))
    assert copies.rate == pytest.approx(6 / 121)
    assert abs(np.mean(shares) - 6 / 121) < 4.5 * np.std(shares, ddof=1) / np.sqrt(60)


def test_closeness_of_fresh_rows_has_uniform_p_values_and_of_copies_small_ones():
    p = []
    for i in range(100):
        train, held, made = (Vectors.of(normal(5000 + 3 * i + j, n, 3)) for j, n in enumerate((40, 40, 60)))
        p.append(closeness(nearest(made, train, 4), nearest(made, held, 4), 40, i).p_value)
    for level in (0.1, 0.5):
        # P(p <= level) = level but for ties of the share: binomial tails of 1e-5 on either side, four in all
        low, high = stats.binom.ppf([1e-5, 1 - 1e-5], 100, level)
        assert low - 5 <= np.sum(np.array(p) <= level) <= high
    train, held = normal(1, 200, 3), normal(2, 200, 3)
    made = Vectors.of(train + 0.02 * normal(3, 200, 3))
    c = closeness(nearest(made, Vectors.of(train), 4), nearest(made, Vectors.of(held), 4), 200)
    assert c.p_value < 0.001
    assert c.share.low > 0.8
    assert c.ratio.high < 0.5


def test_rows_that_share_one_neighbour_count_once():
    """All made rows beside one training row: the share is 1, and yet it may be chance: P = 1/2."""
    one = Nearest(torch.full((50, 1), 0.1).double(), torch.zeros(50, 1, dtype=torch.int64))
    far = Nearest(torch.full((50, 1), 0.2).double(), torch.zeros(50, 1, dtype=torch.int64))
    c = closeness(one, far, 30)
    assert c.share.value == 1
    assert c.share.low < 0.5
    # a binomial share of 2000 shuffles, 5 deviations
    assert abs(c.p_value - 0.5) < 5 * 0.5 / np.sqrt(2000)


def test_the_loss_gap_is_scipys():
    rng = np.random.default_rng(5)
    train, held = rng.normal(1, 1, 300), rng.normal(1.5, 1, 200)
    rows = noise_pictures(0, 60)
    section = memorisation_section(rows, rows, rows, losses=Losses(torch.from_numpy(train), torch.from_numpy(held)))
    found = by_name(section)
    gap = stats.ttest_ind(held, train, equal_var=False).confidence_interval(0.95)
    area = stats.mannwhitneyu(held, train, alternative="greater", method="asymptotic", use_continuity=False)
    assert (found["loss gap"].low, found["loss gap"].high) == pytest.approx(tuple(gap))
    assert found["membership inference, area"].value == pytest.approx(area.statistic / 60_000)
    assert found["membership inference, area"].p_value == pytest.approx(area.pvalue)


def test_what_is_missing_is_said_and_the_rest_measured():
    train, few, made = noise_pictures(0, 100), noise_pictures(1, 5), noise_pictures(2, 30)
    section = memorisation_section(train, few, made)
    assert [m.name for m in section.measures] == ["exact copies"]
    assert any("Only 5 held-out" in n for n in section.notes)
    assert len(section.drawings) == 1
    nothing = memorisation_section(train, few, made.take([]))
    assert nothing.measures == ()
    assert "0 made" in nothing.notes[0]
    other = memorisation_section(train, noise_pictures(1, 50, side=5), made)
    assert any("cannot be compared" in n for n in other.notes)
    with pytest.raises(InputError, match="too few"):
        near_copies(torch.ones(5), torch.ones(5))


def test_data_that_repeat_themselves_do_not_hide_copies():
    train = noise_pictures(0, 300)
    held = noise_pictures(1, 200).array().copy()
    held[:20] = train.array(range(20))
    made = noise_pictures(2, 100).array().copy()
    made[:5] = np.clip(train.array(range(50, 55)).astype(int) + 1, 0, 255)
    section = memorisation_section(train, Pictures.of(held), Pictures.of(made))
    assert by_name(section)["near copies"].value >= 0.05
    assert by_name(section)["exact copies"].floor == 0.1
    assert any("20 of 200 held-out rows are equal" in n for n in section.notes)
