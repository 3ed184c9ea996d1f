"""A folder's own networks replaced by others that lie beside it: the same as a folder that has those."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import foreign_originals as originals
import numpy as np
import pytest
import torch
from beside_diffusers import randomised
from command_line import refused
from PIL import Image
from safetensors.torch import save_file

import unnoise
from unnoise.checkpoints.foreign.hub import needed_files
from unnoise.checkpoints.foreign.opening import open_foreign
from unnoise.checkpoints.foreign.single import open_single
from unnoise.cli.main import main
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="folders are those that diffusers writes")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, noise, same  # noqa: E402

WEIGHTS = "diffusion_pytorch_model.safetensors"


def in_a_folder(network: Any, folder: Path) -> Path:
    network.save_pretrained(folder / "net")
    return folder / "net"


def in_a_file(network: Any, folder: Path) -> Path:
    """Under diffusers' names, as the U-Nets of SDXL-Lightning are published."""
    return (in_a_folder(network, folder) / WEIGHTS).rename(folder / "lightning.safetensors")


def in_an_sft(network: Any, folder: Path) -> Path:
    return in_a_file(network, folder).rename(folder / "ae.sft")


def in_a_file_of_a_folder(network: Any, folder: Path) -> Path:
    return in_a_folder(network, folder) / WEIGHTS


def in_gguf(network: Any, folder: Path) -> Path:
    """Under diffusers' names, one of its tensors stored flat as ComfyUI's tools store convolutions."""
    gguf = pytest.importorskip("gguf", reason="writes the file that is read")
    writer = gguf.GGUFWriter(folder / "tuned.gguf", "sdxl")
    for name, tensor in network.state_dict().items():
        flat = name == "conv_in.weight"
        if flat:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", tuple(tensor.shape))
        writer.add_tensor(name, tensor.flatten().numpy() if flat else tensor.numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return folder / "tuned.gguf"


def in_gguf_of_a_folder(network: Any, folder: Path) -> Path:
    return in_gguf(network, in_a_folder(network, folder))


def under_original_names(network: Any, folder: Path) -> Path:
    tensors = originals.unet(network.state_dict(), 1)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "tuned.safetensors")
    return folder / "tuned.safetensors"


def usual_heads(folder: Path) -> Any:
    """Of a size that tensors tell all of."""
    return tiny.stable_diffusion(folder, block_out_channels=(32, 64), attention_head_dim=8, norm_num_groups=32)


def other(network: Any) -> Any:
    """One of the same kind and size."""
    return randomised(type(network).from_config(network.config), 9)


def taesd(_: Any) -> Any:
    sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}
    return randomised(diffusers.AutoencoderTiny(**sizes, num_decoder_blocks=(1, 1), latent_channels=4), 9)


def lcm(_: Any) -> Any:
    return tiny.unet(time_cond_proj_dim=8)


CASES: Mapping[str, tuple[Callable[[Path], Any], str, Callable[[Any], Any], Callable[[Any, Path], Path]]] = {
    "a U-Net in a file": (tiny.sdxl, "unet", other, in_a_file),
    "a U-Net in GGUF": (tiny.sdxl, "unet", other, in_gguf),
    "a U-Net in GGUF, its configuration beside it": (tiny.stable_diffusion, "unet", lcm, in_gguf_of_a_folder),
    "a U-Net that is built otherwise": (tiny.stable_diffusion, "unet", lcm, in_a_folder),
    "a U-Net under its makers' names": (usual_heads, "unet", other, under_original_names),
    "a transformer": (tiny.flux, "transformer", other, in_a_file),
    "an autoencoder in a file": (tiny.stable_diffusion, "vae", other, in_a_file),
    "an autoencoder in BFL's kind of file": (tiny.stable_diffusion, "vae", other, in_an_sft),
    "an autoencoder of another kind": (tiny.stable_diffusion, "vae", taesd, in_a_folder),
    "an autoencoder's file, its configuration beside it": (tiny.stable_diffusion, "vae", taesd, in_a_file_of_a_folder),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_a_folder_that_has_it(name: str, tmp_path: Path) -> None:
    """The folder's own weights may be missing."""
    make, part, another, written = CASES[name]
    pipeline = make(tmp_path / "parts")
    base = tiny.save(pipeline, tmp_path / "base")
    usual = unnoise.load(base).sample("a red cat", 1, 7, steps=2, height=16, width=16)
    network = another(getattr(pipeline, part))
    pipeline.register_modules(**{part: network})
    expected = unnoise.load(tiny.save(pipeline, tmp_path / "whole"))
    (base / part / WEIGHTS).unlink()
    model = unnoise.load(base, beside=[written(network, tmp_path)])
    assert model.hash() == expected.hash()
    assert model.config.sampling == expected.config.sampling
    assert model.config.about.name.startswith("base with ")
    assert model.config.about.licence == "not stated"
    size = {"steps": 2, "height": 16, "width": 16}
    drawn = model.sample("a red cat", 1, 7, **size)
    assert torch.equal(drawn.data, expected.sample("a red cat", 1, 7, **size).data)
    assert not torch.equal(drawn.data, usual.data)


def named_by_its_makers(network: Any) -> dict[str, torch.Tensor]:
    return {k: v.contiguous() for k, v in originals.unet(network.state_dict(), 1).items()}


def named_by_diffusers(network: Any) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


V, ZERO = {"v_pred": torch.zeros(0)}, {"ztsnr": torch.zeros(0)}
TRAILING = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
AS_DDIM = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


@pytest.mark.parametrize("named", [named_by_its_makers, named_by_diffusers])
@pytest.mark.parametrize(
    ("kind", "own", "marks", "metadata", "into", "told"),
    [
        ("DDIM", {}, V, {}, "DDIM", {"prediction_type": "v_prediction"}),
        ("PNDM", {}, {}, {"modelspec.prediction_type": "v"}, "PNDM", {"prediction_type": "v_prediction"}),
        ("EulerDiscrete", {}, V | ZERO, {}, "EulerDiscrete", {"prediction_type": "v_prediction", **TRAILING}),
        ("PNDM", {}, V | ZERO, {}, "DDIM", {"prediction_type": "v_prediction", **TRAILING}),
        (
            "DDIM", {"prediction_type": "v_prediction", **TRAILING}, {}, {"modelspec.prediction_type": "epsilon"},
            "DDIM", {"timestep_spacing": "trailing"},
        ),
        ("DDIM", {"prediction_type": "v_prediction", **TRAILING}, {}, {}, "DDIM", {"prediction_type": "v_prediction", **TRAILING}),
    ],
)  # fmt: skip
def test_what_a_u_nets_file_says_it_predicts(
    kind: str, own: dict, marks: dict, metadata: dict, into: str, told: dict, named: Callable[[Any], dict], tmp_path: Path
) -> None:
    """As a folder whose scheduler diffusers has been told that."""

    def scheduler(kind: str, **told: Any) -> Any:
        more = {"PNDM": {"skip_prk_steps": True, "steps_offset": 1}, "DDIM": AS_DDIM, "EulerDiscrete": {"steps_offset": 1}}
        return getattr(diffusers, f"{kind}Scheduler")(**tiny.BETAS, **more[kind], **told)

    pipeline = usual_heads(tmp_path / "parts")
    pipeline.register_modules(scheduler=scheduler(kind, **own))
    base = tiny.save(pipeline, tmp_path / "base")
    network = other(pipeline.unet)
    save_file(named(network) | marks, tmp_path / "tuned.safetensors", metadata or None)
    pipeline.register_modules(unet=network, scheduler=scheduler(into, **told))
    expected = unnoise.load(tiny.save(pipeline, tmp_path / "whole"))
    model = unnoise.load(base, beside=[tmp_path / "tuned.safetensors"])
    assert model.config.process == expected.config.process
    assert model.config.preconditioner == expected.config.preconditioner
    assert model.config.sampling == expected.config.sampling
    drawn, wanted = (m.sample("a red cat", 1, 7, steps=3, height=16, width=16).data for m in (model, expected))
    assert torch.equal(drawn, wanted)


def test_what_a_u_nets_gguf_says_it_predicts(tmp_path: Path) -> None:
    """Alone and beside a folder."""
    gguf = pytest.importorskip("gguf", reason="writes the file that is read")
    pipeline = usual_heads(tmp_path / "parts")
    base = tiny.save(pipeline, tmp_path / "base")
    writer = gguf.GGUFWriter(tmp_path / "tuned.gguf", "sd1")
    for name, tensor in (named_by_its_makers(pipeline.unet) | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}).items():
        writer.add_tensor(name.removeprefix("model.diffusion_model."), tensor.numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    for scheduler in (
        open_single(tmp_path / "tuned.gguf").scheduler,
        open_foreign(base, beside=[tmp_path / "tuned.gguf"]).scheduler,
    ):
        assert {**scheduler, "prediction_type": "v_prediction", **TRAILING} == scheduler


@pytest.mark.parametrize("channels", [4, 16])
def test_taesd_without_its_configuration(channels: int, tmp_path: Path) -> None:
    """All that are published are built as diffusers builds one by default; how many channels codes have, its tensors say."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts", in_channels=channels, out_channels=channels)
    pipeline.register_modules(vae=tiny.vae(channels))
    base = tiny.save(pipeline, tmp_path / "base")
    network = randomised(diffusers.AutoencoderTiny(latent_channels=channels), 9)
    model = unnoise.load(base, beside=[in_a_file(network, tmp_path)])
    pipeline.register_modules(vae=network)
    expected = unnoise.load(tiny.save(pipeline, tmp_path / "whole"))
    assert (model.hash(), model.config.codec) == (expected.hash(), expected.config.codec)
    z = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.codec.autoencoder.decode(z), network.decode(z).sample, rtol=1e-4, atol=1e-4)


def test_networks_under_diffusers_names_beside_a_single_file(tmp_path: Path) -> None:
    """An autoencoder where the file has one and where it has none, with its config.json and without; a U-Net."""
    pipeline = usual_heads(tmp_path / "parts")
    vae = tiny.vae(block_out_channels=(32, 64), norm_num_groups=32, scaling_factor=0.7)
    tensors = named_by_its_makers(pipeline.unet)
    save_file(tensors, tmp_path / "alone.safetensors")
    save_file(tensors | {k: v.contiguous() for k, v in originals.vae(vae.state_dict(), 2).items()}, tmp_path / "both.safetensors")
    student, better = other(pipeline.unet), other(vae)
    folder = in_a_folder(better, tmp_path)
    shutil.copy(folder / WEIGHTS, tmp_path / "better.safetensors")
    for file in ("alone.safetensors", "both.safetensors"):
        found = open_foreign(tmp_path / file, beside=[folder / WEIGHTS]).parts["vae"]  # type: ignore[union-attr]
        assert found.config["scaling_factor"] == 0.7
        assert torch.equal(found.tensors["encoder.conv_in.weight"], better.state_dict()["encoder.conv_in.weight"])
    found = open_foreign(tmp_path / "both.safetensors", beside=[tmp_path / "better.safetensors"]).parts["vae"]  # type: ignore[union-attr]
    assert found.config["scaling_factor"] == 0.18215  # its family's, as of the autoencoder in the file
    assert torch.equal(found.tensors["encoder.conv_in.weight"], better.state_dict()["encoder.conv_in.weight"])
    with pytest.raises(
        InputError, match=r"better.safetensors: does not say how it is built, and alone.safetensors has none .* its folder"
    ):
        open_foreign(tmp_path / "alone.safetensors", beside=[tmp_path / "better.safetensors"])
    save_file(dict(student.state_dict()) | V | ZERO, tmp_path / "student.safetensors")
    foreign = open_foreign(tmp_path / "both.safetensors", beside=[tmp_path / "student.safetensors"])
    assert foreign is not None
    assert {**foreign.scheduler, "prediction_type": "v_prediction", **TRAILING} == foreign.scheduler
    assert torch.equal(foreign.parts["unet"].tensors["conv_in.weight"], student.state_dict()["conv_in.weight"])


def test_the_u_net_of_sdxl_lightning(tmp_path: Path) -> None:
    """As its makers say: Euler on trailing timesteps, which are equal steps of time; no guidance. Where they start from noise of
    sigma(1), the folder's own schedule starts from variance 1, .2 % more: theirs is given that."""
    pipeline = tiny.sdxl(tmp_path / "parts")
    base = tiny.save(pipeline, tmp_path / "base")
    student = other(pipeline.unet)
    model = unnoise.load(base, beside=[in_a_file(student, tmp_path)])
    scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.register_modules(unet=student, scheduler=scheduler)
    scheduler.set_timesteps(4)
    x = noise(model) * (1 + float(scheduler.init_noise_sigma) ** -2) ** 0.5
    expected = pipeline(PROMPTS, latents=x, output_type="latent", num_inference_steps=4, guidance_scale=0.0).images
    same(model, pipeline, expected, steps=4, guidance=1.0, sampler="euler", grid="uniform")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two at once; the picture says how it was made; and what cannot be is refused in one line."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    base = tiny.save(pipeline, tmp_path / "base")
    (tmp_path / "a").mkdir()
    unet, vae = in_a_file(other(pipeline.unet), tmp_path / "a"), in_a_folder(other(pipeline.vae), tmp_path)
    asked = ["sample", str(base), "a red cat", "-n", "1", "--steps", "2", "--seed", "7", "--out"]
    main([*asked, str(tmp_path / "out"), "--beside", str(unet), str(vae)])
    made = next(p for p in sorted((tmp_path / "out").glob("*.png")) if p.name != "sheet.png")
    expected = unnoise.load(base, beside=[unet, vae]).sample("a red cat", 1, 7, steps=2)
    assert np.array_equal(np.asarray(Image.open(made)), expected.data[0].numpy())
    capsys.readouterr()
    main(["info", str(made)])
    assert f"--beside {unet} {vae}" in capsys.readouterr().out
    wide = randomised(tiny.unet(cross_attention_dim=24))
    shutil.copy(in_a_file(wide, tmp_path), tmp_path / "wide.safetensors")
    deep = in_a_folder(tiny.vae(8), tmp_path / "deep")
    transformer = in_a_folder(tiny.flux(tmp_path / "flux").transformer, tmp_path / "dit")
    encoder = base / "text_encoder"
    whole = {**originals.unet(pipeline.unet.state_dict(), 1), **originals.vae(pipeline.vae.state_dict(), 2)}
    save_file({k: v.contiguous() for k, v in whole.items()}, tmp_path / "whole.safetensors")
    for beside, message in (
        ([tmp_path / "none.safetensors"], "none.safetensors: no such file or folder"),
        (["unets/none.safetensors"], "unets/none.safetensors: no such file or folder"),
        ([unet, unet], "two of them for one place; give one"),
        ([encoder], "text_encoder: a CLIPTextModel; networks that denoise and autoencoders may take the place"),
        ([transformer], "a FluxTransformer2DModel, where .*base has a UNet2DConditionModel: made for another model"),
        ([tmp_path / "wide.safetensors"], "wide.safetensors: the checkpoint's .* where .* is to be filled"),
        ([deep], "the vae's codes have 8 channels, the network's 4"),
        ([tmp_path / "whole.safetensors"], "holds more than one network .unet, vae.: give it as the model"),
    ):
        with pytest.raises(InputError, match=message):
            unnoise.load(base, beside=beside)
    told = refused([*asked, str(tmp_path / "no"), "--beside", str(encoder)], capsys)
    assert told.startswith(f"unnoise: {encoder}: a CLIPTextModel")
    alone = refused(["sample", str(unet), "a red cat", "--out", str(tmp_path / "no")], capsys)
    assert alone.endswith("this is a network of diffusers; give the folder of the whole model, and this file beside it (--beside)")


def test_a_variant_of_what_lies_beside(tmp_path: Path) -> None:
    """Where its folder has it; else the plain weights, as of the folder's own parts."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    base, plain, half = tiny.save(pipeline, tmp_path / "base"), other(pipeline.unet), randomised(tiny.unet(), 11)
    without = tiny.save(pipeline, tmp_path / "without")  # in whose own folders none has it
    pipeline.vae.save_pretrained(base / "vae", variant="fp16")
    beside = in_a_folder(plain, tmp_path)
    for there in (False, True):
        if there:
            half.save_pretrained(beside, variant="fp16")
        network = unnoise.load(base, variant="fp16", beside=[beside]).denoiser.network
        expected = (half if there else plain).conv_in.weight
        assert torch.equal(network.state_dict()["first.weight"], expected)
        if there:
            network = unnoise.load(without, variant="fp16", beside=[beside]).denoiser.network
            assert torch.equal(network.state_dict()["first.weight"], expected)
        else:
            with pytest.raises(InputError, match="fp16"):
                unnoise.load(without, variant="fp16", beside=[beside])


def test_what_has_no_place(tmp_path: Path) -> None:
    """A model folder of unnoise's own is not of diffusers'."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    net = in_a_folder(pipeline.unet, tmp_path)
    (tmp_path / "own").mkdir()
    with pytest.raises(InputError, match="own: a model of unnoise's own, whole and unpacked"):
        unnoise.load(tmp_path / "own", beside=[net])
    with pytest.raises(InputError, match="--variant is for open checkpoints"):
        unnoise.load(tmp_path / "own", variant="fp16")


def test_what_is_replaced_is_not_fetched() -> None:
    listing = ["model_index.json", "unet/config.json", f"unet/{WEIGHTS}", "vae/config.json", f"vae/{WEIGHTS}"]
    assert set(listing) - set(needed_files(listing, None, "x", ("unet", "transformer"))) == {f"unet/{WEIGHTS}"}
