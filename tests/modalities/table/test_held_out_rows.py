"""Rows kept back from training: always the same, whatever else is in the file; and nothing of them gets into the model."""

import math
from pathlib import Path

import pytest

from unnoise.checkpoints.allowed import ALLOWED
from unnoise.checkpoints.config import allow, decode, encode
from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Numeric
from unnoise.modalities.table.data import TableData
from unnoise.modalities.table.examples import write_breast_cancer
from unnoise.modalities.table.read import read_table
from unnoise.recipes.options import Options
from unnoise.recipes.sources import TableSource
from unnoise.recipes.tables import tables

ROWS = [f"{i * 37 % 1009}.5,{'ab'[i % 2]}" for i in range(1000)]


def read(tmp_path: Path, rows: list[str]) -> TableData:
    path = tmp_path / "t.csv"
    path.write_text("x,kind\n" + "\n".join(rows) + "\n")
    return read_table(path)


def contents(data: TableData) -> list[tuple[str, ...]]:
    return data.table.rows()


def test_every_row_is_on_one_side_and_the_share_is_about_what_was_asked(tmp_path) -> None:
    data = read(tmp_path, ROWS)
    rest, held = data.split(0.2)
    assert sorted(contents(rest) + contents(held)) == sorted(contents(data))
    assert abs(len(held) - 200) < 4.5 * math.sqrt(1000 * 0.2 * 0.8)  # binomial: 7e-6
    assert [r for r in contents(data) if r in set(contents(held))] == contents(held)  # in the file's order


def test_rows_that_are_added_or_moved_move_no_other(tmp_path) -> None:
    before = {"held": set(contents(read(tmp_path, ROWS).split(0.2)[1]))}
    more = [f"{i}.25,a" for i in range(300)] + ROWS[::-1]
    after = set(contents(read(tmp_path, more).split(0.2)[1]))
    known = {r for r in after if not r[0].endswith(".25")}
    assert {(x.rstrip("0"), k) for x, k in known} == {(x.rstrip("0"), k) for x, k in before["held"]}


def test_another_seed_holds_out_others(tmp_path) -> None:
    data = read(tmp_path, ROWS)
    a, b = (set(contents(data.split(0.2, seed)[1])) for seed in (0, 1))
    assert abs(len(a & b) - 40) < 4.5 * math.sqrt(1000 * 0.04 * 0.96)
    assert contents(data.split(0.2, 1)[1]) == contents(data.split(0.2, 1)[1])


def test_equal_rows_are_shared_out(tmp_path) -> None:
    """500 rows alike: each has a draw of its own (binomial, 4.5 standard deviations: 7e-6)."""
    held = read(tmp_path, ["1.5,a"] * 500 + ["2.5,b"] * 500).split(0.3)[1]
    alike = sum(r == ("1.5", "a") for r in contents(held))
    assert abs(alike - 150) < 4.5 * math.sqrt(500 * 0.3 * 0.7)


def test_nothing_of_the_held_out_rows_is_known_to_the_columns(tmp_path) -> None:
    """The column ends where the rest does, half a step of its lattice further out, and not where the whole file did."""
    data = read(tmp_path, ROWS)
    rest, held = data.split(0.5)
    (column,) = rest.config.numeric
    assert isinstance(column, Numeric)
    values = rest.table.numeric[:, 0]
    assert column.values[0] == pytest.approx(float(values.min()), abs=1.001 * column.half)
    assert column.values[-1] == pytest.approx(float(values.max()), abs=1.001 * column.half)
    assert held.config == rest.config
    assert rest.table.columns == rest.config.columns == held.table.columns
    assert data.config.numeric[0] != column
    assert data.config.numeric[0].values[-1] > column.values[-1]  # the greatest value is among those held out


@pytest.mark.parametrize("share", [0.0, 1e-9, 1.0])
def test_a_share_that_leaves_nothing_is_refused(tmp_path, share) -> None:
    with pytest.raises(InputError, match="leaves one side empty"):
        read(tmp_path, ROWS[:50]).split(share)


def test_a_run_trains_on_the_rest_alone(tmp_path) -> None:
    source = TableSource(str(write_breast_cancer(tmp_path / "b.csv")), held_out=0.25)
    opened = source.open()
    rest, _ = opened.table.split(0.25)
    run = tables(opened, source, Options())
    assert run.model.codec == rest.config
    model = run.model.build()
    training = opened.training(model.codec, model.conditioner)
    assert len(training) == len(rest) < len(opened.table)
    assert run.model.about.data.startswith(f"{len(rest)} rows")


def test_a_source_saved_before_rows_were_held_out_holds_none_out() -> None:
    saved = encode(TableSource("t.csv"))
    del saved["held_out"]
    assert decode(TableSource, saved, {**ALLOWED, **allow(TableSource)}, "run.json") == TableSource("t.csv")
