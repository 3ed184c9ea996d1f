"""The blocks that a network repeats, compiled: one kernel for what lies between two products of matrices.

Between a block's matrix products, which take nearly all of the arithmetic, norms, gates and rotations pass all numbers through
memory once each. torch.compile writes one loop for each run of them, forward and backward. Blocks alone are compiled, and all
that are alike share their code, so that it takes a minute whatever the depth.
"""

import os
import shutil

import torch
from torch import nn

from unnoise.core.errors import InputError

_COMPILERS = ("g++", "clang++", "c++", "cl")
_LISTS = (nn.ModuleList, nn.Sequential)


def repeated(network: nn.Module) -> list[nn.Module]:
    """The innermost of those parts that stand in lists and sequences of modules and are more than one layer, each once."""
    listed = {
        id(part): part
        for some in network.modules()
        if isinstance(some, _LISTS)
        for part in some.children()
        if not isinstance(part, _LISTS) and any(part.children())
    }
    return [part for part in listed.values() if not any(id(inner) in listed for inner in part.modules() if inner is not part)]


def compile_repeated(network: nn.Module, device: torch.device) -> int:
    """Compile them, in place, when they are first called; how many they are. State dicts and copies are as before.

    Answers differ from uncompiled ones by rounding. Raises InputError on a processor without a C++ compiler.
    """
    if device.type == "cpu" and not any(shutil.which(c) for c in (os.environ.get("CXX", ""), *_COMPILERS)):
        raise InputError("train.compile needs a C++ compiler, such as g++, and none is found: install one, or leave it out")
    blocks = repeated(network)
    for block in blocks:
        block.compile()
    return len(blocks)
