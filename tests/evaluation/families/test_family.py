"""Equal means: parameters and floating-point operations, against closed forms."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.evaluation.families.family import Rows, fitted_size, flops_per_step, parameters
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Table
from unnoise.modalities.table.infer import infer
from unnoise.training.task import Task


class Data:
    def __len__(self) -> int:
        return 4

    def batch(self, rows, rng):
        return {"x": torch.randn(len(rows), 5, 8), "cond": {}}


class Layers(Task):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16, bias=False), nn.Linear(16, 3, bias=False)

    def forward(self, batch, rng: Streams) -> dict[str, Tensor]:
        return {"loss": self.second(self.first(batch["x"])).square().mean()}


class Attending(Task):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, batch, rng: Streams) -> dict[str, Tensor]:
        q = (batch["x"] * self.gain)[:, None]
        return {"loss": scaled_dot_product_attention(q, q, q).square().mean()}


def test_operations_of_linear_layers() -> None:
    """2 n m k a product; forward two, backward two for the weights and one for the input of the second."""
    n = 7 * 5
    first, second = 2 * n * 8 * 16, 2 * n * 16 * 3
    assert flops_per_step(Layers(), Data(), 7) == 2 * first + 3 * second


def test_attention_counts_too() -> None:
    """Two products of (5, 8) and (8, 5) or alike forward, twice as many backward, a row."""
    assert flops_per_step(Attending(), Data(), 3) == 3 * (2 + 4) * 2 * 5 * 8 * 5


def test_counting_leaves_no_gradient() -> None:
    task = Layers()
    flops_per_step(task, Data(), 2)
    assert all(p.grad is None for p in task.parameters())


def test_the_size_with_the_nearest_number_of_parameters() -> None:
    def build(size: int) -> nn.Module:
        return nn.Linear(size, size)

    for target in (1000, 12_345, 400_000):
        size = fitted_size(build, target)
        best = min(range(2, 1024), key=lambda s: abs(s * s + s - target))
        assert size == best


def test_no_size_fits() -> None:
    with pytest.raises(InputError, match="5 %"):
        fitted_size(lambda size: nn.Linear(1000, 1000 * size), 1_400_000)


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 4)
    assert parameters([layer, nn.Sequential(layer, nn.Linear(4, 1, bias=False))]) == 16 + 4


def test_rows_of_a_table_come_back() -> None:
    cells = [[f"{i * 1.5:.2f}", "ab"[i % 2], "" if i == 3 else f"{i % 7}.5"] for i in range(40)]
    columns = tuple(infer(n, [r[i] for r in cells], range(2, 42), "t.csv") for i, n in enumerate("nab"))
    config = TableCodecConfig(columns)
    rows, codec = Rows(config), config.build()
    state = codec.encode(Table.parse(columns, cells))
    vector = rows.vector(state)
    assert vector.shape == (40, rows.dim)
    numbers, chosen = rows.split(vector)
    back = rows.state(numbers, [c.argmax(1) for c in chosen])
    assert all(torch.equal(back[k], state[k]) for k in state)
    assert rows.dim == len(config.numeric) + sum(config.sizes)
