"""`unnoise compare`: bad input, equal means, and going on after an interruption."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.evaluation import judge
from unnoise.evaluation.encoders import train_classifier
from unnoise.recipes.compare import compare
from unnoise.recipes.comparison import Comparison, budget_of


def write(file: Path, n: int = 90, labels: bool = True) -> Path:
    """n small pictures of two kinds: a bright left half, or a bright right one."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    x = rng.integers(0, 90, (n, 8, 8), dtype=np.uint8)
    x[y == 0, :, :4] += 150
    x[y == 1, :, 4:] += 150
    np.savez(file, x=x, **({"y": np.array(["left", "right"])[y]} if labels else {}))
    return file


def asked(file: Path, **more: object) -> Comparison:
    given = {"families": ("gan", "vae"), "seeds": 1, "budget": "3GFLOP", "samples": 50, **more}
    return Comparison(str(file), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"families": ("gann",)}, "did you mean gan"),
        ({"families": ("zzz",)}, "diffusion, gan, style-gan, vae, vq"),
        ({"families": ("gan", "gan")}, "each once"),
        ({"seeds": 0}, "seeds 0"),
        ({"budget": "0s"}, "positive"),
        ({"scales": (2.0,)}, "1 must be among"),
        ({"width": 50}, "multiple of 16"),
    ],
)
def test_what_cannot_be_compared_is_refused(more: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        asked(Path("x.npz"), **more)


def test_budgets() -> None:
    assert budget_of("90") == budget_of("1.5m") == (90.0, False)
    assert budget_of("1h") == (3600.0, False)
    assert budget_of("300GFLOP") == (0.3, True)
    with pytest.raises(InputError, match="neither a time"):
        budget_of("soon")


def test_few_rows_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="49 rows"):
        compare(asked(write(tmp_path / "few.npz", 49)), tmp_path / "out", say=lambda line: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="no comparison"):
        compare(asked(write(tmp_path / "some.npz")), tmp_path / "mine", say=lambda line: None)
    with pytest.raises(InputError, match="is a file"):
        compare(asked(tmp_path / "some.npz"), tmp_path / "some.npz", say=lambda line: None)


def test_a_comparison_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters within 5 %, operations within one step; finished models are not trained again; another budget is refused."""
    monkeypatch.setattr(judge, "train_classifier", partial(train_classifier, steps=10))
    out, said = tmp_path / "out", []
    file = write(tmp_path / "data.npz")
    compare(asked(file, families=("vae",)), out, say=said.append)
    plan = json.loads((out / "plan.json").read_text())
    base, vae = plan["entries"]["diffusion x1"], plan["entries"]["vae x1"]
    assert abs(vae["trained"] / base["trained"] - 1) <= 0.05
    assert abs(vae["steps"][0] * vae["flops"][0] - plan["flops"]) <= 10 * vae["flops"][0]  # ten steps at least
    results = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/result.json")}
    assert len(results) == 1
    sections = compare(asked(file, families=("vae", "gan")), out, say=said.append)
    assert {p: p.stat().st_mtime_ns for p in results} == results
    report = json.loads((out / "compare.json").read_text())
    assert [o["family"] for o in report["outcomes"]] == ["vae", "gan"]
    assert all(0 <= o["scores"]["accuracy"] <= 1 for o in report["outcomes"])
    assert {"Speed", "Training stability", "Control"} <= {s.title for s in sections}
    assert (out / "sheets" / "gan.png").is_file()
    with pytest.raises(InputError, match="budget"):
        compare(asked(file, budget="10GFLOP"), out, say=said.append)
