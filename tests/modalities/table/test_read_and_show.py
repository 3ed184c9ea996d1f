"""Reading, refusing and writing CSV files."""

import json
from pathlib import Path

import pytest
import torch

from unnoise.checkpoints.allowed import ALLOWED
from unnoise.checkpoints.config import decode, encode
from unnoise.core.codec import Unconditional
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Categorical, Numeric
from unnoise.modalities.table.examples import write_breast_cancer
from unnoise.modalities.table.read import read_like, read_table
from unnoise.modalities.table.show import to_csv

ROWS = [(f"{20 + i * 7 % 31}", f"{i * i % 97 / 4:.2f}", "ab"[i % 3 == 0], "ward 3") for i in range(60)]
HEADER = ("age", "dose, mg", "group", "site")


def csv_text(rows=ROWS, header=HEADER, delimiter=",") -> str:
    quoted = [[f'"{c}"' if delimiter in c else c for c in r] for r in ([header] if header else []) + list(rows)]
    return "".join(delimiter.join(r) + "\n" for r in quoted)


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [HEADER, None])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_file_comes_back_through_the_codec_byte_for_byte(tmp_path, delimiter, header, bom):
    text = csv_text(header=header, delimiter=delimiter)
    data = read_table(write(tmp_path, bom + text.encode()))
    codec = data.config.build()
    again = codec.decode(codec.encode(data.table))
    assert to_csv(again, data.config.delimiter, data.config.header) == text


def test_real_tables_come_back_byte_for_byte(data_dir):
    files = sorted((data_dir / "med_tabular").glob("*.csv"))
    assert files
    for path in files:
        data = read_table(path)
        codec = data.config.build()
        text = to_csv(codec.decode(codec.encode(data.table)), data.config.delimiter, data.config.header)
        assert text.splitlines() == path.read_text().splitlines()


def test_the_embedded_example(tmp_path):
    path = write_breast_cancer(tmp_path / "patients.csv")
    data = read_table(path)
    assert (len(data), len(data.config.numeric)) == (569, 30)
    assert data.config.categorical == (Categorical("diagnosis", ("benign", "malignant")),)
    assert data.prompts("diagnosis").count("malignant") == 212  # UCI's count
    assert to_csv(data.table) == path.read_text()


def test_account_says_what_was_found(tmp_path):
    rows = [(str(i + 1), *r[:3], "ward 3", "", f"Person {i}", "NA" if i % 5 else "1.5") for i, r in enumerate(ROWS)]
    rows = [(*r[:-1], r[-1] if i % 5 else f"{i}.5") for i, r in enumerate(rows)]
    data = read_table(write(tmp_path, csv_text(rows, ("id", *HEADER[:3], "site", "notes", "name", "score"))))
    account = data.account()
    for said in (
        "60 rows and 8 columns, separated by ','",
        "3 columns of numbers (age, dose, mg, score)",
        "1 column of categories (group: 2 values)",
        "column 'id' counts the rows",
        "column 'site' is always 'ward 3'",
        "column 'notes' is always empty",
        "column 'name' has too many different texts",
        "48 values are missing, in 1 column (score)",
    ):
        assert said in account
    assert [r[-1] for r in data.table.rows()] == [r[-1] for r in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (csv_text(ROWS[:1]), "1 row of data after the header; a model needs at least 10"),
        (csv_text(header=("age", "dose", "age", "site")), "columns 1 and 3 are both called 'age'"),
        (csv_text([*ROWS[:20], ROWS[0][:3], *ROWS[20:]]), "line 22: 3 cells, but the header has 4"),
        (csv_text().encode("utf-16"), "is not UTF-8"),
        (csv_text([*ROWS, ("30", "1.00", "caf\xe9", "x")]).encode("latin-1"), "line 62: byte 0xe9 is not UTF-8"),
        ("a,b\n" + "1,x\n" * 20, "no column with two different values"),
        ('a,b\n1,"x\n' + "1,2\n" * 20, r"line 2: not CSV \(unexpected end of data\); look for a quotation mark"),
        (csv_text([*ROWS, ("1e999", *ROWS[0][1:])]), "line 62: column 'age' holds 1e999, more than float64 can hold"),
        (
            csv_text([*ROWS, ("inf", *ROWS[0][1:])]),
            "line 62: column 'age' holds numbers, but 1 of its 61 values are not, such as 'inf'",
        ),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as e:
        read_table(write(tmp_path, text))
    assert "\n" not in str(e.value)
    assert "t.csv" in str(e.value)


def test_cells_of_several_lines_and_with_odd_characters(tmp_path):
    rows = [(f"{i}.5", ('"two\nlines"', "a\u2028b", "plain")[i % 3]) for i in range(30)]
    text = csv_text(rows, ("x", "kind"))
    data = read_table(write(tmp_path, text))
    assert data.config.categorical == (Categorical("kind", ("a\u2028b", "plain", "two\nlines")),)
    assert to_csv(data.table) == text


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv")


def test_numbers_as_names_of_columns(tmp_path):
    """A header may hold numbers (years) if another of its cells names a column of nothing but numbers; it can also be said."""
    rows = [(f"{i}.5", f"{i * i}.25", f"{i % 7}") for i in range(40)]
    assert read_table(write(tmp_path, csv_text(rows, ("level", "1990", "1991")))).config.header
    assert not read_table(write(tmp_path, csv_text(rows, None))).config.header
    assert [c.name for c in read_table(write(tmp_path, csv_text(rows, None)), header=True).config.columns] == ["0.5", "0.25", "0"]


def test_batches_depend_on_the_row_and_its_stream_alone(tmp_path):
    data = read_table(write_breast_cancer(tmp_path / "b.csv")).unconditional()
    rng = Streams.of(3, 4)
    together = data.batch([5, 9, 100, 568], rng)
    alone = data.batch([100], rng[2:3])
    assert torch.equal(together["x"]["numeric"][2:3], alone["x"]["numeric"])
    assert torch.equal(together["x"]["categorical"][2:3], alone["x"]["categorical"])
    assert together["cond"] == Unconditional().prepare([None])
    codec = data.codec
    assert torch.equal(codec.decode(together["x"]).numeric, data.data.table.numeric[[5, 9, 100, 568]])


def test_conditioning_needs_a_column_of_categories(tmp_path):
    data = read_table(write(tmp_path, csv_text()))
    assert data.prompts("group")[:4] == ["b", "a", "a", "b"]
    with pytest.raises(InputError, match="cannot be conditioned on 'age'; choose a column of categories: group"):
        data.prompts("age")


def test_write_leaves_the_table_and_its_notes(tmp_path):
    data = read_table(write(tmp_path, csv_text()))
    out = tmp_path / "out"
    out.mkdir()
    meta = [{"prompt": None, "sample_seed": i, "seed": 7, "model_hash": "ab"} for i in range(60)]
    files = data.config.build().write(data.table, out, meta)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in files) == ["samples.csv", "samples.csv.json"]
    assert (out / "samples.csv").read_text() == csv_text()
    notes = json.loads((out / "samples.csv.json").read_text())
    assert notes == {"prompt": None, "sample_seeds": list(range(60)), "seed": 7, "model_hash": "ab"}
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"samples\.csv: cannot be written"):
        data.config.build().write(data.table, tmp_path / "file", meta)


def test_a_saved_configuration_is_the_same_when_read_again(tmp_path):
    rows = [(str(i + 1), *r, "", f"Person {i}", "?" if i % 5 else f"{i},5") for i, r in enumerate(ROWS)]
    config = read_table(write(tmp_path, csv_text(rows, ("id", *HEADER, "notes", "name", "score"), ";"))).config
    assert {type(c).__name__ for c in config.columns} == {"RowNumber", "Numeric", "Categorical", "Constant", "LeftOut"}
    saved = json.loads(json.dumps(encode(config)))
    assert decode(TableCodecConfig, saved, ALLOWED, "config.json") == config


def test_samples_that_are_not_finite_are_refused(tmp_path):
    codec = read_table(write(tmp_path, csv_text())).config.build()
    with pytest.raises(InputError, match="diverged"):
        codec.decode({"numeric": torch.full((2, 2), torch.nan), "categorical": torch.zeros(2, 1, dtype=torch.int64)})


def test_columns_read_are_as_declared(tmp_path):
    age, dose, group, site = read_table(write(tmp_path, csv_text())).config.columns
    assert isinstance(age, Numeric)
    assert isinstance(dose, Numeric)
    assert (age.decimals, age.step, dose.decimals, dose.step) == (0, 1, 2, 25)  # whole years; quarters of a milligram
    assert isinstance(group, Categorical)
    assert site.name == "site"


def test_another_file_with_the_same_columns_is_read_alike(tmp_path):
    (tmp_path / "a.csv").write_text("x,kind\n" + "".join(f"{i}.5,{'ab'[i % 2]}\n" for i in range(30)))
    data = read_table(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("x,kind\n3.5,b\n7.5,a\n")
    assert read_like(tmp_path / "b.csv", data).rows() == [("3.5", "b"), ("7.5", "a")]
    for text, said in (
        ("x,sort\n1.5,a\n", "'sort' in place of 'kind'"),
        ("x,kind\n1.5,c\n", "'c' is not one of"),
        ("x\n1.5\n", "1, not 2"),
    ):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(InputError, match=said):
            read_like(tmp_path / "c.csv", data)
    with pytest.raises(InputError, match="does not exist"):
        read_like(tmp_path / "d.csv", data)
