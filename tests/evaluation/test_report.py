"""A report says what was measured, all of it, in one file that needs nothing else."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from unnoise.core.errors import InputError
from unnoise.core.measure import Measure
from unnoise.evaluation.report import number, to_html, to_text, write_report
from unnoise.evaluation.section import Drawing, Section

SECTIONS = [
    Section(
        "Two samples <and> more",
        (
            Measure("energy distance", 0.0123456, 0.01, 0.02, floor=0.005, p_value=0.0004, note="of 2,000 rows & 2,000"),
            Measure("coverage", 0.91, best="high"),
            Measure("share nearer", float("inf"), best=0.5),
        ),
        (Drawing("a sheet", b"\x89PNG bytes", "what it shows"),),
        ("not measured: there is one class only",),
    ),
    Section("Empty"),
]


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in order; collects the text and the pictures."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.pictures, self.links = [], "", [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.pictures += [v for k, v in attrs if tag == "img" and k == "src"]
        self.links += [v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_nothing_else():
    page = Balanced()
    page.feed(to_html(SECTIONS, "A & B", {"data": "1,797 <digits>"}))
    assert page.open == []
    assert page.links == []
    assert base64.b64decode(page.pictures[0].split(",")[1]) == b"\x89PNG bytes"
    for said in (
        "A & B",
        "1,797 <digits>",
        "Two samples <and> more",
        "0.01235",
        "0.01 ... 0.02",
        "< 0.001",
        "one class only",
        "what it shows",
    ):
        assert said in page.text


def test_the_table_lines_up():
    text = to_text(SECTIONS)
    lines = [line for line in text.splitlines() if re.match(r"energy|coverage|share", line)]
    assert len(lines) == 3
    assert {line.index(v) + len(v) for line, v in zip(lines, ("0.01235", "0.91", "inf"))} == {lines[0].index("0.01235") + 7}
    assert "not measured: there is one class only" in text


def test_files_appear_whole(tmp_path):
    html, document = write_report(SECTIONS, tmp_path / "new", "title", {"n": "3"})
    read = json.loads(document.read_text())
    assert read["sections"][0]["measures"][0] == {
        "name": "energy distance", "value": 0.0123456, "low": 0.01, "high": 0.02, "floor": 0.005, "p_value": 0.0004, "best": "low",
        "note": "of 2,000 rows & 2,000",
    }  # fmt: skip
    assert read["sections"][0]["measures"][2]["value"] == "inf"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]
    assert html.read_text().endswith("</html>\n")
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, OSError)):
        write_report(SECTIONS, tmp_path / "file", "title", {})


@pytest.mark.parametrize(
    ("x", "text"), [(None, ""), (0.0, "0"), (0.5, "0.5"), (123456.0, "1.23e+05"), (1e-7, "1.00e-07"), (-2.0, "-2")]
)
def test_numbers(x, text):
    assert number(x) == text
