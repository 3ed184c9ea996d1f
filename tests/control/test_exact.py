"""Exact micro-batches: the same bits in any company, with networks whose fp32 kernels do depend on the batch."""

import pytest
import torch
from torch import nn

from unnoise.control.exact import MICRO_BATCH, microbatched
from unnoise.control.guidance import classifier_free
from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.state import tree_map


class Net(Denoiser):
    """A network of x_t alone, times the condition; keeps the numbers of rows that it was called with."""

    def __init__(self, body):
        super().__init__()
        self.process, self.body, self.rows = Gaussian(RectifiedFlow()), body, []

    def forward(self, x_t, t, cond):
        self.rows.append((len(x_t), len(t), len(cond["vector"])))
        vector, level = (c.reshape(-1, *([1] * (x_t.ndim - 1))) for c in (cond["vector"], t.float()))
        return Mean(self.body(x_t) * vector + level)


BODIES = {
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1)),
        (3, 16, 16),
    ),
    "transformer": (lambda: nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True), (64, 64)),
    "mlp": (lambda: nn.Sequential(nn.Linear(31, 512), nn.SiLU(), nn.Linear(512, 31)), (31,)),
}


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("body", "shape"), BODIES.values(), ids=BODIES)
@torch.no_grad()
def test_same_bits_alone_and_in_batches_of_1_3_8(body, shape, bf16, scale):
    torch.manual_seed(0)
    net = microbatched(Net(body()).eval())
    x, t, cond = torch.randn(8, *shape), torch.linspace(0.1, 0.9, 8, dtype=torch.float64), {"vector": torch.randn(8, 1)}

    def denoise(rows):
        told = cond["vector"][rows]
        return classifier_free(net, {"vector": told}, {"vector": -told}, scale)(x[rows], t[rows]).x0

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        whole = denoise(slice(0, 8))
        for start in range(8):
            for size in (1, 3):
                rows = slice(start, min(start + size, 8))
                assert torch.equal(denoise(rows), whole[rows])
        order = torch.tensor([5, 2, 7, 0])
        assert torch.equal(denoise(order), whole[order])


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_the_network_sees_one_shape_only(size):
    net = Net(nn.Identity())
    x, t, cond = torch.randn(7, 5), torch.linspace(0, 1, 7, dtype=torch.float64), {"vector": torch.randn(7, 1)}
    got = microbatched(net, size)(x, t, cond).x0
    assert set(net.rows) == {(size, size, size)}
    assert len(net.rows) == -(-7 // size)
    assert torch.equal(got, net(x, t, cond).x0)


def test_states_of_several_fields():
    class Fielded(Net):
        def forward(self, x_t, t, cond):
            return Mean(x_t["a"] + x_t["b"].float())

    x = {"a": torch.randn(5, 2), "b": torch.randint(3, (5, 2))}
    net = Fielded(nn.Identity())
    t = torch.zeros(5, dtype=torch.float64)
    assert torch.equal(microbatched(net, 2)(tree_map(torch.clone, x), t, {}).x0, x["a"] + x["b"].float())


def test_it_is_the_same_denoiser_otherwise():
    net = Net(nn.Linear(2, 2))
    assert microbatched(net).process is net.process
    assert MICRO_BATCH == 1
    with pytest.raises(InputError, match="at least 1"):
        microbatched(net, 0)
