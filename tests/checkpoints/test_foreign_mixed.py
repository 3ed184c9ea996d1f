"""Folders whose parts are not of one model, classes that nobody knows, and parts that are no model: what is what, in one line."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_originals as originals
import pytest
import torch
from command_line import refused
from safetensors.torch import load_file, save_file

import unnoise
from unnoise.checkpoints.foreign.belonging import KIN, beyond, family_of_network, family_of_pipeline, is_known
from unnoise.checkpoints.foreign.building import FAMILIES
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.recognise import class_family
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="folders are those that diffusers writes")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_dit_pictures import pixart, sana  # noqa: E402
from checkpoints.test_foreign_pictures import latents, same  # noqa: E402

MAKERS: dict[str, Callable[[Path], Any]] = {
    "Stable Diffusion 1 and 2": tiny.stable_diffusion,
    "SDXL": tiny.sdxl,
    "Stable Diffusion 3": tiny.sd3,
    "FLUX.1": tiny.flux,
    "PixArt": lambda folder: pixart(folder, "PixArtSigmaPipeline"),
    "Sana": sana,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of every family, as diffusers saves it."""
    places = {name: tmp_path_factory.mktemp("family") for name in MAKERS}
    return {name: tiny.save(make(places[name] / "parts"), places[name] / "model") for name, make in MAKERS.items()}


def network_in(folder: Path) -> Path:
    return folder / ("unet" if (folder / "unet").is_dir() else "transformer")


def test_families_of_networks_and_pipelines(folders: dict[str, Path]) -> None:
    for family, folder in folders.items():
        part = Part({}, load_file(network_in(folder) / WEIGHTS), "x")
        index = json.loads((folder / "model_index.json").read_text())
        assert (family_of_network(part), family_of_pipeline(index["_class_name"])) == (family, family)
    assert set(KIN) == set(folders)


def test_the_pipelines_that_are_known() -> None:
    """All of diffusers' that run networks of the classes that are run here, for what they are run for."""
    named = {name: getattr(diffusers, name) for name in dir(diffusers) if "Pipeline" in name and class_family(name) is None}
    signatures = {
        name: inspect.signature(kind.__init__)
        for name, kind in named.items()
        if inspect.isclass(kind) and "Onnx" not in name and inspect.isfunction(kind.__init__)
    }
    using = {n for n, s in signatures.items() if any(k in str(p.annotation) for k in FAMILIES for p in s.parameters.values())}
    assert len(using) > 50
    assert {name for name in using if not is_known(name)} == set()
    assert [n for n in ("FluxierPipeline", "StableDiffusionTrulyPipeline", "DiffusionPipeline", "Flux") if is_known(n)] == []


BEYOND = {
    "StableDiffusionControlNetPipeline": "is given by --control x/controlnet:PICTURE",
    "StableDiffusionXLAdapterPipeline": "is given by --control x/adapter:PICTURE",
    "StableDiffusionPAGPipeline": "--inner pag guides as it does",
    "StableDiffusionAttendAndExcitePipeline": "which is what is run here",
    "LEditsPPPipelineStableDiffusionXL": "which is what is run here",
    "StableDiffusionInstructPix2PixPipeline": "its network sees no pictures",
}


def test_a_pipeline_that_does_more_than_its_network_is_said(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, said in BEYOND.items():
        assert said in str(beyond(name, "x", 0))
    plain = ("StableDiffusionXLImg2Img", "StableDiffusionInpaint", "FluxKontext", "FluxControl", "SanaSprint", "PixArtSigma")
    assert [name for name in plain if beyond(f"{name}Pipeline", "x", 0)] == []
    assert beyond("StableDiffusionInstructPix2PixPipeline", "x", 4) is None
    folder = shutil.copytree(folders["SDXL"], tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLControlNetPipeline"}))
    with pytest.warns(UserWarning, match=r"model: a StableDiffusionXLControlNetPipeline does more than its network alone"):
        unnoise.load(folder)


MIXED = [
    ("Stable Diffusion 1 and 2", "SDXL"),
    ("SDXL", "Stable Diffusion 1 and 2"),
    ("Stable Diffusion 3", "FLUX.1"),
    ("FLUX.1", "Stable Diffusion 3"),
    ("PixArt", "Sana"),
    ("FLUX.1", "PixArt"),
]


@pytest.mark.parametrize("where", ["folder", "beside", "weights"])
@pytest.mark.parametrize(("whole", "other"), MIXED)
def test_a_network_of_another_family(
    whole: str, other: str, where: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder, with its configuration or its weights alone, or beside it under diffusers' names."""
    folder, foreign = shutil.copytree(folders[whole], tmp_path / "model"), network_in(folders[other])
    own, beside = network_in(folder), []
    told: Path = own
    if where == "beside":
        told = Path(shutil.copy(foreign / WEIGHTS, tmp_path / "net.safetensors"))
        beside = ["--beside", str(told)]
    else:
        for file in (WEIGHTS, "config.json") if where == "folder" else (WEIGHTS,):
            shutil.copy(foreign / file, own / file)
    pipeline = json.loads((folder / "model_index.json").read_text())["_class_name"]
    said = refused(["sample", str(folder), "a cat", *beside, "--out", str(tmp_path / "out")], capsys)
    belongs = f"this network is of {other}, and {folder} is a {pipeline}, of {whole}"
    assert said == f"unnoise: {told}: parts of different models: {belongs}"


def test_a_text_encoder_of_another_family(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["FLUX.1"], tmp_path / "model")
    shutil.rmtree(folder / "text_encoder_2")
    shutil.copytree(folders["SDXL"] / "text_encoder_2", folder / "text_encoder_2")
    with pytest.raises(
        InputError, match=r"text_encoder_2: parts of .* a CLIPTextModelWithProjection .*, and FLUX.1, .* reads T5 there"
    ):
        unnoise.load(folder)


def renamed(folder: Path, file: str, name: str) -> Path:
    config = folder / file
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": name}))
    return folder


def test_an_unknown_class_of_networks(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its tensors tell the nearest, and which of them have no place there; or its name, where none has."""
    folder = renamed(shutil.copytree(folders["FLUX.1"], tmp_path / "a"), "transformer/config.json", "FluxierTransformer2DModel")
    weights = folder / "transformer" / WEIGHTS
    tensors = load_file(weights)
    with pytest.raises(
        InputError, match=r"transformer: an unknown .* nearest is FLUX.1 .*, which has a place for every tensor; Stable"
    ):
        unnoise.load(folder)
    save_file({n.replace("norm_q", "norm_query"): v for n, v in tensors.items()}, weights)
    odd = [n for n in tensors if "norm_q." in n]
    wanted = (
        r"transformer: an unknown architecture, a FluxierTransformer2DModel of a FluxPipeline; the nearest is FLUX.1 "
        r"\(FluxTransformer2DModel\), "
        rf"which has no place for {len(odd)} of its {len(tensors)} tensors: '{min(odd).replace('norm_q', 'norm_query')}'"
    )
    with pytest.raises(InputError, match=wanted):
        unnoise.load(folder)
    save_file({"x.weight": torch.ones(1)}, weights)
    with pytest.raises(
        InputError, match=r"nearest is FLUX.1 .* no place for 1 of its 1 tensors: 'x.weight'; Stable Diffusion 1, 2"
    ):
        unnoise.load(folder)


def test_an_unknown_class_of_pipelines(tmp_path: Path) -> None:
    """It is run by what its parts are: as the pipeline whose parts they were. One line says so."""
    pipeline = tiny.flux(tmp_path / "parts")
    folder = tiny.save(pipeline, tmp_path / "model")
    usual = unnoise.load(folder)
    renamed(folder, "model_index.json", "MyFluxierPipeline")
    wanted = r"a MyFluxierPipeline is not known here; the nearest is FluxPipeline \(FLUX.1\); it is run by .* parts are, as FLUX.1"
    with pytest.warns(UserWarning, match=wanted):
        model = unnoise.load(folder)
    assert (model.config.sampling, model.hash()) == (usual.config.sampling, usual.hash())


def test_an_unknown_class_of_early_files(tmp_path: Path) -> None:
    """What the pipeline of its family corrects is corrected: the picture is that pipeline's."""
    scheduler = diffusers.DDIMScheduler(**tiny.BETAS, steps_offset=0, clip_sample=False, set_alpha_to_one=False)
    pipeline = tiny.stable_diffusion(tmp_path / "parts", scheduler=scheduler)
    folder = renamed(tiny.save(pipeline, tmp_path / "model"), "model_index.json", "LongPromptsPipeline")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "steps_offset": 0}))
    with pytest.warns(UserWarning, match=r"a LongPromptsPipeline is not known here; it is run"):
        model = unnoise.load(folder)
    same(model, pipeline, latents(pipeline, model, num_inference_steps=5, guidance_scale=3.0), steps=5, guidance=3.0)


def test_a_part_in_place_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An autoencoder's folder, and files that hold one, or a text encoder, alone."""
    vae = originals.vae(tiny.vae(block_out_channels=(32, 64), norm_num_groups=32).state_dict(), 2)
    save_file({k.removeprefix("first_stage_model."): v.contiguous() for k, v in vae.items()}, tmp_path / "ae.safetensors")
    encoder = tiny.encoder(tmp_path, "text_encoder")["text_encoder"]
    save_file(
        {f"text_model.{k.removeprefix('text_model.')}": v.contiguous() for k, v in encoder.state_dict().items()},
        tmp_path / "clip_l.safetensors",
    )
    tiny.vae().save_pretrained(tmp_path / "vae")
    how = ["a cat", "--out", str(tmp_path / "out")]
    said = refused(["sample", str(tmp_path / "vae"), *how], capsys)
    assert said.endswith(
        "vae: holds an AutoencoderKL alone, of diffusers; give it with the model it belongs to (--beside, --control)"
    )
    for name, held in (("ae", "an autoencoder"), ("clip_l", "a CLIPTextModel")):
        said = refused(["sample", str(tmp_path / f"{name}.safetensors"), *how], capsys)
        assert said.endswith(f"{name}.safetensors: holds {held} and no network that draws: give it beside a model (--beside)")
