"""What --lora and --beside take by a name on the hub: the same as the files that lie there."""

import json
from pathlib import Path

import foreign_originals as originals
import pytest
import torch
from beside_diffusers import randomised
from huggingface_hub import constants
from lora_files import kohya, merged, model_of, networks, ours_says, pairs, peft, theirs_says, written
from test_diffusers_names import close

from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.checkpoints.foreign.opening import open_foreign
from unnoise.cli.again import files
from unnoise.core.errors import InputError

pytest.importorskip("diffusers")
import checkpoints.foreign_pipelines as tiny
from checkpoints.test_foreign_folder import Hub, cache, served  # noqa: F401  # a fixture

NAME = "someone/something"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("published", ["diffusers", "PEFT"])
def test_a_lora_on_the_hub(published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one file is asked for, and PEFT's settings beside it; offline it is there still."""
    theirs, ours = networks("SD 1")
    some, there = pairs(theirs, r"attn2\.to"), tmp_path / "there"
    there.mkdir()
    name = "pytorch_lora_weights" if published == "diffusers" else "adapter_model"
    written(there, kohya(some) if published == "diffusers" else peft(some, "base_model.model."), name)
    expected_files = {f"{name}.safetensors"}
    if published == "PEFT":
        (there / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2}))
        expected_files.add("adapter_config.json")
    written(there, {"x": torch.ones(2)}, "zz_older")
    (there / "pytorch_lora_weights.bin").write_bytes(b"pickle")
    expected = theirs_says("SD 1", merged(theirs, some, 0.7 * 2 / 3))
    with served(there, monkeypatch):
        low_rank(model_of(ours), {Path(NAME): 0.7})
    close(ours_says("SD 1", ours), expected)
    assert set(Hub.asked) == {f"{f} from 0" for f in expected_files}
    low_rank(model_of(ours), {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    low_rank(model_of(ours), {NAME: 0.7})
    close(ours_says("SD 1", ours), expected)
    low_rank(model_of(ours), {})
    assert files({"lora": [f"{NAME}:0.7", "a/b.safetensors:0.3"]}) == ["a/b.safetensors"], "what is to be found again are files"


@pytest.mark.usefixtures("cache")
def test_a_name_that_holds_no_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(networks("SD 1")[1])
    (tmp_path / "there").mkdir()
    written(tmp_path / "there", {"x": torch.ones(2)}, "step_4")
    with (
        served(tmp_path / "there", monkeypatch),
        pytest.raises(
            InputError, match=r"has no pytorch_lora_w.* or adapter_.* on the hub; give its file: someone/something/step_4"
        ),
    ):
        low_rank(model, {NAME: 1.0})
    with pytest.raises(InputError, match="a pickle, which runs code"):
        low_rank(model, {"loras/mine.pt": 1.0})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="someone/else: no such folder, not in the cache of the hub, and HF_HUB_OFFLINE is set"):
        low_rank(model, {"someone/else": 1.0})


@pytest.mark.usefixtures("cache")
def test_a_network_on_the_hub_beside_a_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it lies in a folder of one's own."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts", block_out_channels=(32, 64), attention_head_dim=8, norm_num_groups=32)
    tensors = originals.unet(pipeline.unet.state_dict(), 1) | originals.vae(pipeline.vae.state_dict(), 2)
    file, other = written(tmp_path, tensors, "single"), randomised(tiny.vae(), 9)
    other.save_pretrained(tmp_path / "there")
    usual = open_foreign(file)
    with served(tmp_path / "there", monkeypatch):
        found = open_foreign(file, beside=[NAME])
    assert usual is not None
    assert found is not None
    expected = other.state_dict()
    assert found.parts["vae"].tensors.keys() == expected.keys()
    assert all(torch.equal(found.parts["vae"].tensors[k], v) for k, v in expected.items())
    assert not torch.equal(usual.parts["vae"].tensors["decoder.conv_in.weight"], expected["decoder.conv_in.weight"])
    with pytest.raises(InputError, match=r"loras/no\.safetensors: no such file or folder"):
        open_foreign(file, beside=["loras/no.safetensors"])
