"""The guide says which test stands for each line of its tables: they exist, and every line has one."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8")


def test_every_line_names_its_tests() -> None:
    known = {name for path in ROOT.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    named = re.findall(r"`(test_\w+)`", GUIDE)
    assert set(named) - known == set()
    lines = [line for line in GUIDE.splitlines() if line.startswith("| ") and not line.startswith(("| family", "| format"))]
    assert len(lines) > 20
    assert [line for line in lines if "`test_" not in line] == []
