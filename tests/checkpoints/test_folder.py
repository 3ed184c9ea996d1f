"""A saved model is whole, is the same when it comes back, and is refused when it was harmed."""

import errno
import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

import unnoise.checkpoints.folder as folder_module
from unnoise.core.errors import InputError
from unnoise.loading import load


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path / "model")
    return tmp_path / "model"


def test_what_comes_back_is_the_same(saved: Path) -> None:
    model = tiny_model()
    again = load(saved)
    assert again.config == model.config
    assert again.hash() == model.hash()
    assert torch.equal(again.sample(["one"], seed=3).data, model.sample(["one"], seed=3).data)
    assert sorted(p.name for p in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_truncated_file_is_noticed(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: its sha256 is not the one in config.json"):
        load(saved)


def test_an_edited_file_is_noticed(saved: Path) -> None:
    weights = saved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(InputError, match="truncated or edited"):
        load(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(unnoise=99), "format version 99; this unnoise reads up to 1: upgrade unnoise"),
        (lambda d: d.pop("model"), "not the configuration of an unnoise model"),
        (lambda d: d["model"].update({"class": "model.Later"}), "'model.Later' is not one that this version"),
        (lambda d: d["model"]["network"].update(width="wide"), r"network\.width: expected an integer"),
        (lambda d: d["model"]["network"].update(depth=3), "its tensors are not those of the configuration"),
        (lambda d: d["model"]["network"].update(patch=4), "has shape"),
    ],
)
def test_an_edited_configuration_is_named(saved: Path, edit, message: str) -> None:
    document = json.loads((saved / "config.json").read_text())
    edit(document)
    (saved / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        load(saved)


def test_half_a_configuration_is_refused(saved: Path) -> None:
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="not readable as JSON"):
        load(saved)


@pytest.mark.parametrize("what", ["absent", "empty"])
def test_no_model_there(tmp_path: Path, what: str) -> None:
    if what == "empty":
        (tmp_path / what).mkdir()
    with pytest.raises(InputError, match="a model is a folder with"):
        load(tmp_path / what)


def test_a_full_disk_loses_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, "save_file", full)
    with pytest.raises(InputError, match="the disk is full"):
        tiny_model(seed=1).save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["model"], "nothing half-made is left beside it"


def test_saving_again_replaces(saved: Path) -> None:
    other = tiny_model(seed=1)
    other.save(saved)
    assert load(saved).hash() == other.hash() != tiny_model().hash()
