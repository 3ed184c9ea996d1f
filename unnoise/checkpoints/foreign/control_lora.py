"""FLUX.1 Canny and Depth as LoRAs (Black Forest Labs 2024): they follow a picture, for which the network needs room first.

W' = [W, 0]     of the layer that patches enter: columns for the picture beside those of the state; what is drawn stays as it was
A' = [A, 0]     of a LoRA of that layer that knows of no picture, on a network that has room for one

Read from the original names, diffusers exchanges in the last adaptive layer the halves of A's rows, its ranks, as it does with B's:
there B A is another matrix than in the file. Here B's rows alone change places.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad

from unnoise.checkpoints.foreign.lora_file import Group, LoraFile
from unnoise.checkpoints.foreign.lora_names import NETWORK, names_of_network
from unnoise.control.low_rank import Adapted, Place
from unnoise.networks.flux import Flux
from unnoise.networks.unfilled import unfilled

ENTRANCE = "patches"
"""The layer that a state enters by, and a picture beside it."""


def follows_pictures(network: nn.Module, path: Path) -> bool:
    """Whether a LoRA file was trained with a picture of the states' shape beside them. InputError for what is no LoRA."""
    if not isinstance(network, Flux):
        return False
    groups, names = LoraFile.read(path).parts.get(NETWORK, {}), names_of_network(network)
    entering = [g for module, g in groups.items() if any(p is not None and p.layer == ENTRANCE for p in names.get(module, ()))]
    return any("down" in g.tensors and g.tensors["down"].shape[1] == 2 * _entering(network) for g in entering)


def with_room(network: Flux) -> Flux:
    """The network with room for a picture of the states' shape, and all other weights shared; of adapters on it there are none."""
    Adapted.of(network).unmerge()
    with unfilled():
        wider = replace(network.config, picture_channels=network.config.channels).build()
    weights, entrance = network.state_dict(), f"{ENTRANCE}.weight"
    weights[entrance] = torch.cat([weights[entrance], torch.zeros_like(weights[entrance])], 1)
    wider.load_state_dict(weights, assign=True)
    return wider.train(network.training)


def roomy(network: nn.Module, place: Place, group: Group) -> Group:
    """What a LoRA file says of the layer at a place, with nothing for the picture where it knows of none but the network does."""
    down = group.tensors.get("down")
    if not isinstance(network, Flux) or place.layer != ENTRANCE or down is None or down.shape[1] != _entering(network):
        return group
    return replace(group, tensors={**group.tensors, "down": pad(down, (0, network.patches.in_features - down.shape[1]))})


def _entering(network: Flux) -> int:
    """Numbers of a patch of the state alone."""
    return network.config.channels * network.config.patch**2
