"""One loss for two players: its gradients are those of the two losses, each taken by itself."""

import pytest
import torch
from torch.nn.functional import softplus

from unnoise.core.random import Streams
from unnoise.evaluation.families.adversarial import Adversarial
from unnoise.evaluation.families.family import Subject
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Categorical, Numeric, Table
from unnoise.modalities.table.infer import infer


def table() -> TableCodecConfig:
    cells = [[f"{i * 1.5:.2f}", "ab"[i % 2], "xyz"[i % 3]] for i in range(40)]
    columns = tuple(infer(n, [r[i] for r in cells], range(2, 42), "t.csv") for i, n in enumerate("nab"))
    assert [type(c) for c in columns] == [Numeric, Categorical, Categorical]
    Table.parse(columns, cells)
    return TableCodecConfig(columns)


@pytest.mark.parametrize("kind", ["pictures", "style", "table"])
def test_the_gradients_of_one_loss_are_those_of_the_two_players(kind: str) -> None:
    torch.manual_seed(0)
    family = Adversarial(style=kind == "style", gamma=0.7, row_gamma=0.7)
    codec = table() if kind == "table" else PixelsConfig(8, 8, 1)
    task = family.contender(Subject(codec, ("a", "b", "c")), 6)
    with torch.no_grad():
        for p in task.parameters():
            p.add_(0.1 * torch.randn_like(p))
    rng = Streams.of(3, 5)
    cond = {"ids": torch.tensor([0, 1, 2, 1, 0])}
    x = torch.randn(5, 1, 8, 8)
    if kind == "table":
        x = {"numeric": torch.randn(5, 1), "categorical": torch.tensor([[0, 2], [1, 1], [0, 0], [1, 2], [1, 0]])}
    task({"x": x, "cond": cond}, rng)["loss"].backward()
    found = {n: p.grad.clone() for n, p in task.named_parameters()}
    task.zero_grad()

    def scores(y: torch.Tensor) -> torch.Tensor:
        return task.critic(y, task.critic_conditioner(cond)["vector"])

    def slope(y: torch.Tensor) -> torch.Tensor:
        y = y.detach().requires_grad_()
        return torch.autograd.grad(scores(y).sum(), y, create_graph=True)[0].square().flatten(1).sum(1)

    real, fake = task.real(x), task.made(cond, rng)
    of_critic = softplus(scores(fake.detach()) - scores(real)) + 0.35 * (slope(real) + slope(fake))
    of_generator = softplus(scores(real) - scores(task.made(cond, rng)))
    for loss, names in ((of_critic, ("critic", "critic_conditioner")), (of_generator, ("generator", "conditioner"))):
        mine = {n: p for n, p in task.named_parameters() if n.split(".")[0] in names}
        wanted = torch.autograd.grad(loss.mean(), list(mine.values()), allow_unused=True)
        for name, g in zip(mine, wanted):
            torch.testing.assert_close(found[name], torch.zeros_like(mine[name]) if g is None else g, rtol=1e-4, atol=1e-6)
