"""SDXL's networks that were trained at levels of noise: Playground v2.5, CosXL and CosXL Edit, beside diffusers."""

from pathlib import Path
from typing import Any

import foreign_originals as originals
import pytest
import torch
from safetensors.torch import save_file

import unnoise
from unnoise.checkpoints.foreign.scheduler import read_scheduler
from unnoise.checkpoints.foreign.single import open_single, together
from unnoise.control.sampling import Start
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import AtLogSigma
from unnoise.model import editing

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, latents, masked, noise, ours, same  # noqa: E402
from checkpoints.test_foreign_single import kl, randomised, unet, written  # noqa: E402

CODES = {"latents_mean": [-1.6, 1.0, -0.2, 0.4], "latents_std": [8.4, 5.1, 7.2, 6.3]}
COSXL = {"sigma_max": 120.0, "sigma_data": 1.0, "sigma_schedule": "exponential", "prediction_type": "v_prediction"}


def playground(folder: Path) -> Any:
    pipeline = tiny.sdxl(folder, diffusers.EDMDPMSolverMultistepScheduler())
    pipeline.vae.register_to_config(scaling_factor=0.5, **CODES)
    return pipeline


def test_playground(tmp_path: Path) -> None:
    """With its codes' mean and deviation; written for diffusers it is the same pipeline."""
    pipeline = playground(tmp_path / "parts")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    how = {"num_inference_steps": 6, "guidance_scale": 3.0, "negative_prompt": ["dog"] * 2}
    last = latents(pipeline, model, **how)
    wanted = pipeline(PROMPTS, latents=noise(model), output_type="pt", **how).images
    state, picture = ours(model, steps=6, guidance=3.0, negative="dog")
    assert min(float(last.std()), float(wanted.std())) > 0.05
    assert float((state - last).abs().max() / last.std()) < 1e-3
    assert float((picture - wanted).abs().max()) < 1e-3
    model.export(tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is type(pipeline.scheduler)
    written_back = again(PROMPTS, latents=noise(model), output_type="pt", **how).images
    assert float((written_back - wanted).abs().max()) < 1e-4


def test_cosxl(tmp_path: Path) -> None:
    pipeline = tiny.sdxl(tmp_path / "parts", diffusers.EDMEulerScheduler(**COSXL))
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    same(model, pipeline, latents(pipeline, model, num_inference_steps=6, guidance_scale=3.0), steps=6, guidance=3.0)


def test_it_is_drawn_in_other_ways(tmp_path: Path) -> None:
    """With other samplers, from a picture, in bfloat16, its steps cached: near its own walk of many steps, or of the picture."""
    model = unnoise.load(tiny.save(tiny.sdxl(tmp_path / "parts", diffusers.EDMEulerScheduler(**COSXL)), tmp_path / "model"))
    fine, _ = ours(model, steps=120, guidance=1.0)
    for how in ({"sampler": "heun"}, {"sampler": "unipc"}, {"sampler": "dpmpp-3m"}, {"sampler": "dpmpp-2m"}, {"bf16": True}):
        made, _ = ours(model, **{"steps": 60, "guidance": 1.0, **how})
        assert float((made - fine).norm() / fine.norm()) < 0.1
    pictures, _ = masked()
    kept = model.sample(PROMPTS, start=Start(pictures, 0.05), steps=40, guidance=1.0).data
    far = model.sample(PROMPTS, steps=40, guidance=1.0).data
    coded = model.codec.decode(model.codec.encode(pictures))
    assert float((kept - coded).float().abs().mean()) < 0.5 * float((far - coded).float().abs().mean())


def test_cosxl_edit(tmp_path: Path) -> None:
    """It sees pictures' codes at the scale of the states, which a folder does not say that diffusers saved."""
    parts = tiny.sdxl(tmp_path / "parts").components
    del parts["image_encoder"], parts["feature_extractor"]
    parts["unet"] = tiny.xl_unet(40, 20, 6, in_channels=8)
    edits = diffusers.StableDiffusionXLInstructPix2PixPipeline
    parts["scheduler"], usual = diffusers.EDMEulerScheduler(**COSXL), parts["scheduler"]
    made = [
        edits(**parts, add_watermarker=False, is_cosxl_edit=True),
        edits(**{**parts, "scheduler": usual}, add_watermarker=False),
    ]
    pictures, _ = masked()
    for i, pipeline in enumerate(made):
        model = unnoise.load(tiny.save(pipeline, tmp_path / f"model{i}"))
        how = {"num_inference_steps": 5, "guidance_scale": 4.0, "image_guidance_scale": 1.6, "height": 16, "width": 16}
        expected = latents(pipeline, model, image=pictures.permute(0, 3, 1, 2) / 255.0, **how)
        given = editing(model).of(model.codec, pictures)
        same(model, pipeline, expected, steps=5, guidance=4.0, picture_guidance=1.6, given=given)
        model.export(tmp_path / f"again{i}")
        again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / f"again{i}")
        assert again.is_cosxl_edit == pipeline.is_cosxl_edit


def test_single_files_say_so(tmp_path: Path) -> None:
    """As Playground's and Stability's do, also where the autoencoder lies beside; CosXL Edit by its channels."""
    network, codec = originals.unet(randomised(unet("SDXL")), 1), originals.vae(randomised(kl()), 2)
    mean, std = (torch.tensor(CODES[name]).reshape(1, 4, 1, 1) for name in CODES)
    marks = {"edm_mean": mean, "edm_std": std}
    whole = open_single(written(tmp_path / "playground.safetensors", network | codec | marks))
    alone = written(tmp_path / "network.safetensors", network | marks)
    apart = together(open_single(alone), open_single(written(tmp_path / "vae.safetensors", codec)))
    theirs = diffusers.EDMDPMSolverMultistepScheduler().config
    for found in (whole, apart):
        assert found.pipeline == "StableDiffusionXLPipeline"
        own = read_scheduler(found.scheduler, found.pipeline)
        assert own == read_scheduler({**theirs, "_class_name": "EDMDPMSolverMultistepScheduler"}, found.pipeline)
        told = found.parts["vae"].config
        assert told["scaling_factor"] == 0.5
        assert torch.tensor([told["latents_mean"], told["latents_std"]]).flatten(1).equal(torch.stack([mean, std]).flatten(1))
    levels = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    cosxl = open_single(written(tmp_path / "cosxl.safetensors", network | codec | levels))
    own = read_scheduler(cosxl.scheduler, cosxl.pipeline)
    assert own.preconditioner == AtLogSigma(1.0, negated=True)
    assert float(own.process.schedule.sigma_max) == 120.0
    assert cosxl.parts["vae"].config["scaling_factor"] == 0.13025
    assert "latents_mean" not in cosxl.parts["vae"].config
    wide = "model.diffusion_model.input_blocks.0.0.weight"
    edit = open_single(written(tmp_path / "edit.safetensors", network | levels | {wide: torch.cat([network[wide]] * 2, 1)}))
    assert edit.pipeline == "StableDiffusionXLInstructPix2PixPipeline"
    assert edit.settings == {"is_cosxl_edit": True}


def test_its_network_beside_another_model(tmp_path: Path) -> None:
    """CosXL's draws SDXL's codes; Playground's has codes of its own, which a folder of it knows."""
    folder = tiny.save(tiny.sdxl(tmp_path / "parts"), tmp_path / "model")
    tensors = tiny.sdxl(tmp_path / "other").unet.state_dict()
    save_file({**tensors, "edm_vpred.sigma_max": torch.tensor(120.0)}, tmp_path / "cosxl.safetensors")
    save_file({**tensors, "edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}, tmp_path / "pg.safetensors")
    model = unnoise.load(folder, beside=[tmp_path / "cosxl.safetensors"])
    assert model.config.preconditioner == AtLogSigma(1.0, negated=True)
    with pytest.raises(InputError, match=r"Playground v2.5, whose codes are not those of this folder"):
        unnoise.load(folder, beside=[tmp_path / "pg.safetensors"])


def test_what_is_refused() -> None:
    for told, message in (
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type 'sigma_min' of EDMEulerScheduler is not supported; 'zero' is"),
        ({"prediction_type": "sample"}, "prediction_type in scheduler_config.json 'sample'"),
        ({"sigma_schedule": "linear"}, "sigma_schedule in scheduler_config.json 'linear'"),
        ({"sigma_min": 90.0}, "sigma_min 90.0 and sigma_max 80.0: levels of noise, the least first, are meant"),
    ):
        with pytest.raises(InputError, match=message):
            read_scheduler({"_class_name": "EDMEulerScheduler", **told})
