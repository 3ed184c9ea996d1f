"""The commands as a person types them, on eight-pixel pictures; and bad input: one line, exit status 2, nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from safetensors.torch import load_file

from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.recipes.options import Options
from unnoise.recipes.runs import load_run, save_run
from unnoise.recipes.train import check_again, plan

SHORT = ["--steps", "4", "--batch", "8", "--width", "32", "--depth", "1", "--train.bf16", "False"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            x = rng.integers(0, 100, (8, 8), dtype=np.uint8) + (150 if name == "light" else 0)
            Image.fromarray(x.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "shapes"
    main(["train", str(pictures), "--out", str(out), *SHORT])
    return out


def test_training_says_what_it_found_and_chose(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", str(pictures), "--out", str(tmp_path / "run"), *SHORT])
    said = capsys.readouterr().out
    for part in (
        "24 pictures",
        "8 x 8",
        "2 (dark, light)",
        "4 steps of 8",
        "steps/s: about",
        f"the model is in {tmp_path / 'run' / 'model'}",
    ):
        assert part in said
    model = tmp_path / "run" / "model"
    assert {p.name for p in model.iterdir()} == {"config.json", "model.safetensors", "README.md", "samples.png"}
    last = max((tmp_path / "run" / "samples").glob("*.png"))
    assert (model / "samples.png").read_bytes() == last.read_bytes(), "the last step draws a sheet, which the card shows"
    assert "(samples.png)" in (model / "README.md").read_text()


def test_samples_say_how_they_were_made_and_can_be_made_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    main(["sample", str(run), "dark", "light", "-n", "2", "--steps", "3", "--seed", "7", "--exact", "--out", str(out)])
    files = sorted(p for p in out.glob("*.png") if p.name != "sheet.png")
    assert len(files) == 4
    assert (out / "sheet.png").is_file()
    capsys.readouterr()
    main(["info", str(files[3])])
    said = capsys.readouterr().out
    assert "light" in said
    again = next(line for line in said.splitlines() if line.strip().startswith("unnoise sample")).split()
    main([*again[1:-1], str(tmp_path / "again")])
    (twin,) = [p for p in (tmp_path / "again").glob("*.png") if p.name != "sheet.png"]
    assert np.array_equal(np.asarray(Image.open(twin)), np.asarray(Image.open(files[3])))


def test_any_field_can_be_given_as_a_dotted_option(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(["train", str(pictures), "--out", str(out), *SHORT, "--model.process.schedule.shift", "3", "--train.clip", "0.5"])
    document = json.loads((out / "run.json").read_text())["run"]
    assert document["model"]["process"]["schedule"]["shift"] == 3.0
    assert document["train"]["clip"] == 0.5


def test_data_options_read_the_data_again(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(["train", str(pictures), "--out", str(out), *SHORT, "--data.options.size", "12"])
    assert json.loads((out / "model" / "config.json").read_text())["model"]["codec"]["height"] == 12


def test_a_finished_run_resumes_to_itself(run: Path) -> None:
    before = (run / "model" / "model.safetensors").read_bytes()
    main(["resume", str(run)])
    assert (run / "model" / "model.safetensors").read_bytes() == before


def test_resuming_with_other_data_is_refused(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for i in range(8):
        Image.new("L", (8, 8), i).save(data / f"{i}.png")
    main(["train", str(data), "--out", str(out), *SHORT])
    Image.new("L", (8, 8), 9).save(data / "9.png")
    assert "has changed since" in refused(["resume", str(out)], capsys)


def test_a_table_comes_back_with_its_header_and_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    rows = [f"{rng.integers(20, 80)},{rng.normal(5, 1):.2f},{rng.choice(['yes', 'no'])}" for _ in range(80)]
    (tmp_path / "t.csv").write_text("age,dose,well\n" + "\n".join(rows) + "\n")
    main(["train", str(tmp_path / "t.csv"), "--out", str(tmp_path / "run"), "--steps", "4", "--width", "32", "--depth", "1"])
    main(["sample", str(tmp_path / "run"), "-n", "5", "--steps", "5", "--out", str(tmp_path / "s")])
    (file,) = (tmp_path / "s").glob("*.csv")
    lines = file.read_text().splitlines()
    assert lines[0] == "age,dose,well"
    assert len(lines) == 6
    for line in lines[1:]:
        age, dose, well = line.split(",")
        assert age == str(int(age))
        assert len(dose.partition(".")[2]) == 2
        assert well in ("yes", "no")
    capsys.readouterr()
    main(["info", str(file)])
    assert "-n 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian", "x"], "there is no command 'trian'; did you mean train"),
        (["train", "{tmp}/nowhere", "--out", "{tmp}/r"], "nowhere does not exist; give a folder or zip of pictures"),
        (["train", "{empty}", "--out", "{tmp}/r"], "holds no pictures"),
        (["train", "{pictures}", "--out", "{tmp}/r", "--steps", "0"], "--steps 0: must be at least 1"),
        (["train", "{pictures}", "--out", "{tmp}/r", "--recipe", "unett"], "there is no recipe 'unett'; did you mean unet"),
        (["train", "{pictures}", "--out", "{tmp}/r", "--recipe", "tables"], "does not fit"),
        (["train", "{pictures}", "--out", "{tmp}/r", "--train.clop", "1"], "--train.clop"),
        (["train", "{pictures}", "--out", "{run}"], "exists and is not empty"),
        (["train", "{pictures}", "--out", "{pictures}", "--overwrite"], "is not a training run; --overwrite replaces runs only"),
        (["resume", "{pictures}"], "not a training run"),
        (["sample", "{pictures}", "--out", "{tmp}/s"], "a model is a folder with"),
        (["sample", "{run}", "dark", "--out", "{tmp}/s", "--steps", "0"], "steps 0"),
        (["sample", "{run}", "dark", "--out", "{tmp}/s", "--guidance", "nan"], "guidance nan"),
        (["sample", "{run}", "dark", "--out", "{tmp}/s", "--sampler", "dmpp-2m"], "did you mean 'dpmpp-2m'"),
        (["sample", "{run}", "", "--out", "{tmp}/s"], "the prompt is empty"),
        (["sample", "{run}", "темно", "--out", "{tmp}/s"], "темно"),
        (["sample", "{run}", "d" * 10_000, "--out", "{tmp}/s"], "10,000"),
        (["sample", "{run}", "dark", "--out", "{run}"], "exists and is not empty"),
        (["sample", "{run}", "--steps", "many"], "unnoise: --steps many: a whole number is wanted ("),
        (["sample", "{run}", "-n", "1.5"], "unnoise: -n 1.5: a whole number is wanted ("),
        (["sample", "{run}", "--guidance", "big"], "unnoise: --guidance big: a number is wanted ("),
        (["sample", "{run}", "--interval", "0.1"], "unnoise: --interval 0.1: 2 numbers are wanted ("),
        (["sample", "{run}", "--steps"], "unnoise: --steps: its value is missing ("),
        (["sample", "{run}", "--step", "3", "dark"], "unnoise: there is no option --step; did you mean --steps? ("),
        (
            ["train", "{pictures}", "--dta.options.flip"],
            "there is no option --dta.options.flip; did you mean --data.options.flip? (",
        ),
        (["train", "{pictures}", "--weights", "a"], "unnoise: --weights: Failed to parse key-value pairs! ("),
        (["info", "a", "b"], "unnoise: b: more than is asked for ("),
        (["sample", "{run}", "dark", "--cache-order", "1"], "--cache-order: says more of --cache or --cache-within, which is not"),
        (["sample", "{run}", "dark", "--strength", "0.7"], "--strength: says more of --start or --fill, which is not given"),
        (["sample", "{run}", "dark", "--trials", "3"], "--trials: says more of --budget or --error"),
        (["sample", "{run}", "dark", "--guess"], "--guess: says more of --control"),
        (["sample", "{run}", "dark", "--weaker-scale", "3"], "--weaker-scale: says more of --weaker"),
        (["info"], "unnoise: missing: PATH"),
        (["info", "{tmp}/nothing.png"], "does not exist"),
        (["example", "numbers"], "there is no example 'numbers'"),
    ],
)
def test_bad_input(
    argv: list[str], message: str, pictures: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    before = {p: p.stat().st_mtime_ns for folder in (pictures, run) for p in folder.rglob("*")}
    places = {"tmp": tmp_path, "empty": tmp_path / "empty", "pictures": pictures, "run": run}
    assert message in refused([a.format(**places) for a in argv], capsys)
    assert {p: p.stat().st_mtime_ns for folder in (pictures, run) for p in folder.rglob("*")} == before, "nothing may be touched"
    assert not list((tmp_path / "s").glob("*.png"))


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from unnoise.cli.main import main; main(['--help']); print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "unnoise train photos/" in out
    assert out.strip().endswith("False False")


def test_train_help_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert e.value.code == 0
    for option in ("--out", "--recipe", "--steps", "--train.optimiser.lr", "--model.process.schedule.shift", "--data.options.flip"):
        assert option in said


def test_the_command_that_started_a_run_goes_on_with_it(pictures: Path, run: Path) -> None:
    before = (run / "model" / "model.safetensors").read_bytes()
    main(["train", str(pictures), "--out", str(run), *SHORT, "--resume"])
    assert (run / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{pictures}", "--steps", "7"], "--steps 7: the run in {run} has "),
        (["{other}"], "{run} is a run on {pictures}, not on {other}"),
        (["{pictures}", "--train.clip", "3"], "--train.clip 3: the run in {run} goes on as it was started, otherwise"),
        (["{pictures}", "--lr", "3"], "--lr 3.0: the run in {run} has "),
        (["{pictures}", "--depth", "5"], "--depth 5: the run in {run} has 1; it goes on as it was started"),
        (["{pictures}", "--recipe", "unet"], "--recipe unet: the run in {run} has pictures"),
        (["{pictures}", "--size", "12"], "--size 12: the run in {run} was started without it"),
        (["{pictures}", "--background", "black"], "--background black: the run in {run} has white"),
        (["{pictures}", "--factor", "4"], "--factor 4: the run in {run} has 2"),
        *(
            (["{pictures}", flag, *more], f"{' '.join([flag, *more])}: the run in {{run}} was started without it")
            for flag, *more in (
                ["--flip"],
                ["--muon"],
                ["--recaption"],
                ["--transport"],
                ["--spelling"],
                ["--internal-guidance"],
                ["--buckets", "8"],
                ["--begin-with", "scenes"],
                ["--codec", "x"],
                ["--text-encoder", "x"],
                ["--condition", "x"],
                ["--compression", "4"],
            )
        ),
    ],
)
def test_going_on_is_refused_with_what_the_run_was_not_started_with(
    argv: list[str], message: str, pictures: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"pictures": pictures, "run": run, "other": tmp_path}
    said = refused(["train", *(a.format(**places) for a in argv), "--out", str(run), "--resume"], capsys)
    assert message.format(**places) in said


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux alone")
def test_names_that_are_not_text_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Held out by their names, and with captions cut within an emoji."""
    folder = tmp_path / os.fsdecode(b"s\xe9t")
    for name in (b"caf\xe9", b"caf\xe8"):
        place = folder / os.fsdecode(name)
        place.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(place / os.fsdecode(b"\xff%d.png" % i))
    out = tmp_path / "run"
    main(["train", str(folder), "--out", str(out), *SHORT, "--data.options.held-out", "0.3"])
    assert r"2 (caf\xe8, caf\xe9)" in capsys.readouterr().out
    main(["sample", str(out), r"caf\xe9", "-n", "1", "--steps", "1", "--out", str(tmp_path / "s")])
    assert load_run(out)[0].data.path == str(folder)

    rows = [{"file_name": f"{os.fsdecode(n)}/{os.fsdecode(b'%c0.png' % 255)}", "text": f"smile \ud83d {i}", "name": "a"} for i, n in
            enumerate((b"caf\xe9", b"caf\xe8"))]  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = plan(str(folder), Options(recaption=True)).opened.told()
    assert set(said) == {"a", None}
    planned = plan(str(folder))
    assert set(planned.opened.told()) == {"smile \ufffd 0", "smile \ufffd 1", None}
    save_run(planned.run, tmp_path, "some data")
    assert load_run(tmp_path)[0] == planned.run


def test_a_run_goes_on_with_all_that_it_was_started_with(pictures: Path, tmp_path: Path) -> None:
    asked = Options(flip=True, muon=True, spelling=True, background="black", size=8, transport=True)
    planned = plan(str(pictures), asked)
    save_run(planned.run, tmp_path, "some data", planned.asked())
    for options, recipe in ((asked, "pictures"), (asked, None), (Options(), None)):
        assert check_again(tmp_path, str(pictures), options, recipe) == planned.run
    save_run(planned.run, tmp_path, "some data")  # as earlier versions did: spelling, transport and the recipe cannot be known
    check_again(tmp_path, str(pictures), asked, "unet")
    with pytest.raises(InputError, match="--depth 5: the run in"):
        check_again(tmp_path, str(pictures), replace(asked, depth=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--codec", "somewhere"], "--codec: not for recipe 'pictures'; those that take it are latent, latent-unet"),
        (["--recipe", "latent", "--codec", "a", "--compression", "4"], "--codec and --compression: the one brings what the other"),
        (["--recipe", "autoencoder", "--transport"], "--transport: not for recipe 'autoencoder'"),
        (["--lr", "0"], "--lr 0: must be above 0"),
        (["--lr", "nan"], "--lr nan: must be above 0"),
        (["--recipe", "retrieval", "--depth", "7"], "--depth: not for recipe 'retrieval'; those that take it are pictures, unet"),
        (["--factor", "4"], "--factor: not for recipe 'pictures'; those that take it are super-resolution"),
        (["--condition", "class"], "--condition: not for recipe 'pictures'; those that take it are tables"),
        (["--recipe", "unet", "--width", "48"], "these settings cannot be: "),
        (["--width", "100"], "these settings cannot be: "),
        (["--recipe", "tables"], "recipe 'tables' does not fit {pictures}, which is a set of pictures"),
    ],
)
def test_options_that_nothing_would_come_of(
    options: list[str], message: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["train", str(pictures), "--out", str(tmp_path / "run"), *options], capsys)
    assert message.format(pictures=pictures) in said
    assert not (tmp_path / "run").exists()


def test_any_average_can_be_rebuilt(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The width that was tracked, rebuilt from half-precision snapshots, is the model that training left."""
    main(["average", str(run), "--width", "0.1", "--out", str(tmp_path / "same")])
    capsys.readouterr()
    main(["average", str(run), "--width", "0.05", "--out", str(tmp_path / "other")])
    step = max(int(f.stem.split("-")[-1]) for f in (run / "snapshots").iterdir())
    assert f"the model as it was after {step:,} steps is in" in capsys.readouterr().out
    main(["average", str(run), "--width", "0.1", "--bf16", "--out", str(tmp_path / "half")])
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("same", "half"))
    assert all(torch.equal(half[k], v.bfloat16() if v.is_floating_point() else v) for k, v in whole.items())
    trained, same, other = (load_file(f / "model.safetensors") for f in (run / "model", tmp_path / "same", tmp_path / "other"))
    for name, weight in trained.items():
        torch.testing.assert_close(same[name], weight, rtol=2e-2, atol=2e-3)
    assert any(not torch.allclose(other[name], same[name], rtol=1e-6) for name in trained)


def test_files_that_cannot_be_read_are_listed_at_the_end(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    (data / "dark" / "empty.png").write_bytes(b"")
    (data / "dark" / "half.png").write_bytes((data / "dark" / "0.png").read_bytes()[:40])
    main(["train", str(data), "--out", str(tmp_path / "run"), *SHORT])
    end = capsys.readouterr().out.split("2 files were skipped:")[1]
    assert "dark/empty.png: empty file" in end
    assert "dark/half.png" in end


def test_options_of_training_reach_it(pictures: Path, tmp_path: Path) -> None:
    """Activation checkpointing must not change the weights; another loss, optimiser or coupling must."""
    weights = {}
    others = {"learned": ["--learned-uncertainty"], "muon": ["--muon"], "transport": ["--transport"]}
    for name, more in {"plain": [], "kept": ["--checkpointing"], **others}.items():
        main(["train", str(pictures), "--out", str(tmp_path / name), *SHORT, "--steps", "2", *more])
        weights[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    assert all(torch.equal(weights["plain"][k], weights["kept"][k]) for k in weights["plain"])
    for name in others:
        assert any(not torch.equal(weights["plain"][k], weights[name][k]) for k in weights["plain"])


@pytest.mark.parametrize("recipe", ["unet", "edm", "edm2", "ddpm"])
def test_recipes_train_and_sample(recipe: str, pictures: Path, tmp_path: Path) -> None:
    short = [
        "--steps",
        "2",
        "--batch",
        "4",
        "--width",
        "32",
        "--depth",
        "1",
        "--train.bf16",
        "False",
        "--model.sampling.steps",
        "2",
    ]
    main(["train", str(pictures), "--out", str(tmp_path / "run"), "--recipe", recipe, *short])
    main(["sample", str(tmp_path / "run"), "dark", "-n", "1", "--out", str(tmp_path / "s")])
    assert (tmp_path / "s" / "sheet.png").is_file()


def test_the_command_that_started_a_run_resumes_it(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though a dotted option had the last word over a plain one."""
    words = ["train", str(pictures), "--out", str(tmp_path / "x"), *SHORT, "--train.batch", "3"]
    main(words)
    capsys.readouterr()
    main([*words, "--resume"])
    assert "the model is in" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["info", "stickers"], ["train", "--help"], ["--help"], ["--version"]])
def test_a_reader_that_goes_early_sees_no_traceback(argv: list[str]) -> None:
    """`unnoise ... | head -1`"""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run([sys.executable, "-m", "unnoise", *argv], stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize(("said", "line"), [("", "interrupted"), ("saved in runs/a", "saved in runs/a")])
def test_an_interrupt_is_one_line(
    said: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(argv: list[str]) -> None:
        raise KeyboardInterrupt(*[said] * bool(said))

    monkeypatch.setattr("unnoise.cli.main._run", interrupted)
    with pytest.raises(SystemExit) as e:
        main(["sample"])
    assert e.value.code == 130
    assert capsys.readouterr().err == f"\nunnoise: {line}\n"


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what cannot be written after all is one line, too."""
    (tmp_path / "file").write_text("mine")
    for argv in (["sample", "scenes", "one"], ["export", "scenes"]):
        told = refused([*argv, "--out", str(tmp_path / "file" / "x")], capsys)
        assert told == f"unnoise: --out {tmp_path}/file/x: no folder can be made there, as {tmp_path}/file is a file"
    monkeypatch.setattr("unnoise.cli.terminal.os.access", lambda place, mode: False)
    assert "may not be written into" in refused(["sample", "scenes", "one", "--out", str(tmp_path / "x")], capsys)
    monkeypatch.undo()

    def full(self: object, out: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unnoise.control.sampling.Samples.save", full)
    told = refused(["sample", "scenes", "a red circle", "-n", "1", "--steps", "1", "--out", str(tmp_path / "x")], capsys)
    assert told.endswith("x: No space left on device: the samples could not be written")
