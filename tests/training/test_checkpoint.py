"""Checkpoints: what is written comes back; what is damaged is passed over, by name; what cannot be written harms nothing."""

import errno
import json
import resource

import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.training import checkpoint as checkpoint_module
from unnoise.training.checkpoint import Checkpoint, Checkpoints, Damaged
from unnoise.training.distributed import World


def tensors(seed):
    g = torch.Generator().manual_seed(seed)
    return {
        "model/conv": torch.randn(4, 3, 2, 2, generator=g).contiguous(memory_format=torch.channels_last),
        "model/step": torch.tensor(float(seed)),
        "model/empty": torch.zeros(0, 3),
        "model/half": torch.randn(5, generator=g).bfloat16(),
        "model/counts": torch.arange(seed, seed + 3),
    }


@pytest.fixture
def three(tmp_path):
    """A folder with checkpoints of steps 10, 20, 30."""
    store = Checkpoints(tmp_path / "checkpoints", World(), keep=3)
    for step in (10, 20, 30):
        store.save(step, tensors(step), {"step": step, "note": "x"})
    return store


def test_round_trip(three):
    found, complaints = three.newest()
    assert complaints == []
    assert found.state["step"] == 30
    assert found.state["note"] == "x"
    for name, expected in tensors(30).items():
        into = torch.zeros_like(expected)
        found.read(name, into, World())
        assert torch.equal(into, expected)
        assert into.stride() == expected.stride()


def test_only_the_last_are_kept_and_a_step_can_be_written_again(three):
    three.save(40, tensors(40), {"step": 40})
    three.save(40, tensors(41), {"step": 40})
    assert three.steps() == [20, 30, 40]
    into = torch.zeros(())
    three.newest()[0].read("model/step", into, World())
    assert into == 41


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def damage_empty(path):
    path.write_bytes(b"")


def damage_remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_empty, damage_remove])
@pytest.mark.parametrize("name", ["shard-00000-of-00001.safetensors", "shard-00000-of-00001.json", "state.json"])
def test_a_damaged_newest_one_is_passed_over_and_named(three, damage, name):
    damage(three.path(30) / name)
    found, complaints = three.newest()
    assert found.state["step"] == 20
    assert len(complaints) == 1
    assert "step-00000030 is damaged" in complaints[0]


def test_when_all_are_damaged_it_says_so(three):
    for step in three.steps():
        damage_truncate(three.path(step) / "state.json")
    with pytest.raises(InputError, match="no checkpoint is whole"):
        three.newest()


def test_from_a_later_version(three):
    path = three.path(30) / "state.json"
    state = json.loads(path.read_text())
    state["format"] = 99
    state["sha256"] = checkpoint_module._digest_of({k: v for k, v in state.items() if k != "sha256"})
    path.write_text(json.dumps(state))
    with pytest.raises(Damaged, match="format 99, this version reads 1"):
        Checkpoint.open(three.path(30))


def test_a_save_cut_short_is_invisible_and_swept_up(three, tmp_path):
    partial = tmp_path / "checkpoints" / ".step-00000040.partial"
    partial.mkdir()
    (partial / "state.json").write_text("{}")
    assert three.newest()[0].state["step"] == 30
    assert not partial.exists()


@pytest.mark.parametrize("where", ["save_file", "_write_json", "sync"])
def test_a_full_disk_loses_nothing(three, monkeypatch, tmp_path, where):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, where, full)
    with pytest.raises(InputError, match=r"step-00000040: cannot be written \(No space left on device\)"):
        three.save(40, tensors(40), {"step": 40})
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000020", "step-00000030"]
    assert three.newest()[0].state["step"] == 30


def test_a_disk_that_really_ends(three, tmp_path):
    """The system refuses files of more than 100 kB: the error is that of the writer itself, whatever it calls it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"step-00000040: cannot be written \(.*too large") as raised:
            three.save(40, {"big": torch.zeros(100_000)}, {"step": 40})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(raised.value)
    assert three.steps() == [10, 20, 30]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_another_models_checkpoint_is_refused(three):
    with pytest.raises(InputError, match=r"model/conv is \(4, 3, 2, 2\) there and \(4, 3\) here"):
        three.newest()[0].read("model/conv", torch.zeros(4, 3), World())


def test_rolling_back_forgets_what_came_after(three):
    three.forget_after(15)
    assert three.steps() == [10]
