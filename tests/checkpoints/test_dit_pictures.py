"""Folders that diffusers' pipelines of PixArt and Sana saved, run here: from the same starting noise the same picture as theirs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from beside_diffusers import randomised
from torch import Tensor

import unnoise
from unnoise.checkpoints.config import decode, encode
from unnoise.cli.main import main
from unnoise.control.sampling import Start
from unnoise.control.self_guidance import PerturbedAttention
from unnoise.control.step_caching import Every, StepCaching, Within
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.loading import MODEL_CLASSES
from unnoise.modalities.image.show import read_meta
from unnoise.model import DiffusionModel, ModelConfig

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from modalities.words import encoders  # noqa: E402
from transformers import AutoTokenizer, Gemma2Model  # noqa: E402

PROMPTS = ["A red cat", "a dog, 1 hat, 4x4"]
"""PixArt's pipelines clean the second of its size, Sana's do not: each as it does unasked."""
SEEDS = (5, 6)


def pixart(folder: Path, kind: str, **changed: Any) -> Any:
    torch.manual_seed(6)
    sizes = {"sample_size": tiny.SIDE, "num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2}
    network = diffusers.PixArtTransformer2DModel(**{**sizes, "cross_attention_dim": 24, "caption_channels": 48, **changed})
    scheduler = diffusers.DPMSolverMultistepScheduler()
    parts = {"vae": tiny.vae(), "transformer": randomised(network), "scheduler": scheduler}
    return getattr(diffusers, kind)(**parts, **tiny.t5(folder, "text_encoder"))


def deep_compression() -> Any:
    sizes = {"latent_channels": 4, "encoder_block_out_channels": (8, 16), "decoder_block_out_channels": (8, 16)}
    depths = {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1), "attention_head_dim": 8}
    kinds = {f"{half}_block_types": ("ResBlock", "EfficientViTBlock") for half in ("encoder", "decoder")}
    scales = {f"{half}_qkv_multiscales": ((), (5,)) for half in ("encoder", "decoder")}
    how = {"downsample_block_type": "conv", "upsample_block_type": "interpolate", "scaling_factor": 0.41407}
    return randomised(diffusers.AutoencoderDC(in_channels=3, **sizes, **depths, **kinds, **scales, **how))


def sana(folder: Path, **changed: Any) -> Any:
    torch.manual_seed(7)
    sizes = {"in_channels": 4, "out_channels": 4, "num_attention_heads": 6, "attention_head_dim": 4, "num_layers": 2}
    words = {"num_cross_attention_heads": 3, "cross_attention_head_dim": 8, "cross_attention_dim": 24, "caption_channels": 16}
    network = diffusers.SanaTransformer2DModel(**{**sizes, **words, "sample_size": tiny.SIDE, **changed})
    encoders.save_gemma(folder / "text_encoder", 3)
    told = {"text_encoder": Gemma2Model.from_pretrained(folder / "text_encoder")}
    told["tokenizer"] = AutoTokenizer.from_pretrained(folder / "tokenizer")
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    parts = {"vae": deep_compression(), "transformer": randomised(network)}
    return diffusers.SanaPipeline(**parts, **told, scheduler=diffusers.DPMSolverMultistepScheduler(**flow))


def ours(model: DiffusionModel, **how: Any) -> tuple[Tensor, Tensor]:
    """The last states, and their pictures in -1 ... 1, not rounded."""
    states: list[State] = []
    model.sample(PROMPTS, sample_seeds=SEEDS, watch=lambda i, n, x: states.append(x), **how)
    x, codec = states[-1], model.codec
    assert isinstance(x, Tensor)
    with torch.no_grad():
        return x, codec.autoencoder.decode(x * codec.std[:, None, None] + codec.mean[:, None, None])


def same(pipeline: Any, folder: Path, **theirs: Any) -> None:
    """Within 1e-3 of the states' and the pictures' own size; and neither may be flat."""
    model = unnoise.load(tiny.save(pipeline, folder))
    shape = model.codec.shape()
    side = shape[-1] * 2 if "height" not in theirs else theirs["height"]
    noise = Streams.each(SEEDS).normal("prior", (*shape[:-2], side // 2, side // 2))
    settings = {"num_inference_steps": 6, "guidance_scale": 4.0, "height": side, "width": side, **theirs}
    last = pipeline(
        PROMPTS, latents=noise, output_type="latent", use_resolution_binning=False,
        negative_prompt=["Dog"] * 2, **settings,
    ).images  # fmt: skip
    with torch.no_grad():
        expected = pipeline.vae.decode(last / pipeline.vae.config.scaling_factor).sample
    state, picture = ours(model, steps=6, guidance=4.0, negative="Dog", height=side, width=side)
    for a, b in ((state, last), (picture, expected)):
        assert float(b.std()) > 0.02
        assert float((a - b).abs().max() / b.std()) < 1e-3


def test_pixart_sigma(tmp_path: Path) -> None:
    same(pixart(tmp_path / "parts", "PixArtSigmaPipeline"), tmp_path / "model")


def test_pixart_as_it_was_published(tmp_path: Path) -> None:
    """Its files are older than its class: they name another, which diffusers has for it by its kind of norm, and so do we."""
    pipeline = pixart(tmp_path / "parts", "PixArtAlphaPipeline", norm_type="ada_norm_single")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    file = tmp_path / "model" / "transformer" / "config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "_class_name": "Transformer2DModel"}))
    remapped = diffusers.Transformer2DModel.from_pretrained(tmp_path / "model", subfolder="transformer")
    assert type(remapped) is diffusers.PixArtTransformer2DModel
    assert unnoise.load(tmp_path / "model").hash() == model.hash()
    file.write_text(json.dumps({**told, "_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"}))
    with pytest.raises(InputError, match="a Transformer2DModel of a PixArtAlphaPipeline"):
        unnoise.load(tmp_path / "model")


def test_pixart_alpha_is_told_the_size_that_is_asked_for(tmp_path: Path) -> None:
    pipeline = pixart(tmp_path / "parts", "PixArtAlphaPipeline", sample_size=128)
    same(pipeline, tmp_path / "model", height=32, width=32)
    with pytest.raises(InputError, match="not what they were"):
        unnoise.load(tmp_path / "model").sample("a cat", original=(64, 64), height=32)


def test_sana(tmp_path: Path) -> None:
    same(sana(tmp_path / "parts", sample_size=16), tmp_path / "model")  # theirs makes pictures of multiples of 32 pixels


@pytest.mark.parametrize("kind", ["PixArtSigmaPipeline", "PixArtAlphaPipeline"])
def test_pixart_is_written_back_and_loaded_by_diffusers(kind: str, tmp_path: Path) -> None:
    theirs = pixart(tmp_path / "parts", kind, interpolation_scale=2)
    unnoise.load(tiny.save(theirs, tmp_path / "model")).export(tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(theirs)
    settings = {"num_inference_steps": 3, "use_resolution_binning": False, "clean_caption": False, "output_type": "pt"}
    before, after = (p("a cat", generator=torch.Generator().manual_seed(0), **settings).images for p in (theirs, again))
    assert float(before.std()) > 0.02
    assert float((before - after).abs().max()) < 1e-5


@pytest.mark.parametrize("told", [False, True])
def test_sana_is_written_back_and_loaded_by_diffusers(told: bool, tmp_path: Path) -> None:
    """Its transformer, its autoencoder with its convolutions, Gemma, and Sprint's scheduler."""
    changed: dict[str, Any] = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads", "timestep_scale": 0.001} if told else {}
    theirs = sana(tmp_path / "parts", sample_size=16, **changed)
    if told:
        theirs = diffusers.SanaSprintPipeline(**{**theirs.components, "scheduler": diffusers.SCMScheduler()})
    unnoise.load(tiny.save(theirs, tmp_path / "model")).export(tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(theirs)
    for part in ("transformer", "vae", "scheduler"):
        before, after = (json.loads(getattr(p, part).to_json_string()) for p in (theirs, again))
        scale = before.pop("scaling_factor", 1.0)
        assert after.pop("scaling_factor", 1.0) == pytest.approx(scale, rel=1e-6)
        assert {**after, "_name_or_path": ""} == {**before, "_name_or_path": ""}
    settings = {"num_inference_steps": 2, "use_resolution_binning": False, "height": 32, "width": 32, "output_type": "pt"}
    before, after = (p("a cat", generator=torch.Generator().manual_seed(0), **settings).images for p in (theirs, again))
    assert float(before.std()) > 0.02
    assert float((before - after).abs().max()) < 1e-5


def test_steps_are_cached_by_a_models_own_settings_and_from_the_command_line(tmp_path: Path) -> None:
    model = unnoise.load(tiny.save(pixart(tmp_path / "parts", "PixArtSigmaPipeline"), tmp_path / "model"))
    plain, _ = ours(model, steps=6)
    each, _ = ours(model, steps=6, caching=StepCaching(Every(1), 2))
    some, _ = ours(model, steps=6, caching=StepCaching(Every(3)))
    assert torch.equal(each, plain)
    assert not torch.allclose(some, plain)
    main(["sample", str(tmp_path / "model"), "a cat", "-n", "1", "--steps", "4", "--cache", "2", "--out", str(tmp_path / "out")])
    config = replace(model.config, sampling=replace(model.config.sampling, caching=StepCaching(Within(0.05), 1)))
    assert decode(ModelConfig, encode(config), MODEL_CLASSES, "config.json") == config
    for how, message in (({"exact": True}, "with exact"), ({"inner": PerturbedAttention()}, "with PerturbedAttention guidance")):
        with pytest.raises(InputError, match=f"step caching {message}"):
            model.sample("a cat", caching=StepCaching(), **how)


def test_what_they_usually_take_is_known(tmp_path: Path) -> None:
    model = unnoise.load(tiny.save(pixart(tmp_path / "parts", "PixArtSigmaPipeline"), tmp_path / "model"))
    assert (model.config.sampling.steps, model.config.sampling.guidance) == (20, 4.5)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sana_sprint(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that is told the guidance scale: its picture, from the same noise before and on the way."""
    told = sana(
        tmp_path / "parts", sample_size=16, guidance_embeds=True, qk_norm="rms_norm_across_heads", timestep_scale=0.001,
        guidance_embeds_scale=0.2,
    )  # fmt: skip
    pipeline = diffusers.SanaSprintPipeline(**{**told.components, "scheduler": diffusers.SCMScheduler()})
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    usual = model.config.sampling
    assert (usual.sampler, usual.steps, usual.guidance) == ("lcm", 2, 4.5)
    streams, shape = Streams.each(SEEDS), model.codec.shape()
    drawn = iter([streams.scoped("sampler").at(i).normal("lcm", shape) for i in range(steps)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_scm.randn_tensor", lambda *args, **kwargs: next(drawn))
    last = pipeline(
        PROMPTS, latents=streams.normal("prior", shape), num_inference_steps=steps, guidance_scale=3.0, output_type="latent",
        intermediate_timesteps=1.3 if steps == 2 else None, height=32, width=32, use_resolution_binning=False,
    ).images  # fmt: skip
    state, _ = ours(model, steps=steps, guidance=3.0)
    other, _ = ours(model, steps=steps, guidance=5.0)
    assert float(last.std()) > 0.02
    assert float((state - last).abs().max() / last.std()) < 1e-3
    assert float((other - last).abs().max() / last.std()) > 1e-2


def test_sana_sprint_that_begins_with_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of four steps, beside their pipeline for it."""
    told = sana(tmp_path / "parts", sample_size=16, guidance_embeds=True)
    pipeline = diffusers.SanaSprintImg2ImgPipeline(**{**told.components, "scheduler": diffusers.SCMScheduler()})
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    streams, shape = Streams.each(SEEDS), model.codec.shape()
    drawn = iter([streams.normal("noise", shape), *(streams.scoped("sampler").at(i).normal("lcm", shape) for i in range(2))])
    for module in ("pipelines.sana.pipeline_sana_sprint_img2img", "schedulers.scheduling_scm"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda *args, **kwargs: next(drawn))
    last = pipeline(
        PROMPTS, image=pictures.permute(0, 3, 1, 2) / 127.5 - 1, strength=0.5, num_inference_steps=4, intermediate_timesteps=None,
        guidance_scale=3.0, output_type="latent", height=32, width=32, use_resolution_binning=False,
    ).images  # fmt: skip
    state, _ = ours(model, steps=4, guidance=3.0, start=Start(pictures, 0.5))
    assert float(last.std()) > 0.02
    assert float((state - last).abs().max() / last.std()) < 1e-3


def test_sana_sprint_from_the_command_line(tmp_path: Path) -> None:
    told = sana(tmp_path / "parts", sample_size=16, guidance_embeds=True)
    pipeline = diffusers.SanaSprintPipeline(**{**told.components, "scheduler": diffusers.SCMScheduler()})
    folder, out = tiny.save(pipeline, tmp_path / "model"), tmp_path / "out"
    main(["sample", str(folder), "a cat", "-n", "1", "--out", str(out)])
    made = read_meta(next(out.glob("0*.png")))
    assert (made["steps"], made["sampler"], made["guidance"]) == (2, "lcm", 4.5)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "prediction_type": "epsilon"}))
    with pytest.raises(InputError, match="prediction_type 'epsilon' of a SCMScheduler; 'trigflow' is supported"):
        unnoise.load(folder)
