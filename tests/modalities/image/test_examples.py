from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from unnoise.core.errors import InputError
from unnoise.modalities.image.examples import DIGITS, write_digits
from unnoise.modalities.image.reading import read_pictures


def test_the_digits_read_back_are_scikit_learns(tmp_path: Path) -> None:
    data = read_pictures(write_digits(tmp_path / "digits"), progress=False)
    digits = load_digits()
    assert len(data) == 1797
    assert data.classes == tuple(sorted(DIGITS))
    assert not data.skipped
    numbers = [int(Path(n).stem) for n in data.names]
    assert [c[0] for c in data.captions] == [DIGITS[digits.target[i]] for i in numbers]
    np.testing.assert_allclose(data.pictures(range(1797))[..., 0] * (16 / 255), digits.images[numbers], atol=0.04)
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        write_digits(tmp_path)
    assert not any(tmp_path.iterdir())
