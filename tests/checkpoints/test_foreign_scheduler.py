"""What scheduler_config.json says, beside diffusers' own schedulers of it: timesteps, noise levels, the start; what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unnoise.checkpoints.allowed import ALLOWED
from unnoise.checkpoints.config import allow, decode, encode
from unnoise.checkpoints.foreign.scheduler import FLOWS, SOLVERS, read_scheduler
from unnoise.control.sampling import Sampling
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import AtTimestep, Preconditioner
from unnoise.core.processes import Gaussian, Process
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.samplers.timesteps import FlowSteps

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of their code

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# as the well-known models ship them
SHIPPED = {
    "Stable Diffusion 1.5": (
        {**LATENT, "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "clip_sample": False, "set_alpha_to_one": False,
         "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None},
        "StableDiffusionPipeline", ("plms", 50, 7.5),
    ),
    "Stable Diffusion 2.1": (
        {**LATENT, "_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction",
         "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None},
        "StableDiffusionPipeline", ("ddim", 50, 7.5),
    ),
    "Stable Diffusion XL": (
        {**LATENT, "_class_name": "EulerDiscreteScheduler", "clip_sample": False, "interpolation_type": "linear",
         "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True,
         "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False},
        "StableDiffusionXLPipeline", ("euler", 50, 5.0),
    ),
    "SDXL-Turbo": (
        {**LATENT, "_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon", "steps_offset": 1,
         "timestep_spacing": "trailing", "trained_betas": None},
        "StableDiffusionXLPipeline", ("euler-ancestral", 50, 5.0),
    ),
    "LCM": (
        {**LATENT, "_class_name": "LCMScheduler", "clip_sample": False, "original_inference_steps": 50, "set_alpha_to_one": True,
         "steps_offset": 0, "timestep_scaling": 10.0, "timestep_spacing": "leading", "trained_betas": None},
        "LatentConsistencyModelPipeline", ("lcm", 4, 1.0),
    ),
    "PixArt-Sigma": (
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "beta_end": 0.02, "beta_schedule": "linear",
         "beta_start": 0.0001, "solver_order": 2, "solver_type": "midpoint", "timestep_spacing": "linspace", "variance_type": None},
        "PixArtSigmaPipeline", ("dpmpp-2m", 20, 4.5),
    ),
    "Sana": (
        {"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 3.0, "prediction_type": "flow_prediction", "solver_order": 2,
         "use_flow_sigmas": True},
        "SanaPipeline", ("dpmpp-2m", 20, 4.5),
    ),
    "Stable Diffusion 3": (
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
        "StableDiffusion3Pipeline", ("euler", 28, 7.0),
    ),
    "FLUX.1 schnell": (
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096,
         "max_shift": 1.15, "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False},
        "FluxPipeline", ("euler", 28, 3.5),
    ),
    "Playground v2.5": (
        {"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "dynamic_thresholding_ratio": 0.995,
         "euler_at_final": False, "final_sigmas_type": "zero", "lower_order_final": True, "num_train_timesteps": 1000,
         "prediction_type": "epsilon", "rho": 7.0, "sample_max_value": 1.0, "sigma_data": 0.5, "sigma_max": 80.0,
         "sigma_min": 0.002, "solver_order": 2, "solver_type": "midpoint", "thresholding": False},
        "StableDiffusionXLPipeline", ("dpmpp-2m", 50, 5.0),
    ),
    "CosXL": (
        {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 120.0,
         "sigma_min": 0.002, "sigma_schedule": "exponential", "final_sigmas_type": "zero"},
        "StableDiffusionXLPipeline", ("euler", 50, 5.0),
    ),
}  # fmt: skip


def theirs_of(config):
    return getattr(diffusers, config["_class_name"]).from_config(config)


@pytest.mark.parametrize("name", SHIPPED)
def test_timesteps_and_start_of_shipped_models(name):
    """The network is told exactly their timesteps; the walk starts from noise of their variance; names, steps and guidance."""
    config, pipeline, (sampler, steps, guidance) = SHIPPED[name]
    ours = read_scheduler(config, pipeline)
    assert (ours.sampling.sampler, ours.sampling.steps, ours.sampling.guidance) == (sampler, steps, guidance)
    theirs = theirs_of(config)
    for n in (1, 4, 20, 30, 50):
        if n == 1 and (config.get("timestep_spacing") == "linspace" or config.get("sigma_schedule") == "exponential"):
            continue  # theirs begins at the least noise
        if pipeline == "FluxPipeline":
            theirs.set_timesteps(sigmas=np.linspace(1, 1 / n, n))
        else:
            theirs.set_timesteps(n)
        timesteps = theirs.timesteps.double()
        if sampler == "plms" and n > 1:
            timesteps = torch.cat([timesteps[:1], timesteps[2:]])  # its first step calls the network twice
        told = told_at(ours, n) * 1000
        torch.testing.assert_close(told, timesteps, atol=1e-6 if "sigma_data" in config else 2e-3, rtol=0)
    scale = float(getattr(theirs, "init_noise_sigma", 1.0))
    if hasattr(theirs, "sigmas") and name.startswith(("Stable Diffusion XL", "SDXL")):
        scale /= float(theirs.sigmas[0] ** 2 + 1) ** 0.5  # they start in x / alpha
    noise = Streams.of(3, 4).normal("prior", (2,))
    torch.testing.assert_close(ours.process.prior((2,), Streams.of(3, 4)), noise * scale, rtol=1e-5, atol=0)


def told_at(ours, steps, shape=(4, 8, 8)):
    """The noise levels that a walk tells the network, (steps,) float64."""
    times = ours.sampling.choice().grid.of(shape).times(steps, ours.process)
    return ours.preconditioner.before(ours.process, torch.zeros(steps, 1), times[:steps])[1].double()


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero", [False, True])
def test_noise_levels(beta_schedule, zero):
    """alpha of every timestep beside their alphas_cumprod, which float32 products have brought to 1e-4 of itself or 1e-7."""
    config = {**LATENT, "beta_schedule": beta_schedule, "rescale_betas_zero_snr": zero, "_class_name": "DDIMScheduler",
              "prediction_type": "v_prediction"}  # fmt: skip
    process = read_scheduler(config).process
    assert isinstance(process, Gaussian)
    alpha2 = process.schedule.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000) ** 2
    torch.testing.assert_close(alpha2, theirs_of(config).alphas_cumprod.double(), rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_what_the_network_predicts(prediction):
    """x0 of a raw output, beside their formula, at six timesteps."""
    config = {**LATENT, "_class_name": "DDIMScheduler", "prediction_type": prediction, "clip_sample": False}
    ours, theirs = read_scheduler(config), theirs_of(config)
    theirs.set_timesteps(1000)
    timesteps = [0, 1, 100, 500, 900, 999]
    x, out = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    want = torch.stack([theirs.step(out[i], k, x[i]).pred_original_sample for i, k in enumerate(timesteps)])
    t = (torch.tensor(timesteps, dtype=torch.float64) + 1) / 1000
    seen, told = ours.preconditioner.before(ours.process, x, t)
    assert torch.equal(seen, x)
    torch.testing.assert_close(told * 1000, torch.tensor(timesteps).float())
    torch.testing.assert_close(ours.preconditioner.after(ours.process, out, x, t).x0, want, rtol=1e-4, atol=1e-4)


def test_one_step_with_exponential_levels_begins_where_the_noise_is():
    """Of the largest level; theirs tells the least of a state that has the most."""
    config, pipeline, _ = SHIPPED["CosXL"]
    ours, theirs = read_scheduler(config, pipeline), theirs_of(config)
    theirs.set_timesteps(1)
    assert theirs.timesteps.tolist() == pytest.approx([np.log(0.002) / 4])
    assert (told_at(ours, 1) * 1000).tolist() == pytest.approx([np.log(120) / 4])


@pytest.mark.parametrize("name", ["Playground v2.5", "CosXL"])
def test_what_networks_of_levels_predict(name):
    config = SHIPPED[name][0]
    ours, theirs = read_scheduler(config, "StableDiffusionXLPipeline"), theirs_of(config)
    x, out = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([80.0, 5.0, 1.0, 0.1, 0.002])
    t = sigma.double() / config["sigma_max"]
    seen, told = ours.preconditioner.before(ours.process, x, t)
    want = [theirs.precondition_inputs(x, sigma[:, None]), theirs.precondition_outputs(x, out, sigma[:, None])]
    torch.testing.assert_close(seen.float(), want[0])
    torch.testing.assert_close(told * 1000, theirs.precondition_noise(sigma))
    torch.testing.assert_close(ours.preconditioner.after(ours.process, out, x, t).x0.float(), want[1])


def test_a_flow_predicts_velocity_and_is_told_its_sigma():
    ours = read_scheduler(SHIPPED["Stable Diffusion 3"][0], "StableDiffusion3Pipeline")
    x, out = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1.0, 0.6, 0.01], dtype=torch.float64)
    seen, told = ours.preconditioner.before(ours.process, x, t)
    assert torch.equal(seen, x)
    torch.testing.assert_close(told, t.float())
    torch.testing.assert_close(ours.preconditioner.after(ours.process, out, x, t).x0, x - t[:, None].float() * out)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (128, 128), (96, 160)])
def test_flux_shifts_by_the_number_of_tokens(height, width):
    """mu on the line through (256 tokens, 0.5) and (4096, 1.15); states of 16 channels, patched two by two."""
    config = {**SHIPPED["FLUX.1 schnell"][0], "shift": 3.0, "use_dynamic_shifting": True}
    ours, theirs = read_scheduler(config, "FluxPipeline"), theirs_of(config)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 28, 28), mu=0.5 + 0.65 * (height * width / 4 - 256) / 3840)
    grid = ours.sampling.choice().grid
    times = grid.of((16, height, width)).times(28, ours.process)
    torch.testing.assert_close(times, theirs.sigmas.double(), rtol=1e-6, atol=1e-7)
    with pytest.raises(InputError, match="ask it `of` the states' shape"):
        grid.times(28, ours.process)
    with pytest.raises(InputError, match=r"states \(channels, height, width\)"):
        grid.of((3,))


def test_a_dynamic_flow_without_a_pipelines_sigmas():
    """As Stable Diffusion 3.5 may be set: 1 ... 1 / 1000 evenly, then shifted once."""
    config = {**SHIPPED["FLUX.1 schnell"][0], "use_dynamic_shifting": True}
    ours, theirs = read_scheduler(config, "StableDiffusion3Pipeline"), theirs_of(config)
    theirs.set_timesteps(28, mu=0.5)
    times = ours.sampling.choice().grid.of((16, 32, 32)).times(28, ours.process)  # 256 tokens: mu = 0.5
    torch.testing.assert_close(times, theirs.sigmas.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("curve", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_curves_of_sigmas(kind, curve):
    config = {**LATENT, "_class_name": kind, f"use_{curve}_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1}
    ours, theirs = read_scheduler(config), theirs_of(config)
    assert isinstance(ours.process, Gaussian)
    for n in (1, 2, 12):
        theirs.set_timesteps(n)
        times = ours.sampling.choice().grid.times(n, ours.process)
        ratios = ours.process.schedule.sigma(times) / ours.process.schedule.alpha(times)
        if n > 1 or kind == "DPMSolverMultistepScheduler":
            torch.testing.assert_close(ratios, theirs.sigmas.double(), rtol=1e-4, atol=1e-6)
        told = told_at(ours, n) * 1000
        assert bool((told.diff() < 0).all())


@pytest.mark.parametrize("curve", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"])
def test_curves_of_a_flows_sigmas(kind, dynamic, curve):
    """Drawn in the sigmas themselves, between the ends of the shifted ones; the third class does not heed them."""
    config = {"_class_name": kind, "shift": 3.0, "use_dynamic_shifting": dynamic, f"use_{curve}_sigmas": True}
    ours, theirs = read_scheduler(config), theirs_of(config)
    for n in (1, 2, 12):
        theirs.set_timesteps(n, mu=0.5 if dynamic else None)
        times = ours.sampling.choice().grid.of((16, 32, 32)).times(n, ours.process)  # 256 tokens: mu = 0.5
        torch.testing.assert_close(times, theirs.sigmas.double(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(told_at(ours, n, (16, 32, 32)) * 1000, theirs.timesteps.double(), rtol=1e-6, atol=1e-4)
    assert decode(Sampling, encode(ours.sampling), {**ALLOWED, **allow(Sampling)}, "config.json") == ours.sampling
    plain = read_scheduler({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0})
    assert read_scheduler({**config, "_class_name": "FlowMatchHeunDiscreteScheduler", "use_dynamic_shifting": False}) == plain


LEFT = {
    "curve": {"use_karras_sigmas": True},
    "zero": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "flow": {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "v_prediction"},
    "spacing": {"timestep_spacing": "trailing"},
    "algorithm": {"algorithm_type": "deis", "solver_type": "logrho", "final_sigmas_type": "sigma_min"},
}


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("kind", sorted(k for k in SOLVERS if not k.startswith(("DPMSolverSDE", "KDPM2"))))
def test_settings_that_another_class_left_in_the_file(kind, left):
    """Heeded where theirs heed them, and nowhere else: the timesteps of a walk and the noise at the last timestep but one."""
    config = {**LATENT, "_class_name": kind, "skip_prk_steps": True, **LEFT[left]}
    if left == "flow" and kind.startswith(("DPM", "UniPC")):
        config["prediction_type"] = "flow_prediction"
    if left == "flow" and kind.startswith("DEIS"):
        with pytest.raises(InputError, match="a flow sampled by DEIS"):
            read_scheduler(config)
        return
    ours, theirs = read_scheduler(config), theirs_of(config)
    assert isinstance(ours.process, Gaussian)
    theirs.set_timesteps(12)
    timesteps = theirs.timesteps.double()
    if kind.startswith(("PNDM", "Heun")):
        timesteps = timesteps.unique().flip(0)  # some they call twice
    rounding = 0.6 if left == "curve" and kind.startswith(("DPM", "UniPC", "DEIS")) else 0.1  # see the guide
    torch.testing.assert_close(told_at(ours, 12)[: len(timesteps)] * 1000, timesteps, atol=rounding, rtol=0)
    if not isinstance(ours.process.schedule, RectifiedFlow):
        alpha2 = ours.process.schedule.alpha(torch.tensor([0.999], dtype=torch.float64)) ** 2
        torch.testing.assert_close(alpha2, theirs.alphas_cumprod[998:999].double(), rtol=1e-3, atol=2e-7)


def test_a_walk_that_would_end_where_it_begins_is_a_step_shorter():
    """Timestep 0 is the last of a leading spacing without offset, and the end too, where the end is not the data."""
    ours = read_scheduler({**LATENT, "_class_name": "PNDMScheduler", "skip_prk_steps": True})
    times = ours.sampling.choice().grid.times(10, ours.process)
    assert len(times) == 10
    assert float(times[-1]) == 0.001
    karras = {**LATENT, "_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
    ours = read_scheduler(karras)
    times = ours.sampling.choice().grid.times(10, ours.process)
    assert (len(times), float(times[0]), float(times[-1])) == (10, 1.0, 0.001)


def test_classes_that_walk_as_others_and_those_that_are_not_run():
    for kind in ("DDIM", "DDPM"):
        assert read_scheduler({**LATENT, "_class_name": f"{kind}ParallelScheduler"}) == read_scheduler(
            {**LATENT, "_class_name": f"{kind}Scheduler"}
        )
    for kind, said in (
        ("IPNDM", "a IPNDMScheduler is not run here; EulerDiscreteScheduler in its place"),
        ("DIM", "DDIMScheduler"),
    ):
        with pytest.raises(InputError, match=said):
            read_scheduler({**LATENT, "_class_name": f"{kind}Scheduler"})


def test_clipping_and_thresholding():
    assert read_scheduler({"_class_name": "DDPMScheduler"}).sampling.threshold == 0  # their class clips unless told not to
    assert read_scheduler({"_class_name": "DDIMScheduler", "clip_sample": False}).sampling.threshold is None
    assert read_scheduler({"_class_name": "EulerDiscreteScheduler", "clip_sample": True}).sampling.threshold is None  # unheeded
    settings = {"_class_name": "DPMSolverMultistepScheduler", "thresholding": True, "dynamic_thresholding_ratio": 0.95}
    assert read_scheduler(settings).sampling.threshold == 0  # of at most 1: they clip
    assert read_scheduler({**settings, "sample_max_value": 1.5}).sampling.threshold == 0.95


@pytest.mark.parametrize("kind", [*SOLVERS, "FlowMatchEulerDiscreteScheduler"])
def test_what_is_read_can_be_saved(kind):
    """As a model's config.json is: encoded, decoded, equal."""
    config = {**LATENT, "_class_name": kind, "skip_prk_steps": True, "use_dynamic_shifting": kind.startswith("Flow")}
    classes = {**ALLOWED, **allow(Sampling)}
    process, preconditioner, sampling = read_scheduler(config)
    for cls, value in ((Process, process), (Preconditioner, preconditioner), (Sampling, sampling)):
        assert decode(cls, encode(value), classes, "config.json") == value


def test_refusals():
    def of(kind, **settings):
        return lambda: read_scheduler({**LATENT, "_class_name": kind, **settings})

    for make, said in [
        (of("EulerDiscretScheduler"), r"unknown scheduler .* 'EulerDiscretScheduler'; did you mean 'EulerDiscreteScheduler'"),
        (lambda: read_scheduler({}), "unknown scheduler in scheduler_config.json 'none'"),
        (of("FlowMatchEulerDiscretScheduler"), "did you mean .*'FlowMatchEulerDiscreteScheduler'"),
        (of("DDIMScheduler", beta_schedule="cosine"), "unknown beta_schedule in scheduler_config.json 'cosine'"),
        (of("DDIMScheduler", prediction_type="eps"), "unknown prediction_type .* 'eps'; did you mean 'epsilon'"),
        (of("DDIMScheduler", timestep_spacing="lin"), "unknown timestep_spacing .* did you mean .*'linspace'"),
        (of("DDIMScheduler", trained_betas=[0.1]), "trained_betas lists betas"),
        (of("EulerDiscreteScheduler", rescale_betas_zero_snr=True), "divides by alpha"),
        (of("EulerDiscreteScheduler", interpolation_type="log_linear"), "interpolation_type 'log_linear' .* 'linear' is"),
        (of("DPMSolverMultistepScheduler", algorithm_type="dpmsolver"), "algorithm_type 'dpmsolver' of order 2"),
        (of("DPMSolverMultistepScheduler", solver_type="heun"), "'heun' is not supported"),
        (of("DPMSolverSinglestepScheduler", solver_order=3), "singlestep 'dpmsolver\\+\\+' of order 3"),
        (of("UniPCMultistepScheduler", solver_order=4), "solver_order 4 of UniPC is not supported; 1, 2, 3 are"),
        (of("PNDMScheduler"), "Runge-Kutta"),
        (of("DDPMScheduler", variance_type="learned_range"), "variance_type 'learned_range'"),
        (of("DPMSolverMultistepScheduler", lambda_min_clipped=-5.1), r"lambda_min_clipped -5.1 .* -inf is"),
        (of("FlowMatchEulerDiscreteScheduler", shift_terminal=0.1), "shift_terminal 0.1"),
        (of("DPMSolverMultistepScheduler", use_flow_sigmas=True, use_karras_sigmas=True), "a flow with Karras"),
        *(
            (of(kind, use_flow_sigmas=True, final_sigmas_type="sigma_min"), f"a flow by {kind} with final_sigmas_type 'sigma_min'")
            for kind in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
        ),
        (of("LCMScheduler", timestep_scaling=1.0), "timestep_scaling 1.0 of a LCMScheduler is not supported; 10.0 is"),
        (of("FlowMatchLCMScheduler", scale_factors=[0.5]), "scale_factors"),
        (of("DPMSolverMultistepScheduler", variance_type="learned_range"), "variance_type 'learned_range' is not"),
        (of("FlowMatchEulerDiscreteScheduler", invert_sigmas=True), "invert_sigmas True"),
        *(
            (of(kind, num_train_timesteps=500), f"num_train_timesteps 500 of a {kind} is not supported; 1000 is")
            for kind in (*SOLVERS, *FLOWS)
        ),
    ]:
        with pytest.raises(InputError, match=said):
            make()
    ours = read_scheduler({**LATENT, "_class_name": "LCMScheduler"})
    with pytest.raises(InputError, match="distilled for 50 timesteps"):
        ours.sampling.choice().grid.times(51, ours.process)
    ours = read_scheduler({**LATENT, "_class_name": "EulerDiscreteScheduler"})
    with pytest.raises(InputError, match=r"1001 sampling steps: .* take fewer"):
        read_scheduler({**LATENT, "_class_name": "DDIMScheduler"}).sampling.choice().grid.times(1001, ours.process)
    beyond = {**LATENT, "_class_name": "DDIMScheduler", "steps_offset": 1}  # timestep 1000, which their table has not
    with pytest.raises(InputError, match="1000 sampling steps: on this time grid"):
        read_scheduler(beyond).sampling.choice().grid.times(1000, ours.process)
    theirs = theirs_of(beyond)
    theirs.set_timesteps(1000)
    with pytest.raises(IndexError):
        theirs.step(torch.zeros(1), int(theirs.timesteps[0]), torch.zeros(1))
    settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "use_karras_sigmas": True}
    ours = read_scheduler({**LATENT, "_class_name": "EulerDiscreteScheduler", **settings})
    with pytest.raises(InputError, match="infinite where nothing is left"):
        ours.sampling.choice().grid.times(10, ours.process)
    for wrong in ({"first": -0.1}, {"first": 1.0}, {"ticks": 0}):
        with pytest.raises(InputError, match="AtTimestep"):
            AtTimestep(read_scheduler({"_class_name": "DDIMScheduler"}).preconditioner.target, **wrong)


def test_shifts_of_flow_steps():
    """Esser et al. 2024, eq. 23: t / (1 - t) is multiplied by the shift."""
    process = Gaussian(RectifiedFlow())
    plain, moved = (FlowSteps(shift).times(10, process)[1:-1] for shift in (1.0, 3.0))
    torch.testing.assert_close(moved / (1 - moved), 3 * plain / (1 - plain))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    ("sampler", "kind", "ends"),
    [
        ("euler", "EulerDiscreteScheduler", 0.0),
        ("euler-ancestral", "EulerAncestralDiscreteScheduler", 0.0),
        ("dpmpp-2m", "DPMSolverMultistepScheduler", 0.0),
        ("unipc-2", "UniPCMultistepScheduler", 0.0),
        ("deis-log", "DEISMultistepScheduler", 1.0),
        ("ddim", "DDIMScheduler", 1.0),  # its file says so
        ("lcm", "LCMScheduler", 0.0),
        ("tcd", "TCDScheduler", 1.0),
    ],
)
def test_timesteps_of_another_sampler(sampler, kind, ends, spacing):
    """Of a model whose file names PNDM, which ends at timestep 0: those that their class takes from that file."""
    told = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    told |= {"steps_offset": 1, "skip_prk_steps": True, "set_alpha_to_one": False, "timestep_spacing": spacing}
    own = read_scheduler({"_class_name": "PNDMScheduler", **told}, "StableDiffusionPipeline").sampling
    times = replace(own, sampler=sampler, grid=own.grid_by(sampler)).choice().grid.times(7, None) * 1000
    theirs = getattr(diffusers, kind).from_config(told)
    theirs.set_timesteps(7)
    whole = 0.5 if sampler.startswith("euler") and spacing == "linspace" else 1e-6  # which do not round them
    assert float((times[:7] - 1 - theirs.timesteps.double()).abs().max()) <= whole
    assert times[-1] == ends  # of DDIM on linspace the last of the seven itself


@pytest.mark.parametrize("steps", [3, 6, 9, 27])
def test_whole_timesteps_of_a_flow_survive_roundoff(steps: int) -> None:
    """999 k / n cut off, in whole numbers."""
    told = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 1.0}
    process, preconditioner, sampling = read_scheduler({"_class_name": "DPMSolverMultistepScheduler", **told}, "SanaPipeline")
    times = sampling.choice().grid.times(steps, process)[:-1]
    _, level = preconditioner.before(process, torch.zeros(steps, 1), times)
    assert (1000 * level.double()).round().long().tolist() == [999 * k // steps for k in range(steps, 0, -1)]


def test_one_step_that_ends_where_it_begins_is_refused() -> None:
    told = {"skip_prk_steps": True, "timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": False}
    process, _, sampling = read_scheduler({"_class_name": "PNDMScheduler", **told}, "StableDiffusionXLPipeline")
    with pytest.raises(InputError, match=r"1 sampling steps: the only timestep of this walk is where it ends; say more --steps"):
        sampling.choice().grid.times(1, process)
