"""Magnitudes stay at 1: of every operation by its closed form, of the whole network at the start, of weights under training."""

import math

import pytest
import torch
from torch import Tensor, nn

from unnoise.networks.mp_unet import MPConv, MPUNetConfig, mp_cat, mp_silu, mp_sum, renormalise_weights, unit


def magnitude(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def test_operations_keep_unit_magnitude() -> None:
    """Of 2^20 independent N(0, 1) values: standard error of the magnitude below 0.0015, so 0.01 is beyond 6 of them."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 64, 128, 128), torch.randn(2, 64, 128, 128)
    assert magnitude(mp_silu(a)) == pytest.approx(1, abs=0.01)
    for t in (0.1, 0.3, 0.5, 0.9):
        assert magnitude(mp_sum(a, b, t)) == pytest.approx(1, abs=0.01)
        joined = mp_cat(a[:, :16], b, t)
        assert magnitude(joined) == pytest.approx(1, abs=0.01)
        share = joined[:, :16].square().sum() / joined[:, 16:].square().sum()  # power of the parts: (1 - t)^2 to t^2
        assert float(share) == pytest.approx((1 - t) ** 2 / t**2, rel=0.05)
    assert magnitude(unit(5 * a, 1)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_convolutions_keep_unit_magnitude_whatever_the_weights(kernel: int) -> None:
    """White input, inside the picture: the weight's length is exactly 1, so the variance is; 2^18 outputs, tolerance 0.02."""
    torch.manual_seed(0)
    conv = MPConv(64, 64, kernel)
    with torch.no_grad():
        conv.weight.mul_(torch.rand(64, *[1] * (conv.weight.ndim - 1)) * 100 + 0.1)
    x = torch.randn(4096, 64) if kernel == 0 else torch.randn(4, 64, 34, 34)
    out = conv(x) if kernel == 0 else conv(x)[..., 1:-1, 1:-1]
    assert magnitude(out) == pytest.approx(1, abs=0.02)


def test_magnitudes_at_the_start_are_one_at_every_depth() -> None:
    """White input of unit variance, mean over five networks: every one of the 21 blocks in a row puts out a magnitude of 1
    within 20 %, and every convolution hands on the magnitude it is given within 10 %. Not exact, because borders are padded
    with 0 and silu's constant holds for normal values; without the normalisation 21 blocks would be off by factors.
    """
    outputs: dict[str, list[float]] = {}
    gains: dict[str, list[float]] = {}
    for seed in range(5):
        torch.manual_seed(seed)
        network = MPUNetConfig(3, None, 64, (1, 1, 2), 2, (1, 2), 8).build()

        def watch(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor, name: str) -> None:
            outputs.setdefault(name, []).append(magnitude(out))
            gains.setdefault(name, []).append(magnitude(out) / magnitude(inputs[0]))

        for name, module in network.blocks.named_modules():
            if name.isdigit() or (isinstance(module, MPConv) and "modulation" not in name):  # whose gain starts at 0
                module.register_forward_hook(lambda m, i, o, name=name: watch(m, i, o, name))
        with torch.no_grad():
            network(torch.randn(1, 3, 64, 64), torch.randn(1), {"vector": torch.randn(1, 8)})
    blocks = [sum(v) / 5 for k, v in outputs.items() if k.isdigit()]
    convs = [sum(v) / 5 for k, v in gains.items() if not k.isdigit()]
    assert len(blocks) == 21
    assert len(convs) == 2 * 21 + 11 + 2 * 11
    assert max(abs(b - 1) for b in blocks) < 0.2
    assert max(abs(c - 1) for c in convs) < 0.1


def test_queries_and_keys_have_unit_length_per_head() -> None:
    """So a score is sqrt(d) times a cosine, whatever the magnitude of the input."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3, 3)
    attention = MPUNetConfig(3, None, 8, (1,), 1, (0,), head_dim=4).build().blocks[0].attention
    torch.testing.assert_close(attention(100 * x), attention(x), rtol=1e-3, atol=1e-3)


def test_forced_normalisation_keeps_norms_and_the_function() -> None:
    """After any update renormalise_weights brings every output channel's norm back to sqrt(fan-in) and changes no output."""
    torch.manual_seed(0)
    network = MPUNetConfig(3, None, 8, (1, 2), 1, (1,), 5, head_dim=4).build()
    nn.init.ones_(network.gain)
    optimiser = torch.optim.SGD(network.parameters(), lr=100.0)
    x, level, cond = torch.randn(2, 3, 8, 8), torch.randn(2), {"vector": torch.randn(2, 5)}
    renormalise_weights(network)
    network(x, level, cond).square().sum().backward()
    optimiser.step()
    convs = [m for m in network.modules() if isinstance(m, MPConv)]
    grown = max(float((m.weight.flatten(1).norm(dim=1) / math.sqrt(m.weight[0].numel())).max()) for m in convs)
    assert grown > 1.1  # the gradient is orthogonal to the weight: a step can only lengthen it
    before = network(x, level, cond)
    renormalise_weights(network)
    for m in convs:
        norms = m.weight.flatten(1).norm(dim=1) / math.sqrt(m.weight[0].numel())
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-3)
    torch.testing.assert_close(network(x, level, cond), before, rtol=1e-2, atol=1e-2)


def test_weight_gradients_are_orthogonal_to_the_weights() -> None:
    """The direction alone matters (section 2.3), up to the epsilon in the norm."""
    torch.manual_seed(0)
    conv = MPConv(16, 8, 3)
    conv(torch.randn(2, 16, 9, 9)).pow(3).sum().backward()
    w, g = conv.weight.flatten(1), conv.weight.grad.flatten(1)
    cosine = (w * g).sum(1) / (w.norm(dim=1) * g.norm(dim=1))
    assert float(cosine.abs().max()) < 1e-3
