"""unnoise: train, sample, edit and measure diffusion models for any kind of data.

    model = unnoise.train("photos/")
    model.sample(["a red apple"], n=16, seed=7).save("apples/")

Importing this package imports nothing heavy; torch is loaded with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unnoise.core.errors import InputError
    from unnoise.model import DiffusionModel, Samples, load
    from unnoise.recipes.train import train

_HOME = {
    "DiffusionModel": "unnoise.model",
    "InputError": "unnoise.core.errors",
    "Samples": "unnoise.model",
    "load": "unnoise.model",
    "train": "unnoise.recipes.train",
}
__all__ = ["DiffusionModel", "InputError", "Samples", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unnoise' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
