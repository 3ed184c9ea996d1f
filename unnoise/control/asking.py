"""What samples are asked for, put to a model's conditioner: prompts, what is led away from, and what is told beside the words."""

from collections.abc import Sequence

from unnoise.control.sampling import Sampling
from unnoise.core.codec import Conditioner, Following, ToldGuidance, ToldSizes, within
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import Cond, Shape
from unnoise.modalities.image.with_picture import WithPicture
from unnoise.modalities.words.distilled import Distilled
from unnoise.modalities.words.emphasis import Emphatic
from unnoise.modalities.words.syntax import Said, stages

Asked = Sequence[str | Said | None]
"""What each sample is told: literally, or in the prompt language; None for nothing."""


def in_stages(
    conditioner: Conditioner, prompts: Sequence[str | None], negative: str | None, steps: int
) -> list[tuple[int, Asked, Asked]]:
    """(first step, what is said to each sample from there on, what each is led away from): once, where prompts are literal."""
    n = len(prompts)
    if not isinstance(conditioner, Emphatic):
        return [(0, prompts, [negative] * n)]
    return [(step, said[:n], said[n:]) for step, said in stages([*prompts, *[negative] * n], steps)]


def check_words(conditioner: Conditioner, said: Asked) -> None:
    """InputError for prompts with words that a distilled text encoder within the conditioner cannot read."""
    for part in conditioner.modules():
        if isinstance(part, Distilled):
            for one in said:
                if one is not None:
                    part.check(Said.plain(one) if isinstance(one, str) else one)


def prepared(conditioner: Conditioner, said: Asked, rng: Streams, away: bool = False) -> Cond:
    """What the conditioner makes of the prompts; away: they are what guidance leads away from."""
    if isinstance(conditioner, Emphatic):
        prepare = conditioner.prepare_away if away else conditioner.prepare_said
        return prepare([Said.plain(s) if isinstance(s, str) else s for s in said])
    return conditioner.prepare_for([s.text if isinstance(s, Said) else s for s in said], rng.scoped("told"))


def beside(
    conditioner: Conditioner, given: Cond | None, n: int, how: Sampling, height: int | None, width: int | None,
    original: tuple[int, int] | None, shape: Shape,
) -> Cond:  # fmt: skip
    """What is told beside the prompts, prepared, n rows each: what was given, and the settings that this model is told.

    shape: of the states. Raises InputError for what the model is not told.
    """
    told = dict(given or {})
    if isinstance(conditioner, Following):
        if not told:
            conditioner.alone()
        if told and height is not None and "picture" not in told:
            raise InputError("this model goes on from what another one made, and has a size of its own: leave the height out")
    elif pictured := within(conditioner, WithPicture):
        if not told:
            pictured.alone()
        elif set(told) != {pictured.entry}:
            said = ", ".join(map(repr, sorted(told)))
            raise InputError(f"given {said}: this model is told {pictured.entry!r} beside its prompt, as `of` makes it")
        elif (x := told[pictured.entry]).ndim != 4 or not (isinstance(shape, tuple) and pictured.fits(x.shape[1], shape[0])):
            raise InputError(
                f"given a {pictured.entry} {tuple(x.shape)} beside states {shape}: another model's; `of` makes this one's"
            )
    elif told:
        raise InputError("this model goes on from no other model: it is told a prompt alone")
    if "picture" in told and tuple(told["picture"].shape[2:]) != tuple(shape)[1:]:
        raise InputError("the pictures that are given are of another size than those that are asked for: say height and width")
    for name, rows in told.items():
        rows_of(repr(name), len(rows), n)
    if sizes := within(conditioner, ToldSizes):
        told |= sizes.asked(n, height, width, original)
    elif original is not None:
        raise InputError(f"original {original}: this model is told no sizes; leave it out")
    if distilled := within(conditioner, ToldGuidance):
        told |= distilled.scaled(n, how.guidance)
    return told


def rows_of(what: str, there: int, n: int) -> None:
    """InputError unless there are as many rows as samples."""
    if there != n:
        raise InputError(f"{there} rows of {what} for {n} samples: one each is needed")
