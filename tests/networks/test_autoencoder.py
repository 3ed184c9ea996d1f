"""Bottlenecks against closed forms and brute force; networks against the arithmetic that they promise."""

import math

import pytest
import torch

from unnoise.networks.autoencoder import (
    AutoencoderConfig,
    DeepCompression,
    Normalised,
    Plain,
    ShortcutDown,
    ShortcutUp,
    deep_compression,
)
from unnoise.networks.bottlenecks import CodebookConfig, FiniteScalarsConfig, KLConfig

BOTTLENECKS = [KLConfig(4), CodebookConfig(4, 64), FiniteScalarsConfig((8, 5, 4))]


def test_the_divergence_is_torchs() -> None:
    h = torch.randn(3, 8, 2, 2)
    bottleneck = KLConfig(4).build()
    mean, std = bottleneck.posterior(h)
    q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    code = bottleneck(h, torch.zeros(3, 4, 2, 2))
    torch.testing.assert_close(code.loss, torch.distributions.kl_divergence(q, p).flatten(1).mean(1))
    torch.testing.assert_close(code.z, mean)
    torch.testing.assert_close(bottleneck(h, torch.ones(3, 4, 2, 2)).z, mean + std)


def test_the_nearest_vector_is_found_by_brute_force() -> None:
    torch.manual_seed(0)
    book = CodebookConfig(3, 50).build()
    torch.nn.init.normal_(book.affine.weight)
    z = torch.randn(2, 3, 4, 5)
    distances = torch.cdist(z.movedim(1, -1).flatten(0, -2), book.vectors())
    assert torch.equal(book.symbols(z).flatten(), distances.argmin(1))
    torch.testing.assert_close(book.snapped(z), book.vectors()[distances.argmin(1)].view(2, 4, 5, 3).movedim(-1, 1))


def test_the_codebooks_gradient_passes_straight_through_and_pulls_both_ways() -> None:
    """The decoder's gradient reaches the encoder unchanged; of the loss, beta reaches the encoder and 1 the vectors."""
    torch.manual_seed(0)
    book = CodebookConfig(3, 50, commitment=0.25).build()
    h = torch.randn(1, 3, 2, 2, requires_grad=True)
    weight = torch.randn(1, 3, 2, 2)
    book.normalise.eval()  # at first the identity, but for a small number under the root
    (book(h, torch.zeros_like(h)).z * weight).sum().backward()
    torch.testing.assert_close(h.grad, weight, rtol=1e-4, atol=1e-5)
    h.grad = None
    code = book(h, torch.zeros_like(h))
    code.loss.sum().backward()
    torch.testing.assert_close(h.grad, 0.25 * 2 * (h - code.z).detach() / h.numel(), rtol=1e-3, atol=1e-4)
    assert float(book.affine.weight.grad.abs().sum()) > 0


def test_no_vector_dies() -> None:
    """Codes far from every vector: a table by itself keeps the few that were nearest at first. 256 vectors of 8 numbers."""
    torch.manual_seed(0)
    data = 2 + 0.3 * torch.randn(2048, 8)
    book, table = CodebookConfig(8, 256).build(), torch.nn.Parameter(torch.randn(256, 8))
    optimiser = torch.optim.Adam([*book.affine.parameters(), table], lr=0.01)
    for _ in range(200):
        z = data[torch.randint(len(data), (128,))]
        code = book(z[..., None, None], torch.zeros(128, 8, 1, 1))
        free = (z - table[torch.cdist(z, table).argmin(1)]).square().mean()
        (code.loss.mean() + free).backward()
        optimiser.step()
        optimiser.zero_grad()
    used = len(book.symbols(book.normalise(data[..., None, None])).unique())
    assert used > 240
    assert len(torch.cdist(data, table).argmin(1).unique()) < 24


@pytest.mark.parametrize("config", BOTTLENECKS, ids=lambda c: type(c).__name__)
def test_a_code_is_its_own_nearest_code(config) -> None:
    torch.manual_seed(0)
    bottleneck = config.build().eval()
    z = bottleneck.latent(2 * torch.randn(2, bottleneck.inputs, 3, 3))
    assert z.shape == (2, config.latent_channels, 3, 3)
    torch.testing.assert_close(bottleneck.snapped(z), z)


def test_finite_scalars_snap_to_the_nearest_level_and_stay_in_range() -> None:
    bottleneck = FiniteScalarsConfig((8, 5)).build()
    levels = [torch.arange(-4, 4) / 4, torch.arange(-2, 3) / 2]
    z = 3 * torch.randn(5, 2, 4, 4)
    snapped = bottleneck.snapped(z)
    for channel, allowed in enumerate(levels):
        nearest = allowed[(z[:, channel, ..., None] - allowed).abs().argmin(-1)]
        torch.testing.assert_close(snapped[:, channel], nearest)


def test_the_shortcuts_are_those_of_the_paper() -> None:
    """A new level has no convolution yet; what is left is written out pixel by pixel."""
    x = torch.randn(1, 4, 4, 6)
    down = ShortcutDown(4, 8)(x)
    for c in range(8):  # 16 channels of 2 x 2 pixels, in pairs
        for i in range(2):
            for j in range(3):
                pair = [x[0, k // 4, 2 * i + k % 4 // 2, 2 * j + k % 2] for k in (2 * c, 2 * c + 1)]
                assert float(down.detach()[0, c, i, j]) == pytest.approx(float(sum(pair) / 2), abs=1e-6)
    up = ShortcutUp(4, 2)(x)
    for c in range(2):  # 8 channels, each of x twice, shuffled out
        for i in range(8):
            for j in range(12):
                k = 4 * c + 2 * (i % 2) + j % 2
                assert float(up.detach()[0, c, i, j]) == pytest.approx(float(x[0, k // 2, i // 2, j // 2]), abs=1e-6)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS, ids=lambda c: type(c).__name__)
def test_every_factor_keeps_its_promise(factor: int, bottleneck) -> None:
    config = deep_compression(3, factor, bottleneck, width=4)
    assert config.factor == factor
    network = config.build().eval()
    x = torch.randn(2, 3, factor, 3 * factor)
    z = network.encode(x)
    assert z.shape == (2, bottleneck.latent_channels, 1, 3)
    assert network.decode(z).shape == x.shape
    made, code = network(x, torch.zeros_like(z))
    torch.testing.assert_close(code.z, z)
    torch.testing.assert_close(made, network.decode(z))


@pytest.mark.parametrize("resampling", [Plain(), DeepCompression()])
def test_the_reach_is_no_less_than_what_a_pixel_depends_on(resampling) -> None:
    """By the gradient: all of the network's weights at random."""
    config = AutoencoderConfig(1, KLConfig(2), 2, (4, 8), (1, 2), resampling)
    torch.manual_seed(0)
    network = config.build()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn_like(p) / math.sqrt(p[0].numel()) if p.ndim > 1 else 0.1 * torch.randn_like(p))
    size = 4 * (2 * config.reach // 4 + 4)
    middle = size // 2
    x = torch.randn(1, 1, size, size, requires_grad=True)
    network.encode(x)[0, 0, middle // 4, middle // 4].backward()
    touched = x.grad[0, 0].nonzero() - middle
    assert 0 < int(touched.abs().max()) <= config.reach
    z = torch.randn(1, 2, size // 4, size // 4, requires_grad=True)
    network.decode(z)[0, 0, middle, middle].backward()
    touched = 4 * (z.grad[0, 0].nonzero() - middle // 4)
    assert 0 < int(touched.abs().max()) <= config.reach


def test_normalised_blocks_are_offered_too() -> None:
    config = AutoencoderConfig(3, KLConfig(2), 2, (8, 16), (1, 1), kind=Normalised(4))
    network = config.build()
    x = torch.randn(2, 3, 8, 8)
    alone = torch.cat([network.encode(row[None]) for row in x])
    torch.testing.assert_close(network.encode(x), alone)  # by sample, not by batch


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 8"):
        deep_compression(3, 8, KLConfig(2), 4).build().encode(torch.zeros(1, 3, 8, 12))
    with pytest.raises(ValueError, match="power of two"):
        deep_compression(3, 12, KLConfig(2))
    with pytest.raises(ValueError, match="one each"):
        AutoencoderConfig(3, widths=(8, 8), blocks=(1,))
    with pytest.raises(ValueError, match="two each"):
        FiniteScalarsConfig((8, 1))
