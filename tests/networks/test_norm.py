"""The group norm against torch's own, in float64: outputs, gradients, forward-mode derivatives."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import group_norm

from unnoise.networks.norm import GroupNorm, RowsGroupNorm


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = (3 + 2 * torch.randn(3, 12, 4, 5)).to(dtype).contiguous(memory_format=torch.channels_last)
    return x, torch.rand(12, dtype=dtype) + 0.5, torch.randn(12, dtype=dtype)


def mine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return RowsGroupNorm.apply(x, w, b, 4, 1e-5)[0]


def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return group_norm(x.contiguous(), 4, w, b, 1e-5)


def test_derivatives_of_both_modes() -> None:
    leaves = tuple(t.requires_grad_() for t in inputs(torch.float64))
    g = torch.randn(3, 12, 4, 5, dtype=torch.float64)
    for a, b in zip(torch.autograd.grad(mine(*leaves), leaves, g), torch.autograd.grad(theirs(*leaves), leaves, g)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    tangents = tuple(torch.randn_like(t) for t in leaves)
    forward, oracle = torch.func.jvp(mine, leaves, tangents), torch.func.jvp(theirs, leaves, tangents)
    torch.testing.assert_close(forward, oracle, rtol=1e-9, atol=1e-9)
    _, one = torch.func.jvp(lambda x: mine(x, *leaves[1:]), leaves[:1], tangents[:1])
    _, other = torch.func.jvp(lambda x: theirs(x, *leaves[1:]), leaves[:1], tangents[:1])
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_bfloat16_training(layout: torch.memory_format, weights: torch.dtype) -> None:
    """Against float64 on the same rounded input, within a few roundings of 2^-9 (L2); the gradient keeps layout and dtype."""
    x, w, b = inputs(torch.float32)
    norm = GroupNorm(4, 12)
    with torch.no_grad():
        norm.weight.copy_(w)
        norm.bias.copy_(b)
    norm.to(weights)
    x = x.bfloat16().contiguous(memory_format=layout).requires_grad_()
    g = torch.randn_like(x)
    y = norm(x)
    y.backward(g)
    leaves = tuple(t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias))
    expected = theirs(*leaves)
    exact = torch.autograd.grad(expected, leaves, g.double())
    assert x.grad is not None
    assert x.grad.dtype == y.dtype == torch.bfloat16
    assert x.grad.is_contiguous(memory_format=layout)
    for out, oracle in zip((y, x.grad, norm.weight.grad, norm.bias.grad), (expected, *exact)):
        assert float((out.double() - oracle).norm().detach() / oracle.norm().detach()) < 0.01
