"""A single file where no tokenizer is to be had: what lacks is told, and what needs none is done without it."""

from pathlib import Path

import pytest
from command_line import refused
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

import unnoise
from unnoise.cli.main import main

pytest.importorskip("gguf", reason="writes one of the files")
pytest.importorskip("diffusers", reason="makes what is in them")
from checkpoints.test_foreign_gguf_whole import SIZE, convert, first  # noqa: F401  # first: a fixture


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
def test_only_the_tokenizer_is_missing(
    form: str,
    first: tuple[dict[str, Tensor], Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is said so, with what would do; and the file is described as the model that it is with one."""
    tensors, folder = first
    file = tmp_path / f"whole.{form}"
    save_file(tensors, file) if form == "safetensors" else convert(tensors, "Q8_0", file)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    said = refused(["sample", str(file), "a red cat", "--out", str(tmp_path / "out")], capsys)
    assert (
        f"{file}: of its text_encoder only the tokenizer is missing: tokenizer openai/clip-vit-large-patch14: is no folder" in said
    )
    assert said.endswith("a folder tokenizer beside the file would do, or one with tokenizer/ in it (--beside FOLDER)")
    main(["info", str(file)])
    told = capsys.readouterr().out
    model = unnoise.load(file, beside=[folder])
    assert f"{file}: whole, " in told
    assert f"weights {model.hash()}" in told
    assert f"sampled by   {model.config.sampling.sampler}, {model.config.sampling.steps} steps" in told
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    unnoise.load(file).sample("a red cat", **SIZE)
