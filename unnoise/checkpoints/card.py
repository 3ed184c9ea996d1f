"""The model card: what a saved model says of itself, for people to read."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from unnoise.control.sampling import Sampling
from unnoise.core.codec import Buildable
from unnoise.core.processes import Process


@dataclass(frozen=True)
class About:
    """What the model card says. metrics: name -> value as measured."""

    name: str = "an unnoise model"
    data: str = "not stated"
    licence: str = "not stated"
    examples: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


SHEET = "samples.png"
"""The file beside the card that it shows."""


def card(
    about: About, how: Sampling, network: Buildable, process: Process, model_hash: str, shown: bool = False, follows: bool = False
) -> str:
    """The model card: README.md of a saved model.

    shown: whether a sheet of samples lies beside it. follows: whether it goes on from what another model made.
    """
    metrics = "\n".join(f"| {k} | {v:.4g} |" for k, v in about.metrics.items())
    asked = "MODEL A_PROMPT --then THIS_FOLDER" if follows else shlex.join(["THIS_FOLDER", *about.examples[:2]])
    sheet = f"![what it draws]({SHEET})\n\n" if shown else ""
    return f"""# {about.name}

A diffusion model made with unnoise. Weights {model_hash}; config.json holds everything else.

- Trained on: {about.data}
- Licence: {about.licence}
- Network: {type(network).__name__}; process: {process}
- Sampled by default with {how.named()["sampler"] or how.sampler}, {how.steps} steps, guidance {how.guidance:g}

    unnoise sample {asked} -n 16 --seed 7 --out samples

{sheet}{"| measure | value |" + chr(10) + "|---|---|" + chr(10) + metrics if metrics else "No measures were recorded."}
"""
