"""ControlNets that are stored less the U-Net that they were made of, put together with the one they are to steer.

    Control-LoRA (Stability AI 2023)    W = W_U + up down, offsets, norms and what the U-Net has not as they are;
                                        known by a tensor `lora_controlnet`
    differences (ControlNet 1.0)        W = W_U + D; known by a tensor `difference`

Both in the names of the ControlNet's makers. In ComfyUI and diffusers, too, W_U is of the model that is run, and not of the one it
was trained beside.
"""

import torch
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import UNET_TABLE, sources_of
from unnoise.checkpoints.foreign.export import exported
from unnoise.checkpoints.foreign.original_names import Layout, controlnet_table, pieces
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.pieces import LOW_RANK, Cut, Shapes, Store
from unnoise.checkpoints.foreign.theirs import unet_theirs
from unnoise.control.low_rank import Adapted
from unnoise.core.errors import InputError
from unnoise.networks.int8 import in_int8
from unnoise.networks.sd_unet import SDUNet

DIFFERENCE = "difference"
_WAY_DOWN = ("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.")


def lacks_base(shapes: Shapes) -> bool:
    return LOW_RANK in shapes or DIFFERENCE in shapes


def on_base(store: Store, network: nn.Module | None, where: str) -> Part:
    """The whole ControlNet, in diffusers' names and float32.

    Raises InputError without a network, for one that is no U-Net of Stable Diffusion or has no weights any more (int8), and for a
    file that was made for another.
    """
    kind = "a Control-LoRA" if LOW_RANK in store.shapes else "the differences of a ControlNet from its model"
    if network is None:
        raise InputError(f"{where}: {kind}, a ControlNet less the U-Net it was made of: name the network that it is to steer")
    if not isinstance(network, SDUNet):
        raise InputError(f"{where}: {kind}, which goes with a U-Net of Stable Diffusion, not with a {type(network).__name__}")
    if in_int8(network):
        raise InputError(f"{where}: {kind}, for a network in int8, whose weights are gone: attach it first, then to_int8()")
    prefix = "control_model." if "control_model.input_hint_block.0.weight" in store.shapes else ""
    shapes = Shapes({n: s for n, s in store.shapes.below(prefix).items() if n not in (LOW_RANK, DIFFERENCE)})
    base = exported(Adapted.of(network).plain_state(_goes_down), UNET_TABLE)
    tensors = dict(base)
    table = controlnet_table(tuple((network.config.blocks, depth != 0) for depth in network.config.depths))
    try:
        _check_pairs(shapes)
        own = Cut(store, pieces(shapes, Layout(table), prefix))
        hint = [shapes[f"input_hint_block.{i}.weight"][0] for i in (0, 4, 8, 12)]
        for name in own:
            if not name.endswith(".down"):
                full = name.removesuffix(".up") + ".weight" if name.endswith(".up") else name
                tensors[full] = _whole(name, own, base.get(full), DIFFERENCE in store.shapes)
    except InputError as e:
        raise InputError(f"{where}: {kind}, but not for this model: {e}") from None
    except (KeyError, IndexError, TypeError) as e:
        raise InputError(f"{where}: {kind}, but not whole: {type(e).__name__} {e}; fetch it again") from e
    config = {
        **unet_theirs(network.config, (1, 1), 0),
        "_class_name": "ControlNetModel",
        "conditioning_embedding_out_channels": hint,
    }
    return Part(config, tensors, where)


def _goes_down(name: str) -> bool:
    """Whether a tensor of a U-Net of ours is one of those that a ControlNet has, too."""
    return all(source.startswith(_WAY_DOWN) for source in sources_of(name, UNET_TABLE))


def _check_pairs(shapes: Shapes) -> None:
    """InputError for half a pair."""
    for name in shapes:
        stem, _, end = name.rpartition(".")
        other = {"up": "down", "down": "up"}.get(end)
        if other and f"{stem}.{other}" not in shapes:
            raise InputError(f"{name!r} stands alone: {stem}.{other} is missing; it was truncated")


def _whole(name: str, own: Cut, base: Tensor | None, differs: bool) -> Tensor:
    """The layer's weight or offset. InputError where the file's does not go with the base's."""
    if name.endswith(".up"):
        if base is None:
            raise InputError(f"{name!r} changes a layer that it has not")
        up, down = own[name].float().flatten(1), own[name.removesuffix("up") + "down"].float().flatten(1)
        if up.shape[1] != len(down) or len(up) * down.shape[1] != base.numel() or len(up) != len(base):
            raise InputError(f"{name!r} and down make up {len(up)} x {down.shape[1]} numbers; the layer has {tuple(base.shape)}")
        return base.float() + (up @ down).reshape(base.shape)
    tensor = own[name].float()
    if base is None:
        return tensor
    if tensor.numel() != base.numel() or len(tensor) != len(base):
        raise InputError(f"{name!r} is {tuple(tensor.shape)}; the model's {tuple(base.shape)}")
    return tensor.reshape(base.shape) + (base.float() if differs else torch.zeros(()))
