"""The loop: what it computes, that it goes on exactly after any stop, and that it rolls back when it diverges."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from toy import CONFIG, MUON, Points, Toy, weights

from unnoise.core.errors import InputError
from unnoise.training import checkpoint, plot
from unnoise.training.config import AdamWConfig, Constant, GuardConfig
from unnoise.training.data import Order
from unnoise.training.ema import beta, gamma_of
from unnoise.training.loop import fit, measure_step_seconds
from unnoise.training.metrics import history
from unnoise.training.task import Task
from unnoise.training.trainer import Trainer


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take most of a short run's time, and have a test of their own."""
    monkeypatch.setattr(plot, "available", lambda: False)


def all_weights(task, result):
    return weights(task.state_dict()) + b"".join(weights(e) for e in result.ema.values())


def test_equals_a_loop_written_out(tmp_path):
    """Plain AdamW, clipping, warm-up, decay and both averages, as one would write them for one batch after another."""
    task, data = Toy(dropout=0.0), Points()
    result = fit(task, data, CONFIG, tmp_path)
    assert result.steps == CONFIG.steps
    assert not result.interrupted

    plain = Toy(dropout=0.0)
    params = {n: p for n, p in plain.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(params.values(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    averages = {w: {n: torch.zeros_like(p) for n, p in params.items()} for w in CONFIG.ema_widths}
    order = Order(len(data), CONFIG.batch, CONFIG.seed)
    for k in range(CONFIG.steps):
        streams = order.streams(k)
        loss = plain(data.batch(order.rows(k), streams.scoped("data")), streams.scoped("task"))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimiser.param_groups[0]["lr"] = 3e-4 * min(1, (k + 1) / 5) * (1 - k / CONFIG.steps)
        optimiser.step()
        optimiser.zero_grad()
        for w, average in averages.items():
            b = beta(k + 1, gamma_of(w))
            for n, p in params.items():
                average[n] = b * average[n] + (1 - b) * p.detach()
    for n, p in params.items():
        torch.testing.assert_close(task.state_dict()[n], p.detach(), rtol=0, atol=1e-6)
        for w, average in averages.items():
            torch.testing.assert_close(result.ema[w][n], average[n], rtol=0, atol=1e-6)
    assert torch.equal(result.ema[0.05]["scale"], torch.tensor(2.0))  # buffers and frozen weights are part of the state
    assert torch.equal(result.ema[0.05]["frozen"], torch.ones(3))


def test_micro_batches_change_rounding_only(tmp_path):
    whole, parts = Toy(dropout=0.0), Toy(dropout=0.0)
    fit(whole, Points(), CONFIG, tmp_path / "a")
    fit(parts, Points(), replace(CONFIG, micro_batch=3), tmp_path / "b")  # 3 + 3 + 2 rows
    for a, b in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@dataclass
class At:
    """A hook that does something at one step."""

    step: int
    do: Callable[[], None]

    @property
    def every(self):
        return self.step

    def __call__(self, step, task_with_ema_weights):
        if step == self.step:
            self.do()


class Killed(Exception):
    """Stands for a power cut: nothing is saved on the way out."""


def cut():
    raise Killed


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon, accumulated"])
@pytest.mark.parametrize("stop", [3, 5, 13, 23])
def test_resume_is_exact_to_the_bit(tmp_path, config, stop):
    """50 rows in batches of 8: every stop is in the middle of an epoch, and all but one between checkpoints."""
    task = Toy()
    straight = all_weights(task, fit(task, Points(), config, tmp_path / "straight"))
    with pytest.raises(Killed):
        fit(Toy(), Points(), config, tmp_path / "run", hooks=[At(stop, cut)])
    task = Toy(seed=99)  # what it starts from must not matter
    assert all_weights(task, fit(task, Points(), config, tmp_path / "run", resume=True)) == straight
    assert [r["step"] for r in history(tmp_path / "run" / "metrics.jsonl")][-1] == config.steps


def test_what_else_uses_torchs_generator_does_not_matter(tmp_path):
    task = Toy()
    straight = all_weights(task, fit(task, Points(), CONFIG, tmp_path / "a"))
    task = Toy()
    torch.manual_seed(1)
    assert all_weights(task, fit(task, Points(), CONFIG, tmp_path / "b", hooks=[At(7, lambda: torch.rand(5))])) == straight
    here = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(here, torch.rand(3))  # and training leaves it as it was


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_saves_and_says_where(tmp_path, capsys, number):
    task = Toy()
    straight = all_weights(task, fit(task, Points(), CONFIG, tmp_path / "straight"))
    before = signal.getsignal(number)
    result = fit(Toy(), Points(), CONFIG, tmp_path / "run", hooks=[At(7, lambda: os.kill(os.getpid(), number))])
    assert result.interrupted
    assert result.steps == 8
    said = capsys.readouterr().err
    assert "stopped after step 8; all is saved" in said
    assert "resume" not in said, "which folder to resume only the recipe knows: this may be a stage of a run"
    assert signal.getsignal(number) is before
    task = Toy()
    assert all_weights(task, fit(task, Points(), CONFIG, tmp_path / "run", resume=True)) == straight


def test_what_is_due_after_the_last_step_is_shown_whatever_happens_in_it(tmp_path):
    """Ctrl-C in the last step; and a run that is cut off while the last things are shown."""
    config, seen = replace(CONFIG, snapshot_every=8), []

    @dataclass
    class Look:
        every: int = 1000

        def __call__(self, step, task_with_ema_weights):
            seen.append(step)

    asks = At(23, lambda: os.kill(os.getpid(), signal.SIGINT))
    result = fit(Toy(), Points(), config, tmp_path / "asked", hooks=[asks, Look()])
    assert (result.steps, result.interrupted, seen) == (24, False, [24])
    kept = sorted(p.name for p in (tmp_path / "asked/snapshots").iterdir())
    assert len(kept) == 3 * len(config.ema_widths)
    asks = At(7, lambda: os.kill(os.getpid(), signal.SIGINT))  # it stops after step 8, whose averages are kept all the same
    assert fit(Toy(), Points(), config, tmp_path / "amid", hooks=[asks]).steps == 8
    fit(Toy(), Points(), config, tmp_path / "amid", resume=True)
    assert sorted(p.name for p in (tmp_path / "amid/snapshots").iterdir()) == kept
    with pytest.raises(Killed):
        fit(Toy(), Points(), config, tmp_path / "cut", hooks=[At(24, cut), Look()])
    assert seen == [24]
    fit(Toy(), Points(), config, tmp_path / "cut", hooks=[Look()], resume=True)
    assert seen == [24, 24]


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def twice():
        """As the interpreter answers each signal; two that are sent at once may become one."""
        for _ in range(2):
            signal.getsignal(signal.SIGINT)(signal.SIGINT, None)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test's worker may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(Toy(), Points(), CONFIG, tmp_path, hooks=[At(7, twice)])
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, capsys):
    task = Toy()
    straight = all_weights(task, fit(task, Points(), CONFIG, tmp_path / "straight"))
    with pytest.raises(Killed):
        fit(Toy(), Points(), CONFIG, tmp_path / "run", hooks=[At(13, cut)])
    shard = tmp_path / "run/checkpoints/step-00000010/shard-00000-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    task = Toy()
    assert all_weights(task, fit(task, Points(), CONFIG, tmp_path / "run", resume=True)) == straight
    said = capsys.readouterr().err
    assert "step-00000010 is damaged" in said
    assert "going on from step 5" in said


def test_resuming_another_run_is_refused(tmp_path):
    fit(Toy(), Points(), replace(CONFIG, steps=5), tmp_path)
    with pytest.raises(InputError, match="holds a run already"):
        fit(Toy(), Points(), CONFIG, tmp_path)
    with pytest.raises(InputError, match="had seed 4, now it is 5"):
        fit(Toy(), Points(), replace(CONFIG, seed=5), tmp_path, resume=True)
    with pytest.raises(InputError, match="had rows 50, now it is 51"):
        fit(Toy(), Points(51), CONFIG, tmp_path, resume=True)
    with pytest.raises(InputError, match="resume with the run's own settings"):
        fit(Toy(width=17), Points(), CONFIG, tmp_path, resume=True)
    with pytest.raises(InputError, match="resume with the run's own settings"):
        fit(Toy(), Points(), MUON, tmp_path, resume=True)
    assert fit(Toy(), Points(), CONFIG, tmp_path, resume=True).steps == CONFIG.steps  # more steps are welcome


def test_resuming_nothing_starts(tmp_path, capsys):
    assert fit(Toy(), Points(), replace(CONFIG, steps=2), tmp_path / "new", resume=True).steps == 2
    assert "nothing had been saved yet" in capsys.readouterr().err


def test_hooks_see_averaged_weights(tmp_path):
    seen = {}

    @dataclass
    class Look:
        every: int = 10

        def __call__(self, step, task_with_ema_weights):
            assert not task_with_ema_weights.training
            seen[step] = weights(task_with_ema_weights.state_dict())

    result = fit(Toy(), Points(), CONFIG, tmp_path, hooks=[Look()])
    assert list(seen) == [10, 20, 24]
    assert seen[24] == weights(result.ema[0.10])


def test_not_a_number_rolls_back_and_leaves_the_batches_out(tmp_path, capsys):
    """Row 17 is NaN in every epoch: each time it comes, its batch is left out, and training ends with finite weights."""
    config = replace(CONFIG, log_every=1, checkpoint_every=2, guard=GuardConfig(rollbacks=3))
    task = Toy()
    result = fit(task, Points(poison=17), config, tmp_path)
    order = Order(50, 8, CONFIG.seed)
    first = next(k for k in range(24) if 17 in order.rows(k))
    said = capsys.readouterr().err
    assert f"at step {first + 1} the loss was nan: rolled back to step {first - first % 2}" in said
    assert "learning rate 0.00015" in said
    assert result.steps == 24
    assert all(torch.isfinite(t).all() for t in result.ema[0.05].values())
    assert "rolled back" in (tmp_path / "metrics.jsonl").read_text()


def test_a_run_that_rolled_back_resumes_exactly_too(tmp_path):
    config = replace(CONFIG, log_every=1, checkpoint_every=2)
    task = Toy()
    straight = all_weights(task, fit(task, Points(poison=17), config, tmp_path / "straight"))
    with pytest.raises(Killed):
        fit(Toy(), Points(poison=17), config, tmp_path / "run", hooks=[At(21, cut)])
    task = Toy()
    assert all_weights(task, fit(task, Points(poison=17), config, tmp_path / "run", resume=True)) == straight


class Well(Task):
    """A parabola around the data with walls at distance 2: steps as long as the well is wide climb them."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4))

    def forward(self, batch, rng):
        return {"loss": (self.w - batch["x"]).square().mean() + 1e4 * torch.relu(self.w.abs() - 2).sum()}


def test_an_exploding_loss_rolls_back_until_the_learning_rate_holds(tmp_path, capsys):
    """The learning rate warms up to 20, ten times the well's half width; some halvings later steps stay inside."""
    guard = GuardConfig(window=12, patience=3, rollbacks=6)
    config = replace(CONFIG, steps=60, guard=guard, optimiser=AdamWConfig(lr=20.0), warmup=40, decay=Constant(), log_every=1)
    result = fit(Well(), Points(), config, tmp_path)
    said = capsys.readouterr().err
    assert "times above its usual" in said
    assert "(roll-back 1 of 6)" in said
    assert result.steps == 60
    assert history(tmp_path / "metrics.jsonl")[-1]["loss"] < 10


def test_averages_of_what_was_rolled_back_are_forgotten(tmp_path):
    """Row 17 is NaN wherever it comes; that is noticed after the last step alone, and the run goes back to its start."""
    config = replace(CONFIG, log_every=24, checkpoint_every=24, snapshot_every=1, guard=GuardConfig(rollbacks=1))
    with pytest.raises(InputError, match="training diverged"):
        fit(Toy(), Points(poison=17), config, tmp_path)
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_a_run_that_keeps_diverging_gives_up(tmp_path):
    class Hopeless(Points):
        def batch(self, rows, rng):
            return {"x": torch.full((len(rows), 4), float("nan"))}

    with pytest.raises(InputError, match="training diverged: at step 1 the loss was nan, after 2 roll-backs") as raised:
        fit(Toy(), Hopeless(), replace(CONFIG, guard=GuardConfig(rollbacks=2), log_every=1), tmp_path)
    assert "\n" not in str(raised.value)


def test_a_full_disk_ends_the_run_with_one_line(tmp_path, monkeypatch):
    """The third save fails; what was saved before can be resumed, to the same end."""
    task = Toy()
    straight = all_weights(task, fit(task, Points(), CONFIG, tmp_path / "straight"))
    saved, real = [], checkpoint.save_file

    def fills_up(tensors, path):
        saved.append(path)
        if len(saved) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fills_up)
    with pytest.raises(InputError, match="step-00000010: cannot be written"):
        fit(Toy(), Points(), CONFIG, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000000", "step-00000005"]
    task = Toy()
    assert all_weights(task, fit(task, Points(), CONFIG, tmp_path / "run", resume=True)) == straight


def test_the_precision_is_decided_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "bf16_is_faster", lambda self: True)
    config = replace(CONFIG, bf16=None)
    task = Toy()
    straight = all_weights(task, fit(task, Points(), config, tmp_path / "straight"))
    with pytest.raises(Killed):
        fit(Toy(), Points(), config, tmp_path / "run", hooks=[At(13, cut)])
    monkeypatch.setattr(Trainer, "bf16_is_faster", lambda self: False)  # the machine is busy otherwise now
    task = Toy()
    assert all_weights(task, fit(task, Points(), config, tmp_path / "run", resume=True)) == straight


def test_weights_that_are_tied_are_saved_once_and_resumed(tmp_path):
    class Tied(Toy):
        def __init__(self, seed=0):
            super().__init__(seed)
            self.again = nn.Linear(16, 4)
            self.again.weight = self.out.weight

    task = Tied()
    straight = all_weights(task, fit(task, Points(), CONFIG, tmp_path / "straight"))
    with pytest.raises(Killed):
        fit(Tied(), Points(), CONFIG, tmp_path / "run", hooks=[At(17, cut)])
    task = Tied()
    assert all_weights(task, fit(task, Points(), CONFIG, tmp_path / "run", resume=True)) == straight


def test_measuring_leaves_the_task_alone():
    task = Toy()
    before = weights(task.state_dict())
    assert measure_step_seconds(task, Points(), replace(CONFIG, bf16=None)) > 0
    assert weights(task.state_dict()) == before
