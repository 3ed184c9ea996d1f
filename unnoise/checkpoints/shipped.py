"""The models that lie in the package itself, in `unnoise/shipped`: they need no download."""

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "shipped"
DEFAULT = "scenes"
"""The model that is asked where none is named."""


def shipped() -> tuple[str, ...]:
    """Their names."""
    return tuple(sorted(f.parent.name for f in FOLDER.glob("*/config.json")))


def shipped_folder(name: str) -> Path | None:
    """The folder of the model with this name; None if none that ships has it."""
    return FOLDER / name if name in shipped() else None
