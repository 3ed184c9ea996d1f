"""The U-Net of `stable_diffusion.py` as other programs prepare it: torch.compile, torchao, OpenVINO; on a GPU CUDA graphs. One line
where one is missing.

torchao takes linear layers, not convolutions, and rounds what goes into them row by row as it comes. Its products are fast once
torch.compile has fused the rounding into them, alone they are slower than bfloat16's; int8 weights alone are the other way round.
OpenVINO's int8 weights are NNCF's (`compress_weights`), all layers', which save memory and compute in bfloat16. Its int8 for
activations too (`quantize`) has scales that are found beforehand, here on four other states of the same kind.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

Row = Callable[[], Tensor]
Call = Callable[[nn.Module, bool], Row]
"""A network's row; with True its input is channels last."""
TIMES = (1, 250, 750, 999)
"""Of the states that OpenVINO's scales are found on."""


def lacking(*packages: str) -> bool:
    missing = [p for p in packages if find_spec(p) is None]
    if missing:
        print(f"rows left out: {', '.join(missing)} not installed", flush=True)
    return bool(missing)


def with_torch(copy: Callable[[], nn.Module], call: Call) -> dict[str, Row]:
    """copy: diffusers' network in bfloat16, channels last, whose modules are its own. On a GPU with CUDA graphs."""
    network = copy()
    how: dict[str, Any] = {"options": {"freezing": True}}
    if next(network.parameters()).device.type != "cpu":
        how = {"mode": "reduce-overhead"}
    return {"diffusers, bfloat16, torch.compile": call(torch.compile(network, **how), True)}


def graphed(row: Row) -> Row:
    """On a GPU: its kernels, recorded at the first call and launched together from then on (CUDA graphs), for the same tensors."""

    @cache
    def recorded() -> tuple[Any, Tensor]:
        beside = torch.cuda.Stream()
        with torch.cuda.stream(beside):  # what is chosen and allocated at first calls is none of the graph's
            for _ in range(3):
                row()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = row()
        return graph, out

    def replayed() -> Tensor:
        graph, out = recorded()
        graph.replay()
        return out

    return replayed


def with_torchao(copy: Callable[[], nn.Module], call: Call) -> dict[str, Row]:
    """On a CPU. copy: as for `with_torch`."""
    if lacking("torchao"):
        return {}
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    whole, weights = copy(), copy()
    quantize_(whole, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))  # what it sets is for all rows
    quantize_(weights, Int8WeightOnlyConfig(set_inductor_config=False))
    return {
        "torchao, int8, torch.compile": call(torch.compile(whole, options={"freezing": True}), True),
        "torchao, int8 weights": call(weights, True),
    }


def with_openvino(network: nn.Module, x: Tensor, t: Tensor, tokens: Tensor) -> dict[str, Row]:
    """On a CPU. Converted at the first call of the first row."""
    if lacking("openvino"):
        return {}
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    example = (x, t, tokens)

    @cache
    def converted() -> Any:
        return openvino.convert_model(Said(network), example_input=example, input=[tuple(part.shape) for part in example])

    def row(change: Callable[[Any], Any]) -> Row:
        @cache
        def ready() -> Any:
            return openvino.Core().compile_model(change(converted().clone()), "CPU", settings)

        return lambda: torch.from_numpy(ready()([part.numpy() for part in example])[0])

    rows = {"OpenVINO, bfloat16": row(lambda model: model)}
    if not lacking("nncf"):
        import nncf

        states = [[torch.randn_like(x).numpy(), torch.full_like(t, at).numpy(), tokens.numpy()] for at in TIMES]

        def rounded(model: Any) -> Any:
            return nncf.quantize(model, nncf.Dataset(states), subset_size=len(states), model_type=nncf.ModelType.TRANSFORMER)

        rows |= {"OpenVINO, int8 weights": row(nncf.compress_weights), "OpenVINO, int8": row(rounded)}
    return rows


class Said(nn.Module):
    """diffusers' network with a tensor for its answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return self.network(x, t, tokens).sample
