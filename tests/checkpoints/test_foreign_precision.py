"""Open checkpoints in bfloat16, text encoders and all: half the memory, and beside diffusers no further off than bfloat16 is."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.parts import AsType
from unnoise.checkpoints.foreign.pieces import And
from unnoise.core.errors import InputError
from unnoise.modalities.words.frozen import encoders_of
from unnoise.model import DiffusionModel

pytest.importorskip("diffusers", reason="what to compare with is diffusers'")
import checkpoints.foreign_pipelines as tiny

PROMPTS = ["a red cat", "a dog, 1 hat"]


def told(model: DiffusionModel) -> tuple[Tensor, Tensor]:
    """Tokens, and the vector, of the prompts."""
    cond = model.conditioner(model.conditioner.prepare(PROMPTS))
    return cond["tokens"], cond["vector"]


def far(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


@torch.no_grad()
def test_text_encoders_are_held_as_the_rest_is(tmp_path: Path) -> None:
    """Stable Diffusion 3 has two CLIPs and T5. What was saved in bfloat16 is read back so."""
    pipeline = tiny.sd3(tmp_path / "parts")
    folder = tiny.save(pipeline, tmp_path / "model")
    asked = {"prompt": PROMPTS, "prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
    wide, half = (pipeline.to(d).encode_prompt(**asked)[0::2] for d in (torch.float32, torch.bfloat16))
    model = unnoise.load(folder, torch.bfloat16)
    model.save(tmp_path / "saved")
    for ours in (told(model), told(unnoise.load(tmp_path / "saved"))):
        for mine, theirs, exact in zip(ours, half, wide):
            assert mine.dtype == torch.float32
            assert far(mine, theirs) < far(theirs, exact) < 0.2
    for mine, exact in zip(told(unnoise.load(folder)), wide):
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-5)
    for encoder in encoders_of(model.conditioner).values():
        assert {p.dtype for p in encoder.opened.network.parameters()} == {torch.bfloat16}


def test_float16_is_refused(tmp_path: Path) -> None:
    folder = tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model")
    with pytest.raises(InputError, match="float32 or bfloat16"):
        unnoise.load(folder, torch.float16)


@pytest.mark.parametrize("theirs", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_rounded_once_and_kernels_lie_channels_last(theirs: torch.dtype) -> None:
    kernel, matrix, counts = torch.randn(6, 4, 3, 3).to(theirs), torch.randn(5, 7).to(theirs), torch.arange(4)
    read = AsType({"kernel": kernel, "matrix": matrix, "counts": counts}, torch.bfloat16)
    assert torch.equal(read["kernel"], kernel.to(torch.bfloat16))
    assert torch.equal(read["matrix"], matrix.to(torch.bfloat16))
    assert read["kernel"].is_contiguous(memory_format=torch.channels_last)
    assert read["counts"] is counts


class Unread(Mapping[str, Tensor]):
    """Names, of which none may be read."""

    def __getitem__(self, name: str) -> Tensor:
        raise AssertionError(f"{name} was read")

    def __iter__(self) -> Iterator[str]:
        return iter(("a",))

    def __len__(self) -> int:
        return 1

    def __contains__(self, name: object) -> bool:
        return name == "a"


def test_asking_for_a_name_reads_nothing() -> None:
    tensors = And(AsType(Unread(), torch.bfloat16), {})
    assert "a" in tensors
    assert "b" not in tensors
