"""Perturbed and smoothed attention against networks built by hand, and who is left as it was."""

import copy

import pytest
import torch
from torch import nn

from unnoise.control.exact import microbatched
from unnoise.control.guidance import classifier_free
from unnoise.control.perturbed import attending, averaged, identity, perturbed
from unnoise.control.self_guidance import SELF_GUIDANCE, Internal, PerturbedAttention, SmoothedAttention, find_self_guidance
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactGaussian
from unnoise.core.preconditioning import EDM
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow
from unnoise.networks.mp_unet import MPUNetConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unet import UNetConfig

PROCESS = Gaussian(RectifiedFlow())
G = torch.Generator().manual_seed(0)
B, X = 3, torch.randn(3, 2, 8, 8, generator=G)
T = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
WORDS = {
    "tokens": torch.randn(B, 5, 16, generator=G),
    "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool(),
}
NETWORKS = {
    "transformer": DiffusionTransformerConfig(2, width=32, depth=3, heads=2),
    "unet": UNetConfig(2, width=16, multipliers=(1, 2), attention=(1,), words=(), head_dim=16, groups=4),
    "mp-unet": MPUNetConfig(2, width=16, multipliers=(1, 2), attention=(1,), head_dim=16),
}


def drawn(config) -> NetworkDenoiser:
    """With every weight drawn, for networks start as zero maps."""
    torch.manual_seed(0)
    network = config.build()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return NetworkDenoiser(network.eval(), PROCESS, EDM(0.5)).requires_grad_(False)


class Values(nn.Module):
    """What self-attention is when each position sees itself alone: its values, and the layer after them."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.of = attention

    def forward(self, x, *_):
        if x.ndim == 3:
            return self.of.out(x @ self.of.qkv.weight.chunk(3)[2].T)
        h = (self.of.norm(x) if hasattr(self.of, "norm") else x).permute(0, 2, 3, 1)
        if hasattr(self.of, "norm"):
            weight, bias = (p.chunk(3)[2] for p in (self.of.qkv.weight, self.of.qkv.bias))
            return x + self.of.out(h @ weight.T + bias).permute(0, 3, 1, 2)
        v = self.of.qkv(h).unflatten(-1, (3, self.of.heads, -1))[..., 2, :, :]  # of unit mean square a head, as the network has it
        v = v / (v.square().mean(-1, keepdim=True).sqrt() + 1e-4)
        return self.of.out(v.flatten(-2)).permute(0, 3, 1, 2)


def by_hand(denoiser: NetworkDenoiser, blocks, replacement) -> NetworkDenoiser:
    whole = copy.deepcopy(denoiser)
    for i in blocks:
        whole.network.blocks[i].attention = replacement(whole.network.blocks[i].attention)
    return whole


@pytest.mark.parametrize("name", NETWORKS)
def test_identity_attention_is_a_network_of_values(name):
    denoiser = drawn(NETWORKS[name])
    have = attending(denoiser)
    for blocks in ([have[0]], have):
        want = by_hand(denoiser, blocks, Values)(X, T, {}).x0
        torch.testing.assert_close(perturbed(denoiser, blocks)(X, T, {}).x0, want, rtol=1e-4, atol=1e-5)
    assert (denoiser(X, T, {}).x0 - want).abs().max() > 1e-3


def attention_by_loops(q, k, v, mask, of):
    """softmax over the keys that position i may see, `of(i)`, one query after another."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = [j for j in of(i) if bool(mask[b, j])]
                scores = torch.stack([(q[b, h, i] * k[b, h, j]).sum() for j in seen]) / q.shape[-1] ** 0.5
                out[b, h, i] = (scores.softmax(0)[:, None] * torch.stack([v[b, h, j] for j in seen])).sum(0)
    return out


def test_identity_with_words_and_the_average_against_loops():
    n, words = 4, 3
    q = torch.randn(2, 2, n, 6, generator=G)
    k, v = torch.randn(2, 2, 2, words + n, 6, generator=G)
    mask = torch.ones(2, words + n, dtype=torch.bool)
    mask[0, 1], mask[1, :words] = False, False
    want = attention_by_loops(q, k, v, mask, lambda i: [*range(words), words + i])
    torch.testing.assert_close(identity(q, k, v, mask), want)
    torch.testing.assert_close(identity(q, k[:, :, words:], v[:, :, words:]), v[:, :, words:])
    mean = q.mean(2, keepdim=True).expand_as(q)
    torch.testing.assert_close(averaged(q, k, v, mask), attention_by_loops(mean, k, v, mask, lambda i: range(words + n)))
    mask[0, -1] = False  # a position that is padding is not asked either
    mean = torch.stack([q[0, :, :-1].mean(1, keepdim=True), q[1].mean(1, keepdim=True)]).expand_as(q)
    torch.testing.assert_close(averaged(q, k, v, mask), attention_by_loops(mean, k, v, mask, lambda i: range(words + n)))


def test_a_perturbed_network_shares_its_weights_and_leaves_the_original_alone():
    denoiser = drawn(DiffusionTransformerConfig(2, width=32, depth=3, heads=2, token_dim=16))
    before, names = denoiser(X, T, WORDS).x0, list(denoiser.state_dict())
    weak = perturbed(denoiser)
    assert torch.equal(weak(X, T, WORDS).x0, perturbed(denoiser, [1])(X, T, WORDS).x0)  # the middle one of three
    assert torch.equal(denoiser(X, T, WORDS).x0, before)
    assert list(weak.state_dict()) == names
    assert all(a is b for a, b in zip(weak.parameters(), denoiser.parameters()))
    for i, j in ((0, 1), (1, 2)):
        assert (perturbed(denoiser, [i])(X, T, WORDS).x0 - perturbed(denoiser, [j])(X, T, WORDS).x0).abs().max() > 1e-4
    assert (weak(X, T, WORDS).x0 - perturbed(denoiser, replacement=averaged)(X, T, WORDS).x0).abs().max() > 1e-4


@pytest.mark.parametrize(("how", "replacement"), [(PerturbedAttention, identity), (SmoothedAttention, averaged)])
def test_self_guidance_leads_away_from_the_perturbed(how, replacement):
    denoiser = drawn(NETWORKS["transformer"])
    strong, weak = denoiser(X, T, {}).x0, perturbed(denoiser, [0, 2], replacement)(X, T, {}).x0
    got = how(3.0, (0.3, 1.0), (0, 2)).sharpen(denoiser)(X, T, {}).x0
    torch.testing.assert_close(got[1:], (weak + 3 * (strong - weak))[1:], rtol=1e-4, atol=1e-4)
    assert torch.equal(got[0], strong[0])  # outside its interval
    alone = microbatched(how(3.0, (0.3, 1.0), (0, 2)).sharpen(denoiser))(X, T, {}).x0
    torch.testing.assert_close(alone, got, rtol=1e-4, atol=1e-4)


def test_internal_guidance_leads_away_from_the_middle_head_in_one_call():
    class TwoHeads(nn.Module):
        has_middle, calls = True, 0

        def both(self, x, noise_level, cond):
            self.calls += 1
            return x * cond["vector"][..., None, None], x * 0.5

        def forward(self, x, noise_level, cond):
            return self.both(x, noise_level, cond)[0]

    network = TwoHeads()
    denoiser = NetworkDenoiser(network, PROCESS, EDM(0.5))
    cond, null = {"vector": torch.full((B, 1), 2.0)}, {"vector": torch.full((B, 1), 1.0)}
    (strong, middle), (nothing, _) = ([p.x0 for p in denoiser.both(X, T, c)] for c in (cond, null))
    network.calls = 0
    sharp = Internal(1.5, (0.3, 1.0)).sharpen(denoiser)
    got = sharp(X, T, cond).x0
    assert network.calls == 1
    torch.testing.assert_close(got[1:], (middle + 1.5 * (strong - middle))[1:])
    assert torch.equal(got[0], strong[0])
    # classifier-free guidance goes around it: each of its sides is led away from its own middle
    sides = [middle + 1.5 * (side - middle) for side in (strong, nothing)]
    both = classifier_free(sharp, cond, null, 4.0)(X, T).x0
    torch.testing.assert_close(both[1:], (sides[1] + 4 * (sides[0] - sides[1]))[1:], rtol=1e-4, atol=1e-4)


def test_refusals():
    transformer = drawn(NETWORKS["transformer"])
    with pytest.raises(InputError, match="block 3 has no self-attention to perturb; of this network's blocks these have: 0, 1, 2"):
        perturbed(transformer, [1, 3])
    with pytest.raises(InputError, match="block 0 has no self-attention"):
        PerturbedAttention(blocks=(0,)).sharpen(drawn(NETWORKS["unet"]))
    with pytest.raises(InputError, match="ExactGaussian has no blocks of self-attention"):
        perturbed(ExactGaussian(PROCESS, torch.zeros(2), 1.0))
    with pytest.raises(InputError, match="no middle head"):
        Internal().sharpen(transformer)
    for make in (lambda: Internal(float("nan")), lambda: PerturbedAttention(2.0, (0.7, 0.2))):
        with pytest.raises(InputError, match="guidance"):
            make()
    with pytest.raises(InputError, match="unknown self-guidance 'pig'; did you mean 'pag'"):
        find_self_guidance("pig")
    assert all(find_self_guidance(name) is how for name, how in SELF_GUIDANCE.items())
