"""Compiled blocks: which they are, and that they train as others do."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from toy import CONFIG, Points, Toy

from unnoise.core.errors import InputError
from unnoise.networks.sd_unet import SDUNetConfig, TransformerBlock
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unet import ResidualBlock
from unnoise.training import plot
from unnoise.training.compiled import compile_repeated, repeated
from unnoise.training.loop import fit


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x):
        return x + self.norm(torch.nn.functional.silu(self.layer(x)))


class Blocks(Toy):
    """The toy task with blocks of several layers."""

    def __init__(self) -> None:
        super().__init__(width=16, dropout=0.0)
        self.blocks = nn.ModuleList([nn.Linear(5, 16), nn.Sequential(Block(16), Block(16)), Block(16)])


def test_the_blocks_of_a_transformer_and_of_nested_lists():
    transformer = DiffusionTransformerConfig(3, width=32, depth=3, token_dim=8).build()
    assert repeated(transformer) == list(transformer.blocks)
    unet = SDUNetConfig(widths=(32, 64), depths=(1, 2), heads=(2, 2), middle=1, token_dim=8, groups=8).build()
    innermost = [m for m in unet.modules() if isinstance(m, ResidualBlock | TransformerBlock)]
    assert len(innermost) > 8
    assert {id(m) for m in repeated(unet)} == {id(m) for m in innermost}
    assert repeated(nn.ModuleList([nn.Linear(2, 2)])) == []  # a layer has nothing to fuse


def test_trains_as_without(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "available", lambda: False)
    counters.clear()
    plain = fit(Blocks(), Points(), CONFIG, tmp_path / "plain")
    assert counters["stats"]["unique_graphs"] == 0
    compiled = fit(Blocks(), Points(), replace(CONFIG, compile=True), tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] >= 1
    assert counters["graph_break"] == {}
    for width, average in plain.ema.items():
        for name, value in average.items():
            torch.testing.assert_close(compiled.ema[width][name], value, rtol=1e-4, atol=1e-6)


def test_a_processor_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"train\.compile needs a C\+\+ compiler"):
        compile_repeated(Blocks(), torch.device("cpu"))
    assert compile_repeated(Blocks(), torch.device("meta")) == 3
