"""Configurations survive JSON unchanged, and anything else in their place is refused by name."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from unnoise.checkpoints.config import allow, decode, encode
from unnoise.control.step_caching import Every, StepCaching
from unnoise.core.errors import InputError
from unnoise.loading import MODEL_CLASSES
from unnoise.recipes.runs import load_run, save_run
from unnoise.recipes.train import RECIPES, example_run


@dataclass(frozen=True)
class Inner:
    x: float = 1.5


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner = Inner()
    pair: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    maybe: float | None = None


ALLOWED = allow(Inner, Outer)
NAME = encode(Inner())["class"].rpartition(".")[0]


def there_and_back(value: object) -> object:
    return decode(type(value), json.loads(json.dumps(encode(value))), ALLOWED, "here")


@pytest.mark.parametrize(
    "value",
    [Outer(3), Outer(3, Inner(float("inf"))), Outer(3, many=(1.0, 2.5)), Outer(3, maybe=0.1), Outer(0, pair=(7, "ünï"))],
)
def test_there_and_back(value: Outer) -> None:
    assert there_and_back(value) == value


def test_an_integer_is_read_where_a_number_belongs() -> None:
    assert decode(float, 3, {}, "here") == 3.0


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_survives_its_file(recipe: str, tmp_path: Path) -> None:
    run = example_run(recipe)
    save_run(run, tmp_path, "some data")
    assert load_run(tmp_path) == (run, "some data")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class": f"{NAME}.Outer", "count": "3"}, r"here\.count: expected an integer, found \"3\""),
        ({"class": f"{NAME}.Outer", "count": True}, r"here\.count: expected an integer"),
        ({"class": f"{NAME}.Outer"}, "lacks its field 'count'"),
        ({"class": f"{NAME}.Outer", "count": 1, "colour": 2}, "no field 'colour'"),
        ({"class": "os.system", "count": 1}, "'os.system' is not one that this version"),
        (
            {"class": f"{NAME}.Outer", "count": 1, "inner": {"class": f"{NAME}.Outer", "count": 1}},
            r"here\.inner: a .*Outer stands where",
        ),
        ({"class": f"{NAME}.Outer", "count": 1, "pair": [1]}, "a list of 2"),
        ({"class": f"{NAME}.Outer", "count": 1, "inner": 4}, r"here\.inner: expected Inner"),
        ([1, 2], "expected Outer"),
    ],
)
def test_what_does_not_fit_is_named(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(Outer, data, ALLOWED, "here")


def test_only_data_is_encoded() -> None:
    with pytest.raises(TypeError, match="cannot hold a function"):
        encode(Outer(3, maybe=there_and_back))  # type: ignore[arg-type]


def test_what_earlier_versions_wrote_is_read() -> None:
    """A model with step caching of a version whose `Every` said how many calls come first."""
    caching = StepCaching(Every(2), 1)
    written = encode(caching)
    written["when"]["first"] = 2
    assert decode(StepCaching, written, MODEL_CLASSES, "here") == caching
