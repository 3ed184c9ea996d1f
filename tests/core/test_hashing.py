"""The names of weights: computed once, and never kept too long."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from unnoise.core import hashing
from unnoise.core.hashing import Remembered, print_of, tensors_hash


def test_layouts_are_told_apart_and_never_copied_or_missed() -> None:
    """Numbers in the same order of memory, and in another; what a step of memory leaves out."""
    x = torch.randn(64, 48, 3, 3, generator=torch.Generator().manual_seed(0))
    seen = [x, x.to(memory_format=torch.channels_last), x.permute(0, 2, 3, 1).contiguous(), x[:, 1:], x[::2], x.reshape(-1)]
    prints = [print_of({"a": v}) for v in seen]
    assert len(set(prints)) == len(seen)
    assert prints == [print_of({"a": v.clone(memory_format=torch.preserve_format)}) for v in seen[:3]] + prints[3:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("count", [1, 2, 100_001])
def test_a_print_is_of_every_number(dtype: torch.dtype, count: int) -> None:
    x = torch.randn(count, generator=torch.Generator().manual_seed(1)).mul(100).to(dtype)
    prints = {print_of({"a": x})}
    places = {0, count // 2, count - 1}
    for at in places:  # the sign alone
        y = x.float()
        y[at] = -y[at] if y[at] else 1.0
        prints.add(print_of({"a": y.to(dtype)}))
    assert len(prints) == 1 + len(places)
    assert print_of({"a": torch.empty(0, dtype=dtype)}) not in prints


def by_data(p: nn.Parameter) -> None:
    p.data[3, 5] += 1e-3


def by_numpy(p: nn.Parameter) -> None:
    p.detach().numpy()[3, 5] = 7


def by_copy(p: nn.Parameter) -> None:
    with torch.no_grad():
        p.copy_(p + torch.eye(*p.shape))


def by_new_data(p: nn.Parameter) -> None:
    p.data = p.data.flip(0)


def by_optimiser(p: nn.Parameter) -> None:
    p.grad = torch.zeros_like(p)
    p.grad[0, 0] = 1.0
    torch.optim.SGD([p], lr=1e-3).step()
    p.grad = None


def by_fused_optimiser(p: nn.Parameter) -> None:
    p.grad = torch.ones_like(p)
    torch.optim.AdamW([p], lr=1e-3, fused=True).step()
    p.grad = None


def by_inference(p: nn.Parameter) -> None:
    with torch.inference_mode():
        p.mul_(2)


WAYS: list[Callable[[nn.Parameter], None]] = [
    by_data, by_numpy, by_copy, by_new_data, by_optimiser, by_fused_optimiser, by_inference,
]  # fmt: skip


@pytest.mark.parametrize("change", WAYS)
@pytest.mark.parametrize("side", [16, 200], ids=["small", "large"])
def test_a_name_is_computed_once_and_again_after_any_change(
    change: Callable[[nn.Parameter], None], side: int, counted: list[int]
) -> None:
    torch.manual_seed(0)
    layer, remembered = nn.Linear(side, side), Remembered()
    first = remembered.of(layer.state_dict())
    assert first == remembered.of(layer.state_dict()) == tensors_hash(layer.state_dict())
    assert len(counted) == 1
    change(layer.weight)
    second = remembered.of(layer.state_dict())
    assert second == remembered.of(layer.state_dict()) == tensors_hash(layer.state_dict()) != first
    assert len(counted) == 2


def test_a_name_is_of_names_shapes_and_precision_too(counted: list[int]) -> None:
    remembered, x = Remembered(), torch.arange(1.0, 7.0)
    told = [{"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.reshape(3, 2)}, {"a": x.double()}, {"a": x, "b": x}]
    assert [remembered.of(t) for t in told] == [tensors_hash(t) for t in told]
    assert len({tensors_hash(t) for t in told}) == len(told)


@pytest.mark.parametrize("place", ["there", "no place"])
def test_large_tensors_are_hashed_by_one_process_alone(
    place: str, counted: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another `Remembered` is another process; a file that holds something else counts for nothing, and no home is no error."""
    (tmp_path / "no place").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    monkeypatch.setattr(hashing, "LARGE", 100)
    small, large = ({"a": torch.arange(float(n))} for n in (20, 40))
    expected = [tensors_hash(t) for t in (small, large)]
    for _ in range(2):
        assert [Remembered().of(t) for t in (small, large)] == expected
    assert len(counted) == (3 if place == "there" else 4)
    for file in (tmp_path / place).rglob("*") if place == "there" else ():
        if file.is_file():
            file.write_text("half of a ha")
    assert [Remembered().of(t) for t in (small, large)] == expected
    large["a"][7] = 0.5
    assert Remembered().of(large) == tensors_hash(large) != expected[1]
