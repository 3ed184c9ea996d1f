"""Generators, critics, flows, symbols and sequences, against independent computations."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from unnoise.networks.autoregressive import CausalTransformerConfig
from unnoise.networks.gan import (
    ConditionalGeneratorConfig,
    ModulatedConvolution,
    PictureCriticConfig,
    PictureShape,
    StyleGeneratorConfig,
)
from unnoise.networks.resnet import from_patches, pyramid, to_patches
from unnoise.networks.vae import CouplingFlowConfig
from unnoise.networks.vq import FiniteScalars, QuantisedAutoencoderConfig


def perturbed(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """What starts at zero is given random values, so that everything has an effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p) / math.sqrt(max(1, p[0].numel() if p.ndim > 1 else 1)))
    return module


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (17, 40), (1, 5), (33, 64)])
def test_patches_come_back(height: int, width: int) -> None:
    at, x = pyramid(height, width), torch.randn(2, 3, height, width)
    patches = to_patches(x, at)
    assert tuple(patches.shape[2:]) == at.sizes[0]
    assert max(at.sizes[0]) <= 16
    assert max(at.sizes[-1]) <= 4
    assert torch.equal(from_patches(patches, at), x)


def test_a_modulated_convolution_is_that_of_weights_scaled_for_each_row() -> None:
    """Karras et al. 2019, 1912.04958, eq. 1 and 3, written out row by row."""
    torch.manual_seed(0)
    layer = perturbed(ModulatedConvolution(5, 4, 6))
    x, style = torch.randn(3, 5, 7, 7), torch.randn(3, 6)
    rows = []
    for i in range(3):
        w = layer.weight * layer.affine(style[i : i + 1])[0][None, :, None, None]
        w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        rows.append(conv2d(x[i : i + 1], w, layer.bias, padding=1))
    torch.testing.assert_close(layer(x, style), torch.cat(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [PictureShape(3, 8, 8), PictureShape(1, 28, 20), PictureShape(2, 5, 33)])
@pytest.mark.parametrize("kind", [ConditionalGeneratorConfig, StyleGeneratorConfig])
def test_generators_make_the_shape_and_each_row_by_itself(kind: type, shape: PictureShape) -> None:
    generator = perturbed(kind(shape, 6, latent=8, vector_dim=4).build())
    latent, vector = torch.randn(3, 8), torch.randn(3, 4)
    made = generator(latent, vector)
    assert made.shape == (3, shape.channels, shape.height, shape.width)
    torch.testing.assert_close(generator(latent[1:2], vector[1:2]), made[1:2], rtol=1e-4, atol=1e-5)
    critic = perturbed(PictureCriticConfig(shape, 6, vector_dim=4).build())
    torch.testing.assert_close(critic(made[1:2], vector[1:2]), critic(made, vector)[1:2], rtol=1e-4, atol=1e-5)


def test_a_class_is_told_to_the_critic_by_a_bilinear_term() -> None:
    """Miyato & Koyama 2018: D(x, y) - D(x, 0) is linear in what is told."""
    critic = perturbed(PictureCriticConfig(PictureShape(1, 8, 8), 6, vector_dim=4).build())
    x, y = torch.randn(2, 1, 8, 8), torch.randn(2, 4)
    base = critic(x, torch.zeros(2, 4))
    torch.testing.assert_close(critic(x, 3 * y) - base, 3 * (critic(x, y) - base), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 5, 8])
def test_a_flow_comes_back_and_knows_its_jacobian(dim: int) -> None:
    flow = perturbed(CouplingFlowConfig(dim, 12, couplings=4, vector_dim=3).build()).double()
    z, vector = torch.randn(4, dim, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    u, log_det = flow(z, vector)
    torch.testing.assert_close(flow.inverse(u, vector), z)
    for i in range(4):
        j = torch.autograd.functional.jacobian(lambda v, i=i: flow(v[None], vector[i : i + 1])[0][0], z[i])
        torch.testing.assert_close(torch.linalg.slogdet(j)[1], log_det[i])
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(flow.log_prob(z, vector), normal.log_prob(u).sum(1) + log_det)


def test_a_flow_is_a_density() -> None:
    """The integral over a fine grid of a two-dimensional one is 1."""
    flow = perturbed(CouplingFlowConfig(2, 8, couplings=3).build()).double()
    axis = torch.linspace(-12, 12, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = float(flow.log_prob(grid).detach().exp().sum() * (axis[1] - axis[0]) ** 2)
    assert abs(total - 1) < 1e-3


@pytest.mark.parametrize("levels", [(8, 6, 5), (2, 3), (7,)])
def test_all_symbols_stand_for_values_that_stand_for_them(levels: tuple[int, ...]) -> None:
    quantiser = FiniteScalars(levels)
    symbols = torch.arange(quantiser.size)
    values = quantiser.values(symbols)
    assert len(values.unique(dim=0)) == quantiser.size == math.prod(levels)
    assert torch.equal(quantiser.symbols(values), symbols)


def test_quantising_reaches_every_level_and_passes_the_gradient_of_the_squashing() -> None:
    quantiser = FiniteScalars((4, 5))
    z = torch.linspace(-5, 5, 2001)[:, None].repeat(1, 2).requires_grad_()
    out = quantiser(z)
    assert [len(out[:, j].unique()) for j in range(2)] == [4, 5]
    assert bool((out.detach().diff(dim=0) >= 0).all())
    out.sum().backward()
    half, offset = torch.tensor([1.5, 2.0]) * 1.001, torch.tensor([0.5, 0.0])
    slope = half * (1 - torch.tanh(z.detach() + torch.atanh(offset / half)).square()) / 2
    torch.testing.assert_close(z.grad, slope, rtol=1e-4, atol=1e-5)


def test_a_picture_of_symbols_is_what_the_autoencoder_makes_of_the_picture() -> None:
    autoencoder = perturbed(QuantisedAutoencoderConfig(PictureShape(3, 12, 9), 6).build())
    x = torch.randn(2, 3, 12, 9)
    symbols = autoencoder.encode(x)
    assert symbols.shape == (2, math.prod(autoencoder.map))
    torch.testing.assert_close(autoencoder.decode(symbols), autoencoder(x), rtol=1e-4, atol=1e-5)


def test_no_symbol_knows_of_later_ones() -> None:
    network = perturbed(CausalTransformerConfig(7, 6, width=8, depth=2, vector_dim=3).build()).eval()
    symbols, vector = torch.randint(7, (2, 6)), torch.randn(2, 3)
    logits = network(symbols, vector)
    for i in range(6):
        other = symbols.clone()
        other[:, i] = (other[:, i] + 1) % 7
        changed = (network(other, vector) - logits).abs().amax((0, 2)) > 1e-6
        assert not changed[: i + 1].any()
        assert bool(changed[i + 1 :].all())


def test_drawn_symbols_invert_the_distribution_function_of_the_whole_sequence() -> None:
    """The keys that are kept change nothing: every symbol is the inverse of the cumulative sum that one full pass gives."""
    network = perturbed(CausalTransformerConfig(7, 6, width=8, depth=2, vector_dim=3).build(), 1.0).eval()
    uniforms, vector = torch.rand(64, 6), torch.randn(64, 3)
    drawn = network.draw(uniforms, vector)
    below = network(drawn, vector).double().softmax(-1).cumsum(-1)
    inverse = (below <= uniforms[..., None]).sum(-1)
    assert len(drawn.unique()) == 7
    assert float((drawn == inverse).float().mean()) > 0.99  # rounding may tip a number that lies on an edge
