"""Two processes (torchrun, gloo, FSDP2) against one: the same weights to rounding, and checkpoints that fit either."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import CONFIG, MUON, Points, Toy

from unnoise.training import plot
from unnoise.training.loop import fit
from unnoise.training.metrics import history

RUNS = {"adamw": CONFIG, "muon": MUON}


def close(a, b):
    """float32 sums in another order, through 24 steps: 1e-5."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5)


class Cut(Exception):
    pass


class HalfWay:
    every = 10

    def __call__(self, step, task):
        if step == 10:
            raise Cut


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder that two processes wrote, and what one process makes of the same runs."""
    folder = tmp_path_factory.mktemp("two")
    plots, plot.available = plot.available, lambda: False
    try:
        for name, config in RUNS.items():  # the first halves that two processes are to go on with
            with pytest.raises(Cut):
                fit(Toy(dropout=0.0), Points(), config, folder / f"{name}-1-2", [HalfWay()])
        script = Path(__file__).with_name("two_processes.py")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        one = {name: fit(Toy(dropout=0.0), Points(), config, folder / f"{name}-one") for name, config in RUNS.items()}
        yield folder, one
    finally:
        plot.available = plots


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_reach_the_weights_of_one(both, name):
    folder, one = both
    for width in CONFIG.ema_widths:
        close(load_file(folder / f"{name}-{width}.safetensors"), one[name].ema[width])
    moved = {n: (t - one[name].ema[0.05][n]).abs().max() for n, t in Toy(dropout=0.0).named_parameters() if t.requires_grad}
    assert all(m > 1e-3 for m in moved.values())  # a hundred times the tolerance: there was something to agree on


@pytest.mark.parametrize("name", RUNS)
def test_the_log_is_that_of_one(both, name):
    folder, _ = both
    two, one = history(folder / name / "metrics.jsonl"), history(folder / f"{name}-one" / "metrics.jsonl")
    for a, b in zip(two, one, strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-4)
        assert a["loss_by_time"] == pytest.approx(b["loss_by_time"], abs=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_saved_by_two_resumed_by_one(both, name):
    folder, one = both
    newest = sorted((folder / f"{name}-2-1/checkpoints").iterdir())[-1]
    state = json.loads((newest / "state.json").read_text())
    assert 0 < state["step"] < CONFIG.steps
    assert len(state["shards"]) == 2
    result = fit(Toy(seed=9, dropout=0.0), Points(), RUNS[name], folder / f"{name}-2-1", resume=True)
    close(result.ema[0.05], one[name].ema[0.05])


@pytest.mark.parametrize("name", RUNS)
def test_saved_by_one_resumed_by_two(both, name):
    folder, one = both
    close(load_file(folder / f"{name}-1-2.safetensors"), one[name].ema[0.05])


def test_a_batch_that_cannot_be_shared_is_refused(both):
    folder, _ = both
    assert "make it a multiple of 2" in (folder / "odd-0").read_text()


def test_a_full_disk_under_one_process_stops_both_and_leaves_nothing(both):
    folder, _ = both
    assert "another process could not write" in (folder / "full-0").read_text()
    assert "No space left on device" in (folder / "full-1").read_text()
    assert list((folder / "full/checkpoints").iterdir()) == []


def test_a_folder_that_cannot_be_made_stops_both(both):
    folder, _ = both
    assert all("file" in (folder / f"file-{rank}").read_text() for rank in (0, 1))
    assert (folder / "after/checkpoints/step-00000002").is_dir()
