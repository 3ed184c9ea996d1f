"""Training on a device that is not there (`elsewhere`): what is trained there is what is trained here."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from elsewhere import ELSEWHERE, elsewhere
from PIL import Image
from torch import Tensor

import unnoise
from unnoise.cli.main import main
from unnoise.training import distributed


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], Path]:
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text("a red thing" if i % 2 else "two blue things")
    rows = [f"{a:.3f},{'xyz'[k]}" for a, k in zip(rng.normal(size=60), rng.integers(0, 3, 60))]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b", *rows, ""]))
    return lambda kind: tmp_path / "rows.csv" if kind == "tables" else pictures


@pytest.mark.parametrize("recipe", ["latent", "tables"])
def test_weights_are_those_trained_here(
    recipe: str, data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def near(read: Callable[[Tensor], int]) -> Callable[[Tensor], int]:  # what is written is looked up by its address
        return lambda x: read(getattr(x, "near", x))

    for name in ("storage_ptr", "storage_size"):
        monkeypatch.setattr(safetensors.torch, name, near(getattr(safetensors.torch, name)))
    short = ["--recipe", recipe, "--steps", "2", "--batch", "4", "--width", "32", "--depth", "1", "--train.bf16", "False"]
    short += ["--first.train.steps", "1", "--first.train.bf16", "False"] if recipe == "latent" else []
    trained: list[dict[str, Any]] = []
    usual, asked = distributed.device, [torch.device("cpu")]
    for name, module in list(sys.modules.items()):
        if name.startswith("unnoise.") and getattr(module, "device", None) is usual:
            monkeypatch.setattr(module, "device", lambda: asked[0])
    with elsewhere():
        for where in (torch.device("cpu"), ELSEWHERE):
            asked[0] = where
            main(["train", str(data(recipe)), "--out", str(tmp_path / where.type), *short])
            trained.append(dict(unnoise.load(tmp_path / where.type).parts.state_dict()))
    assert {x.device.type for x in trained[1].values()} == {"cpu"}, "it was read from its file"
    here, far = (torch.cat([x.flatten().double() for x in t.values() if x.is_floating_point()]) for t in trained)
    assert float((far - here).norm() / here.norm()) < 1e-4
