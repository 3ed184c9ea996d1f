"""Predictions combine linearly, whatever their kind."""

import math

import pytest
import torch

from unnoise.core.predictions import Fields, Logits, Mean, Tangent

A, B = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, -2.0], [0.5, 8.0]])


@pytest.mark.parametrize(("kind", "name"), [(Mean, "x0"), (Logits, "logits"), (Tangent, "v")])
def test_lerp_is_the_straight_line(kind, name):
    for w in (-1.0, 0.0, 0.3, 1.0, 2.5):
        torch.testing.assert_close(getattr(kind(A).lerp(kind(B), w), name), A + w * (B - A))
    per_row = kind(A).lerp(kind(B), lambda a: torch.tensor([[0.0], [2.0]]))
    torch.testing.assert_close(getattr(per_row, name), torch.stack([A[0], 2 * B[1] - A[1]]))
    assert torch.equal(getattr(kind(A)[1:], name), A[1:])


def test_guided_logits_are_guided_probabilities():
    """p_w ~ p_away (p / p_away)^w, as a formula on probabilities; what is impossible stays so, and nothing becomes NaN."""
    p, q = torch.tensor([[0.6, 0.3, 0.1, 0.0]]), torch.tensor([[0.2, 0.2, 0.6, 0.0]])
    for w in (0.0, 0.5, 1.0, 3.0):
        got = Logits(q.log()).lerp(Logits(p.log()), w).logits.softmax(-1)
        want = q[:, :3] * (p[:, :3] / q[:, :3]) ** w
        torch.testing.assert_close(got[:, :3], want / want.sum())
        assert got[0, 3] == 0


def test_a_category_that_only_the_other_end_excludes():
    said = Logits(torch.tensor([[0.0, 0.0]])).lerp(Logits(torch.tensor([[0.0, -math.inf]])), 0.5)
    assert said.logits[0, 1] == -math.inf


def test_fields_combine_field_by_field():
    one = Fields({"x": Mean(A), "type": Logits(A)})
    two = Fields({"type": Logits(B), "x": Mean(B)})
    got = one.lerp(two, 0.25)
    torch.testing.assert_close(got.fields["x"].x0, 0.75 * A + 0.25 * B)
    torch.testing.assert_close(got.fields["type"].logits, 0.75 * A + 0.25 * B)
    assert torch.equal(one[:1].fields["x"].x0, A[:1])
