"""Guidance against closed forms, and who is called with what."""

import pytest
import torch

from unnoise.control.guidance import bind, classifier_free, concatenate, guided, unmasked
from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactGaussian
from unnoise.core.predictions import Fields, Logits, Mean, Tangent
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow

PROCESS = Gaussian(RectifiedFlow())
B = 4
X = torch.randn(B, 3, 2, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
COND, AWAY = {"vector": torch.full((B, 1), 2.0)}, {"vector": torch.full((B, 1), -1.0)}


class Told(Denoiser):
    """Says x_t tanh(vector) + t, and remembers how many rows each call had."""

    def __init__(self, wrap=Mean):
        super().__init__()
        self.process, self.wrap, self.rows = PROCESS, wrap, []

    def forward(self, x_t, t, cond):
        self.rows.append(len(x_t))
        return self.wrap(x_t * cond["vector"].tanh()[..., None] + t.float()[:, None, None])


def exactly(cond):
    return Told()(X, T, cond).x0


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.4, 1.0, 2.0, 7.5])
def test_the_formula_in_one_call(scale):
    net = Told()
    got = classifier_free(net, COND, AWAY, scale)(X, T).x0
    torch.testing.assert_close(got, exactly(AWAY) + scale * (exactly(COND) - exactly(AWAY)), rtol=1e-5, atol=1e-5)
    assert net.rows == [B if scale in (0.0, 1.0) else 2 * B]


def test_scale_one_is_the_conditional_bit_by_bit_and_zero_the_unconditional():
    assert torch.equal(classifier_free(Told(), COND, AWAY, 1.0)(X, T).x0, bind(Told(), COND)(X, T).x0)
    assert torch.equal(classifier_free(Told(), COND, AWAY, 0.0)(X, T).x0, bind(Told(), AWAY)(X, T).x0)


def test_a_scale_for_every_sample():
    scale, net = torch.tensor([1.0, 3.0, 0.0, -1.0]), Told()
    got = classifier_free(net, COND, AWAY, scale)(X, T).x0
    want = exactly(AWAY) + scale[:, None, None] * (exactly(COND) - exactly(AWAY))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(got[0], exactly(COND)[0])
    assert net.rows == [B + 3]  # the first sample needs no second half


def test_the_interval_is_of_time_sample_by_sample():
    net = Told()
    got = classifier_free(net, COND, AWAY, 3.0, interval=(0.1, 0.7))(X, T).x0
    full = classifier_free(Told(), COND, AWAY, 3.0)(X, T).x0
    assert torch.equal(got[[0, 3]], exactly(COND)[[0, 3]])  # lo < t <= hi
    torch.testing.assert_close(got[1:3], full[1:3])
    assert net.rows == [B + 2]


def test_unconditional_inside_an_interval_is_conditional_outside():
    got = classifier_free(Told(), COND, AWAY, 0.0, interval=(0.1, 0.7))(X, T).x0
    assert torch.equal(got[[0, 3]], exactly(COND)[[0, 3]])
    torch.testing.assert_close(got[1:3], exactly(AWAY)[1:3])


def test_no_sample_in_the_interval_means_no_second_half():
    net = Told()
    assert torch.equal(classifier_free(net, COND, AWAY, 3.0, interval=(0.2, 0.3))(X, T).x0, exactly(COND))
    assert net.rows == [B]


def test_rescale_brings_back_each_samples_deviation():
    plain = classifier_free(Told(), COND, AWAY, 7.5)(X, T).x0
    full = classifier_free(Told(), COND, AWAY, 7.5, rescale=1.0)(X, T).x0
    torch.testing.assert_close(full.flatten(1).std(1), exactly(COND).flatten(1).std(1))
    part = classifier_free(Told(), COND, AWAY, 7.5, rescale=0.7)(X, T).x0
    torch.testing.assert_close(part, 0.7 * full + 0.3 * plain)


def test_guided_gaussians_are_gaussians():
    """p_w ~ p_u (p_c / p_u)^w of two normals with one variance is the normal with the mean m_u + w (m_c - m_u)."""
    m_c, m_u = torch.tensor([1.0, 0.0]), torch.tensor([-0.5, 0.3])
    towards, away = ExactGaussian(PROCESS, m_c, 0.4), ExactGaussian(PROCESS, m_u, 0.4)
    x, t = X[:, 0], T
    for w in (0.0, 0.5, 1.0, 4.0):
        want = ExactGaussian(PROCESS, m_u + w * (m_c - m_u), 0.4)(x, t, {}).x0
        torch.testing.assert_close(guided(bind(towards, {}), bind(away, {}), w)(x, t).x0, want, rtol=1e-5, atol=1e-5)


def test_wrappers_compose():
    inner = classifier_free(Told(), COND, AWAY, 2.0)
    weak = bind(Told(), {"vector": torch.zeros(B, 1)})
    got = guided(inner, weak, 1.5, interval=(0.3, 1.0))(X, T).x0
    a, b = inner(X, T).x0, weak(X, T).x0
    torch.testing.assert_close(got[1:], (b + 1.5 * (a - b))[1:])
    assert torch.equal(got[0], a[0])


def test_every_kind_of_prediction():
    for kind, name in [(Logits, "logits"), (Tangent, "v")]:
        got = classifier_free(Told(kind), COND, AWAY, 3.0)(X, T)
        torch.testing.assert_close(getattr(got, name), exactly(AWAY) + 3 * (exactly(COND) - exactly(AWAY)))
        with pytest.raises(InputError, match="rescale"):
            classifier_free(Told(kind), COND, AWAY, 3.0, rescale=0.5)(X, T)


def test_states_of_several_fields():
    def net(x_t, t, cond):
        assert set(x_t) == {"x", "type"}
        said = x_t["x"] * cond["vector"][..., None]
        return Fields({"x": Mean(said), "type": Logits(said + 1)})

    state = {"x": X, "type": torch.zeros(B, 5, dtype=torch.long)}
    got = classifier_free(net, COND, AWAY, torch.tensor([1.0, 3.0, 3.0, 1.0]), rescale=1.0)(state, T)
    assert torch.equal(got.fields["x"].x0[0], 2 * X[0])
    towards, away = (net(state, T, c) for c in (COND, AWAY))
    led = {}
    for name, key in (("x", "x0"), ("type", "logits")):
        a, b = (getattr(p.fields[name], key) for p in (away, towards))
        led[name] = a + 3 * (b - a)
    wide = towards.fields["x"].x0.flatten(1).std(1) / led["x"].flatten(1).std(1)
    torch.testing.assert_close(got.fields["x"].x0[1:3], (led["x"] * wide[:, None, None])[1:3])
    torch.testing.assert_close(got.fields["type"].logits[1:3], led["type"][1:3])


def test_a_state_of_one_number_has_no_spread_to_be_brought_back():
    net = classifier_free(lambda x, t, cond: Mean(x * cond["vector"]), COND, AWAY, 3.0, rescale=0.7)
    x = torch.randn(B, 1)
    torch.testing.assert_close(net(x, T).x0, x * (AWAY["vector"] + 3 * (COND["vector"] - AWAY["vector"])))


def test_sequences_of_different_lengths_are_padded_and_masked():
    long, short = torch.randn(2, 5, 3), torch.randn(2, 2, 3)
    both = concatenate({"tokens": long}, {"tokens": short, "mask": torch.tensor([[True, True], [True, False]])})
    assert both["tokens"].shape == (4, 5, 3)
    assert both["mask"].tolist() == [[True] * 5] * 2 + [[True, True, False, False, False], [True, False, False, False, False]]
    torch.testing.assert_close(both["tokens"][2:, :2], short)

    def net(x_t, t, cond):
        """The mean of the tokens that count."""
        mask = cond["mask"] if "mask" in cond else torch.ones(cond["tokens"].shape[:2], dtype=torch.bool)
        mean = (cond["tokens"] * mask[..., None]).sum((1, 2)) / mask.sum(1)
        return Mean(x_t + mean[:, None])

    x, t = torch.zeros(2, 1), T[:2]
    got = classifier_free(net, {"tokens": long}, {"tokens": short}, 2.0)(x, t).x0
    want = 2 * net(x, t, {"tokens": long}).x0 - net(x, t, {"tokens": short}).x0
    torch.testing.assert_close(got, want)


def test_refusals():
    for scale in (float("nan"), float("inf"), torch.tensor([1.0, float("nan"), 1, 1]), torch.ones(2, 2)):
        with pytest.raises(InputError, match="guidance"):
            classifier_free(Told(), COND, AWAY, scale)
    for interval in ((0.5, 0.5), (0.7, 0.2), (float("nan"), 1.0)):
        with pytest.raises(InputError, match="interval"):
            classifier_free(Told(), COND, AWAY, 2.0, interval=interval)
    with pytest.raises(InputError, match="rescale"):
        guided(bind(Told(), COND), bind(Told(), AWAY), 2.0, rescale=1.5)
    with pytest.raises(InputError, match="3 guidance scales for 4 samples"):
        classifier_free(Told(), COND, AWAY, torch.tensor([1.0, 2.0, 3.0]))(X, T)
    with pytest.raises(InputError, match="same entries"):
        concatenate({"vector": X}, {"tokens": X})


def test_masks_that_hide_nothing_are_left_out_and_come_back_beside_those_that_do() -> None:
    whole = {"tokens": torch.randn(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.bool)}
    part = {"tokens": torch.randn(2, 3, 4), "mask": torch.tensor([[True, True, False], [True, True, True]])}
    assert list(unmasked(whole)) == ["tokens"]
    assert unmasked(part) is part
    assert unmasked(COND) is COND
    both = concatenate(unmasked(whole), unmasked(part))
    assert torch.equal(both["mask"], torch.cat([whole["mask"], part["mask"]]))
    assert "mask" not in concatenate(unmasked(whole), unmasked(whole))
