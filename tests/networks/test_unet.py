"""The U-Net against an independent one: diffusers' UNet2DModel with the same weights gives the same output."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from unnoise.networks.unet import CrossAttention, UNet, UNetConfig, ddpm_cifar10

diffusers = pytest.importorskip("diffusers", reason="the independent U-Net is diffusers'")


def theirs(config: UNetConfig) -> nn.Module:
    n = len(config.multipliers)
    down = ["AttnDownBlock2D" if i in config.attention else "DownBlock2D" for i in range(n)]
    up = ["AttnUpBlock2D" if i in config.attention else "UpBlock2D" for i in reversed(range(n))]
    widths = tuple(config.width * m for m in config.multipliers)
    return diffusers.UNet2DModel(
        in_channels=config.channels, out_channels=config.channels, layers_per_block=config.blocks, block_out_channels=widths,
        down_block_types=down, up_block_types=up, attention_head_dim=config.head_dim or None, norm_num_groups=config.groups,
        attn_norm_num_groups=config.groups, norm_eps=1e-5, freq_shift=1, downsample_padding=1,
        resnet_time_scale_shift="scale_shift" if config.scale_shift else "default",
    )  # fmt: skip


def in_order(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Their residual blocks in the order they run, each with the attention that follows it."""
    for block in model.down_blocks:
        yield from zip(block.resnets, getattr(block, "attentions", [None] * 9))
    yield from zip(model.mid_block.resnets, [*model.mid_block.attentions, None])
    for block in model.up_blocks:
        yield from zip(block.resnets, getattr(block, "attentions", [None] * 9))


def copy(ours: nn.Module, *sources: nn.Module) -> None:
    """Weights of one layer, or of several stacked."""
    for name, p in ours.named_parameters():
        p.data.copy_(torch.cat([dict(s.named_parameters())[name].data for s in sources]))


def transfer(model: nn.Module, network: UNet) -> None:
    copy(network.embedding.hidden, model.time_embedding.linear_1)
    copy(network.embedding.out, model.time_embedding.linear_2)
    copy(network.first, model.conv_in)
    for block, (resnet, attention) in zip(network.blocks, in_order(model), strict=True):
        residual = block.residual
        copy(residual.norm1, resnet.norm1)
        copy(residual.conv1, resnet.conv1)
        copy(residual.modulation, resnet.time_emb_proj)
        copy(residual.norm2, resnet.norm2)
        copy(residual.conv2, resnet.conv2)
        if resnet.conv_shortcut is not None:
            copy(residual.skip, resnet.conv_shortcut)
        assert (attention is None) == (block.attention is None)
        if attention is not None:
            copy(block.attention.norm, attention.group_norm)
            copy(block.attention.qkv, attention.to_q, attention.to_k, attention.to_v)
            copy(block.attention.out, attention.to_out[0])
    for ours, block in zip(network.down, model.down_blocks):
        copy(ours, block.downsamplers[0].conv)
    for up, block in zip(reversed(network.up), model.up_blocks):
        copy(up.conv, block.upsamplers[0].conv)
    copy(network.norm, model.conv_norm_out)
    copy(network.last, model.conv_out)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_same_weights_same_output(scale_shift: bool) -> None:
    torch.manual_seed(0)
    config = UNetConfig(3, None, 16, (1, 2, 2), 2, (1, 2), (), head_dim=8, groups=8, scale_shift=scale_shift)
    network, model = config.build(), theirs(config)
    transfer(model, network)
    model.time_proj = network.embedding.features  # noise levels are continuous here, steps 0 ... 999 there
    x, level = torch.randn(2, 3, 16, 12), torch.randn(2)
    with torch.no_grad():
        torch.testing.assert_close(network(x, level, {}), model(x, level).sample, rtol=1e-4, atol=1e-4)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_cifar10_network_of_ddpm_has_its_size() -> None:
    """35.7M parameters (2006.11239, appendix B): to the parameter those of diffusers' network."""
    with torch.device("meta"):
        network, model = ddpm_cifar10().build(), theirs(ddpm_cifar10())
    assert parameters(network) == parameters(model)
    assert parameters(network) == pytest.approx(35.7e6, rel=0.01)


def test_a_size_that_does_not_divide_is_the_padded_one_cropped() -> None:
    torch.manual_seed(0)
    network = UNetConfig(1, None, 8, (1, 1, 1), 1, (2,), (), head_dim=4, groups=4).build()
    nn.init.normal_(network.last.weight)
    x = torch.randn(2, 1, 9, 14)
    padded = torch.nn.functional.pad(x, (0, 2, 0, 3), mode="replicate")
    level = torch.randn(2)
    assert torch.equal(network(x, level, {}), network(padded, level, {})[..., :9, :14])


def test_cross_attention_is_torchs_multihead_attention() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(16, 8, 4, 16)
    nn.init.normal_(layer.out.weight)
    oracle = nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([layer.q.weight, layer.kv.weight]))
        oracle.in_proj_bias.copy_(torch.cat([layer.q.bias, layer.kv.bias]))
        oracle.out_proj.load_state_dict(layer.out.state_dict())
    x, tokens = torch.randn(2, 16, 3, 5), torch.randn(2, 4, 16)
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    keys = torch.cat([layer.nothing.expand(2, 1, -1), tokens], 1)
    hidden = torch.cat([torch.zeros(2, 1, dtype=torch.bool), ~mask], 1)
    query = layer.norm(x).flatten(2).transpose(1, 2)
    out: Tensor = oracle(query, keys, keys, key_padding_mask=hidden, need_weights=False)[0]
    torch.testing.assert_close(layer(x, tokens, mask), x + out.transpose(1, 2).unflatten(2, (3, 5)), rtol=1e-5, atol=1e-5)


def test_levels_and_groups_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="levels 0 to 1"):
        UNetConfig(3, multipliers=(1, 2), attention=(2,))
    with pytest.raises(ValueError, match="48 channels"):
        UNetConfig(3, width=48)
