"""FaceID: IP-Adapters that are told what a recogniser says of faces, with the LoRA that lies in their files, beside diffusers."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.adapters import face_prompt, picture_prompt
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.loading import with_loras
from unnoise.model import DiffusionModel

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_adapters import PICTURES, SHOWN, ip_adapter  # noqa: E402
from checkpoints.test_foreign_pictures import latents, same  # noqa: E402
from checkpoints.test_lora_pictures import lora  # noqa: E402
from networks.test_adapters_of_diffusers import projection  # noqa: E402

FACES = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
"""Of two faces; the tiny recogniser's embeddings have 6 numbers."""
MAKERS = {"face id": "ip-adapter-faceid_sd15", "plus": "ip-adapter-faceid-plus_sd15", "plus 2": "ip-adapter-faceid-plusv2_sd15"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("face")
    pipeline = tiny.stable_diffusion(folder / "parts")
    return pipeline, tiny.save(pipeline, folder / "model")


@pytest.fixture
def model(plain: tuple) -> DiffusionModel:
    """Its own, for there will be LoRAs on it."""
    return unnoise.load(plain[1])


def written(unet: Any, folder: Path, kind: str, low_rank: bool = True) -> Path:
    """As published: attentions are counted in the order in which diffusers lists them, those to the picture itself first."""
    torch.manual_seed(7)
    tensors = {k: v for k, v in load_file(ip_adapter(unet, folder)).items() if k.startswith("ip_adapter.")}
    out, inner = unet.config.cross_attention_dim, dict[str, Tensor]()
    if kind != "face id":
        inner = {f"perceiver_resampler.{k}": v for k, v in projection("plus", 8, out).items() if k != "latents"}
        out = 16  # channels of the queries
    made = {"proj.0.weight": torch.randn(12, 6), "proj.0.bias": torch.randn(12), "proj.2.weight": torch.randn(4 * out, 12) / 3}
    made |= {"proj.2.bias": torch.randn(4 * out), "norm.weight": torch.rand(out), "norm.bias": torch.randn(out), **inner}
    tensors |= {f"image_proj.{k}": v for k, v in made.items()}
    for i, name in enumerate(unet.attn_processors) if low_rank else ():
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for x, layer in (("q", attention.to_q), ("k", attention.to_k), ("v", attention.to_v), ("out", attention.to_out[0])):
            key = f"ip_adapter.{i}.to_{x}_lora"
            tensors[f"{key}.down.weight"] = torch.randn(3, layer.in_features) / 2
            tensors[f"{key}.up.weight"] = torch.randn(layer.out_features, 3) / 2
    file = folder / f"{MAKERS[kind]}.safetensors"
    save_file(tensors, file)
    return file


def reference(plain: Any, file: Path, kind: str, model: DiffusionModel, scale: float) -> Tensor:
    parts = {**plain.components, "unet": copy.deepcopy(plain.unet)}
    pipeline = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    encoder = None if kind == "face id" else "image_encoder"
    pipeline.load_ip_adapter(
        str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=encoder, low_cpu_mem_usage=False
    )
    pipeline.set_ip_adapter_scale(scale)
    if encoder:
        seen = pipeline.prepare_ip_adapter_image_embeds([SHOWN[:2]], None, "cpu", 2, True)[0]
        layer = pipeline.unet.encoder_hid_proj.image_projection_layers[0]
        layer.clip_embeds, layer.shortcut = seen, kind == "plus 2"
    faces = torch.stack([torch.zeros_like(FACES), FACES])
    return latents(pipeline, model, num_inference_steps=3, guidance_scale=4.0, ip_adapter_image_embeds=[faces])


@pytest.mark.parametrize("kind", MAKERS)
def test_the_picture_is_that_of_diffusers(kind: str, plain: tuple, model: DiffusionModel, tmp_path: Path) -> None:
    file = written(plain[0].unet, tmp_path, kind)
    expected = reference(plain[0], file, kind, model, 0.7)
    pictures = [] if kind == "face id" else PICTURES[:2]
    with pytest.raises(InputError, match="was trained with a LoRA that its file has, too: give it first"):
        model.attached(face_prompt(file, FACES, 0.7, pictures=pictures))
    with_loras(model, {file: 1.0})
    same(model.attached(face_prompt(file, FACES, 0.7, pictures=pictures)), plain[0], expected, steps=3, guidance=4.0)


def test_the_command_line(plain: tuple, model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It brings the LoRA itself, beside one that is given; embeddings are a file of numpy's."""
    file, style = written(plain[0].unet, tmp_path, "plus 2"), tmp_path / "style.safetensors"
    save_file(lora(plain[0].unet, "lora_unet_", ("to_q", "net.2"), 1), style)
    np.save(tmp_path / "faces.npy", FACES.numpy().astype(np.float64))
    for i in range(2):
        SHOWN[i].save(tmp_path / f"{i}.png")
    told = f"{file}:{tmp_path}/faces.npy,{tmp_path}/0.png,{tmp_path}/1.png:0.6"
    how = ["sample", str(plain[1]), "a cat", "-n", "1", "--seed", "3", "--steps", "2", "--lora", f"{style}:0.5"]
    main([*how, "--picture-prompt", told, "--out", str(tmp_path / "out")])
    with_loras(model, {file: 1.0, style: 0.5})
    attached = model.attached(face_prompt(file, FACES, 0.6, pictures=PICTURES[:2]))
    expected = attached.sample("a cat", 1, 3, steps=2).data[0]
    assert np.array_equal(np.asarray(Image.open(next((tmp_path / "out").glob("0*.png")))), expected.numpy())
    monkeypatch.chdir(tmp_path)
    with_loras(model, {file.name: 0.5, style: 0.5})  # by another path, with another weight
    main([*how, "--lora", f"{file.name}:0.5", "--picture-prompt", told, "--out", str(tmp_path / "half")])
    half = attached.sample("a cat", 1, 3, steps=2).data[0]
    assert np.array_equal(np.asarray(Image.open(next((tmp_path / "half").glob("0*.png")))), half.numpy())
    assert not torch.equal(half, expected)
    with pytest.raises(InputError, match="given twice"):
        with_loras(model, {file: 1.0, file.name: 0.5})
    with_loras(model, {file: 0.0})  # on it, and without a part in it
    alone = model.attached(face_prompt(file, FACES, 0.6, pictures=PICTURES[:2])).sample("a cat", 1, 3, steps=2).data[0]
    with_loras(model, {style: 0.5})
    without = attached.sample("a cat", 1, 3, steps=2).data[0]
    assert float((without.float() - expected.float()).abs().mean()) > 1, "the LoRA has its part in it"
    with_loras(model, {style: 0.0})
    assert torch.equal(attached.sample("a cat", 1, 3, steps=2).data[0], alone)


def test_a_file_without_a_lora_needs_none(plain: tuple, model: DiffusionModel, tmp_path: Path) -> None:
    """FaceID portrait's: several embeddings of one face."""
    file = written(plain[0].unet, tmp_path, "face id", low_rank=False)
    expected = reference(plain[0], file, "face id", model, 0.5)
    same(model.attached(face_prompt(file, FACES, 0.5)), plain[0], expected, steps=3, guidance=4.0)


def test_bad_input(plain: tuple, model: DiffusionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    single, plus = written(plain[0].unet, tmp_path / "a", "face id"), written(plain[0].unet, tmp_path / "b", "plus")
    for call, told in (
        (lambda: face_prompt(plus, FACES), r"takes embeddings \(n, 6\) and as many pictures of the faces, not \(2, 6\) and 0"),
        (lambda: face_prompt(plus, FACES, pictures=PICTURES[:1]), r"not \(2, 6\) and 1 pictures"),
        (lambda: face_prompt(plus, FACES[:, :5], pictures=PICTURES[:2]), r"not \(2, 5\) and 2"),
        (lambda: face_prompt(single, FACES, pictures=PICTURES[:2]), "is told embeddings alone; pictures are for FaceID plus"),
        (lambda: face_prompt(single, FACES[:, :5]), r"takes \(pictures, 6\)"),
        (lambda: picture_prompt(single, PICTURES[:1], tmp_path / "a/image_encoder"), r"\(FaceID\), not pictures alone"),
        (lambda: picture_prompt(plus, PICTURES[:1]), r"\(FaceID\), not pictures alone: in a file of numpy's, FACE.npy"),
    ):
        with pytest.raises(InputError, match=told):
            call()
    (tmp_path / "text.npy").write_text("face")
    np.save(tmp_path / "whole.npy", np.ones((1, 6), dtype=np.int64))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    how = ["sample", str(plain[1]), "a cat", "--out", str(tmp_path / "out"), "--picture-prompt"]
    unreadable = "not readable as numpy's numbers"
    for name, told in (("text", unreadable), ("whole", "embeddings of faces are"), ("objects", unreadable), ("none", unreadable)):
        assert told in refused([*how, f"{single}:{tmp_path}/{name}.npy"], capsys)
