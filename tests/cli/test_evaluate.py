"""unnoise evaluate as a person types it: samples and models, pictures and tables; and bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.loading import load
from unnoise.recipes.evaluate import _source
from unnoise.recipes.sections import Options, shares
from unnoise.recipes.train import train


def write(folder: Path, seed: int, n: int, side: int = 8) -> Path:
    """n pictures of "dark" and n of "light"."""
    rng = np.random.default_rng(seed)
    for name, low in (("dark", 0), ("light", 120)):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            x = rng.integers(low, low + 130, (side, side), dtype=np.uint8)
            Image.fromarray(x).save(folder / name / f"{seed}-{i}.png")
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("real") / "shades", 0, 200)


def evaluated(argv: list[str], out: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Section -> measure -> its fields, off report.json."""
    main(["evaluate", *argv, "--out", str(out)])
    assert (out / "report.html").read_text().endswith("</html>\n")
    sections = json.loads((out / "report.json").read_text())["sections"]
    return {s["title"]: {m["name"]: m for m in s["measures"]} for s in sections}


def test_copies_of_the_data_are_found(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every sample is a training or a held-out picture: the distances see nothing, the memory does."""
    found = evaluated(
        [str(real), "--data", str(real), "--only", "memorisation", "own", "--feature-seeds", "1"], tmp_path / "report"
    )
    held = json.loads((tmp_path / "report" / "report.json").read_text())["facts"]["split"]
    train, rest = (int(part.split()[0]) for part in held.split(", "))
    assert train + rest == 400
    assert found["Memorisation"]["exact copies"]["value"] == pytest.approx(train / 400)
    assert set(found["Of pictures alone"]) == {"colour", "spectrum"}
    said = capsys.readouterr().out
    assert "exact copies" in said
    assert "report.html" in said


def test_fresh_pictures_pass_and_half_of_the_classes_does_not(real: Path, tmp_path: Path) -> None:
    """A missing class moves half of the pictures by half of the range; fresh ones are as far off as 120 rows are by chance."""
    fresh = write(tmp_path / "fresh", 1, 120)
    good = evaluated([str(fresh), "--data", str(real), "--only", "distances"], tmp_path / "good")["Two-sample tests"]
    shutil.rmtree(fresh / "light")
    bad = evaluated([str(fresh / "dark"), "--data", str(real), "--only", "distances"], tmp_path / "bad")["Two-sample tests"]
    assert set(good) == set(bad) == {"classifier", "MMD", "energy distance", "sliced Wasserstein"}
    for name in ("MMD", "energy distance", "sliced Wasserstein"):
        assert bad[name]["p_value"] <= 0.01
        assert bad[name]["low"] > bad[name]["floor"]
        assert bad[name]["value"] > 5 * abs(good[name]["value"])


def test_a_run_is_judged_on_the_rows_that_it_held_out(real: Path, tmp_path: Path) -> None:
    short = ["--steps", "2", "--batch", "8", "--width", "32", "--depth", "1", "--train.bf16", "False"]
    main(["train", str(real), "--out", str(tmp_path / "run"), *short, "--data.options.held-out", "0.3"])
    args = [str(tmp_path / "run"), "--data", str(real), "-n", "12", "--only", "likelihood", "--steps", "2", "--batch", "5"]
    found = evaluated(args, tmp_path / "report")
    facts = json.loads((tmp_path / "report" / "report.json").read_text())["facts"]
    assert "may have seen" not in facts["split"]
    assert int(facts["split"].split(", ")[1].split()[0]) > 80  # 120 of 400 are expected; a deviation of 9.2
    assert found["Likelihood"]["bits per dimension"]["value"] > 0
    kept = tmp_path / "report" / "samples.safetensors"
    before = kept.stat().st_mtime_ns
    evaluated([*args, "--overwrite"], tmp_path / "report")
    assert kept.stat().st_mtime_ns == before  # drawn once


def test_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(x, y, "ab"[int(x + y > 0)]) for x, y in rng.normal(size=(240, 2))]
    for name, part in (("real", rows[:160]), ("made", rows[160:])):
        (tmp_path / f"{name}.csv").write_text("x,y,kind\n" + "".join(f"{x:.3f},{y:.3f},{k}\n" for x, y, k in part))
    only = ["--only", "distances", "own", "fairness", "--feature-seeds", "1"]
    found = evaluated([str(tmp_path / "made.csv"), "--data", str(tmp_path / "real.csv"), *only], tmp_path / "report")
    assert {"MMD", "energy distance", "sliced Wasserstein"} <= set(found["Two-sample tests"])  # too few rows for a classifier
    share = found["Fairness: kind"]["share of a"]
    assert share["value"] == pytest.approx(sum(k == "a" for *_, k in rows[160:]) / 80)
    assert share["low"] < share["value"] < share["high"]
    assert found["Of table alone"]


def test_a_model_of_wide_pictures_is_measured_by_wide_ones(tmp_path: Path) -> None:
    """Against pictures of its own shape and of larger ones, which Pillow crops alike."""
    rng = np.random.default_rng(0)
    for name, height, width in (("own", 8, 12), ("larger", 20, 24)):
        (tmp_path / name).mkdir()
        for i in range(30):
            Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    train(tmp_path / "own", tmp_path / "run", steps=1, batch=4, width=16, depth=1)
    model = load(tmp_path / "run" / "model")
    for name in ("own", "larger"):
        source, _ = _source(tmp_path / "run" / "model", str(tmp_path / name), model, Options())
        data = source.open(progress=False).pictures
        file = tmp_path / name / data.names[3]
        cropped = ImageOps.fit(Image.open(file), (12, 8), method=Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(data.pictures([3])[0, ..., 0], np.asarray(cropped))
    argv = [str(tmp_path / "run" / "model"), "--data", str(tmp_path / "larger"), "-n", "4", "--steps", "1", "--only", "own"]
    assert evaluated(argv, tmp_path / "report")["Of pictures alone"]


def test_what_makes_no_sense_is_said_and_the_rest_is_measured(tmp_path: Path) -> None:
    """One class only, few rows, another size, nothing to ask."""
    data, few = tmp_path / "data", write(tmp_path / "few", 3, 15, side=12)
    write(tmp_path / "two", 2, 30)
    shutil.copytree(tmp_path / "two" / "dark", data / "dark")
    only = ["--only", "own", "likelihood", "control", "usefulness", "distances"]
    found = evaluated([str(few), "--data", str(data), *only], tmp_path / "report")
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "12 x 12 pixels and were resized to the data's 8 x 8" in document["facts"]["samples"]
    assert "30 real rows are too few" in document["facts"]["few rows"]
    notes = {s["title"]: " ".join(s["notes"]) for s in document["sections"]}
    assert "need the model" in notes["Likelihood"]
    assert "given samples answer no questions" in notes["Control"]
    assert "nothing to tell apart" in notes["Usefulness"]
    assert found["Of pictures alone"]
    assert found["Two-sample tests"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nothing", "--data", "DATA"], "nothing does not exist"),
        (["DATA", "--data", "missing"], "missing does not exist"),
        (["DATA", "--data", "DATA", "--only", "distance"], "there is no section 'distance'"),
        (["DATA", "--data", "DATA", "--held-out", "1.5"], "held_out 1.5"),
        (["DATA", "--data", "DATA", "-n", "0"], "n 0"),
    ],
)
def test_refusals(argv: list[str], said: str, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", *(str(real) if a == "DATA" else a for a in argv), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as e:
        main(argv)
    assert e.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_feature_network_is_said_and_the_others_measure(real: Path, tmp_path: Path) -> None:
    argv = [
        str(real),
        "--data",
        str(real),
        "--only",
        "features",
        "--feature-seeds",
        "1",
        "--features",
        "inception:gone",
    ]
    found = evaluated(argv, tmp_path / "report")
    sections = json.loads((tmp_path / "report" / "report.json").read_text())["sections"]
    notes = {s["title"]: " ".join(s["notes"]) for s in sections}
    assert "gone" in notes["Features of inception:gone"]
    assert not found["Features of inception:gone"]
    for title in ("Features of classifiers", "Features learnt without labels"):
        assert found[title]["KID"]["low"] <= found[title]["KID"]["value"] <= found[title]["KID"]["high"]


def test_targets() -> None:
    assert shares(["women=0.5", "a=b=0.25"]) == {"women": 0.5, "a=b": 0.25}
    assert shares([]) is None
    for wrong in ("women", "women=many", "women=-1", "women=inf"):
        with pytest.raises(InputError, match="write group=share"):
            shares([wrong])
