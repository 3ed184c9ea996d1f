"""The command that `unnoise info` prints, run: the same bits. Its options, read again: the same values."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_model

from unnoise.cli.again import command, files, missing, own, told, unsaid
from unnoise.cli.main import main
from unnoise.cli.sample import Sample
from unnoise.cli.terminal import parse
from unnoise.control.sampling import Start
from unnoise.control.step_caching import Every, StepCaching, Within
from unnoise.modalities.image.show import read_meta


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save(folder)
    return folder


def printed(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """The words of the command, and all that is said."""
    capsys.readouterr()
    main(["info", str(file)])
    said = capsys.readouterr().out
    return shlex.split(next(line for line in said.splitlines() if line.startswith("  unnoise sample"))), said


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(p)) for p in sorted(folder.glob("*.png")) if p.name != "sheet.png"]


@pytest.mark.parametrize("how", [["--exact"], ["--cache", "2", "--cache-order", "0"]], ids=" ".join)
def test_the_printed_command_makes_the_same_bits(
    how: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the picture that each sample began with, at a size that is not the model's."""
    monkeypatch.chdir(tmp_path)
    starts = [f"a picture {i}.png" for i in range(4)]
    for i, start in enumerate(starts):
        Image.linear_gradient("L").rotate(90 * i).resize((10, 12)).save(start)
    asked = ["one", "two", "-n", "2", "--start", *starts, "--strength", "0.6", "--height", "12", "--width", "10"]
    main(["sample", str(model), *asked, "--negative", "three", "--steps", "5", "--seed", "7", *how, "--out", "out"])
    made = pictures(Path("out"))
    assert len(made) == 4
    assert made[0].shape == (12, 10)
    words, said = printed(Path("out/sheet.png"), capsys)
    assert f"(it reads {', '.join(starts)} again)" in said
    main([*words[1:-1], "all"])
    assert all(np.array_equal(a, b) for a, b in zip(pictures(Path("all")), made, strict=True))
    words, _ = printed(sorted(Path("out").glob("0002*"))[0], capsys)
    main([*words[1:-1], "one"])
    (twin,) = pictures(Path("one"))
    if how == ["--exact"]:
        assert np.array_equal(twin, made[2])
    assert np.abs(twin.astype(int) - made[2].astype(int)).max() <= 1
    Path(starts[2]).unlink()
    assert f"not found from here: {starts[2]})" in printed(sorted(Path("out").glob("0002*"))[0], capsys)[1]


def test_every_option_that_decides_is_read_again_as_it_was_given() -> None:
    path = Path
    args = Sample(
        path("m"), ("a red cat",), sample_seeds=(5,), variant="fp16", beside=(path("vae"), path("clip dir"), path("some/one")),
        lora=("f.safetensors:0.7", "g"), embedding=(path("e"), path("e2")), control=("canny:p.png:0.8", "union:d.png=1,q.png=3"),
        guess=True,
        picture_prompt=("ip:a.png,b.png:0.6",), picture_encoder="enc", start=(path("s.png"),), fill=(path("f.png"),),
        change=(path("c.png"),), follow=(path("e.png"),), picture_guidance=1.7,
        mask=(path("k.png"),), strength=0.25, height=16, width=24, original=(512, 640), steps=4, sampler="euler", grid="karras",
        guidance=3.0, interval=(0.1, 0.9), rescale=0.5, rule="apg", threshold=0.9, inner="pag", inner_scale=2.0,
        inner_interval=(0.0, 0.5), blocks=(1, 2), cache=3, cache_order=2, weaker=path("w"), weaker_scale=1.5, negative="a dog",
        then=(path("t"), path("u")), exact=True, bf16=True, int8=True, out=path("again"),
    )  # fmt: skip
    known = ("strength", "height", "width", "original", "steps", "sampler", "grid", "guidance", "interval", "rescale", "rule",
             "threshold", "inner", "inner_scale", "inner_interval", "blocks", "cache", "cache_order", "weaker_scale", "negative",
             "picture_guidance", "exact", "bf16", "int8")  # fmt: skip
    meta = {
        "model_path": "m", "prompt": "a red cat", "sample_seed": 5, "weaker": "w", "then": ["t", "u"], **told(args),
        **{name: paths[0] for name, paths in own(args, 1).items()}, **{name: getattr(args, name) for name in known},
    }  # fmt: skip
    assert parse(Sample, shlex.split(command(meta))[2:], "unnoise sample") == args
    assert files(meta) == [
        "s.png", "f.png", "k.png", "c.png", "e.png", "f.safetensors", "g", "e", "e2", "vae", "clip dir",
        "p.png", "d.png", "q.png", "a.png", "b.png",
    ]  # fmt: skip
    assert missing(["/", "no such file"]) == ["no such file"]
    two = own(replace(args, start=(path("s"), path("r"))), 2)
    same = {"fill": "f.png", "mask": "k.png", "change": "c.png", "follow": "e.png"}
    assert two == {"start": ["s", "r"], **{name: [path] * 2 for name, path in same.items()}}
    assert not unsaid(meta)


@pytest.mark.parametrize(("how", "order"), [(["--cache", "2"], 0), (["--cache-within", "0.1"], 1)])
def test_features_are_followed_where_their_error_is_watched(how: list[str], order: int, model: Path, tmp_path: Path) -> None:
    """Kept as they were otherwise: where steps lie far apart a course followed ends far off."""
    main(["sample", str(model), "one", "-n", "1", "--steps", "3", *how, "--out", str(tmp_path / "out")])
    (file,) = (tmp_path / "out").glob("0000*.png")
    assert read_meta(file)["cache_order"] == order


def test_what_was_given_in_python_is_told_to_be_no_part_of_the_command() -> None:
    begun = Start(np.zeros((2, 8, 8, 1), np.uint8), 0.5)
    samples = tiny_model().sample(n=2, steps=4, start=begun, caching=StepCaching(Within(0.1, most=3)))
    assert unsaid(samples.meta()[0]) == ["the data that it began with (--start)", f"caching by {StepCaching(Within(0.1, most=3))}"]
    assert not unsaid(tiny_model().sample(steps=1, caching=StepCaching(Every(2), 1)).meta()[0])
