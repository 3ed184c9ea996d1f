"""Space to depth against loops over pixels; a set has no order."""

import pytest
import torch

from unnoise.networks.patched import PatchedConfig
from unnoise.networks.sets import SetTransformerConfig
from unnoise.networks.unet import UNetConfig


def inner(channels: int, pictures: int) -> UNetConfig:
    return UNetConfig(channels, None, 8, (1,), 1, (), (), 6, head_dim=4, groups=4, picture_channels=pictures)


def perturbed(network: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network.eval()


def test_patched_is_the_inner_network_on_blocks() -> None:
    torch.manual_seed(0)
    network = perturbed(PatchedConfig(inner(12, 8), 2).build())
    x, picture = torch.randn(2, 3, 8, 6), torch.randn(2, 2, 8, 6)
    level, vector = torch.randn(2), torch.randn(2, 6)

    def blocks(a: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(2, a.shape[1] * 4, 4, 3)
        for c in range(a.shape[1]):
            for i in range(2):
                for j in range(2):
                    out[:, c * 4 + i * 2 + j] = a[:, c, i::2, j::2]
        return out

    expected = network.network(blocks(x), level, {"vector": vector, "picture": blocks(picture)})
    assert torch.allclose(blocks(network(x, level, {"vector": vector, "picture": picture})), expected, atol=1e-6)


def test_sides_that_do_not_divide_are_padded_and_cropped() -> None:
    torch.manual_seed(0)
    network = perturbed(PatchedConfig(inner(12, 0), 2).build())
    x = torch.randn(2, 3, 7, 5)
    whole = torch.nn.functional.pad(x, (0, 1, 0, 1), mode="replicate")
    level, cond = torch.randn(2), {"vector": torch.randn(2, 6)}
    assert torch.allclose(network(x, level, cond), network(whole, level, cond)[..., :7, :5], atol=1e-6)


def test_channels_of_no_whole_block_are_refused() -> None:
    with pytest.raises(ValueError, match="10 channels"):
        PatchedConfig(inner(10, 0), 2)


def test_rows_of_a_set_may_stand_in_any_order() -> None:
    torch.manual_seed(0)
    network = perturbed(SetTransformerConfig(5, 16, 2, 2, 6, 10).build())
    x, level = torch.randn(3, 7, 5), torch.randn(3)
    cond = {"vector": torch.randn(3, 6), "tokens": torch.randn(3, 4, 10), "mask": torch.rand(3, 4) < 0.7}
    order = torch.randperm(7)
    out = network(x, level, cond)
    assert torch.allclose(network(x[:, order], level, cond), out[:, order], atol=1e-5)
    assert not torch.allclose(network(x, level, {**cond, "vector": cond["vector"] + 1}), out, atol=1e-3)
