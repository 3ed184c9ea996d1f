"""Small feature networks: every pixel counts, every row for itself, any size."""

import pytest
import torch

from unnoise.networks.features import feature_network

SHAPES = [(7,), (1,), (50, 3), (1, 2), (1, 28, 28), (3, 32, 32), (2, 37, 61), (3, 1, 1), (1, 5, 90), (3, 200, 130), (4, 3, 2)]


def built(shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = feature_network(shape)
        network.train()
        for _ in range(3):  # statistics of its own, and residual branches that are no longer shut
            network(torch.randn(16, *shape))
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.3) if p.ndim == 1 else None
    return network.eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_of_a_row_counts(shape):
    network = built(shape)
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
    network(x).square().sum().backward()
    assert bool((x.grad != 0).any(0).all())
    assert all(bool((p.grad != 0).any()) for p in network.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_its_features_in_any_company(shape):
    network = built(shape)
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(row[None]) for row in x.flip(0)]).flip(0)
    assert together.shape == (8, network.width)
    assert bool((together.std(0) > 0).any())
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        feature_network((2, 3, 4, 5))
