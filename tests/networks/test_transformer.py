"""The diffusion transformer: sizes, patches, presets."""

import pytest
import torch
from torch import nn

from unnoise.networks.transformer import DiffusionTransformerConfig, medium, small


def test_presets_have_their_sizes() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in f(3).build().parameters()) for f in (small, medium)]
    assert sizes == pytest.approx([10e6, 33e6], rel=0.05)


def test_patches_go_in_and_come_out_where_they_were() -> None:
    """With the patch embedding and the output the identity, the network is 1 / rms of every patch: nothing is moved."""
    torch.manual_seed(0)
    network = DiffusionTransformerConfig(3, 2, 12, 0, 1, bottleneck=99).build()
    with torch.no_grad():
        for layer in (network.patches, network.out):
            layer.weight.copy_(torch.eye(12))
            layer.bias.zero_()
    x = torch.randn(2, 3, 6, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unnoise.networks.transformer.sincos_2d", lambda *a: torch.zeros(15, 12))
        out = network(x, torch.zeros(2), {})
    patches = nn.functional.unfold(x, 2, stride=2)
    expected = patches / patches.square().mean(1, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(out, nn.functional.fold(expected, (6, 10), 2, stride=2), rtol=1e-5, atol=1e-5)


def test_the_patch_embedding_has_the_rank_of_its_bottleneck() -> None:
    patches = DiffusionTransformerConfig(3, 8, 64, 1, 2, bottleneck=5).build().patches
    assert isinstance(patches, nn.Sequential)
    assert int(torch.linalg.matrix_rank(patches[1].weight @ patches[0].weight)) == 5


def test_head_width_for_two_dimensional_positions() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        DiffusionTransformerConfig(3, width=30, heads=5)
