"""What is kept for the next process."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/unnoise, else ~/.cache/unnoise. What lies there may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unnoise"
