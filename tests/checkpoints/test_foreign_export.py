"""What is written for diffusers, loaded by diffusers itself: the same pictures as the pipeline that it was read from."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from beside_diffusers import randomised
from command_line import refused
from safetensors.torch import load_file
from tiny import tiny_model

import unnoise
from unnoise.checkpoints.foreign.scheduler import read_scheduler
from unnoise.checkpoints.foreign.theirs import scheduler_theirs
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import Cosine, DiscreteVP

diffusers = pytest.importorskip("diffusers", reason="what is written is read by diffusers")
import checkpoints.foreign_pipelines as tiny  # noqa: E402

WEIGHTS = "diffusion_pytorch_model.safetensors"
FEW = {"num_inference_steps": 3, "guidance_scale": 3.0}
SMALL = {"height": 16, "width": 16}
TAESD = {
    **{f"{half}_block_out_channels": (8, 8) for half in ("encoder", "decoder")},
    "num_encoder_blocks": (1, 2),
    "num_decoder_blocks": (2, 1),
}
EACH = {"latents_mean": [0.2, -0.3, 0.4, 0.1], "latents_std": [0.7, 1.2, 1.5, 0.9]}


def changed(pipeline: Any, vae: Any = None, **told: Any) -> Any:
    """With another autoencoder, or other statistics of its codes."""
    pipeline.register_modules(vae=vae or pipeline.vae)
    pipeline.vae.register_to_config(**told)
    return pipeline


V = {**tiny.BETAS, "steps_offset": 1, "clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
PIPELINES: Mapping[str, tuple[Callable[[Path], Any], Mapping[str, Any]]] = {
    "Stable Diffusion 1": (tiny.stable_diffusion, FEW),
    "Stable Diffusion 2": (
        lambda folder: tiny.stable_diffusion(folder, scheduler=diffusers.DDIMScheduler(**V, timestep_spacing="trailing")),
        FEW,
    ),
    "LCM": (
        lambda folder: tiny.stable_diffusion(
            folder, "LatentConsistencyModelPipeline", diffusers.LCMScheduler(**tiny.BETAS), time_cond_proj_dim=8
        ),
        FEW,
    ),
    "SDXL": (tiny.sdxl, FEW),
    "TAESD's codes": (
        lambda folder: changed(tiny.stable_diffusion(folder), randomised(diffusers.AutoencoderTiny(**TAESD), 9)),
        FEW,
    ),
    "every channel's mean and deviation": (lambda folder: changed(tiny.sdxl(folder), **EACH), FEW),
    "Stable Diffusion 3": (tiny.sd3, {**FEW, "max_sequence_length": 64}),
    "FLUX.1": (tiny.flux, {**FEW, **SMALL, "max_sequence_length": 64}),
    "FLUX.1 Canny and Depth": (
        lambda folder: tiny.flux(folder, kind="FluxControlPipeline", channels=16 + 16),
        {**FEW, **SMALL, "max_sequence_length": 64, "control_image": torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)},
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_loads_what_is_written(name: str, tmp_path: Path) -> None:
    make, how = PIPELINES[name]
    theirs = make(tmp_path / "parts")
    unnoise.load(tiny.save(theirs, tmp_path / "model")).export(tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(theirs)
    for part in ("unet", "transformer", "vae"):
        if hasattr(theirs, part):
            shapes = [{k: p.shape for k, p in getattr(pipeline, part).state_dict().items()} for pipeline in (again, theirs)]
            assert shapes[0] == shapes[1]  # LoRAs for one fit the other
    before, after = (
        p("a red cat", output_type="pt", generator=torch.Generator().manual_seed(0), **how).images for p in (theirs, again)
    )
    assert float(before.std()) > 0.02
    assert float((before - after).abs().max()) < 1e-5


def test_the_command_says_how_what_was_left_out_is_told_to_diffusers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stable Diffusion 3 without T5, which its pipeline does not take for granted."""
    tiny.save(tiny.sd3(tmp_path / "parts", t5_too=False), tmp_path / "model")
    main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "again")])
    call = capsys.readouterr().out.rpartition("DiffusionPipeline.from_pretrained")[2].strip()
    assert call == f"({str(tmp_path / 'again')!r}, text_encoder_3=None, tokenizer_3=None)"
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again", text_encoder_3=None, tokenizer_3=None)
    assert again.text_encoder_3 is None


def flat(network: Any) -> dict[str, list[float]]:
    """Its numbers: a projection is written as a linear layer or as a convolution of one pixel."""
    return {name: tensor.flatten().tolist() for name, tensor in network.state_dict().items()}


def test_what_lies_beside_and_a_variant_are_written(tmp_path: Path) -> None:
    """A U-Net and an autoencoder in place of the folder's own; and of two U-Nets in a folder the one that is asked for."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    base = tiny.save(pipeline, tmp_path / "model")
    unet, vae = (randomised(type(n).from_config(n.config), 9) for n in (pipeline.unet, pipeline.vae))
    unet.save_pretrained(tmp_path / "net")
    vae.save_pretrained(tmp_path / "codec")
    (tmp_path / "net" / WEIGHTS).rename(tmp_path / "tuned.safetensors")
    beside = [str(tmp_path / "tuned.safetensors"), str(tmp_path / "codec")]
    main(["export", str(base), "--beside", *beside, "--out", str(tmp_path / "both")])
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "both")
    for found, expected in ((again.unet, unet), (again.vae, vae)):
        assert flat(found) == flat(expected)
    unet.save_pretrained(base / "unet", variant="ema")
    for given, expected in (([], pipeline.unet), (["--variant", "ema"], unet)):
        main(["export", str(base), *given, "--out", str(tmp_path / f"one {given}")])
        again = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / f"one {given}" / "unet")
        assert flat(again) == flat(expected)


def test_what_others_compute_in_float16_is_said_to_them(tmp_path: Path) -> None:
    """Where a network says that it overflows, and where it says that it does not."""
    for said in (True, False):
        pipeline = tiny.sdxl(tmp_path / f"parts-{said}")
        pipeline.unet.register_to_config(upcast_attention=said)
        pipeline.vae.register_to_config(force_upcast=said)
        unnoise.load(tiny.save(pipeline, tmp_path / f"model-{said}")).export(tmp_path / f"again-{said}")
        again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / f"again-{said}")
        assert again.unet.config.upcast_attention is again.vae.config.force_upcast is said


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_in_half(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder comes back as it was, but for the last block's queries of words, which nothing reads; what float16 cannot hold is
    refused, with nothing left behind."""
    pipeline = tiny.sd3(tmp_path / "parts").to(getattr(torch, dtype))
    base = tiny.save(pipeline, tmp_path / "model")
    main(["export", str(base), "--dtype", dtype, "--out", str(tmp_path / "again")])
    files = sorted(f.relative_to(base) for f in base.rglob("*.safetensors"))
    assert sorted(f.relative_to(tmp_path / "again") for f in (tmp_path / "again").rglob("*.safetensors")) == files
    for file in files:
        own, new = load_file(base / file), load_file(tmp_path / "again" / file)
        assert own.keys() == new.keys()
        assert {t.dtype for t in new.values() if t.is_floating_point()} == {getattr(torch, dtype)}
        assert all(torch.equal(new[name], own[name]) for name in own if "1.attn.add_q" not in name and "added_q" not in name)
    if dtype == "bfloat16":
        unnoise.load(base, torch.bfloat16).export(tmp_path / "held", torch.bfloat16)
        same = [load_file(tmp_path / n / "text_encoder_3" / "model.safetensors") for n in ("again", "held")]
        assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
    assert json.loads((tmp_path / "again" / "text_encoder_3" / "config.json").read_text())["dtype"] == dtype
    if dtype == "float16":
        pipeline.to(torch.float32).vae.decoder.conv_in.bias.data[0] = 1e6
        large = tiny.save(pipeline, tmp_path / "large")
        told = refused(["export", str(large), "--dtype", dtype, "--out", str(tmp_path / "no")], capsys)
        assert "vae: decoder.conv_in.bias: has weights beyond torch.float16's range; bfloat16 has float32's" in told
        assert not [f for f in tmp_path.iterdir() if "no" in f.name]


def test_a_folder_that_exists_is_refused_before_the_model_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["export", str(tmp_path / "no model"), "--out", str(tmp_path)], capsys)
    assert said == f"unnoise: {tmp_path} exists: choose another name"


def test_a_model_trained_on_here_is_written(tmp_path: Path) -> None:
    """The weights as they are now, through the command line."""
    model = unnoise.load(tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model"))
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.mul_(0.9)
    model.save(tmp_path / "ours")
    main(["export", str(tmp_path / "ours"), "--out", str(tmp_path / "theirs")])
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "theirs")
    x, t, words = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8]), torch.randn(2, 5, 16)
    with torch.no_grad():
        ours = model.denoiser.get_submodule("network")(x, t, {"tokens": words})
        theirs = again.unet(x, t * 1000, words).sample
    assert float((ours - theirs).abs().max() / theirs.std()) < 1e-5


BETAS = {**tiny.BETAS, "steps_offset": 1, "clip_sample": False}


@pytest.mark.parametrize("betas", ["scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(
    "sampler", ["unipc", "unipc-2", "unipc-4", "unipc-bh2", "dpmpp-3m", "dpmpp-3m-sde", "dpmpp-2s", "deis-log"]
)
def test_another_sampler_is_written_as_its_own_class(sampler: str, betas: str) -> None:
    """On the times of DPM-Solver's kin; diffusers makes the class, and says what was meant."""
    config = {**BETAS, "beta_schedule": betas, "_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min"}
    if sampler == "dpmpp-2s":
        config["timestep_spacing"] = "linspace"
    if sampler == "deis-log":
        config["_class_name"] = "DEISMultistepScheduler"
    read = read_scheduler(config)
    written = scheduler_theirs(read.process, read.preconditioner, replace(read.sampling, sampler=sampler), "")
    again = getattr(diffusers, written["_class_name"]).from_config(written)
    kind, order, solver = CLASSES[sampler]
    assert (type(again).__name__, again.config["solver_order"], again.config.get("solver_type", solver)) == (kind, order, solver)
    again.set_timesteps(10)
    told = read.sampling.choice().grid.times(10, read.process)[:10] * 1000 - 1
    torch.testing.assert_close(told, again.timesteps.double(), rtol=0, atol=0.1)


CLASSES = {
    "unipc": ("UniPCMultistepScheduler", 2, "bh1"),  # our order counts the corrector's too
    "unipc-2": ("UniPCMultistepScheduler", 1, "bh1"),
    "unipc-4": ("UniPCMultistepScheduler", 3, "bh1"),
    "unipc-bh2": ("UniPCMultistepScheduler", 2, "bh2"),
    "dpmpp-3m": ("DPMSolverMultistepScheduler", 3, "midpoint"),
    "dpmpp-3m-sde": ("DPMSolverMultistepScheduler", 3, "midpoint"),
    "dpmpp-2s": ("DPMSolverSinglestepScheduler", 2, "midpoint"),
    "deis-log": ("DEISMultistepScheduler", 2, "logrho"),
}


def test_samplers_that_diffusers_does_not_have_are_named() -> None:
    read = read_scheduler({**BETAS, "_class_name": "DDIMScheduler"})
    for sampler in ("deis", "restart", "pc", "euler-maruyama", "heun-churn"):
        with pytest.raises(InputError, match=f"^{sampler}: no scheduler of diffusers walks so; choose another sampler"):
            scheduler_theirs(read.process, read.preconditioner, replace(read.sampling, sampler=sampler), "")
    with pytest.raises(InputError, match=r"sampled by .*LogSNR.*: no scheduler of diffusers says this; models that were read"):
        scheduler_theirs(read.process, read.preconditioner, replace(read.sampling, grid="log-snr"), "")
    with pytest.raises(InputError, match="no scheduler of diffusers is trained so"):
        scheduler_theirs(Gaussian(Cosine()), read.preconditioner, read.sampling, "")
    with pytest.raises(InputError, match=r"DiscreteVP.steps=500.*: networks of 1000 timesteps"):
        scheduler_theirs(Gaussian(DiscreteVP(500)), read.preconditioner, read.sampling, "")


def test_what_diffusers_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diffusers' pipelines are told words, and denoise codes"):
        tiny_model().export(tmp_path / "out")
    model = unnoise.load(tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model"))
    with pytest.raises(InputError, match="exists: choose another name"):
        model.export(tmp_path / "model")
    model.codec.mean[0] = 1.0
    with pytest.raises(InputError, match="differ from channel to channel"):
        model.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
