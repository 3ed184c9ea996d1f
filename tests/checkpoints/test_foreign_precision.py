"""Open checkpoints in bfloat16, text encoders and all: beside diffusers no further off than bfloat16 is. Which weights are read."""

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


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "shards"])
def test_a_variant_of_text_encoders(whole: bool, tmp_path: Path) -> None:
    """As transformers reads it; the T5 has none, and takes the plain one. What is saved here finds the same weights again."""
    from transformers import CLIPTextModelWithProjection

    folder = tiny.save(tiny.sd3(tmp_path / "parts"), tmp_path / "model")
    other = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    for p in other.parameters():
        p.data.mul_(0.5)
    size = sum(p.nbytes for p in other.parameters())
    other.save_pretrained(folder / "text_encoder", variant="fp16", max_shard_size=size if whole else size // 2)
    assert (len(list((folder / "text_encoder").glob("model.fp16*.safetensors"))) == 1) == whole
    plain, halved = unnoise.load(folder), unnoise.load(folder, variant="fp16")
    asked, expected = ({n: e.opened.network for n, e in encoders_of(m.conditioner).items()} for m in (halved, plain))
    theirs = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", variant="fp16").eval()
    ids = torch.randint(0, 90, (2, 9))
    with torch.no_grad():
        seen, wanted, usual = (m(input_ids=ids).text_embeds for m in (asked["text_encoder"], theirs, expected["text_encoder"]))
    torch.testing.assert_close(seen, wanted)
    assert (wanted - usual).abs().max() > 0.1 * usual.std()
    for name in ("text_encoder_2", "text_encoder_3"):
        pairs = zip(asked[name].parameters(), expected[name].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    halved.save(tmp_path / "ours")
    again, before = (
        m.sample("a red cat", 1, 7, steps=2, height=16, width=16).data for m in (unnoise.load(tmp_path / "ours"), halved)
    )
    assert torch.equal(again, before)
