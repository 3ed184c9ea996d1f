"""Networks without memory: the names, shapes and precisions of those that have some, and nothing of torch's compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from unnoise.networks.kl_autoencoder import KLAutoencoderConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unfilled import unfilled


@pytest.mark.parametrize("config", [DiffusionTransformerConfig(1, 2, 32, 2, 2), KLAutoencoderConfig(3, 4, (32, 32), 1)])
def test_names_and_shapes_are_those_of_the_network(config: DiffusionTransformerConfig | KLAutoencoderConfig) -> None:
    with unfilled():
        empty = config.build()
    full = config.build()
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in full.state_dict().items()
    }
    assert {v.device.type for v in empty.state_dict().values()} == {"meta"}
    assert all(bool(torch.isfinite(v).all()) for v in full.state_dict().values())  # afterwards weights are drawn again
    assert float(nn.Linear(8, 8).weight.std()) > 0


def test_nothing_is_compiled_for_it() -> None:
    code = (
        "import sys, torch; from torch import nn; from unnoise.networks.unfilled import unfilled\n"
        "with unfilled():\n    m = nn.Conv2d(3, 4, 3); nn.init.kaiming_normal_(m.weight); nn.init.normal_(m.bias)\n"
        "    nn.init.trunc_normal_(m.weight, std=0.1); nn.Embedding(4, 4); nn.LayerNorm(3)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
