"""The two-sample section and the feature section: what they report, and what they say of what cannot be measured."""

import numpy as np
import torch
from torch import Tensor

from unnoise.core.measure import Examples
from unnoise.evaluation.distances import drawn, two_sample_section
from unnoise.evaluation.encoders import Encoder
from unnoise.evaluation.quality import feature_section
from unnoise.modalities.image.measure import Pictures

DISTANCES = ["classifier", "MMD", "energy distance", "sliced Wasserstein"]
FEATURES = [
    "Frechet distance",
    "Frechet distance, infinite rows",
    "KID",
    "precision",
    "recall",
    "density",
    "coverage",
    "Vendi score",
]


def pictures(seed: int, n: int, low: int = 0, high: int = 256, side: int = 4) -> Pictures:
    return Pictures.of(np.random.default_rng(seed).integers(low, high, (n, side, side, 1), dtype=np.uint8))


class Corner(Encoder):
    """The pixels of one corner, times a number."""

    def __init__(self, scale: float, size: int = 2) -> None:
        self.name, self.hash, self.scale, self.size = f"corner x {scale}", "0123456789abcdef", scale, size

    def features(self, x: Examples, reference: Examples, progress: bool = False) -> Tensor:
        return self.scale * (2 + x.tensor(reference)[:, :, : self.size, : self.size].flatten(1))


def test_every_distance_sees_darker_pictures_and_none_sees_equal_ones():
    """Equal pictures: the classifier's p-value is below 1e-5 with at most that probability, the others' are 1e-3 at the least."""
    train, held = pictures(0, 150), pictures(1, 120)
    dark = two_sample_section(train, held, pictures(2, 150, 0, 180))
    assert [m.name for m in dark.measures] == DISTANCES
    for m in dark.measures:
        assert None not in (m.floor, m.low, m.high)
        assert m.p_value <= 0.005
        assert m.low > (0.5 if m.name == "classifier" else m.floor)
    same = two_sample_section(train, held, pictures(3, 150))
    for m in same.measures:
        assert m.p_value > 1e-5
        assert m.low <= m.value <= m.high


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on():
    few = two_sample_section(pictures(0, 100), pictures(1, 30), pictures(2, 100))
    assert [m.name for m in few.measures] == DISTANCES[1:]
    assert any("Classifier is not measured" in n and "40 of each" in n for n in few.notes)
    flat = pictures(0, 60, 7, 8)
    constant = two_sample_section(flat, flat, flat)
    assert [m.name for m in constant.measures] == ["classifier", "energy distance", "sliced Wasserstein"]
    assert all(m.value in (0, 0.5) for m in constant.measures)
    other = two_sample_section(pictures(0, 60), pictures(1, 60), pictures(2, 60, side=5))
    assert other.measures == ()
    assert "5x5x1" in other.notes[0]


def test_no_more_rows_are_compared_than_asked_for():
    s = two_sample_section(pictures(0, 90), pictures(1, 80), pictures(2, 300), most=50)
    assert "50 made and 50 held-out rows, drawn from 300 and 80" in s.notes[0]
    rows = drawn(100, 30, 0, "x")
    assert rows == sorted(set(rows) & set(range(100)))
    assert len(rows) == 30
    assert drawn(100, 30, 1, "x") != rows != drawn(100, 30, 0, "y")
    assert drawn(30, 30, 0, "x") == list(range(30))


def test_features_of_several_networks_are_averaged_and_named():
    train, held, made = pictures(0, 300), pictures(1, 200), pictures(2, 300, 0, 200)
    one, two, both = (feature_section(train, held, made, e) for e in ([Corner(1)], [Corner(4)], [Corner(1), Corner(4)]))
    assert [m.name for m in both.measures] == FEATURES
    for a, b, m in zip(one.measures, two.measures, both.measures):
        assert m.floor is not None
        np.testing.assert_allclose(m.value, (a.value + b.value) / 2, rtol=1e-9)
        assert m.low <= m.value <= m.high
    assert one.measures[0].value > 5 * (one.measures[0].floor or 0)
    # what does not depend on the unit of the features is the same for both networks
    assert [m.value for m in one.measures[3:]] == [m.value for m in two.measures[3:]]
    assert any("corner x 1" in n and "corner x 4" in n and "0123456789abcdef" in n for n in both.notes)


def test_precision_and_density_are_of_made_rows_and_recall_and_coverage_of_real_ones():
    """Made rows in a small part of where real ones are lie among these, and leave most of them unfound; and the reverse."""
    train, wide, narrow = pictures(0, 300, side=2), pictures(1, 300, side=2), pictures(2, 300, 112, 144, side=2)
    for held, made, precise in ((wide, narrow, True), (narrow, wide, False)):
        m = {m.name: m.value for m in feature_section(train, held, made, [Corner(1)]).measures}
        high, low = ("precision", "recall") if precise else ("recall", "precision")
        assert m[high] > 0.9
        assert m[low] < 0.2
        assert m["coverage"] < 0.2
        assert (m["density"] > 0.5) == precise


def test_a_metric_that_cannot_be_computed_is_a_note_and_the_others_go_on():
    s = feature_section(pictures(0, 200), pictures(1, 40), pictures(2, 200), [Corner(1, 4)])
    assert [m.name for m in s.measures] == [FEATURES[0], FEATURES[2], FEATURES[7]]
    assert any("infinite rows is not measured" in n for n in s.notes)
    assert any("Precision and recall are not measured" in n for n in s.notes)
    sizes = feature_section(pictures(0, 99), pictures(1, 99), pictures(2, 99, side=5), [Corner(1)])
    assert sizes.measures == ()
    assert any("5x5x1" in n for n in sizes.notes)
    assert "no feature network" in feature_section(pictures(0, 99), pictures(1, 99), pictures(2, 99), []).notes[0]
    broken = pictures(0, 99)
    nothing = feature_section(broken, broken, broken, [Corner(torch.nan)])
    assert nothing.measures == ()
    assert any("not finite" in n for n in nothing.notes)
