"""torch-fidelity's files one by one, as an independent implementation: its front imports torchvision, which has no place here."""

import importlib
import importlib.util
import sys
import types

import pytest


def theirs(name: str) -> types.ModuleType:
    """The module `name` of the package, with stand-ins for its front and for what reads its data; skips where it is missing."""
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity is not installed: pip install --no-deps torch-fidelity")
    with pytest.MonkeyPatch.context() as patch:
        front = types.ModuleType("torch_fidelity")
        front.__path__ = list(spec.submodule_search_locations)
        patch.setitem(sys.modules, "torch_fidelity", front)
        readers = types.ModuleType("torch_fidelity.utils")
        readers.__getattr__ = lambda _: None
        patch.setitem(sys.modules, "torch_fidelity.utils", readers)
        module = importlib.import_module(f"torch_fidelity.{name}")
        for loaded in [n for n in sys.modules if n.startswith("torch_fidelity.")]:
            patch.delitem(sys.modules, loaded)
    return module
