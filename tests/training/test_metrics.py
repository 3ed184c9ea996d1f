"""The log: means against numpy, and lines that come again after a resume."""

import numpy as np
import pytest
import torch

from unnoise.training import plot
from unnoise.training.distributed import World
from unnoise.training.metrics import TIME_BINS, Recorder, Tally, history, mean_by_time


def test_loss_by_time_is_the_mean_in_each_bin():
    g = np.random.default_rng(0)
    times, losses = g.random((5, 40)), g.random((5, 40))
    times[0, :2] = 0.0, 1.0  # both ends
    tally = Tally()
    for t, loss in zip(times, losses):
        tally.add_times(torch.tensor(t), torch.tensor(loss))
    bins = np.minimum((times * TIME_BINS).astype(int), TIME_BINS - 1)
    expected = [losses[bins == b].mean() if (bins == b).any() else None for b in range(TIME_BINS)]
    assert tally.means(World())["loss_by_time"] == pytest.approx(expected, rel=1e-5)
    assert tally.means(World()) == {}


def test_means_weigh_micro_batches_by_their_rows():
    tally = Tally()
    tally.add({"loss": torch.tensor(1.0)}, 6 / 8)
    tally.add({"loss": torch.tensor(5.0)}, 2 / 8)
    assert tally.means(World()) == {"loss": pytest.approx(2.0)}


def test_later_lines_count_and_torn_ones_do_not(tmp_path):
    def write(*lines):
        with Recorder(tmp_path, World()) as recorder:
            for step, loss in lines:
                recorder.write({"step": step, "loss": loss})

    write((10, 1.0), (20, 2.0), (30, 3.0))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed here
    write((20, 2.5), (30, 3.5))
    with Recorder(tmp_path, World()) as recorder:
        recorder.write({"step": 10, "event": "rolled back"})
    assert [(r["step"], r["loss"]) for r in history(tmp_path / "metrics.jsonl")] == [(10, 1.0), (20, 2.5), (30, 3.5)]


def test_means_over_lines_leave_out_empty_bins():
    assert mean_by_time([{"loss_by_time": [1.0, None]}, {"loss_by_time": [3.0, None]}, {"step": 1}]) == [2.0, None]


def test_plots_are_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    with Recorder(tmp_path, World()) as recorder:
        for step in (1, 2, 3):
            recorder.write({"step": step, "loss": 1 / step, "loss_by_time": [1 / step] * TIME_BINS})
    plot.draw(tmp_path)
    for name in ("loss.png", "loss_by_time.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
