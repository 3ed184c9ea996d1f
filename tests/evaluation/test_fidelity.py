"""Distances of features as published figures have them: torch-fidelity's own formulas on the same features."""

import numpy as np
import pytest
import torch
from fidelity import theirs

from unnoise.evaluation.frechet import frechet
from unnoise.evaluation.kernel import kid


def features(n: int, seed: int, shift: float) -> torch.Tensor:
    """Of 40 dimensions, correlated, none negative, as a network's are."""
    g = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(40, 40)) / 6
    return torch.from_numpy(np.maximum(g.normal(size=(n, 40)) @ mix + shift, 0)).float()


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
def test_frechet_distance_is_theirs(shift):
    module = theirs("metric_fid")
    a, b = features(300, 0, 0.2), features(400, 1, 0.2 + shift)
    want = module.fid_statistics_to_metric(*(module.fid_features_to_statistics(v.double()) for v in (a, b)), verbose=False)
    assert frechet(a, b).value == pytest.approx(want["frechet_inception_distance"], rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
def test_kernel_distance_is_theirs(shift):
    """Its one subset is here all the rows."""
    module = theirs("metric_kid")
    a, b = features(300, 0, 0.2), features(300, 1, 0.2 + shift)
    want = module.kid_features_to_metric(a.double(), b.double(), kid_subsets=1, kid_subset_size=300, verbose=False)
    assert kid(a, b).value == pytest.approx(want["kernel_inception_distance_mean"], rel=1e-6, abs=1e-9)
