"""Perturbed and smoothed attention (`control.perturbed`) against diffusers' own processors, in its networks."""

import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from test_adapters_of_diffusers import SD3, TOKENS, VECTOR, ours_like, told, unets
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import SD3_TABLE, SD3_UNUSED, sd3_config, translate, unet_config
from unnoise.control.perturbed import averaged, identity, perturbed
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.preconditioning import EDM
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")


class AskedOnAverage(nn.Module):
    """Queries in the second half of a batch, blurred without limit."""

    def __init__(self, to_q: nn.Module) -> None:
        super().__init__()
        self.to_q = to_q

    def forward(self, x: Tensor) -> Tensor:
        plain, weak = self.to_q(x).chunk(2)
        return torch.cat([plain, weak.mean(1, keepdim=True).expand_as(weak)])


def test_a_u_net_without_a_transformer_in_the_middle_is_perturbed_where_it_is_nearest() -> None:
    theirs, _ = unets("SD 1")
    ours = unet_config({**theirs.config, "mid_block_type": "UNetMidBlock2D"}).build().eval()
    denoiser, x = NetworkDenoiser(ours, Gaussian(RectifiedFlow()), EDM()), torch.randn(3, 4, 8, 12)
    assert len(ours.blocks) == 10  # four down, six up
    got, expected = (perturbed(denoiser, blocks).network(x, TIMES, {"tokens": TOKENS}) for blocks in ([], [5]))
    assert torch.equal(got, expected)


@pytest.mark.parametrize(("name", "block", "place"), [("SD 1", 4, "mid_block"), ("SDXL", 7, "up_blocks.0.attentions.2")])
@torch.no_grad()
def test_perturbed_and_smoothed_attention_in_the_u_net(name: str, block: int, place: str) -> None:
    """Their processors take both halves of a batch, the second one perturbed."""
    from diffusers.models.attention_processor import AttnProcessor2_0, PAGIdentitySelfAttnProcessor2_0

    theirs, _ = unets(name)
    there = [m for n, m in theirs.named_modules() if n.startswith(place) and n.endswith("attn1")]
    assert len(there) == {"SD 1": 1, "SDXL": 3}[name]
    for attention in there:
        attention.to_q.weight *= 100  # so that it matters whom they ask
        attention.to_out[0].weight *= 30
    ours = ours_like(theirs)
    x = torch.randn(3, 4, 8, 12)
    added, cond = told(name)
    twice = {k: {n: torch.cat([v, v]) for n, v in of.items()} for k, of in added.items()}
    denoiser = NetworkDenoiser(ours, Gaussian(RectifiedFlow()), EDM())
    for replacement, processor in ((identity, PAGIdentitySelfAttnProcessor2_0()), (averaged, AttnProcessor2_0())):
        for attention in there:
            attention.set_processor(processor)
            attention.to_q = attention.to_q if replacement is identity else AskedOnAverage(attention.to_q)
        plain, weak = theirs(x.repeat(2, 1, 1, 1), TIMES.repeat(2) * 1000, TOKENS.repeat(2, 1, 1), **twice).sample.chunk(2)
        close(ours(x, TIMES, cond), plain)
        got = perturbed(denoiser, [block], replacement).network(x, TIMES, cond)
        close(got, weak)
        assert (plain - weak).abs().max() > 1e-3
        if place == "mid_block":
            assert torch.equal(perturbed(denoiser, [], replacement).network(x, TIMES, cond), got)


@torch.no_grad()
def test_perturbed_attention_in_stable_diffusion_3() -> None:
    """Words see all, and all see the words; the positions of the picture do not see each other."""
    from diffusers.models.attention_processor import PAGJointAttnProcessor2_0

    plain = {**SD3, "qk_norm": None, "dual_attention_layers": ()}  # their processor leaves the normalisation out
    theirs = randomised(diffusers.SD3Transformer2DModel(num_layers=4, **plain), 0)
    ours = sd3_config(theirs.config).build().eval().requires_grad_(False)
    ours.load_state_dict(translate(theirs.state_dict(), SD3_TABLE, ours.state_dict(), SD3_UNUSED))
    for i in (1, 2):
        theirs.transformer_blocks[i].attn.set_processor(PAGJointAttnProcessor2_0())
    x = torch.randn(3, 4, 8, 14)
    expected = theirs(x.repeat(2, 1, 1, 1), TOKENS.repeat(2, 1, 1), VECTOR.repeat(2, 1), TIMES.repeat(2) * 1000).sample.chunk(2)
    denoiser = NetworkDenoiser(ours, Gaussian(RectifiedFlow()), EDM())
    cond = {"tokens": TOKENS, "vector": VECTOR}
    close(ours(x, TIMES, cond), expected[0])
    close(perturbed(denoiser, [1, 2]).network(x, TIMES, cond), expected[1])
    assert (expected[0] - expected[1]).abs().max() > 1e-3
