"""How often the hub is asked whether there is something newer: once a name, and for nothing of what lies here already."""

from pathlib import Path

import pytest
from lora_files import pairs, peft, written

from unnoise.checkpoints.foreign import hub
from unnoise.checkpoints.foreign.hub import fetch_part
from unnoise.cli.main import main

pytest.importorskip("diffusers")
import checkpoints.foreign_pipelines as tiny
from checkpoints.test_foreign_adapters import SHOWN, control_net
from checkpoints.test_foreign_folder import Hub, cache, served  # noqa: F401  # a fixture

NAME = "someone/something"


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub was asked of the model as a whole."""
    asked: list[str] = []
    answer = Hub.do_GET

    def counted(handler: Hub) -> None:
        if handler.path.startswith("/api/models/"):
            asked.append(handler.path)
        answer(handler)

    monkeypatch.setattr(Hub, "do_GET", counted)
    return asked


@pytest.mark.usefixtures("cache")
def test_a_lora_for_flux(listings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at for whether it follows pictures, and then read. The next process asks for its version alone."""
    pipeline, there = tiny.flux(tmp_path / "parts"), tmp_path / "there"
    there.mkdir()
    written(there, peft(pairs(pipeline.transformer, r"attn\.to_q"), "transformer."), "pytorch_lora_weights")
    how = [str(tiny.save(pipeline, tmp_path / "model")), "a cat", "-n", "1", "--steps", "1", "--lora", f"{NAME}:0.7"]
    with served(there, monkeypatch):
        main(["sample", *how, "--out", str(tmp_path / "first")])
        assert len(listings) == len(set(listings)), "nothing is asked twice"
        listings.clear()
        monkeypatch.setattr(hub, "_ASKED", {})  # as another process begins
        main(["sample", *how, "--out", str(tmp_path / "second")])
    assert listings == [f"/api/models/{NAME}"]
    assert sorted(Hub.asked) == ["pytorch_lora_weights.safetensors from 0"]


@pytest.mark.usefixtures("cache")
def test_a_control_net(listings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    control_net(pipeline, tmp_path / "net")
    SHOWN[0].save(tmp_path / "edges.png")
    model = str(tiny.save(pipeline, tmp_path / "model"))
    with served(tmp_path / "net", monkeypatch):
        folder = fetch_part(NAME)
        listings.clear()
        monkeypatch.setattr(hub, "_ASKED", {})
        control = ["--control", f"{NAME}:{tmp_path}/edges.png"]
        main(["sample", model, "a cat", "-n", "1", "--steps", "1", *control, "--out", str(tmp_path / "out")])
        assert fetch_part(NAME) == folder
    assert listings == [f"/api/models/{NAME}"]
