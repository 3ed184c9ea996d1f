"""Folders that diffusers' pipelines saved, run here: from the same starting noise the same picture as theirs."""

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
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
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.cli.again import command
from unnoise.cli.main import main
from unnoise.control.budget import Precision, Way
from unnoise.control.rules import ZeroStar
from unnoise.control.sampling import Start
from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive
from unnoise.core.state import State
from unnoise.modalities.image.show import read_meta
from unnoise.modalities.words import source
from unnoise.model import DiffusionModel, controlled, editing, inpainting
from unnoise.networks.layers import patchify, unpatchify
from unnoise.recipes import speed

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402

PROMPTS = ["a red cat", "a dog, 1 hat"]
SEEDS = (5, 6)


def noise(model: DiffusionModel, shape: tuple[int, ...] | None = None) -> Tensor:
    """What the samples start from, of variance 1."""
    wanted = shape or model.codec.shape()
    assert isinstance(wanted, tuple)
    return Streams.each(SEEDS).normal("prior", wanted)


def ours(model: DiffusionModel, **how: Any) -> tuple[Tensor, Tensor]:
    """The last states, and their pictures in 0 ... 1, not rounded."""
    states: list[State] = []
    model.sample(PROMPTS, sample_seeds=SEEDS, watch=lambda i, n, x: states.append(x), **how)
    x = states[-1]
    assert isinstance(x, Tensor)
    codec: Any = model.codec
    with torch.no_grad():
        decoded = codec.autoencoder.decode(x * codec.std[:, None, None] + codec.mean[:, None, None])
    return x, (decoded / 2 + 0.5).clamp(0, 1)


def theirs(pipeline: Any, x: Tensor) -> Tensor:
    """Their picture of their last state."""
    config = pipeline.vae.config
    with torch.no_grad():
        decoded = pipeline.vae.decode(x / config.scaling_factor + (config.shift_factor or 0.0)).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def same(model: DiffusionModel, pipeline: Any, last: Tensor, off: float = 1e-3, **how: Any) -> None:
    """Within `off`, states against their own size; and neither may be flat."""
    state, picture = ours(model, **how)
    expected = theirs(pipeline, last)
    assert float(last.std()) > 0.1
    assert float(expected.std()) > 0.02
    assert float((state - last).abs().max() / last.std()) < off
    assert float((picture - expected).abs().max()) < off


def latents(pipeline: Any, model: DiffusionModel, **how: Any) -> Tensor:
    out: Tensor = pipeline(PROMPTS, latents=noise(model), output_type="latent", **how).images
    return out


SCHEDULERS: Mapping[str, Callable[[], Any]] = {
    "DDIM": lambda: None,
    "DDIM of old": lambda: None,
    "PNDM": lambda: diffusers.PNDMScheduler(**tiny.BETAS, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False),
    "DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**tiny.BETAS),
    "v-prediction": lambda: diffusers.DDIMScheduler(
        **tiny.BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_stable_diffusion_1_and_2(name: str, tmp_path: Path) -> None:
    """ "DDIM of old" is a file that says nothing of what pipelines correct: the offset, and clipping."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts", scheduler=SCHEDULERS[name]())
    folder = tiny.save(pipeline, tmp_path / "model")
    if name == "DDIM of old":
        told = {"_class_name": "DDIMScheduler", **tiny.BETAS, "set_alpha_to_one": False}
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    model = unnoise.load(folder)
    expected = latents(pipeline, model, num_inference_steps=6, guidance_scale=4.0, negative_prompt=["dog"] * 2)
    same(model, pipeline, expected, steps=6, guidance=4.0, negative="dog")


def test_sdxl(tmp_path: Path) -> None:
    pipeline = tiny.sdxl(tmp_path / "parts")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    how = {"num_inference_steps": 5, "guidance_scale": 3.0}
    same(model, pipeline, latents(pipeline, model, **how), steps=5, guidance=3.0)
    told = {"original_size": (40, 24), "target_size": (16, 24), "height": 16, "width": 24}
    told |= {"negative_original_size": (40, 24), "negative_target_size": (16, 24)}
    x = noise(model, (4, 8, 12))
    wide = pipeline(PROMPTS, latents=x, output_type="latent", **how, **told).images
    same(model, pipeline, wide, steps=5, guidance=3.0, height=16, width=24, original=(40, 24))


DISTILLED: Mapping[str, Callable[[Path], Any]] = {
    "BK-SDM and tiny-sd": lambda folder: tiny.stable_diffusion(folder, mid_block_type=None),
    "SSD-1B": lambda folder: students(
        folder, mid_block_type="UNetMidBlock2D", transformer_layers_per_block=[1, [1, 2]], layers_per_block=2,
        reverse_transformer_layers_per_block=[[3, 2, 1], [1, 2, 1]],
    ),
    "Vega": lambda folder: students(
        folder, mid_block_type="UNetMidBlock2D", layers_per_block=2, reverse_transformer_layers_per_block=[[2, 2, 2], 1]
    ),
    "KOALA": lambda folder: students(folder, mid_block_type=None),
}  # fmt: skip


def students(folder: Path, **how: Any) -> Any:
    """Of SDXL, with transformers at both levels."""
    pipeline = tiny.sdxl(folder)
    kinds = {f"{way.lower()}_block_types": (f"CrossAttn{way}Block2D",) * 2 for way in ("Down", "Up")}
    pipeline.register_modules(unet=tiny.xl_unet(40, 20, 6, **kinds, **how))
    return pipeline


@pytest.mark.parametrize("name", DISTILLED)
def test_u_nets_that_were_made_smaller(name: str, tmp_path: Path) -> None:
    """Without a middle, or with transformers of several depths at one level; LoRAs have their places, and they are written back."""
    pipeline = DISTILLED[name](tmp_path / "parts")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    how = {"num_inference_steps": 4, "guidance_scale": 3.0}
    same(model, pipeline, latents(pipeline, model, **how), steps=4, guidance=3.0)
    model.export(tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert float((latents(again, model, **how) - latents(pipeline, model, **how)).abs().max()) < 1e-5
    assert unnoise.load(tmp_path / "again").hash() == model.hash()
    model.save(tmp_path / "own")
    assert unnoise.load(tmp_path / "own").config.network == model.config.network
    layers = [n for n, m in pipeline.unet.named_modules() if n.endswith("attn1.to_q")]
    width = {n: pipeline.unet.get_submodule(n).in_features for n in layers}
    down = {f"lora_unet_{n.replace('.', '_')}.lora_down.weight": torch.ones(1, width[n]) for n in layers}
    up = {f"lora_unet_{n.replace('.', '_')}.lora_up.weight": torch.ones(width[n], 1) for n in layers}
    save_file(down | up, tmp_path / "lora.safetensors")
    adapted = low_rank(model, {tmp_path / "lora.safetensors": 1.0})
    assert len(next(iter(adapted.parts[0].adapters.values()))[0].places) == len(layers)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_few_steps_of_sdxl_turbo(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the noise that ours draws."""
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**tiny.BETAS, timestep_spacing="trailing")
    pipeline = tiny.sdxl(tmp_path / "parts", scheduler)
    with pytest.warns(
        UserWarning, match=r"model: its scheduler is that of models for few steps \(Turbo\), so 4 steps at guidance 1"
    ):
        model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        unnoise.load((tmp_path / "model").rename(tmp_path / "sdxl-turbo"))  # called so
    usual = model.config.sampling
    assert (usual.sampler, usual.steps, usual.guidance) == ("euler-ancestral", 4, 1.0)
    drawn = iter([Streams.each(SEEDS).scoped("sampler").at(i).normal("bridge", (4, 8, 8)) for i in range(steps)])
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(module, lambda *args, **kwargs: next(drawn))
    expected = latents(pipeline, model, num_inference_steps=steps, guidance_scale=0.0)
    same(model, pipeline, expected, steps=steps)


@pytest.mark.parametrize("kind", ["Stable Diffusion 1", "SDXL"])
def test_latent_consistency_models(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told the guidance scale, called once a step, given the noise that ours draws; SDXL runs with such a U-Net in its place."""
    scheduler = diffusers.LCMScheduler(**tiny.BETAS)
    if kind == "SDXL":
        pipeline = tiny.sdxl(tmp_path / "parts", scheduler)
        pipeline.register_modules(unet=tiny.xl_unet(40, 20, 6, time_cond_proj_dim=8))
    else:
        pipeline = tiny.stable_diffusion(tmp_path / "parts", "LatentConsistencyModelPipeline", scheduler, time_cond_proj_dim=8)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    usual = model.config.sampling
    assert (usual.sampler, usual.steps, usual.guidance) == ("lcm", 4, 8.5)
    drawn = iter([Streams.each(SEEDS).scoped("sampler").at(i).normal("lcm", (4, 8, 8)) for i in range(3)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *args, **kwargs: next(drawn))
    same(model, pipeline, latents(pipeline, model, num_inference_steps=4, guidance_scale=6.0), steps=4, guidance=6.0)
    for idle in ({"rescale": 0.7}, {"rule": ZeroStar()}, {"interval": (0.2, 0.8)}):
        with pytest.raises(InputError, match=f"{next(iter(idle))}: .* is told the guidance scale, and led away from nothing"):
            model.sample("a cat", **idle)
    with pytest.raises(InputError, match="is told the guidance scale, and led away from nothing"):
        model.sample("a cat", negative="a dog")


def test_sdxls_refiner_goes_on_from_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny.refiner(tmp_path / "parts")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    pictures = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawn = Streams.each(SEEDS).normal("noise", (4, 8, 8))
    module = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img.randn_tensor"
    monkeypatch.setattr(module, lambda *args, **kwargs: drawn)
    how = {"num_inference_steps": 10, "strength": 0.5, "guidance_scale": 3.0}
    told = {"negative_prompt": ["dog"] * 2, "original_size": (16, 16), "target_size": (16, 16)}
    expected = pipeline(PROMPTS, image=model.codec.encode(pictures), output_type="latent", **how, **told).images
    same(model, pipeline, expected, steps=10, guidance=3.0, negative="dog", start=Start(pictures, 0.5))


def test_sdxl_and_its_refiner_by_the_command_line(tmp_path: Path) -> None:
    """The refiner begins with the base's picture, and walks the last 15 of its 50 steps."""
    base, refiner = (tiny.save(make(tmp_path / n), tmp_path / f"m{n}") for n, make in (("b", tiny.sdxl), ("r", tiny.refiner)))
    how = ["a red cat", "-n", "1", "--seed", "3", "--steps", "2"]
    main(["sample", str(base), *how, "--then", str(refiner), "--out", str(tmp_path / "out")])
    made = unnoise.load(base).sample("a red cat", 1, 3, steps=2)
    seed = derive(made.seeds[0], "stage 1")
    refined = unnoise.load(refiner).sample("a red cat", sample_seeds=[seed], start=Start(made.data, 0.3))
    file = sorted((tmp_path / "out").glob("*.png"))[0]
    read = torch.tensor(list(Image.open(file).convert("RGB").tobytes())).reshape(16, 16, 3).to(torch.uint8)
    assert torch.equal(read, refined.data[0])
    assert not torch.equal(read, made.data[0])


@pytest.mark.parametrize("t5", [True, False], ids=["with T5", "without"])
def test_stable_diffusion_3(t5: bool, tmp_path: Path) -> None:
    pipeline = tiny.sd3(tmp_path / "parts", t5)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    expected = latents(pipeline, model, num_inference_steps=5, guidance_scale=3.0)
    same(model, pipeline, expected, steps=5, guidance=3.0)


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_flux(guidance: bool, tmp_path: Path) -> None:
    pipeline = tiny.flux(tmp_path / "parts", guidance)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    size, scale = {"height": 16, "width": 24}, 2.5 if guidance else 1.0
    x = patchify(noise(model, (4, 8, 12)), 2)
    packed = pipeline(PROMPTS, latents=x, output_type="latent", num_inference_steps=4, guidance_scale=2.5, **size).images
    same(model, pipeline, unpatchify(packed, 4, 6, 2), steps=4, guidance=scale, **size)


def test_true_guidance_of_flux(tmp_path: Path) -> None:
    """Besides the scale that the network is told: diffusers' true_cfg_scale, away from a negative prompt and from nothing."""
    pipeline = tiny.flux(tmp_path / "parts")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    how = {"num_inference_steps": 4, "guidance_scale": 2.5, "height": 16, "width": 24}
    for away in ("a dog", ""):
        x = patchify(noise(model, (4, 8, 12)), 2)
        packed = pipeline(
            PROMPTS, latents=x, output_type="latent", negative_prompt=[away] * 2, true_cfg_scale=3.0, **how
        ).images  # fmt: skip
        said: dict[str, Any] = {"negative": away} if away else {}
        same(model, pipeline, unpatchify(packed, 4, 6, 2), steps=4, guidance=2.5, true_guidance=3.0, height=16, width=24, **said)
    argv = ["sample", str(tmp_path / "model"), "a cat", "-n", "1", "--steps", "2", "--height", "16", "--negative", "a dog"]
    main([*argv, "--true-guidance", "3", "--out", str(tmp_path / "out")])
    made = next((tmp_path / "out").glob("0*.png"))
    expected = model.sample("a cat", steps=2, height=16, negative="a dog", true_guidance=3.0)
    assert np.array_equal(np.asarray(Image.open(made)), expected.data[0].numpy())
    assert "--true-guidance 3" in command(read_meta(made))


def masked() -> tuple[Tensor, Tensor]:
    """uint8 (2, 16, 16, 3), and what of it is to be drawn anew: bool (2, 16, 16)."""
    pictures = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 3:11, 4:9] = masks[1, :, 7:] = True
    return pictures, masks


@pytest.fixture
def without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their pipelines draw a masked picture's codes from q(z | x); ours take the mean."""
    distribution = import_module("diffusers.models.autoencoders.vae").DiagonalGaussianDistribution
    monkeypatch.setattr(distribution, "sample", lambda self, generator=None: self.mode())


@pytest.mark.usefixtures("without_chance")
def test_inpainting_with_stable_diffusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny.stable_diffusion(tmp_path / "parts", "StableDiffusionInpaintPipeline", in_channels=9)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    pictures, masks = masked()
    how = {"image": pictures.permute(0, 3, 1, 2) / 127.5 - 1, "mask_image": masks[:, None].float(), "height": 16, "width": 16}
    expected = latents(pipeline, model, num_inference_steps=5, guidance_scale=3.0, **how)
    given = inpainting(model).of(model.codec, pictures, masks)
    same(model, pipeline, expected, steps=5, guidance=3.0, given=given)
    with pytest.raises(InputError, match="of another size than those that are asked for"):
        model.sample(PROMPTS, given=given, height=24, width=24)
    with pytest.raises(InputError, match=r"pictures \(2, 16, 16, 3\) and masks \(16, 16\)"):
        inpainting(model).of(model.codec, pictures, masks[0])
    with pytest.raises(InputError, match="fills in pictures, and was given none: --fill PICTURE --mask MASK"):
        model.sample("a cat")
    told = refused(["sample", str(tmp_path / "model"), "a cat", "--budget", "9s", "--out", str(tmp_path / "no")], capsys)
    assert "--budget and --error measure models that are told words alone" in told


def test_instruct_pix2pix(tmp_path: Path) -> None:
    """Guided towards the picture and towards the words; at a picture guidance of 1, as any model."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts", "StableDiffusionInstructPix2PixPipeline", in_channels=8)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    assert (model.config.sampling.guidance, model.config.sampling.picture_guidance, model.config.sampling.steps) == (7.5, 1.5, 100)
    pictures, _ = masked()
    given = editing(model).of(model.codec, pictures)
    for scale in (1.6, 1.0):
        how = {"num_inference_steps": 5, "guidance_scale": 4.0, "image_guidance_scale": scale, "negative_prompt": ["dog"] * 2}
        expected = latents(pipeline, model, image=pictures.permute(0, 3, 1, 2) / 127.5 - 1, **how)
        same(model, pipeline, expected, steps=5, guidance=4.0, picture_guidance=scale, negative="dog", given=given)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
    change = ["--change", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--steps", "3", "--picture-guidance", "1.7"]
    main(["sample", str(tmp_path / "model"), "a cat", "-n", "2", "--seed", "3", *change, "--out", str(tmp_path / "out")])
    made = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "out").glob("000*.png"))]
    expected = model.sample("a cat", 2, 3, steps=3, picture_guidance=1.7, given=given).data
    assert np.array_equal(np.stack(made), expected.numpy())
    with pytest.raises(InputError, match="changes pictures, and was given none: --change PICTURE"):
        model.sample("a cat")
    with pytest.raises(InputError, match=r"\(1, 4, 4, 4\)|another size"):
        model.sample("a cat", given={"picture": given["picture"][:1, :, :4, :4]})
    model.export(tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    assert type(again) is type(pipeline)


def test_instruct_pix2pix_of_sdxl(tmp_path: Path) -> None:
    parts = tiny.sdxl(tmp_path / "parts").components
    del parts["image_encoder"], parts["feature_extractor"]
    parts["unet"] = tiny.xl_unet(40, 20, 6, in_channels=8)
    pipeline = diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)
    model, (pictures, _) = unnoise.load(tiny.save(pipeline, tmp_path / "model")), masked()
    usual = model.config.sampling
    assert (usual.guidance, usual.picture_guidance, usual.steps) == (5.0, 1.5, 100)
    how = {"num_inference_steps": 5, "guidance_scale": 4.0, "image_guidance_scale": 1.6, "height": 16, "width": 16}
    expected = latents(pipeline, model, image=pictures.permute(0, 3, 1, 2) / 255.0, **how)
    given = editing(model).of(model.codec, pictures)
    same(model, pipeline, expected, steps=5, guidance=4.0, picture_guidance=1.6, given=given)
    model.export(tmp_path / "again")
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")) is type(pipeline)


def test_picture_guidance_is_for_models_that_change_pictures(tmp_path: Path) -> None:
    model = unnoise.load(tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model"))
    with pytest.raises(InputError, match="changes no pictures"):
        model.sample("a cat", picture_guidance=1.5)
    with pytest.raises(InputError, match="was not trained to change pictures"):
        editing(model)


@pytest.mark.usefixtures("without_chance")
def test_inpainting_with_flux(tmp_path: Path) -> None:
    pipeline = tiny.flux(tmp_path / "parts", kind="FluxFillPipeline", channels=16 + 16 + 16)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    pictures, masks = masked()
    how = {"image": pictures.permute(0, 3, 1, 2) / 127.5 - 1, "mask_image": masks[:, None].float(), "height": 16, "width": 16}
    x = patchify(noise(model, (4, 8, 8)), 2)
    packed = pipeline(PROMPTS, latents=x, output_type="latent", num_inference_steps=4, guidance_scale=2.5, **how).images
    given = inpainting(model).of(model.codec.resized(16, 16), pictures, masks)
    same(model, pipeline, unpatchify(packed, 4, 4, 2), steps=4, guidance=2.5, height=16, width=16, given=given)


@pytest.mark.usefixtures("without_chance")
def test_flux_that_follows_pictures(tmp_path: Path) -> None:
    pipeline = tiny.flux(tmp_path / "parts", kind="FluxControlPipeline", channels=16 + 16)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    pictures, _ = masked()
    how = {"control_image": pictures.permute(0, 3, 1, 2) / 127.5 - 1, "height": 16, "width": 16}
    x = patchify(noise(model, (4, 8, 8)), 2)
    packed = pipeline(PROMPTS, latents=x, output_type="latent", num_inference_steps=4, guidance_scale=2.5, **how).images
    size: dict[str, Any] = {"height": 16, "width": 16}
    given = controlled(model).of(model.codec.resized(16, 16), pictures)
    same(model, pipeline, unpatchify(packed, 4, 4, 2), steps=4, guidance=2.5, given=given, **size)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
    follow = ["--follow", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--steps", "3", "--height", "16"]
    main(["sample", str(tmp_path / "model"), "a cat", "-n", "2", "--seed", "3", *follow, "--out", str(tmp_path / "out")])
    made = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "out").glob("000*.png"))]
    assert np.array_equal(np.stack(made), model.sample("a cat", 2, 3, steps=3, given=given, **size).data.numpy())


def test_a_flux_that_follows_pictures_is_given_one_of_its_size(tmp_path: Path) -> None:
    folder = tiny.save(tiny.flux(tmp_path / "parts", kind="FluxControlPipeline", channels=16 + 16), tmp_path / "model")
    model, (pictures, _) = unnoise.load(folder), masked()
    codec = model.codec.resized(16, 16)
    with pytest.raises(InputError, match="follows pictures, such as edges or depth, and was given none: --follow PICTURE"):
        model.sample("a cat", height=16)
    with pytest.raises(InputError, match="of another size than those that are asked for: say height and width"):
        model.sample("a cat", height=24, given=controlled(model).of(codec, pictures[:1]))
    with pytest.raises(InputError, match=r"pictures \(2, 12, 16, 3\) of torch.uint8 do not fit; this model takes \(B, 16, 16, 3\)"):
        controlled(model).of(codec, pictures[:, :12])
    with pytest.raises(InputError, match="a Pixels codec has no codes"):
        controlled(model).of(codec.pixels, pictures)
    with pytest.raises(InputError, match="was not trained to change pictures"):
        editing(model)


@pytest.mark.parametrize(("kind", "channels"), [("FluxPipeline", 16), ("FluxFillPipeline", 48), ("FluxControlPipeline", 32)])
def test_what_pipelines_of_flux_usually_take(kind: str, channels: int, tmp_path: Path) -> None:
    pipeline = tiny.flux(tmp_path / "parts", kind=kind, channels=channels)
    usual = unnoise.load(tiny.save(pipeline, tmp_path / "model")).config.sampling
    theirs = inspect.signature(type(pipeline).__call__).parameters
    assert (usual.steps, usual.guidance) == (theirs["num_inference_steps"].default, theirs["guidance_scale"].default)


def test_a_model_that_is_told_the_scale_is_timed_at_one_call_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others go twice through the network for every sample that is guided."""
    rows: list[int] = []
    monkeypatch.setattr(speed, "measure", lambda denoiser, x, cond, decode: rows.append(len(x)))
    for make in (tiny.flux, tiny.stable_diffusion):
        model = unnoise.load(tiny.save(make(tmp_path / make.__name__), tmp_path / make.__name__ / "model"))
        speed._costs(model, speed.Order(Way(model.config.sampling), ("a cat",), n=3), Precision.OWN)
    assert rows == [3, 6]
    model = unnoise.load(tmp_path / "flux" / "model")
    truly = replace(model.config.sampling, true_guidance=2.0)
    speed._costs(model, speed.Order(Way(truly), ("a cat",), n=3), Precision.OWN)
    assert rows[-1] == 6


def test_a_budget_beside_true_guidance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The usual way fits, and is taken; where it does not, the least that can be had is told, both sides counted."""
    folder = tiny.save(tiny.flux(tmp_path / "parts"), tmp_path / "model")
    how = ["--steps", "28", "--true-guidance", "2", "--negative", "a dog", "--height", "16", "--seed", "3"]
    main(["sample", str(folder), "a cat", "-n", "1", *how, "--out", str(tmp_path / "usual")])
    main(["sample", str(folder), "a cat", "-n", "1", *how[2:], "--budget", "600s", "--out", str(tmp_path / "fits")])
    drawn = [np.asarray(Image.open(next((tmp_path / name).glob("0*.png")))) for name in ("usual", "fits")]
    assert np.array_equal(*drawn)
    assert "budget 600 s: " in capsys.readouterr().err


def test_sizes_that_a_network_has_no_positions_for_are_refused(tmp_path: Path) -> None:
    """8 x 8 patches of 2 x 2 codes of 2 x 2 pixels."""
    model = unnoise.load(tiny.save(tiny.sd3(tmp_path / "parts"), tmp_path / "model"))
    assert model.sample("a cat", steps=1, height=32).data.shape[1:3] == (32, 32)
    with pytest.raises(InputError, match=r"pictures of 16 x 36 pixels .*: this network has positions for 32 at most"):
        model.sample("a cat", steps=1, height=16, width=36)


def test_a_single_file_with_a_tokenizer_beside_it(tmp_path: Path) -> None:
    """Stable Diffusion 1 under its original names, whose sizes and schedule are those that its family has."""
    torch.manual_seed(6)
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    sizes = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 64, "attention_head_dim": 8}
    codec = {"block_out_channels": (32, 64), "norm_num_groups": 32, "scaling_factor": 0.18215}
    words = tiny.encoder(tmp_path, "text_encoder", width=64, heads=1)
    scheduler = diffusers.PNDMScheduler(**tiny.BETAS, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False)
    network = randomised(diffusers.UNet2DConditionModel(**sizes, **kinds))
    parts = {"vae": tiny.vae(**codec), "unet": network, "scheduler": scheduler, **words, **tiny.NO_CHECKER}
    pipeline = diffusers.StableDiffusionPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    tensors = originals.unet(network.state_dict(), 1) | originals.vae(pipeline.vae.state_dict(), 2)
    for name, tensor in words["text_encoder"].state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "tiny.safetensors")
    model = unnoise.load(tmp_path / "tiny.safetensors", beside=[tmp_path])
    x, size = noise(model, (4, 8, 8)), {"height": 16, "width": 16}
    expected = pipeline(PROMPTS, latents=x, output_type="latent", num_inference_steps=5, guidance_scale=3.0, **size).images
    same(model, pipeline, expected, steps=5, guidance=3.0, **size)
    model.save(tmp_path / "ours")
    source._LENT.clear()  # as in another process
    same(unnoise.load(tmp_path / "ours"), pipeline, expected, steps=5, guidance=3.0, **size)
    other = randomised(tiny.vae(**codec), 8)  # beside a file that has one: it is used, with the family's scale
    save_file({k: v.contiguous() for k, v in originals.vae(other.state_dict(), 2, "").items()}, tmp_path / "vae.safetensors")
    other.save_pretrained(tmp_path / "better")
    for beside in ("vae.safetensors", "better"):
        again = unnoise.load(tmp_path / "tiny.safetensors", beside=[tmp_path, tmp_path / beside])
        theirs = again.codec.autoencoder.state_dict()
        assert not torch.equal(next(iter(theirs.values())), next(iter(model.codec.autoencoder.state_dict().values())))
        assert torch.equal(again.codec.std, model.codec.std)
    alone = {k: v.contiguous() for k, v in tensors.items() if not k.startswith("first_stage_model.")}
    save_file(alone, tmp_path / "alone.safetensors")
    filled = unnoise.load(tmp_path / "alone.safetensors", beside=[tmp_path, tmp_path / "better"])  # and where the file has none
    assert filled.hash() == again.hash()
    (tmp_path / "far").mkdir()
    (tmp_path / "tiny.safetensors").rename(tmp_path / "far" / "blob")  # as caches keep files, with links to them
    (tmp_path / "tiny.safetensors").symlink_to(tmp_path / "far" / "blob")
    same(unnoise.load(tmp_path / "tiny.safetensors"), pipeline, expected, steps=5, guidance=3.0, **size)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds nothing that tiny\.safetensors lacks"):
        unnoise.load(tmp_path / "tiny.safetensors", beside=[tmp_path / "empty"])
    with pytest.raises(InputError, match=r"tiny\.safetensors: --variant fp16: it chooses among the files of a folder"):
        unnoise.load(tmp_path / "tiny.safetensors", variant="fp16")
