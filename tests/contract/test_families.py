"""One suite over every family that is compared with diffusion: what the loop and the report may rely on. A new one adds a line."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.evaluation.families.adversarial import Adversarial
from unnoise.evaluation.families.family import Contender, Family, Subject, parameters
from unnoise.evaluation.families.quantised import Quantised
from unnoise.evaluation.families.variational import Variational
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Table
from unnoise.modalities.table.infer import infer

CELLS = [[f"{i * 0.7:.1f}", "ab"[i % 2], "" if i == 3 else f"{i % 5}.5"] for i in range(20)]
COLUMNS = tuple(infer(n, [r[i] for r in CELLS], range(2, 22), "t.csv") for i, n in enumerate("nab"))
PICTURES, TABLE = PixelsConfig(12, 9, 3), TableCodecConfig(COLUMNS)
CLASSES = ("cat", "dog")


@dataclass(frozen=True)
class Case:
    family: Family
    codec: PixelsConfig | TableCodecConfig
    classes: tuple[str, ...] = CLASSES


CASES = {
    "gan": Case(Adversarial(), PICTURES),
    "gan, untold": Case(Adversarial(), PICTURES, ()),
    "gan of rows": Case(Adversarial(), TABLE),
    "style-gan": Case(Adversarial(style=True), PICTURES),
    "vae": Case(Variational(), PICTURES),
    "vae, untold": Case(Variational(), PICTURES, ()),
    "vae of rows": Case(Variational(), TABLE),
    "vq": Case(Quantised(), PICTURES),
}
everything = pytest.mark.parametrize("name", CASES)


def made(name: str) -> Contender:
    case = CASES[name]
    torch.manual_seed(0)
    contender = case.family.contender(Subject(case.codec, case.classes), 4)
    with torch.no_grad():
        for p in contender.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return contender


def batch(name: str, n: int = 6) -> dict[str, State]:
    case = CASES[name]
    torch.manual_seed(1)
    x: State = torch.rand(n, 3, 12, 9) * 2 - 1
    if isinstance(case.codec, TableCodecConfig):
        x = TABLE.build().encode(Table.parse(COLUMNS, CELLS[:n]))
    return {"x": x, "cond": {"ids": torch.arange(n) % 2} if case.classes else {}}


def prompts(name: str, n: int) -> list[str | None]:
    classes = CASES[name].classes
    return [classes[i % 2] if classes else None for i in range(n)]


def rows(data: Tensor | Table) -> list[object]:
    return data.rows() if isinstance(data, Table) else list(np.asarray(data))


@everything
def test_every_stage_moves_its_own_parameters_and_all_are_moved_in_the_end(name: str) -> None:
    contender, moved = made(name), set()
    for stage in range(len(contender.shares)):
        contender.enter(stage)
        contender.zero_grad()
        out = contender(batch(name), Streams.of(0, 6))
        assert out["loss"].shape == ()
        assert bool(out["loss"].isfinite())
        out["loss"].backward()
        asking = {n for n, p in contender.named_parameters() if p.requires_grad}
        with_gradient = {n for n, p in contender.named_parameters() if p.grad is not None}
        assert with_gradient <= asking
        moved |= with_gradient
    assert moved == {n for n, _ in contender.named_parameters()}
    assert abs(sum(contender.shares) - 1) < 1e-9


@everything
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(name: str) -> None:
    """What micro-batches rely on."""
    contender, rng = made(name).eval(), Streams.of(0, 6)
    for stage in range(len(contender.shares)):
        contender.enter(stage)
        whole = contender(batch(name), rng)["loss"]
        parts = []
        for i in (0, 3):
            given = batch(name)
            x, cond = given["x"], given["cond"]
            x = x[i : i + 3] if isinstance(x, Tensor) else {k: v[i : i + 3] for k, v in x.items()}
            parts.append(contender({"x": x, "cond": {k: v[i : i + 3] for k, v in cond.items()}}, rng[i : i + 3])["loss"])
        torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-4, atol=1e-5)


@everything
def test_a_sample_is_decided_by_its_seed_and_prompt_alone(name: str) -> None:
    contender = made(name)
    together = rows(contender.sample(prompts(name, 4), [11, 12, 13, 14], None, None))
    alone = rows(contender.sample(prompts(name, 4)[2:3], [13], None, None))
    other = rows(contender.sample(prompts(name, 4)[2:3], [99], None, None))
    assert len(together) == 4
    if isinstance(CASES[name].codec, PixelsConfig):
        assert np.abs(np.asarray(together[2], dtype=int) - np.asarray(alone[0], dtype=int)).max() <= 1  # rounding
    else:
        assert together[2] == alone[0]
    assert not np.array_equal(alone[0], other[0])


@everything
def test_what_it_cannot_do_is_refused(name: str) -> None:
    contender = made(name)
    with pytest.raises(InputError, match="guid"):
        contender.sample(prompts(name, 1), [0], 2.0, None)
    with pytest.raises(InputError, match="network calls"):
        contender.sample(prompts(name, 1), [0], None, contender.calls() + 1)
    if CASES[name].classes:
        with pytest.raises(InputError, match="classes"):
            contender.sample(["walrus"], [0], None, None)


@everything
def test_what_a_sample_needs_is_part_of_what_is_trained(name: str) -> None:
    contender = made(name)
    assert 0 < parameters(contender.sampled()) < parameters([contender])


@pytest.mark.parametrize("family", [Quantised(), Adversarial(style=True)])
def test_tables_are_refused_in_a_sentence(family: Family) -> None:
    with pytest.raises(InputError, match="table"):
        family.contender(Subject(TABLE, CLASSES), 4)
