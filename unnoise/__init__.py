"""unnoise: train, sample, edit and measure diffusion models for any kind of data.

    model = unnoise.train("photos/")
    model.sample(["a red apple"], n=16, seed=7).save("apples/")

Importing this package imports nothing heavy; torch is loaded with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unnoise.control.sampling import Samples
    from unnoise.core.errors import InputError
    from unnoise.loading import load
    from unnoise.model import DiffusionModel
    from unnoise.recipes.train import train

_HOME = {
    "DiffusionModel": "unnoise.model",
    "InputError": "unnoise.core.errors",
    "Samples": "unnoise.control.sampling",
    "load": "unnoise.loading",
    "train": "unnoise.recipes.train",
}
__all__ = ["DiffusionModel", "InputError", "Samples", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unnoise' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
