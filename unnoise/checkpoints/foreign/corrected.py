"""What pipelines of diffusers put right, when they are built, in the configurations of files from before its version 0.9.

What such files leave out, or say by an old default, means something else now. Source: the constructors of the classes that are
named here, in diffusers 0.42 (pipelines/stable_diffusion, pag, ledits_pp, deprecated).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unnoise.checkpoints.foreign.parts import Part

PLAIN_STEPS = ("StableDiffusionInpaintPipeline", "StableDiffusionDiffEditPipeline")
"""The classes that have PNDM spare its Runge-Kutta steps."""
CORRECTING = (
    *("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", *PLAIN_STEPS),
    *("StableDiffusionPAGPipeline", "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline"),
    *("StableDiffusionInpaintPipelineLegacy", "StableDiffusionPipelineSafe"),
    *("CycleDiffusionPipeline", "LEditsPPPipelineStableDiffusion"),
)
"""The classes that begin one timestep later than such files say, and draw pictures of at least 64 latents' side. What they do about
clip_sample needs nothing here, where latents are never clipped."""


def scheduler_as_run(scheduler: Mapping[str, Any], pipeline: str) -> Mapping[str, Any]:
    """A scheduler's configuration as the pipeline uses it."""
    told: dict[str, Any] = {"steps_offset": 1} if pipeline in CORRECTING else {}
    if pipeline in PLAIN_STEPS:
        told |= {"skip_prk_steps": True}
    return {**scheduler, **told}


def network_as_run(network: Part, pipeline: str) -> Part:
    """A U-Net as the pipeline uses it: those from before 0.9 that say a side of less than 64 were trained on 64."""
    version = re.match(r"(\d+)\.(\d+)", str(network.config.get("_diffusers_version", "")))
    side = network.config.get("sample_size")
    early = version is not None and (int(version[1]), int(version[2])) < (0, 9)
    if pipeline in CORRECTING and early and isinstance(side, int) and side < 64:
        return replace(network, config={**network.config, "sample_size": 64})
    return network
