"""The code that the documents show is run."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unnoise.recipes.train as recipes
from unnoise.recipes.options import Options

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_shows_both_levels() -> None:
    assert len(BLOCKS) == 2


def test_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, but for the size of the training."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * i, dtype=np.uint8)).save(f"photos/{i}.png")
        Path(f"photos/{i}.txt").write_text("a red apple")
    whole = recipes.plan
    monkeypatch.setattr(recipes, "plan", lambda data, options, recipe: whole(data, Options(steps=2, width=32, depth=1), recipe))
    exec(BLOCKS[0], {})
    assert len(list(Path("apples").glob("*.png"))) == 17  # 16 and the sheet
    assert Path("apple-model/model.safetensors").is_file()


def test_the_nouns_by_hand() -> None:
    names: dict = {}
    exec(BLOCKS[1], names)
    assert names["pictures"].shape == (4, 1, 8, 8)
    assert float(names["pictures"].abs().mean()) == pytest.approx(1, abs=0.5)  # it has learnt at least the size of its data


GUIDES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    ("guide", "block"),
    [(g, i) for g in GUIDES for i in range(g.read_text(encoding="utf-8").count("```python"))],
    ids=lambda v: getattr(v, "name", v),
)
def test_guides_run(guide: Path, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They assert what they claim themselves."""
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)[block]
    assert "assert " in code
    exec(code, {})
