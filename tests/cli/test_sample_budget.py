"""unnoise sample --budget, on a model of eight-pixel pictures: how it was drawn is told by the files themselves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from tiny import tiny_model

from unnoise.cli.main import main
from unnoise.core.random import derive
from unnoise.recipes.speed import SEED, difference


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept from elsewhere, and all is in float32: fewer steps are then faster on any processor."""
    monkeypatch.setattr("unnoise.recipes.speed.faster_in_bfloat16", lambda device: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    drawn = tiny_model()
    drawn.config = replace(drawn.config, sampling=replace(drawn.config.sampling, steps=24))
    drawn.save(folder)
    return folder


def test_time_enough_leaves_nothing_out(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sample", str(model), "one", "two", "-n", "1"]
    main([*argv, "--out", str(tmp_path / "budget"), "--budget", "1000m"])
    assert "nothing left out" in capsys.readouterr().err
    main([*argv, "--out", str(tmp_path / "usual")])
    drawn, usual = ([Image.open(f).tobytes() for f in sorted((tmp_path / k).glob("*.png"))] for k in ("budget", "usual"))
    assert drawn == usual


@pytest.mark.parametrize("more", [[], ["--guidance", "3", "--negative", "two"]], ids=["plain", "negative"])
def test_an_error_is_kept_and_said(more: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was picked draws the same pictures when it is asked for by name, and these are off by what is said at most, where they
    are those that were measured."""
    argv = ["sample", str(model), "one", "--sample-seeds", *map(str, (derive(SEED, i) for i in range(2))), *more]
    main([*argv, "--out", str(tmp_path / "error"), "--error", "0.4", "--trials", "2"])
    said = capsys.readouterr().err
    assert "measuring what" in said
    main([*argv, "--out", str(tmp_path / "usual")])
    (picked,) = (line for line in said.splitlines() if line.startswith("error 0.4: "))
    off = float(picked.split("at most ")[1].split()[0])
    pictures = [
        torch.stack([torch.from_numpy(np.asarray(Image.open(f)).copy()) for f in sorted((tmp_path / k).glob("0*.png"))])
        for k in ("error", "usual")
    ]
    a, b = (p.reshape(2, 8, 8, 1) for p in pictures)
    assert float(difference(a, b).max()) == pytest.approx(off, rel=0.05)  # two digits are said
    assert 0 < off <= 0.4


def test_what_cannot_be_kept_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sample", str(model), "one", "--out", str(tmp_path / "out")]
    assert "the shortest walk" in refused([*argv, "--budget", "0.000001s"], capsys)
    assert "such as 10s" in refused([*argv, "--budget", "soon"], capsys)
    assert "--steps, --exact" in refused([*argv, "--budget", "9s", "--steps", "3", "--exact"], capsys)
    assert "--budget and --error with --cache" in refused([*argv, "--budget", "9s", "--error", "0.1", "--cache", "2"], capsys)
    assert "0 or above" in refused([*argv, "--error", "-0.1"], capsys)
    assert not (tmp_path / "out").exists()
