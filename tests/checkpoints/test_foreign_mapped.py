"""Files mapped into memory: the same tensors as safetensors reads, and memory given back, as the system itself counts it."""

import json
import mmap
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unnoise.checkpoints.diffusers_names import translate
from unnoise.checkpoints.foreign.mapped import MappedFile, joined, let_go
from unnoise.checkpoints.foreign.parts import AsType, MappedTensors
from unnoise.core.errors import InputError

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is in memory")
PAGES = 256
"""Of a large tensor here."""


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path, {"format": "pt"})
    return path


def large(seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A kernel of PAGES pages."""
    numbers = PAGES * mmap.PAGESIZE // (9 * 16 * dtype.itemsize) + 1
    return torch.randn(numbers, 16, 3, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


def resident(tensor: Tensor) -> int:
    """Bytes of the file that `tensor` is part of that lie in this process's memory, as the system counts them."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= tensor.data_ptr() < int(found[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such memory")


def test_tensors_are_those_that_safetensors_reads(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(3, 5, generator=draw)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)
    tensors = {str(kind): (8 * wide).abs().to(kind) for kind in kinds} | {
        str(t): (8 * wide).to(t) for t in (torch.int16, torch.int64)
    }
    tensors |= {"odd": wide[:1, :3].to(torch.bool), "behind": wide, "none": torch.zeros(0, 4), "one": torch.tensor(2.5)}
    tensors |= {"wave": torch.complex(wide, wide), "counts": torch.arange(7, dtype=torch.int32)}
    path = saved(tmp_path / "some.safetensors", tensors)
    ours, theirs = MappedFile(path), load_file(path)
    assert set(ours) == set(theirs) == set(tensors)
    assert len(ours) == len(theirs)
    assert ours.metadata == {"format": "pt"}
    for name, wanted in theirs.items():
        assert ours.shapes[name] == tuple(wanted.shape)
        assert ours[name].dtype == wanted.dtype
        assert ours[name].shape == wanted.shape
        assert ours[name].flatten().view(torch.uint8).tolist() == wanted.flatten().view(torch.uint8).tolist()


def test_what_is_written_is_not_the_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "some.safetensors", {"a": torch.ones(4)})
    tensor = MappedFile(path)["a"]
    tensor.mul_(3)
    assert tensor.tolist() == [3.0] * 4
    assert MappedFile(path)["a"].tolist() == [1.0] * 4


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "some.safetensors", {"a": torch.ones(400)})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="truncated"):
        MappedFile(path)


def test_other_memory_is_left_alone(tmp_path: Path) -> None:
    """The call that gives back a file's pages would empty any other memory."""
    file = MappedFile(saved(tmp_path / "some.safetensors", {"a": large(0)}))
    own, turned = large(1), file["a"].transpose(0, 1)
    for tensor in (own, own[1:], turned, torch.empty(3, device="meta")):
        let_go(tensor)
    assert torch.equal(own, large(1))
    assert torch.equal(turned, large(0).transpose(0, 1))


@on_linux
def test_what_is_let_go_of_leaves_memory_and_can_be_read_again(tmp_path: Path) -> None:
    file = MappedFile(saved(tmp_path / "some.safetensors", {"a": large(0), "b": large(1)}))
    assert torch.equal(file["a"], large(0))
    assert torch.equal(file["b"], large(1))
    before = resident(file["a"])
    let_go(file["a"])
    assert before > 2 * PAGES * mmap.PAGESIZE
    assert before - resident(file["a"]) >= (PAGES - 1) * mmap.PAGESIZE
    assert torch.equal(file["a"], large(0))
    assert resident(file["a"]) >= before - mmap.PAGESIZE


@on_linux
@pytest.mark.parametrize("theirs", [torch.bfloat16, torch.float32])
def test_a_weight_that_is_laid_out_anew_is_in_memory_once(tmp_path: Path, theirs: torch.dtype) -> None:
    path = saved(tmp_path / "some.safetensors", {name: large(i, theirs) for i, name in enumerate("ab")})
    tensors = MappedTensors([path])
    read = AsType(tensors, torch.bfloat16)
    made = [read[name] for name in "ab"]
    for i, kernel in enumerate(made):
        assert torch.equal(kernel, large(i, theirs).bfloat16())
        assert kernel.is_contiguous(memory_format=torch.channels_last)
    around = 64 * 1024  # the system maps a few neighbours of the pages that are touched
    assert resident(tensors["a"]) <= 4 * (mmap.PAGESIZE + around) < PAGES * mmap.PAGESIZE


@on_linux
def test_a_weight_that_is_joined_is_in_memory_once(tmp_path: Path) -> None:
    q, k = (large(i).flatten(1) for i in (0, 1))
    tensors = MappedTensors([saved(tmp_path / "some.safetensors", {"q.weight": q, "k.weight": k})])
    like = {"qk.weight": torch.empty(2 * len(q), q.shape[1], device="meta")}
    made = translate(tensors, {"qk": ("q", "k")}, like)["qk.weight"]
    assert torch.equal(made, torch.cat([q, k]))
    assert resident(tensors["q.weight"]) < PAGES * mmap.PAGESIZE
    assert torch.equal(joined([q, k]), torch.cat([q, k]))
    assert torch.equal(q, large(0).flatten(1))


def test_a_weight_that_is_kept_as_it_lies_shares_the_files_memory(tmp_path: Path) -> None:
    tensors = MappedTensors(
        [saved(tmp_path / "some.safetensors", {"matrix": large(0).flatten(1), "kernel": large(1, torch.float32)})]
    )
    for dtype, name in ((torch.bfloat16, "matrix"), (torch.float32, "kernel")):
        assert AsType(tensors, dtype)[name].data_ptr() == tensors[name].data_ptr()


@on_linux
def test_a_file_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    """Its sizes are asked for before anything else, to say what would fit. The file has a hole for its numbers."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this system promises no more memory than it has, whatever it is for")
    told = dict(re.findall(r"(MemTotal|SwapTotal):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
    size = 3 * 1024 * sum(map(int, told.values())) // 2
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size // 4 * 4]}}).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + size // 4 * 4)
        except OSError:
            pytest.skip("no room for a file with a hole of that size")
    mapped = MappedFile(path)
    assert mapped.shapes["x"] == (size // 4,)
    x = mapped["x"]
    x[-1] = 1.0
    assert (float(x[0]), float(x[-1])) == (0.0, 1.0)
    assert MappedFile(path)["x"][-1] == 0, "what is written is the process's own"
