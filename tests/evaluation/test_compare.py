"""What several seeds say together, against tables of Student's t and by hand."""

import json
import math
from dataclasses import fields, replace

import pytest

from unnoise.evaluation.compare import (
    QUALITY,
    Outcome,
    failure_of,
    leaves,
    over_seeds,
    scaling_section,
    scores_section,
    side_by_side,
    speed_section,
    stability_section,
    verdicts,
)
from unnoise.evaluation.families.adversarial import Adversarial
from unnoise.training.config import AdamWConfig, TrainConfig


def outcome(family: str, seed: int, frechet: float, **more: object) -> Outcome:
    given = {"scores": {"frechet": frechet}, "speed": {1: 10.0}, **more}
    return Outcome(family, 1.0, seed, 1000, 500, (10,), 1e9, 2.0, **given)  # type: ignore[arg-type]


def test_two_and_three_seeds() -> None:
    """t(1) = 12.706 and t(2) = 4.3027 at 95 %, two-sided."""
    two = over_seeds([1.0, 3.0])
    assert two is not None and two.low is not None and two.high is not None  # noqa: PT018
    assert (two.value, two.spread) == (2.0, pytest.approx(math.sqrt(2)))
    assert two.high - two.value == pytest.approx(12.706, rel=1e-4)
    three = over_seeds([1.0, 2.0, 3.0])
    assert three is not None and three.high is not None  # noqa: PT018
    assert three.high - 2 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)


def test_one_seed_has_no_interval_and_none_nothing() -> None:
    one = over_seeds([4.0, math.nan])
    assert one is not None
    assert (one.value, one.low, one.seeds) == (4.0, None, 1)
    assert over_seeds([math.nan]) is None


def test_collapse_is_judged_by_real_rows() -> None:
    real = {"modes": 10.0, "recall": 0.8}
    assert failure_of({"modes": 2.0, "recall": 0.5}, real) == ""
    assert "modes" in failure_of({"modes": 1.0, "recall": 0.5}, real)
    assert "recall" in failure_of({"modes": 9.0, "recall": 0.01}, real)


def test_an_outcome_survives_json() -> None:
    o = outcome("gan", 1, 2.5, by_calls={4: {"frechet": 1.0}}, guidance={1.5: {"kid": 0.1}}, failure="collapsed: why")
    assert Outcome.read(json.loads(json.dumps(o.plain()))) == o


def test_the_report_says_where_diffusion_loses() -> None:
    slow = outcome("diffusion", 0, 1.0, speed={1: 8.0, 50: 0.5}, calls=50)
    notes = speed_section([slow, outcome("gan", 0, 2.0)]).notes
    assert len(notes) == 1
    assert "Diffusion loses on speed" in notes[0]
    assert "20 times" in notes[0]


def test_failed_seeds_are_counted_and_named() -> None:
    section = stability_section([outcome("gan", 0, 1.0), outcome("gan", 1, 9.0, failure="diverged: the loss was nan")])
    share = section.measures[0]
    assert share.value == 0.5
    assert share.low is not None and share.high is not None  # noqa: PT018
    assert share.low < 0.1 < 0.9 < share.high  # Wilson's, of 1 in 2
    assert any("seed 1: diverged" in n for n in section.notes)


def test_figures_stand_beside_the_floor_and_other_sizes_stay_out() -> None:
    outcomes = [outcome("gan", 0, 2.0), replace(outcome("gan", 0, 100.0), scale=2.0)]
    section = scores_section("Quality", QUALITY, outcomes, {"frechet": 0.5}, "")
    assert [(m.value, m.floor) for m in section.measures] == [(2.0, 0.5)]
    assert {m.value for m in scaling_section(outcomes).measures} == {2.0, 100.0}


def test_a_verdict_knows_whether_intervals_overlap() -> None:
    near = [outcome("a", s, 1.0 + 0.01 * s) for s in range(3)] + [outcome("b", s, 1.01 + 0.01 * s) for s in range(3)]
    far = [outcome("a", s, 1.0 + 0.01 * s) for s in range(3)] + [outcome("b", s, 9.0 + 0.01 * s) for s in range(3)]
    assert "a 1.01 before b" in verdicts(near)[0]
    assert "overlap" in verdicts(near)[0]
    assert "apart" in verdicts(far)[0]


def test_settings_are_counted_all_the_way_down() -> None:
    assert leaves(AdamWConfig()) == 4
    plain = len(fields(TrainConfig)) - 3  # the optimiser has 4 fields of its own, the guard 5, a constant rate none
    assert leaves(TrainConfig()) == plain + 4 + 5
    assert leaves(3.0) == 1


def test_the_table_has_a_column_a_family() -> None:
    text = side_by_side([outcome("gan", 0, 2.0), outcome("vae", 0, 3.0)], {"frechet": 0.5}, [Adversarial()])
    line = next(t for t in text.splitlines() if t.startswith("Fréchet"))
    assert line.split()[-3:] == ["0.5", "2", "3"]
    lines = next(t for t in text.splitlines() if t.startswith("lines of recipe"))
    assert int(lines.split()[-1]) > 50
