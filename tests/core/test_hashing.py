"""The names of weights: a fold beside Python's own whole numbers, and a name that is computed once and never kept too long."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from unnoise.core import hashing
from unnoise.core.hashing import WORDS, Remembered, fold, tensors_hash

BLOCK = 8 * WORDS


def folded(memory: bytes) -> bytes:
    """Word by word, in whole numbers without bound."""
    blocks = max(0, len(memory) - 4) // BLOCK
    m, n = (x.tolist() for x in (hashing._M, hashing._N))

    def words(start: int) -> list[int]:
        return [int.from_bytes(memory[start + 8 * i : start + 8 * i + 8], "little") for i in range(WORDS)]

    sums = [
        sum(a * w for a, w in zip(m, words(BLOCK * b))) + sum(a * v for a, v in zip(n, words(BLOCK * b + 4))) for b in range(blocks)
    ]
    return b"".join((s % 2**64).to_bytes(8, "little") for s in sums) + memory[BLOCK * blocks :]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 3, BLOCK + 4, 3 * BLOCK + 13])
def test_a_fold_is_the_sum_that_is_written(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "BLOCKS", 2)
    x = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    assert fold(x) == folded(x.numpy().tobytes())


def test_layouts_lie_in_memory_as_they_lie() -> None:
    x = torch.randn(64, 48, 3, 3, generator=torch.Generator().manual_seed(0))
    last = x.to(memory_format=torch.channels_last)
    assert fold(last) == fold(x.permute(0, 2, 3, 1).contiguous())
    assert fold(x[:, 1:]) == fold(x[:, 1:].contiguous())
    assert fold(torch.tensor(2.0)) == torch.tensor(2.0).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("lane", range(8))
def test_signs_of_two_numbers_of_a_block_are_seen_wherever_they_lie(dtype: torch.dtype, lane: int) -> None:
    """The highest bits of words cancel in sums of products; half a word later they are in the middle."""
    x = torch.randn(BLOCK, generator=torch.Generator().manual_seed(1)).mul(100).to(dtype)
    step = 8 // dtype.itemsize
    y = x.clone()
    y[[lane % step, lane % step + 5 * step]] *= -1
    assert fold(x) != fold(y)


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
@pytest.mark.parametrize("side", [16, 200], ids=["small", "folded"])
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
