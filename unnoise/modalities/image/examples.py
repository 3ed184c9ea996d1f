"""Real handwritten digits to start with: 1797 grey pictures of 8 x 8 pixels, from scikit-learn.

Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits" (UCI), CC BY 4.0; the part that scikit-learn carries.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from unnoise.core.errors import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_digits(folder: str | Path) -> Path:
    """Writes zero/0000.png ... nine/1796.png into a new folder, which appears whole or not at all; returns it.

    InputError if the folder exists, or scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError('the digits come with scikit-learn, which is not installed: pip install "unnoise[table]"') from None
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists; give the name of a new folder for the digits")
    folder.parent.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 17 grey levels, ink = 16
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name in DIGITS:
            (temporary / name).mkdir()
        for i, (picture, label) in enumerate(zip(pixels, digits.target)):
            Image.fromarray(picture).save(temporary / DIGITS[int(label)] / f"{i:04d}.png")
        temporary.chmod(0o755)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder
