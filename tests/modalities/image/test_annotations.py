import json
from pathlib import Path

import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.annotations import Annotations, annotate
from unnoise.modalities.image.recaption import Facts
from unnoise.modalities.image.sources import entries

from .make import png


def said_of(folder: Path) -> Annotations:
    files = entries(folder)
    pictures = [e for e in files if e.suffix == ".png"]
    return annotate(pictures, [e for e in files if e not in pictures])


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        png(folder / name, 0)


def test_hugging_face_jsonl(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "in/b.png", "in/c.png")
    rows = [{"file_name": "a.png", "text": " a  red\tapple "}, {"file_name": "in/b.png", "text": None}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps({"file_name": "c.png", "text": ["one", "two", "one"]}))
    said = said_of(tmp_path)
    assert said.captions == (("a red apple",), (), ("one", "two"))
    assert said.classes is None


def test_hugging_face_csv_with_a_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text('\ufefffile_name,text,seed\na.png,"a pear, green",1\nb.png,"two\nlines",2\n')
    assert said_of(tmp_path).captions == (("a pear, green",), ("two lines",))


def test_captions_jsonl_prefers_the_caption_to_the_name(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    rows = [{"file": "a.png", "name": "apple", "caption": "an apple, in oil"}, {"file": "b.png", "name": "pear"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert said_of(tmp_path).captions == (("an apple, in oil",), ("pear",))


def test_lines_end_where_json_ends_them(tmp_path: Path) -> None:
    """Not at what else Unicode counts among the ends of lines."""
    pictures(tmp_path, "a.png", "b.png", "c.png")
    rows = [{"file_name": f"{n}.png", "text": f"a {n}\u2028cat\x85 sits\x0bhere"} for n in "ab"]
    text = "\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode())
    (tmp_path / "c.txt").write_bytes("one\u2028and\r\ntwo".encode())
    assert said_of(tmp_path).captions == (("a a cat sits here",), ("a b cat sits here",), ("one and", "two"))


def test_a_sheet_without_rows_is_not_blamed_for_another(tmp_path: Path) -> None:
    pictures(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "a" / "metadata.csv").write_text("file_name,text\n0.png,cat\n1.png,dog\n")
    (tmp_path / "b" / "metadata.csv").write_text("file_name,text\n")
    said = said_of(tmp_path)
    assert said.captions == (("cat",), ())
    assert "(1 files that they name are not there, such as a/1.png)" in said.note


def test_null_and_nan_say_nothing(tmp_path: Path) -> None:
    """Whichever way a table library writes that a cell is empty."""
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": NaN, "caption": "a cat"}\n{"file_name": "b.png", "text": ["one", null, NaN, "two"]}\n'
        '{"file_name": "c.png", "text": [null], "name": "pear", "base": NaN}\n{"file_name": "d.png", "text": null}\n'
    )
    said = said_of(tmp_path)
    assert said.captions == (("a cat",), ("one", "two"), ("pear",), ())
    assert said.facts[2] == Facts("pear")


def test_text_files_fill_what_the_sheet_leaves_out(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,from the sheet\n")
    (tmp_path / "a.txt").write_text("from the file")
    (tmp_path / "b.txt").write_text("first\n\nsecond\n")
    said = said_of(tmp_path)
    assert said.captions == (("from the sheet",), ("first", "second"), ())
    assert "1 .txt files" in said.note


def test_captions_win_over_folders(tmp_path: Path) -> None:
    pictures(tmp_path, "x/a.png", "y/b.png")
    (tmp_path / "x" / "a.txt").write_text("hello")
    assert said_of(tmp_path).captions == (("hello",), ())


@pytest.mark.parametrize("prefix", ["", "train/", "set/of/things/"])
def test_folders_are_classes(tmp_path: Path, prefix: str) -> None:
    pictures(tmp_path, *(f"{prefix}{n}" for n in ("red_fox/1.png", "red_fox/2.png", "emu/1.png")))
    said = said_of(tmp_path)
    assert said.classes == ("emu", "red fox")
    assert said.captions == (("emu",), ("red fox",), ("red fox",))


def test_the_same_classes_in_train_and_test(tmp_path: Path) -> None:
    pictures(tmp_path, "train/emu/1.png", "train/fox/2.png", "test/emu/3.png")
    assert said_of(tmp_path).classes == ("emu", "fox")


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("only/a.png", "only/b.png"), ("train/a.png", "test/b.png")])
def test_one_folder_is_no_class(tmp_path: Path, names: tuple[str, ...]) -> None:
    pictures(tmp_path, *names)
    said = said_of(tmp_path)
    assert said.classes is None
    assert not any(said.captions)


def test_labels_csv_wins_over_folders(tmp_path: Path) -> None:
    pictures(tmp_path, "x/a.png", "y/b.png", "y/c.png")
    (tmp_path / "labels.csv").write_text("file,label,class\nx/a.png,0,plane\ny/b.png,1,ship\n")
    said = said_of(tmp_path)
    assert said.classes == ("plane", "ship")
    assert said.captions == (("plane",), ("ship",), ())


def test_names_that_are_absent_are_counted(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,yes\ngone.png,no\nlost.png,no\n")
    assert "2 files that they name are not there, such as gone.png" in said_of(tmp_path).note


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name": ', r"metadata\.jsonl, line 2 is not JSON"),
        ("metadata.jsonl", "[1, 2]", "line 1 is not a JSON object"),
        ("metadata.jsonl", '{"text": "x"}', "line 1: no picture is named"),
        ("metadata.csv", "picture_of,text\na.png,x\n", "no picture is named.*it has picture_of and text"),
        ("metadata.csv", "file_name,text\ngone.png,x\n", r"names no picture that is there \(first: gone\.png\)"),
        ("labels.csv", "file,class\na.png,emu\na.png,fox\n", "gives a.png the classes emu and fox"),
    ],
)
def test_refusals(tmp_path: Path, name: str, text: str, message: str) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as e:
        said_of(tmp_path)
    assert "\n" not in str(e.value)


def test_text_in_another_encoding(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.txt .* is not UTF-8"):
        said_of(tmp_path)
