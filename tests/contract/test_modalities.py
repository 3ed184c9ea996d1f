"""One suite over every kind of data: its codec, its data set, and every conditioner. A new kind adds a line to CASES."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.core.codec import Codec, Conditioner, UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import State, batch_size, shape_of, tree_map
from unnoise.modalities.conditioning import LabelsConfig, TextConfig
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import InMemory, PictureData, PictureOptions
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Table
from unnoise.modalities.table.data import TableData
from unnoise.modalities.table.infer import infer
from unnoise.networks.text import TextEncoderConfig

N = 12


@dataclass(frozen=True)
class Case:
    """codec, N rows of its raw data, how to take some of them, and the same rows as a training set."""

    name: str
    codec: Callable[[], Codec]
    rows: Callable[[Sequence[int]], Any]
    same: Callable[[Any, Any], bool]
    training: Callable[[Codec], Any]


# -- pictures ----------------------------------------------------------------------------------------------------------------


def _pictures(channels: int) -> Case:
    array = np.random.default_rng(0).integers(0, 256, (N, 10, 7, channels), dtype=np.uint8)
    if channels == 4:
        array[..., 3] |= 1  # the colour of what cannot be seen is not kept
    names = ("cat", "dog")
    data = PictureData(
        InMemory(array), 10, 7, channels, tuple(map(str, range(N))), tuple(((names[i % 2],) if i % 3 else ()) for i in range(N)),
        names, (), (), PictureOptions(flip=True, caption_drop=0.5),
    )  # fmt: skip
    conditioner = LabelsConfig(names, 4).build()
    return Case(
        f"pictures of {channels} channels",
        PixelsConfig(10, 7, channels).build,
        lambda rows: data.pictures(rows),
        lambda a, b: np.array_equal(a, b),
        lambda codec: data.training(codec, conditioner),
    )


# -- tables ------------------------------------------------------------------------------------------------------------------


def _table() -> Case:
    rng = np.random.default_rng(1)
    cells = [[f"{rng.normal(50, 20):.2f}", str(rng.choice(["yes", "no"])), str(rng.choice(["", "7", "8", "12"]))] for _ in range(N)]
    columns = tuple(infer(name, [row[i] for row in cells], range(2, N + 2), "t.csv") for i, name in enumerate("abc"))
    table = Table.parse(columns, cells)
    data = TableData("t.csv", TableCodecConfig(columns), table)
    conditioner = LabelsConfig(("no", "yes"), 4).build()
    return Case(
        "a table",
        data.config.build,
        lambda rows: table[torch.as_tensor(list(rows))],
        lambda a, b: a.rows() == b.rows(),
        lambda codec: data.told("b", conditioner, drop=0.5),
    )


CASES = [_pictures(1), _pictures(3), _pictures(4), _table()]


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def equal(a: State, b: State) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_what_is_encoded_comes_back(case: Case) -> None:
    codec, raw = case.codec(), case.rows(range(N))
    assert case.same(codec.decode(codec.encode(raw)), raw)


def test_the_state_has_the_shape_that_the_codec_says(case: Case) -> None:
    codec = case.codec()
    x = codec.encode(case.rows(range(N)))
    assert shape_of(x) == codec.shape()
    assert batch_size(x) == N


def test_the_state_is_of_order_one(case: Case) -> None:
    """What preconditioning and networks count on, wherever the state is a number."""
    x = case.codec().encode(case.rows(range(N)))
    for field in [x] if isinstance(x, Tensor) else x.values():
        if field.is_floating_point():
            assert field.dtype == torch.float32
            assert 0.2 < float(field.square().mean().sqrt()) < 2


def test_any_state_at_all_can_be_decoded(case: Case) -> None:
    """Samples of a bad model, too: far out they are still data; what are not numbers may be refused, in so many words."""
    codec = case.codec()
    x = codec.encode(case.rows(range(3)))
    for value in (1e9, -1e9, float("inf"), float("nan")):
        bad = tree_map(lambda f, v=value: torch.full_like(f, v) if f.is_floating_point() else f, x)
        try:
            rows, refusal = len(codec.decode(bad)), None
        except InputError as e:
            rows, refusal = 0, str(e)
        assert rows == 3 or (refusal is not None and "not finite" in refusal and not np.isfinite(value))


def test_written_files_exist_and_there_is_no_other(case: Case, tmp_path: Path) -> None:
    codec = case.codec()
    files = codec.write(
        codec.decode(codec.encode(case.rows([0, 1]))), tmp_path, [{"prompt": None, "sample_seed": i} for i in range(2)]
    )
    assert files
    assert {f for f in tmp_path.rglob("*") if f.is_file()} == set(files)
    assert all(f.stat().st_size for f in files)


def test_a_row_of_a_batch_depends_on_its_number_and_its_stream_alone(case: Case) -> None:
    training = case.training(case.codec())
    assert len(training) == N
    rows, rng = [5, 0, 11, 5], Streams.of(3, 4)
    batch = training.batch(rows, rng)
    for i, row in enumerate(rows):
        alone = training.batch([row], rng[i : i + 1])
        assert equal(alone["x"], tree_map(lambda f, i=i: f[i : i + 1], batch["x"]))
        assert equal(alone["cond"], {k: v[i : i + 1] for k, v in batch["cond"].items()})
    again = training.batch(rows, rng)
    assert equal(again["x"], batch["x"])
    assert equal(again["cond"], batch["cond"])


# -- conditioners ------------------------------------------------------------------------------------------------------------

CAPTIONS = ("a red apple", "two pears", "zero")
CONDITIONERS: list[tuple[str, Callable[[], Conditioner], tuple[str, ...]]] = [
    ("unconditional", UnconditionalConfig().build, ()),
    ("labels", LabelsConfig(CAPTIONS, 4).build, CAPTIONS),
    ("text", TextConfig.of(CAPTIONS, TextEncoderConfig(width=12, depth=1, heads=2, buckets=32)).build, CAPTIONS),
]


@pytest.fixture(params=CONDITIONERS, ids=lambda c: c[0])
def conditioner(request: pytest.FixtureRequest) -> tuple[Conditioner, tuple[str, ...]]:
    return request.param[1]().eval(), request.param[2]


def test_prepared_conditions_are_cpu_tensors_with_a_row_a_prompt(conditioner) -> None:
    model, prompts = conditioner
    raw = [*prompts, None, None]
    for v in model.prepare(raw).values():
        assert v.device.type == "cpu"
        assert len(v) == len(raw)
        assert not v.requires_grad


def test_networks_are_told_what_they_know_how_to_hear(conditioner) -> None:
    model, prompts = conditioner
    raw = [*prompts, None]
    cond = model(model.prepare(raw))
    assert set(cond) <= {"vector", "tokens", "mask"}
    assert all(len(v) == len(raw) for v in cond.values())
    assert ("tokens" in cond) == ("mask" in cond)
    if "mask" in cond:
        assert cond["mask"].dtype == torch.bool
        assert cond["mask"].shape == cond["tokens"].shape[:2]
        assert bool(cond["mask"].any(1).all())  # attention over nothing is not a number


def test_the_null_condition_is_that_of_no_prompt_and_differs_from_every_prompt(conditioner) -> None:
    model, prompts = conditioner
    null, told = model.null(1), model.prepare([*prompts, None])
    for k in null:
        assert torch.equal(null[k][0], told[k][-1])
        for row in told[k][:-1]:
            assert not torch.equal(row, null[k][0])


def test_the_empty_prompt_is_refused(conditioner) -> None:
    with pytest.raises(InputError, match="prompt"):
        conditioner[0].prepare([""])
