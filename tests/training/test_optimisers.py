"""Muon against torch's own (whole matrices), the singular value decomposition, and which weights it is given."""

import pytest
import torch
from torch import nn

from unnoise.training.config import AdamWConfig, MuonConfig, TrainConfig
from unnoise.training.distributed import World
from unnoise.training.optimisers import Muon, build, hidden_matrices, orthogonalise


@pytest.mark.parametrize("shape", [(48, 48), (32, 96), (96, 32)])
def test_orthogonalise_keeps_singular_vectors_and_levels_singular_values(shape):
    g = torch.Generator().manual_seed(1)
    u, _ = torch.linalg.qr(torch.randn(shape[0], 32, generator=g, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(shape[1], 32, generator=g, dtype=torch.float64))
    s = torch.logspace(0, -1.5, 32, dtype=torch.float64)
    out = orthogonalise(((u * s) @ v.T)[None])[0]
    core = u.T @ out @ v
    # in these bases the result is diagonal; five steps leave every value in about [0.68, 1.14] (Jordan's figure: 0.7 ... 1.2)
    assert (core - torch.diag(core.diagonal())).abs().max() < 1e-10
    assert core.diagonal().min() > 0.65
    assert core.diagonal().max() < 1.25


def test_steps_equal_torchs_muon():
    """torch runs Newton-Schulz in bfloat16 one matrix at a time; so does this one here, three at once."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(40, 64)) for _ in range(2)] + [nn.Parameter(torch.randn(64, 40))]
    start = [p.detach().clone() for p in ours]
    theirs = [nn.Parameter(p.clone()) for p in start]
    a = Muon(ours, World(), lr=0.02, momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16)
    b = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, before in zip(ours, theirs, start):
        # bfloat16 has 2^-8 = 0.4 % of relative rounding; other momentum, scale or decay would be 10 % or more
        assert (p - q).norm() < 0.02 * (q - before).norm()


def test_convolutions_are_matrices_whatever_their_memory_format():
    torch.manual_seed(0)
    conv = nn.Parameter(torch.randn(32, 8, 3, 3).contiguous(memory_format=torch.channels_last))
    flat = nn.Parameter(conv.detach().flatten(1).clone())
    conv.grad = torch.randn_like(conv)
    flat.grad = conv.grad.flatten(1).clone()
    for p in (conv, flat):
        Muon([p], World(), lr=0.1).step()
    torch.testing.assert_close(conv.flatten(1), flat, rtol=1e-6, atol=1e-6)


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3)  # 64 x 27: touches the data
        self.conv = nn.Conv2d(64, 64, 3)
        self.depthwise = nn.Conv2d(64, 64, 3, groups=64)
        self.linear = nn.Linear(64, 64)
        self.words = nn.Embedding(100, 64)
        self.tied = nn.Linear(64, 100, bias=False)
        self.tied.weight = self.words.weight
        self.positions = nn.Parameter(torch.zeros(64, 64))
        self.frozen = nn.Linear(64, 64).requires_grad_(False)


def test_muon_gets_hidden_matrices_and_adamw_the_rest():
    net = _Net()
    assert hidden_matrices(net, 32) == {"conv.weight", "linear.weight"}
    config = TrainConfig(optimiser=MuonConfig(rest=AdamWConfig(weight_decay=0.1)))
    muon, adamw = build(config, net, World(), bf16=False)
    names = {id(p): n for n, p in net.named_parameters()}
    got = [{names[id(p)] for g in o.param_groups for p in g["params"]} for o in (muon, adamw)]
    assert got[0] == {"conv.weight", "linear.weight"}
    assert got[1] == {n for n, p in net.named_parameters() if p.requires_grad} - got[0]
    decayed = {names[id(p)] for g in adamw.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {"first.weight", "depthwise.weight", "words.weight", "positions"}
