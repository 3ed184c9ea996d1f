"""FLUX.1 Kontext: pictures changed as the words say, which it looks at as tokens behind those that it draws."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from safetensors.torch import load_file, save_file

import unnoise
from unnoise.checkpoints.foreign.adapters import picture_prompt
from unnoise.checkpoints.foreign.memory import Plan, Wanted, estimate
from unnoise.cli.again import command
from unnoise.cli.main import main
from unnoise.control.perturbed import perturbed
from unnoise.control.step_caching import Every, StepCaching
from unnoise.core.errors import InputError
from unnoise.modalities.image.codec import resized
from unnoise.modalities.image.in_context import SIZES, InContext
from unnoise.modalities.image.show import read_meta
from unnoise.model import DiffusionModel, editing
from unnoise.networks.layers import patchify, unpatchify
from unnoise.networks.steering import residual

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, noise, ours, same  # noqa: E402
from checkpoints.test_picture_prompts import SHOWN as PROMPTING  # noqa: E402
from checkpoints.test_picture_prompts import flux_adapters, with_adapters  # noqa: E402

SHOWN = [Image.fromarray(p) for p in np.random.default_rng(4).integers(0, 256, (2, 20, 12, 3), dtype=np.uint8)]
LOOKED = torch.from_numpy(np.stack([np.asarray(p) for p in SHOWN]))


@pytest.fixture(scope="module")
def kontext(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, DiffusionModel]:
    folder = tmp_path_factory.mktemp("kontext")
    pipeline = tiny.flux(folder / "parts", kind="FluxKontextPipeline")
    return pipeline, unnoise.load(tiny.save(pipeline, folder / "model"))


@pytest.mark.parametrize("true", [1.0, 3.0])
def test_a_picture_of_another_size_is_changed(true: float, kontext: tuple) -> None:
    """Beside a negative prompt, too, which is told the picture as well."""
    pipeline, model = kontext
    x = patchify(noise(model, (4, 8, 12)), 2)
    said: dict[str, Any] = {"true_cfg_scale": true, "negative_prompt": ["a dog"] * 2} if true > 1 else {}
    mine: dict[str, Any] = {"true_guidance": true, "negative": "a dog"} if true > 1 else {}
    packed = pipeline(
        SHOWN, PROMPTS, latents=x, output_type="latent", num_inference_steps=4, guidance_scale=2.5, height=16, width=24,
        max_area=16 * 24, _auto_resize=False, **said,
    ).images  # fmt: skip
    given = editing(model).of(model.codec, LOOKED)
    assert tuple(given["context"].shape) == (2, 4, 10, 6)
    how: dict[str, Any] = {"steps": 4, "guidance": 2.5, "height": 16, "width": 24, **mine}
    same(model, pipeline, unpatchify(packed, 4, 6, 2), given=given, **how)
    (with_it, _), (without, _) = ours(model, given=given, **how), ours(model, **how)
    assert float((with_it - without).abs().max() / without.std()) > 0.02, "twenty times what they may be apart"


def test_a_picture_prompt_beside(tmp_path: Path) -> None:
    """Asked by the picture that is looked at, too."""
    plain = tiny.flux(tmp_path / "parts", kind="FluxKontextPipeline")
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    file = flux_adapters(plain.transformer, tmp_path)[0]
    pipeline = with_adapters(plain, [file], [0.7])
    x = patchify(noise(model, (4, 8, 8)), 2)
    packed = pipeline(
        SHOWN, PROMPTS, latents=x, output_type="latent", num_inference_steps=3, guidance_scale=2.5, height=16, width=16,
        max_area=256, _auto_resize=False, ip_adapter_image=PROMPTING[0], negative_ip_adapter_image=PROMPTING[0],
    ).images  # fmt: skip
    attached = model.attached(picture_prompt(file, [np.asarray(PROMPTING[0])], scale=0.7))
    given = editing(model).of(model.codec, LOOKED)
    same(attached, pipeline, unpatchify(packed, 4, 4, 2), steps=3, guidance=2.5, height=16, width=16, given=given)


def test_from_words_alone_it_draws_as_flux_does(kontext: tuple) -> None:
    pipeline, model = kontext
    x = patchify(noise(model, (4, 8, 8)), 2)
    packed = pipeline(
        None, PROMPTS, latents=x, output_type="latent", num_inference_steps=3, height=16, width=16, max_area=256
    ).images  # fmt: skip
    same(model, pipeline, unpatchify(packed, 4, 4, 2), steps=3, height=16, width=16)


@pytest.mark.parametrize("masked", [False, True])
def test_residuals_are_of_what_is_drawn(masked: bool, kontext: tuple) -> None:
    """A ControlNet's, for which no pipeline of theirs has room here: their network, given none for the picture. A mask counts."""
    pipeline, model = kontext
    draw = torch.Generator().manual_seed(2)
    x, seen = torch.randn(2, 4, 8, 6, generator=draw), torch.randn(2, 4, 4, 8, generator=draw)
    tokens, vector = torch.randn(2, 5, 48, generator=draw), torch.randn(2, 16, generator=draw)
    more = {kind: torch.randn(2, 12, 32, generator=draw) for kind in ("block", "single")}
    places = [diffusers.FluxPipeline._prepare_latent_image_ids(2, h, w, "cpu", torch.float32) for h, w in ((4, 3), (2, 4))]
    places[1][:, 0] = 1
    whole = {kind: torch.nn.functional.pad(r, (0, 0, 0, 8)) for kind, r in more.items()}
    with torch.no_grad():
        theirs = pipeline.transformer(
            torch.cat([patchify(x, 2), patchify(seen, 2)], 1), tokens, vector, torch.full((2,), 0.3), torch.cat(places),
            torch.zeros(5, 3), torch.full((2,), 2.0), controlnet_block_samples=[whole["block"]],
            controlnet_single_block_samples=[whole["single"]],
        ).sample  # fmt: skip
        cond = {"tokens": tokens, "vector": vector, "context": seen, "guidance": torch.full((2,), 2.0)}
        cond |= {residual(kind, 0): r for kind, r in more.items()}
        if masked:
            cond |= {"mask": torch.arange(7).lt(5).expand(2, 7), "tokens": torch.nn.functional.pad(tokens, (0, 0, 0, 2), value=9.0)}
        made = model.denoiser.network(x, torch.full((2,), 0.3), cond)
    expected = unpatchify(theirs[:, :12], 4, 3, 2)
    assert float((made - expected).norm() / expected.norm()) < 1e-5


def test_what_is_looked_at_is_no_position_that_is_perturbed(kontext: tuple) -> None:
    """Perturbed attention hides positions from one another, neither words nor the picture: another one changes what is drawn."""
    _, model = kontext
    draw = torch.Generator().manual_seed(2)
    x, seen = torch.randn(1, 4, 8, 6, generator=draw), torch.randn(2, 4, 4, 8, generator=draw)
    cond = {
        "tokens": torch.randn(1, 5, 48, generator=draw),
        "vector": torch.randn(1, 16, generator=draw),
        "guidance": torch.ones(1),
    }
    weak, drawn = perturbed(model.denoiser, (0,)), []
    weak.network.blocks[0].register_forward_hook(lambda block, inputs, out: drawn.append(out[0][:, -12:]))
    with torch.no_grad():
        for context in seen.split(1):
            weak.network(x, torch.full((1,), 0.3), {**cond, "context": context})
        other = x.clone()
        other[..., -2:, -2:] += 1  # the last position alone
        weak.network(other, torch.full((1,), 0.3), {**cond, "context": seen[1:]})
    first, second, third = drawn
    assert float((first - second).abs().max()) > 1e-3
    assert torch.equal(third[:, :-1], second[:, :-1])
    assert not torch.equal(third[:, -1], second[:, -1])


def test_what_is_given_is_the_models_own(kontext: tuple) -> None:
    _, model = kontext
    for given, message in (
        ({"picture": torch.randn(1, 4, 8, 8)}, "given 'picture': this model is told 'context' beside its prompt"),
        ({"context": torch.randn(1, 3, 8, 8)}, r"given a context \(1, 3, 8, 8\) beside states \(4, "),
    ):
        with pytest.raises(InputError, match=message):
            model.sample("a cat", given=given, steps=1)


def test_the_command_line(kontext: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drawn in the shape of the picture, of the sizes that it was trained at; made again by the command that `info` tells."""
    _, model = kontext
    SHOWN[0].save(tmp_path / "0.png")
    change = ["--change", str(tmp_path / "0.png"), "--steps", "1", "--seed", "3"]
    main(["sample", str(model.path), "make it winter", "-n", "1", *change, "--out", str(tmp_path / "out")])
    made = sorted((tmp_path / "out").glob("000*.png"))
    height, width = Image.open(made[0]).size[::-1]
    assert height > 1.5 * width
    assert height % 4 == width % 4 == 0
    codec = resized(model.codec, height, width)
    larger = np.asarray(SHOWN[0].resize((width, height), Image.Resampling.LANCZOS))[None]
    given = editing(model).of(codec, larger)
    expected = model.sample("make it winter", 1, 3, steps=1, height=height, width=width, given=given)
    assert np.array_equal(np.asarray(Image.open(made[0])), expected.data[0].numpy())
    again = command(read_meta(made[0]))
    assert f"--change {tmp_path}/0.png" in again
    assert f"--height {height} --width {width}" in again
    Image.fromarray(np.zeros((10, 40, 3), np.uint8)).save(tmp_path / "wide.png")
    both = [change[1], str(tmp_path / "wide.png"), *change[2:]]
    told = refused(["sample", str(model.path), "a", "-n", "2", "--change", *both, "--out", str(tmp_path / "o")], capsys)
    assert f"--change: pictures of several shapes ({change[1]} at {height} x {width}, {tmp_path}/wide.png at " in told
    small = ["--height", "8", "--steps", "1", "--out", str(tmp_path / "8")]
    main(["sample", str(model.path), "a cat", "-n", "1", *change[:2], *small])
    assert Image.open(next((tmp_path / "8").glob("000*.png"))).size == (8, 8)
    (tmp_path / "no.png").write_text("none")
    told = refused(["sample", str(model.path), "a cat", "--change", str(tmp_path / "no.png"), "--out", str(tmp_path / "o")], capsys)
    assert "no.png: not readable as a picture" in told


@pytest.mark.parametrize("shape", [(100, 100), (90, 160), (3000, 1000), (100, 1000), (640, 480), (1080, 1091), (1024, 1090)])
def test_sizes_are_those_that_diffusers_prefers(shape: tuple[int, int], kontext: tuple) -> None:
    theirs = import_module("diffusers.pipelines.flux.pipeline_flux_kontext").PREFERRED_KONTEXT_RESOLUTIONS
    assert {(h, w) for w, h in theirs} == set(SIZES)
    height, width = shape
    expected = min((abs(width / height - w / h), w, h) for w, h in theirs)[:0:-1]
    codec = kontext[1].codec.resized(1024, 1024)
    assert editing(kontext[1]).seen_at(codec, height, width) == expected
    small = editing(kontext[1]).seen_at(kontext[1].codec.resized(64, 64), height, width)
    assert small == tuple(round(side / 16 / 4) * 4 for side in expected)


def test_it_is_known_by_its_pipeline_or_its_files_name(kontext: tuple, tmp_path: Path) -> None:
    """A file's tensors are those of FLUX.1 dev. It goes out as it came in, and is saved and loaded."""
    pipeline, model = kontext
    model.export(tmp_path / "again")
    assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")) is type(pipeline)
    model.save(tmp_path / "own")
    assert isinstance(editing(unnoise.load(tmp_path / "own")), InContext)
    plain = tiny.save(diffusers.FluxPipeline(**pipeline.components), tmp_path / "plain")
    with pytest.raises(InputError, match="Kontext is known by 'kontext' in its name"):
        editing(unnoise.load(plain))
    weights = load_file(plain / "transformer/diffusion_pytorch_model.safetensors")
    for name, found in (("flux1-kontext-dev.safetensors", True), ("flux1-dev.safetensors", False)):
        save_file(weights, tmp_path / name)
        loaded = unnoise.load(plain, beside=[tmp_path / name])
        assert isinstance(loaded.conditioner, InContext) is found


def test_caching_and_exactness_hold(kontext: tuple) -> None:
    """With every call computed the picture is the same; alone or in company, bit for bit with `exact`."""
    _, model = kontext
    given = editing(model).of(model.codec, LOOKED)
    how: dict[str, Any] = {"steps": 3, "height": 16, "width": 16, "sample_seeds": [5, 6]}
    usual = model.sample(PROMPTS, given=given, **how).data
    cached = model.sample(PROMPTS, given=given, caching=StepCaching(Every(2)), **how).data
    assert 0 < float((usual.float() - cached.float()).abs().mean()) < 60
    whole = model.sample(PROMPTS, given=given, exact=True, **how).data
    first = {k: v[:1] for k, v in given.items()}
    alone = model.sample(PROMPTS[0], given=first, exact=True, **{**how, "sample_seeds": [5]}).data
    assert torch.equal(torch.as_tensor(whole[:1]), torch.as_tensor(alone))


def test_memory_counts_the_picture(kontext: tuple) -> None:
    _, model = kontext
    codec: Any = model.codec.config
    plain = estimate(model.config.network, codec, Plan(64, 64, passes=1), tokens=8)
    looking = estimate(model.config.network, codec, Plan(64, 64, passes=1, context=(64, 64)), tokens=8)
    assert 1.5 * plain.step < looking.step < 3 * plain.step
    assert Wanted().change is False


def test_pictures_that_do_not_fit(kontext: tuple) -> None:
    _, model = kontext
    with pytest.raises(InputError, match=r"pictures \(20, 12, 3\): \(B, H, W, 3\) of torch.uint8 are changed"):
        editing(model).of(model.codec, LOOKED[0])
    with pytest.raises(InputError, match="2 rows of 'context' for 1 samples"):
        model.sample("a cat", given=editing(model).of(model.codec, LOOKED), height=16)
    with pytest.raises(InputError, match="changes no pictures"):
        model.sample("a cat", given=editing(model).of(model.codec, LOOKED[:1]), height=16, picture_guidance=1.5)
