import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.modalities.image.arrays import read_arrays
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.reading import read_pictures

from .make import noise

GREY = np.stack([noise(i, 6, 5, 1)[..., 0] for i in range(7)])  # (7, 6, 5)
GREY.flat[:2] = 0, 255  # the whole range
COLOUR = np.stack([noise(i, 6, 5) for i in range(7)])  # (7, 6, 5, 3)


def save(tmp_path, **arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


@pytest.mark.parametrize("name", ["x", "images", "data", "X", "whatever"])
@pytest.mark.parametrize(
    ("stored", "want"),
    [(GREY, GREY[..., None]), (GREY[..., None], GREY[..., None]), (GREY[:, None], GREY[..., None]), (COLOUR, COLOUR),
     (COLOUR.transpose(0, 3, 1, 2), COLOUR)],
    ids=["HW", "HW1", "1HW", "HWC", "CHW"],
)  # fmt: skip
def test_layouts(tmp_path, name: str, stored: np.ndarray, want: np.ndarray) -> None:
    found = read_arrays(save(tmp_path, **{name: stored}))
    assert np.array_equal(found.pixels, want)
    assert repr(name) in found.layout


@pytest.mark.parametrize(
    ("stored", "want"),
    [
        (GREY.astype(np.int64), GREY),
        (GREY.astype(np.float32), GREY),
        (GREY.astype(np.float64) / 255, GREY),
        ((GREY / 127.5 - 1).astype(np.float32), GREY),
        (GREY.astype(np.uint16) * 257, GREY),
        (GREY > 100, (GREY > 100) * 255),
        ((GREY > 100).astype(np.uint8), (GREY > 100) * 255),
        (GREY.astype(np.int16) * 4 - 100, GREY),
        (np.minimum(GREY, 17).astype(np.float64), np.minimum(GREY, 17) * 15.0),
    ],
    ids=["int64", "float255", "float1", "float-1..1", "uint16", "bool", "0/1", "signed", "0..17"],
)
def test_ranges(tmp_path, stored: np.ndarray, want: np.ndarray) -> None:
    assert np.array_equal(read_arrays(save(tmp_path, x=stored)).pixels[..., 0], want)


def test_names_of_labels(tmp_path) -> None:
    y = np.array([0, 1, 2, 0, 1, 2, 0])
    path = save(tmp_path, x=GREY, y=y)
    assert read_arrays(path).classes == ("0", "1", "2")
    for name in ("labels.txt", "set.labels.txt"):  # the more specific wins
        (tmp_path / name).write_text(f"cat {name}\ndog\nan emu\n\n", encoding="utf-8")
        found = read_arrays(path)
        assert found.classes == (f"cat {name}", "dog", "an emu")
        assert found.captions[:3] == ((f"cat {name}",), ("dog",), ("an emu",))
    inside = read_arrays(save(tmp_path, x=GREY, y=y.astype(np.float32), class_names=np.array(["a", "b", "c", "unused"])))
    assert inside.classes == ("a", "b", "c", "unused")
    one_hot = read_arrays(save(tmp_path, x=GREY, labels=np.eye(3)[y], names=np.array(["a", "b", "c"])))
    assert [c[0] for c in one_hot.captions] == ["abc"[i] for i in y]
    words = read_arrays(save(tmp_path, x=GREY, kind=np.array(["u", "v", "u", "u", "", "v", "v"])))
    assert words.classes == ("u", "v")
    assert words.captions[4] == ()


def test_captions(tmp_path) -> None:
    found = read_arrays(save(tmp_path, images=COLOUR, caption=np.array(["a  b", "", "c", "d", "e", "f", "g"])))
    assert found.captions[:3] == (("a b",), (), ("c",))
    assert found.classes is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY, "y": np.zeros(6, int)}, "7 pictures but 'y' has 6"),
        ({"x": GREY, "y": np.array([0, 1, 2, 3, 1, 1, 1]), "names": np.array(["a", "b", "c"])}, "label 3 of picture 3 has no name"),
        ({"x": GREY, "y": np.array([0, -1, 2, 3, 1, 1, 1])}, "no set of labels"),
        ({"x": GREY, "y": np.array([0, 0.5, 2, 3, 1, 1, 1])}, "no set of labels"),
        ({"x": GREY, "y": np.zeros(7, int), "names": np.array(["a", "a"])}, "distinct"),
        ({"x": GREY.reshape(7, 30)}, r"x \(7, 30\)"),
        ({"x": np.zeros((2, 3, 4, 5, 3))}, "holds no array that is surely pictures|video"),
        ({"x": np.zeros((2, 7, 7, 7))}, "1 to 4 channels"),
        ({"x": np.full((2, 7, 7), np.nan)}, "not finite"),
        ({"x": np.full((2, 7, 7), 3)}, "3 everywhere"),
        ({"x": np.zeros((0, 7, 7))}, "shape"),
        ({"x": np.zeros((2, 7, 7), complex)}, "complex"),
        ({"x": np.array([[["a"]]] * 2)}, "pictures are numbers|surely pictures"),
        ({"a": GREY, "b": COLOUR}, "surely pictures"),
        ({"x": np.array([None, 1], dtype=object)}, "pickled Python objects"),
        ({}, "nothing"),
    ],
)
def test_refusals_are_one_clear_line(tmp_path, arrays: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as e:
        read_arrays(save(tmp_path, **arrays))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"text"])
def test_broken_files(tmp_path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"set\.npz"):
        read_arrays(tmp_path / "set.npz")


def test_a_truncated_archive(tmp_path) -> None:
    path = save(tmp_path, x=GREY)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(InputError, match="cannot be read"):
        read_arrays(path)


def test_alpha_is_composited_and_said(tmp_path) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (7, 6, 5, 1), dtype=np.uint8)
    path = save(tmp_path, x=np.concatenate([COLOUR, alpha], -1))
    data = read_pictures(path, PictureOptions(background="black"), progress=False)
    np.testing.assert_allclose(data.pictures(range(7)), COLOUR * (alpha / 255.0), atol=1)
    assert "all with transparency, which is laid over black" in data.account()


def test_another_size(tmp_path) -> None:
    data = read_pictures(save(tmp_path, x=np.repeat(np.repeat(COLOUR[:, :5], 4, 1), 4, 2)), PictureOptions(size=5), progress=False)
    assert data.pictures([0]).shape == (1, 5, 5, 3)
    assert "all 20 x 20 pixels, trained at 5 x 5" in data.account()
