"""Control by guidance with a maker that obeys as often as it is told to, and prompts in the shares of the data."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats
from stand_ins import Brightness, Itself, Obeying, attribute, noise_pictures

from unnoise.core.errors import InputError
from unnoise.evaluation.control import control_section
from unnoise.evaluation.maker import Maker, prompts_like
from unnoise.modalities.image.measure import Pictures

CODES = np.arange(600) % 3


def test_prompts_have_the_shares_of_the_rows():
    rows = noise_pictures(0, 100, codes=np.array([0] * 50 + [2] * 30 + [-1] * 20))
    prompts = prompts_like(rows, 80, seed=1)
    assert Counter(prompts) == {"a": 50, "c": 30}
    assert prompts != sorted(prompts)
    assert prompts == prompts_like(rows, 80, seed=1)
    one = Counter(prompts_like(rows, 1, seed=s)[0] for s in range(200))
    low, high = stats.binom.ppf([1e-5, 1 - 1e-5], 200, 5 / 8)  # a single prompt is drawn with the shares
    assert low <= one["a"] <= high
    assert prompts_like(noise_pictures(0, 5), 3) == [None] * 3
    assert prompts_like(Pictures.of(rows.array(), (attribute([-1] * 100),)), 2) == [None] * 2
    with pytest.raises(InputError, match="at least 1"):
        prompts_like(rows, 0)


def test_the_curve_is_that_of_the_maker():
    """It obeys with probability 0.4 + 0.2 guidance; shares of 300 rows, 4.5 deviations: 7e-6 each."""
    maker: Maker = Obeying()
    train, held = noise_pictures(0, 600, codes=CODES), noise_pictures(1, 400, codes=CODES[:400])
    section = control_section(maker, Brightness(), train, held, guidance=(0, 1, 3), n=300, encoder=Itself())
    found = {m.name: m for m in section.measures}
    assert found["asked class, real rows"].value > 0.99
    for w in (0, 1, 3):
        p = min(1.0, 0.4 + 0.2 * w)
        assert abs(found[f"asked class, guidance {w}"].value - p) < 4.5 * np.sqrt(p * (1 - p) / 300) + 0.005
        # the rows shown are of the data's own distribution at every scale
        assert found[f"coverage, guidance {w}"].high > 0.8
        assert abs(found[f"distance, guidance {w}"].value) < 0.1
    assert [d.title for d in section.drawings] == [
        "Control, quality and diversity by guidance", "Control against diversity", "What guidance does",
    ]  # fmt: skip
    assert all(d.png.startswith(b"\x89PNG") for d in section.drawings)


class Narrow:
    """Shows what is asked for, always in the same picture."""

    name = "narrow"

    def make(self, prompts, seed, guidance=None):
        if guidance == 2:
            raise InputError("guidance 2 is too much")
        one = noise_pictures(0, 3, codes=np.arange(3)).array()
        return Pictures.of(np.stack([one["abc".index(p)] for p in prompts]), (attribute(["abc".index(p) for p in prompts]),))


def test_a_maker_of_three_pictures_obeys_and_covers_little():
    """Three points lie in the balls of a few of 200 rows; ceilings and floors are those of real rows."""
    train, held = noise_pictures(0, 600, codes=CODES), noise_pictures(1, 400, codes=CODES[:400])
    section = control_section(Narrow(), Brightness(), train, held, guidance=(1, 2), n=200, encoder=Itself())
    found = {m.name: m for m in section.measures}
    assert found["asked class, guidance 1"].value == 1
    assert found["coverage, guidance 1"].value < 0.3
    assert found["coverage, guidance 1"].floor > 0.8
    assert found["distance, guidance 1"].low > found["distance, guidance 1"].floor
    assert any("guidance 2 is too much" in n for n in section.notes)


def test_what_is_missing_is_said():
    train, bare = noise_pictures(0, 100, codes=CODES[:100]), noise_pictures(1, 100)
    assert "nothing to ask for" in control_section(Obeying(), Brightness(), bare, bare).notes[0]
    assert "not known of the held-out rows" in control_section(Obeying(), Brightness(), train, bare).notes[0]
    assert "nothing to ask for" not in control_section(Obeying(), Brightness(), train, train.take(range(3)), n=60).notes[0]
    guess = control_section(Obeying(), Brightness(confused=1.0), train, train, guidance=(1,), n=40)
    assert any("hardly better than guessing" in n for n in guess.notes)
    # the rest is measured without what needs more rows
    assert [m.name for m in guess.measures] == ["asked class, real rows", "asked class, guidance 1"]
    assert any("Quality and diversity were not measured" in n for n in guess.notes)
    assert len(guess.drawings) == 2
