"""Which name was meant: judged by names that people mistype, abbreviate and take from other libraries."""

import pytest

from unnoise.core.errors import nearest

SCHEDULERS = ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
              "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")  # fmt: skip
SAMPLERS = ("ddim", "euler", "euler-ancestral", "heun", "dpmpp-2m", "dpmpp-3m", "unipc", "lms")


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("EulerDiscretScheduler", SCHEDULERS, "EulerDiscreteScheduler"),  # a letter is missing
        ("eulerdiscretescheduler", SCHEDULERS, "EulerDiscreteScheduler"),  # case alone
        ("EulerAncestral", SCHEDULERS, "EulerAncestralDiscreteScheduler"),  # an abbreviation: the first words
        ("UniPC", SCHEDULERS, "UniPCMultistepScheduler"),
        ("euler_discrete_flow_match", SCHEDULERS, "FlowMatchEulerDiscreteScheduler"),  # the same words in another order
        ("DPMSolverMultistepInverseScheduler", SCHEDULERS, "DPMSolverMultistepScheduler"),  # a word too many
        ("DPMpp2M", SAMPLERS, "dpmpp-2m"),
        ("dpm++2m", SAMPLERS, "dpmpp-2m"),
        ("EulerAncestral", SAMPLERS, "euler-ancestral"),
        ("k_lms", SAMPLERS, "lms"),
    ],
)
def test_the_nearest_name_comes_first(name: str, known: tuple[str, ...], meant: str) -> None:
    near = nearest(name, known)
    assert near[0] == meant
    assert len(near) <= 3
    assert nearest(name, known, 1) == [meant]


def test_nothing_is_near() -> None:
    assert nearest("xyz", SCHEDULERS) == nearest("", SCHEDULERS) == nearest("euler", ()) == []
