"""The diffusion transformer: sizes, patches, presets."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from unnoise.networks.transformer import DiffusionTransformer, DiffusionTransformerConfig, medium, small


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


CONFIG = DiffusionTransformerConfig(3, 2, 16, 3, 2, vector_dim=5, head_at=2)


def perturbed(config: DiffusionTransformerConfig) -> DiffusionTransformer:
    torch.manual_seed(0)
    network = config.build()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return network


def test_the_middle_head_is_a_shallower_network() -> None:
    """Its last block and head taken away and the middle head in their place, a network says what its middle head said."""
    network, cond = perturbed(CONFIG), {"vector": torch.randn(2, 5)}
    shallow = replace(CONFIG, depth=2, head_at=0).build()
    weights = {k: v for k, v in network.state_dict().items() if k in shallow.state_dict()}
    renamed = {k.removeprefix("middle_"): v for k, v in network.state_dict().items() if k.startswith("middle_")}
    shallow.load_state_dict(weights | renamed)
    x, level = torch.randn(2, 3, 5, 7), torch.randn(2)
    out, middle = network.both(x, level, cond)
    torch.testing.assert_close(middle, shallow(x, level, cond))
    assert torch.equal(out, network(x, level, cond))


def test_the_middle_head_takes_part_in_nothing_else() -> None:
    network = perturbed(CONFIG)
    plain = replace(CONFIG, head_at=0).build()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("middle_")})
    x, level = torch.randn(2, 3, 4, 4), torch.randn(2)
    assert torch.equal(network(x, level, {}), plain(x, level, {}))
    with pytest.raises(ValueError, match="no middle head"):
        plain.both(x, level, {})
    for head_at in (-1, 3):
        with pytest.raises(ValueError, match="1 to 2"):
            replace(CONFIG, head_at=head_at)


def test_checkpointing_leaves_both_heads_as_they_are() -> None:
    network = perturbed(CONFIG)
    x, level, results = torch.randn(2, 3, 4, 4), torch.randn(2), []
    for network.checkpointing in (False, True):
        network.zero_grad()
        out, middle = network.both(x, level, {})
        (out.square().sum() + middle.square().sum()).backward()
        results.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(results[0]) == len(list(network.parameters())) - 2  # all but the layer of the absent vector
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_half_of_the_patches_skip_the_routed_blocks_in_training_alone() -> None:
    """With the last blocks routed, half of the output is that of a network without them; the other half went through them all,
    seeing only each other."""
    config = DiffusionTransformerConfig(3, 2, 16, 3, 2, routed=(1, 3))
    network = perturbed(config)
    plain, shallow = (DiffusionTransformerConfig(3, 2, 16, depth, 2).build() for depth in (3, 1))
    for other in (plain, shallow):
        other.load_state_dict({k: v for k, v in network.state_dict().items() if k in other.state_dict()})
    x, level = torch.randn(2, 3, 8, 10), torch.randn(2)
    torch.manual_seed(1)
    routed = nn.functional.unfold(network(x, level, {}), 2, stride=2)
    skipped = nn.functional.unfold(shallow(x, level, {}), 2, stride=2)
    alike = (routed - skipped).abs().amax((0, 1)) < 1e-5
    assert int(alike.sum()) == 10
    assert bool(((routed - skipped).abs().amax((0, 1)) > 1e-3)[~alike].all())
    assert torch.equal(network.eval()(x, level, {}), plain(x, level, {}))
    for wrong in ({"routed": (2, 1)}, {"routed": (0, 4)}, {"routed": (0, 3), "head_at": 1}):
        with pytest.raises(ValueError, match="routed"):
            replace(config, **wrong)
