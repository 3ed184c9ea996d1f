"""A network that adds to the picture it is told."""

import pytest
import torch

from unnoise.networks.onto import OntoPictureConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unet import UNetConfig

TRANSFORMER = DiffusionTransformerConfig(2, 2, 16, 1, 2, picture_channels=3)
UNET = UNetConfig(2, None, 8, (1, 2), 1, (1,), (), head_dim=4, groups=4, picture_channels=3)


@pytest.mark.parametrize("inner", [TRANSFORMER, UNET])
def test_it_adds_what_its_network_says_to_the_first_channels_of_the_picture(inner) -> None:
    torch.manual_seed(0)
    network = OntoPictureConfig(inner).build()
    x, level, picture = torch.randn(3, 2, 6, 6), torch.randn(3), torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(network(x, level, {"picture": picture}), picture[:, :2])  # untrained it adds nothing
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    alone = network.network(x, level, {"picture": picture})
    assert float(alone.detach().abs().max()) > 0.01
    torch.testing.assert_close(network(x, level, {"picture": picture}), alone + picture[:, :2])
    torch.testing.assert_close(network(x, level, {}), network.network(x, level, {}))


def test_too_few_channels_to_add_to_are_refused() -> None:
    with pytest.raises(ValueError, match="told 1 channels cannot add to 2"):
        OntoPictureConfig(DiffusionTransformerConfig(2, 2, 16, 1, 2, picture_channels=1))
