"""Folders of diffusers that lack a part, which lies in another folder: as diffusers puts the two together."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import refused
from safetensors.torch import save_file

import unnoise
from unnoise.checkpoints.foreign.opening import open_foreign
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="folders are those that diffusers writes")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
import foreign_originals as originals  # noqa: E402
from checkpoints.test_dit_pictures import pixart  # noqa: E402
from checkpoints.test_foreign_folder import Hub, cache, served  # noqa: E402, F401  # cache: a fixture

SIZE = {"steps": 2, "height": 16, "width": 16}
LEFT_OUT = {"null": [None, None], "not named": None, "no folder": ["diffusers", "PixArtTransformer2DModel"]}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whole/ of PixArt-Sigma; base/ without transformer/; apart/ with nothing else."""
    at = tmp_path_factory.mktemp("pixart")
    pipeline = pixart(at / "parts", "PixArtSigmaPipeline")
    shutil.copytree(tiny.save(pipeline, at / "whole"), at / "base")
    (at / "apart").mkdir()
    (at / "base" / "transformer").rename(at / "apart" / "transformer")
    return at


def without(folder: Path, name: str, entry: Any) -> None:
    """What model_index.json says of a part from now on; None: nothing."""
    index = json.loads((folder / "model_index.json").read_text())
    index.pop(name, None)
    (folder / "model_index.json").write_text(json.dumps(index | ({} if entry is None else {name: entry})))


@pytest.mark.parametrize("how", LEFT_OUT)
def test_pixart_sigma_without_its_transformer(how: str, published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that has it, or it itself; without, a line says how to give it."""
    base, apart = published / "base", published / "apart"
    without(base, "transformer", LEFT_OUT[how])
    network = diffusers.PixArtTransformer2DModel.from_pretrained(apart, subfolder="transformer")
    theirs = diffusers.PixArtSigmaPipeline.from_pretrained(base, transformer=network)
    expected = unnoise.load(tiny.save(theirs, published / f"whole {how}"))
    drawn = expected.sample("a red cat", 1, 7, **SIZE).data
    for beside in (apart, apart / "transformer", published / "whole") if how == "null" else (apart,):
        model = unnoise.load(base, beside=[beside])
        assert model.hash() == expected.hash()
        assert torch.equal(model.sample("a red cat", 1, 7, **SIZE).data, drawn)
    said = refused(["sample", str(base), "a red cat", "--out", str(published / "no")], capsys)
    assert "transformer" in said
    assert said.endswith("fetch the model again, with this part, or give a folder that has it (--beside FOLDER)")
    assert ("no such folder" if how == "no folder" else "no transformer, which a PixArtSigmaPipeline draws with") in said


def test_other_parts(tmp_path: Path) -> None:
    """A U-Net; an autoencoder and a text encoder with its tokenizer beside it; of a whole folder those that are lacking."""
    whole = tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "whole")
    expected = unnoise.load(whole).sample("a red cat", 1, 7, **SIZE).data
    for names in (["unet"], ["vae", "text_encoder", "tokenizer"]):
        base, apart = shutil.copytree(whole, tmp_path / names[0]), tmp_path / f"apart-{names[0]}"
        apart.mkdir()
        for name in names:
            (base / name).rename(apart / name)
        assert torch.equal(unnoise.load(base, beside=[apart]).sample("a red cat", 1, 7, **SIZE).data, expected)
        found = open_foreign(base, beside=[whole])
        assert found is not None
        assert {name for name, part in found.parts.items() if Path(part.where).parent == whole} == {*names} - {"tokenizer"}
        with pytest.raises(InputError, match=f"{names[0]}: no such folder, though model_index.json names a {names[0]}; .*--beside"):
            open_foreign(base)


def test_what_cannot_fill_it(published: Path, tmp_path: Path) -> None:
    whole = tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "whole")
    (tmp_path / "empty").mkdir()
    base = shutil.copytree(whole, tmp_path / "base")
    shutil.rmtree(base / "vae")
    vae, state = tmp_path / "vae.safetensors", tiny.vae().state_dict()
    for folder, beside, message in (
        (whole, whole, r"whole: holds nothing that .*whole lacks; what takes a part's place is given alone: .*whole/unet"),
        (whole, tmp_path / "empty", r"empty: no config.json in it or in a folder of a part's name, such as unet or transformer"),
        (base, vae, r"vae.safetensors: does not say how it is built, and base has none like it: give its folder"),
    ):
        save_file(state, vae)
        with pytest.raises(InputError, match=message):
            open_foreign(folder, beside=[beside])
    save_file({k: v.contiguous() for k, v in originals.vae(state, 2).items()}, vae)
    with pytest.raises(InputError, match=r"vae.safetensors: does not say how its codes are scaled, and base has none like it"):
        open_foreign(base, beside=[vae])
    shutil.rmtree(base / "unet")
    with pytest.raises(
        InputError, match=r"transformer: parts of different models: this network is of PixArt, and .*base is a Stable"
    ):
        unnoise.load(base, beside=[published / "apart", whole / "vae"])


@pytest.mark.usefixtures("cache")
def test_a_transformer_on_the_hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole model there its network alone is fetched; it is there when offline."""
    base = published / "base"
    without(base, "transformer", None)
    with served(published / "whole", monkeypatch):
        found = open_foreign(base, beside=["someone/something"])
    assert sorted(Hub.asked) == [f"transformer/{n} from 0" for n in ("config.json", "diffusion_pytorch_model.safetensors")]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for foreign in (found, open_foreign(base, beside=["someone/something"])):
        assert foreign is not None
        assert foreign.parts["transformer"].kind == "PixArtTransformer2DModel"
