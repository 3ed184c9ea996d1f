"""Autoencoders and latent models as a person trains them, on a few small pictures: both stages, their cache, what is refused."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unnoise.checkpoints.codec import load_codec, save_codec
from unnoise.cli.terminal import parse
from unnoise.cli.train import Train
from unnoise.core.codec import Unconditional
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.loading import load
from unnoise.modalities.image.data import KeptStates, PictureOptions
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.modalities.image.reading import read_pictures
from unnoise.networks.autoencoder import AutoencoderConfig
from unnoise.networks.bottlenecks import Code, KLConfig
from unnoise.networks.features import PictureFeatures, feature_distance
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.recipes.autoencoder import AutoencoderTask, ReconstructionLosses, _shown, psnr, turned
from unnoise.recipes.latent_cache import cached_latents
from unnoise.recipes.options import Options
from unnoise.recipes.runs import load_run, save_run
from unnoise.recipes.train import average, example_run, override, plan, resume, start

N = 16


def tiny(channels: int = 4, size: int = 8, **options: object) -> LatentsConfig:
    return LatentsConfig(size, size, channels, AutoencoderConfig(channels, KLConfig(2), 2, (8, 8), (1, 1)), **options)


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[None]:
    """Plots of the loss take longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unnoise.training.plot.available", lambda: False)
        yield


@pytest.fixture(scope="module")
def stickers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "stickers"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        x = np.zeros((8, 8, 4), np.uint8)
        x[1 + i % 3 : 7, 1:6] = [*rng.integers(0, 256, 3), 255]
        Image.fromarray(x).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a sticker {'red' if i % 2 else 'blue'}")
    return folder


def short(folder: Path, recipe: str, **options: object):
    """A plan of a few steps, in float32; the autoencoder's losses without a network of features, which takes longest to make."""
    given = Options(size=8, alpha=True, steps=3, batch=4, **options)

    def change(run):
        quick = {"bf16": False, "steps": 3, "batch": 4, "checkpoint_every": 2, "snapshot_every": 3}
        run = replace(run, train=replace(run.train, **quick))
        first = getattr(run, "first", None)
        if first is not None and hasattr(first, "train"):
            plain = ReconstructionLosses(features=0.0)
            return replace(run, first=replace(first, train=replace(first.train, **quick), losses=plain))
        return replace(run, losses=ReconstructionLosses(features=0.0)) if hasattr(run, "losses") else run

    return override(plan(str(folder), given, recipe), given, change)


@pytest.fixture(scope="module")
def run(stickers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "latent"
    start(short(stickers, "latent", width=16, depth=1, flip=True), out)
    return out


def test_one_command_trains_both_stages_and_the_model_draws_transparent_pictures(run: Path, tmp_path: Path) -> None:
    model = load(run)
    samples = model.sample("a sticker red", n=2, steps=2)
    assert tuple(samples.data.shape) == (2, 8, 8, 4)
    files = samples.save(tmp_path / "s")
    assert Image.open(files[0]).mode == "RGBA"
    assert Image.open(files[-1]).mode == "RGB"
    first = load_codec(run / "autoencoder").state_dict()
    assert all(torch.equal(v, model.codec.state_dict()[k]) for k, v in first.items())


def test_the_cache_holds_what_the_codec_makes_of_the_pictures_and_of_their_mirror_images(run: Path, stickers: Path) -> None:
    codec, states = load_codec(run / "autoencoder"), load_file(run / "latents.safetensors")["states"]
    data = read_pictures(stickers, PictureOptions(size=8, alpha=True), progress=False)
    pixels = torch.from_numpy(data.pictures(range(N)))
    torch.testing.assert_close(states[0].float(), codec.encode(pixels), atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(states[1].float(), codec.encode(pixels.flip(2)), atol=2e-2, rtol=1e-2)


def test_training_reads_the_same_from_the_cache_as_from_the_pictures(run: Path, stickers: Path) -> None:
    model = load(run)
    data = read_pictures(stickers, PictureOptions(size=8, alpha=True, flip=True), progress=False)
    plain = data.training(model.codec, model.conditioner)
    cached = replace(plain, states=KeptStates.of([load_file(run / "latents.safetensors")["states"]], [range(N)]))
    a, b = (t.batch(range(N), Streams.of(3, N)) for t in (plain, cached))
    torch.testing.assert_close(a["x"], b["x"], atol=2e-2, rtol=1e-2)
    assert all(torch.equal(a["cond"][k], b["cond"][k]) for k in a["cond"])


def test_codes_are_of_unit_size_over_the_training_pictures(run: Path, stickers: Path) -> None:
    codec = load_codec(run / "autoencoder")
    data = read_pictures(stickers, PictureOptions(size=8, alpha=True), progress=False)
    z = codec.encode(torch.from_numpy(data.pictures(range(N)))).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(z.mean(0), torch.zeros(z.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(0, unbiased=False), torch.ones(z.shape[1]), atol=1e-3, rtol=0)


def test_either_stage_goes_on_from_where_it_stands(run: Path, stickers: Path, tmp_path: Path) -> None:
    """A run cut off after its first stage, and one cut off before its cache was written, end like the whole one."""
    copy = tmp_path / "cut"
    shutil.copytree(run, copy)
    for place in ("checkpoints", "snapshots", "model"):  # as if nothing but the cache had been written
        shutil.rmtree(copy / place)
    resume(copy, progress=False)
    assert same(run, copy)
    for place in ("checkpoints", "model", "autoencoder/model", "autoencoder/checkpoints/step-00000003"):
        shutil.rmtree(copy / place)
    (copy / "latents.safetensors").unlink()  # in the middle of the first stage
    resume(copy, progress=False)
    assert same(run, copy)


def same(*runs: Path) -> bool:
    a, b = (load_file(run / "model" / "model.safetensors") for run in runs)
    return all(torch.equal(a[k], b[k]) for k in a)


def test_a_codec_trained_before_is_taken_as_it_is(run: Path, stickers: Path, tmp_path: Path) -> None:
    out = tmp_path / "latent"
    model = start(short(stickers, "latent", width=16, depth=1, codec=str(run / "autoencoder")), out)
    assert model.codec.hash() == load_codec(run / "autoencoder").hash()
    assert not (out / "autoencoder" / "checkpoints").exists()
    assert load_file(out / "latents.safetensors")["states"].shape[0] == 1  # no flips were asked for


@pytest.mark.parametrize(("recipe", "kind"), [("latent-unet", SDUNetConfig), ("latent-joint", SD3Config)])
def test_other_networks_on_latents(recipe: str, kind: type, run: Path, stickers: Path, tmp_path: Path) -> None:
    """Each is trained by one command, told the same, and comes back; it follows its prompt."""
    start(short(stickers, recipe, width=32, depth=1, codec=str(run / "autoencoder"), lr=1e-2), tmp_path / "run")
    model = load(tmp_path / "run")
    assert isinstance(model.config.network, kind)
    assert model.config.network.token_dim == model.conditioner(model.conditioner.prepare(["blue"]))["tokens"].shape[-1]
    one, other = (model.sample(p, seed=3, steps=2).data for p in ("a sticker blue", "sticker"))
    assert one.shape[1:] == (8, 8, 4)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("recipe", ["autoencoder-vq", "autoencoder-fsq"])
def test_quantised_codecs_train_and_come_back(recipe: str, stickers: Path, tmp_path: Path) -> None:
    codec = start(short(stickers, recipe, width=8), tmp_path / "run")
    again = load_codec(tmp_path / "run")
    x = torch.randint(0, 256, (2, 8, 8, 4), dtype=torch.uint8)
    torch.testing.assert_close(again.encode(x), codec.encode(x))
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    mean, std = again.posterior(x)  # a point
    torch.testing.assert_close(mean, again.encode(x))
    assert not std.any()
    with pytest.raises(InputError, match="trains no diffusion model"):
        average(tmp_path / "run", 0.1)


def test_all_losses_are_trained_with(stickers: Path) -> None:
    """Every term has a gradient where it should: features and adversary in the autoencoder, the penalty in the critic."""
    torch.manual_seed(0)
    losses = ReconstructionLosses(absolute=1e-6, squared=0.0, slope=0.0, features=1.0, adversarial=1.0, patch=4, critic_width=8)
    task = AutoencoderTask(tiny(), losses, PictureFeatures(4, 8, 8).eval().requires_grad_(False)).train()
    data = read_pictures(stickers, PictureOptions(size=8, alpha=True), progress=False)
    batch = data.training(tiny().build().pixels, Unconditional()).batch(range(4), Streams.of(0, 4))
    out = task(batch, Streams.of(1, 4))
    out["loss"].backward()
    for part in (task.autoencoder.out, task.autoencoder.narrow, task.critic.score):
        assert float(part.weight.grad.abs().sum()) > 0
    assert {"absolute", "features", "critic", "code", "code_rms"} <= set(out)
    assert not task.features.training


def test_codes_of_changed_pictures() -> None:
    """An autoencoder that is exactly equivariant (codes are pixels) has no loss, turned and halved or not; a shifted one has."""
    task = AutoencoderTask(tiny(), ReconstructionLosses(features=0.0, turned=1.0, halved=0.5), None)
    whole = AutoencoderTask(tiny(), ReconstructionLosses(features=0.0), None)

    class Identity(torch.nn.Module):
        bottleneck, shift = KLConfig(4).build(), 0

        def code(self, x: torch.Tensor, noise: torch.Tensor) -> Code:
            return Code(x.roll(self.shift, -1), torch.zeros(len(x)))

        def picture(self, z: torch.Tensor) -> torch.Tensor:
            return z.roll(-self.shift, -1)

    torch.manual_seed(0)
    batch = {"x": torch.rand(8, 4, 8, 8) * 2 - 1}
    task.autoencoder = whole.autoencoder = Identity()
    assert float(task(batch, Streams.of(0, 8))["loss"]) == pytest.approx(0, abs=1e-6)
    Identity.shift = 1
    assert float(whole(batch, Streams.of(0, 8))["loss"]) == pytest.approx(0, abs=1e-6)
    assert float(task(batch, Streams.of(0, 8))["loss"]) > 0.1
    ways = [turned(torch.arange(9).view(3, 3), way) for way in range(8)]
    assert len({tuple(w.flatten().tolist()) for w in ways}) == 8
    assert torch.equal(ways[0], torch.arange(9).view(3, 3))


@pytest.mark.parametrize(
    ("recipe", "options", "channels"),
    [
        ("autoencoder", {}, 4), ("autoencoder-vq", {}, 4), ("latent", {}, 4), ("latent-unet", {}, 4), ("pictures", {}, 3),
        ("latent", {"alpha": False}, 3), ("latent", {"background": "white"}, 3), ("pictures", {"alpha": True}, 4),
    ],
)  # fmt: skip
def test_transparency_is_kept_through_codes_unless_it_is_not_wanted(
    recipe: str, options: dict[str, object], channels: int, stickers: Path, tmp_path: Path
) -> None:
    """And the run, when it is read again, reads the pictures as they were; what is said of them says so."""
    planned = plan(str(stickers), Options(width=16, depth=1, **options), recipe)
    assert planned.opened.pictures.channels == channels
    assert planned.opened.account().startswith(
        f"16 pictures (png) in {stickers}, all with transparency, which is "
        + ("kept" if channels == 4 else f"laid over {options.get('background', 'white')}")
    )
    save_run(planned.run, tmp_path, planned.opened.fingerprint())
    run, fingerprint = load_run(tmp_path)
    assert run.data.open(progress=False).fingerprint() == fingerprint


@pytest.mark.parametrize(("alpha", "channels"), [(None, 3), (True, 4), (False, 3)])
def test_an_alpha_channel_that_is_opaque_is_none_unless_it_is_asked_for(
    alpha: bool | None, channels: int, stickers: Path, tmp_path: Path
) -> None:
    """The same pictures as those that are written without one."""
    for i, file in enumerate(sorted(stickers.glob("*.png"))):
        picture = Image.open(file).convert("RGB")
        for name, mode in (("rgb", "RGB"), ("rgba", "RGBA")):
            (tmp_path / name).mkdir(exist_ok=True)
            picture.convert(mode).save(tmp_path / name / f"{i}.png")
    opened, plain = (plan(str(tmp_path / n), Options(width=16, depth=1, alpha=alpha), "latent").opened for n in ("rgba", "rgb"))
    assert opened.pictures.channels == channels
    every = range(len(plain.pictures))
    assert np.array_equal(opened.pictures.pictures(every)[..., :3], plain.pictures.pictures(every))


def test_a_codec_says_whether_transparency_is_kept(run: Path, stickers: Path, tmp_path: Path) -> None:
    given = Options(size=8, width=16, depth=1)
    assert plan(str(stickers), replace(given, codec=str(run / "autoencoder")), "latent").opened.pictures.channels == 4
    save_codec(tiny(3).build(), tmp_path / "opaque", "# A codec\n")
    assert plan(str(stickers), replace(given, codec=str(tmp_path / "opaque")), "latent").opened.pictures.channels == 3
    assert plan("scenes", Options(size=32), "autoencoder").opened.pictures.channels == 3
    with pytest.raises(InputError, match="stickers are transparent"):
        plan(f"stickers:{stickers}", Options(alpha=False))


@pytest.mark.parametrize(("argv", "alpha"), [([], None), (["--alpha"], True), (["--no-alpha"], False)])
def test_the_option_has_three_values(argv: list[str], alpha: bool | None) -> None:
    assert parse(Train, ["data", *argv], "unnoise train").alpha is alpha


@pytest.mark.parametrize(("n", "features"), [(49, 0.0), (50, 0.1)])
def test_features_are_learnt_of_fifty_pictures_and_compared(n: int, features: float, tmp_path: Path, capsys) -> None:
    """With fewer a run trains without them, and says so; asked for all the same, they are refused with what would help."""
    (tmp_path / "set").mkdir()
    for i in range(n):
        Image.new("RGB", (8, 8), (5 * i, 0, 255 - 5 * i)).save(tmp_path / "set" / f"{i}.png")
    given = Options(steps=1, batch=4, width=16, depth=1)
    planned = plan(str(tmp_path / "set"), given, "autoencoder")
    assert planned.run.losses.features == features
    assert plan(str(tmp_path / "set"), given, "latent").run.first.losses.features == features
    if not features:
        assert start(planned, tmp_path / "run").shape()[1:] == (4, 4)
        assert "Fewer than 50 pictures: they are compared without learnt features" in capsys.readouterr().out
        asked = replace(planned, run=replace(planned.run, losses=ReconstructionLosses()))
        with pytest.raises(InputError, match=r"49 pictures are too few .* weight of 0 \(losses.features\)"):
            start(asked, tmp_path / "asked")


def test_an_odd_number_of_codes_is_halved_without_the_last() -> None:
    """Codes that are means of 4 x 4 pixels have no loss on pictures of squares of 8 x 8, halved, where 12 pixels make 3 codes."""
    task = AutoencoderTask(tiny(size=12), ReconstructionLosses(features=0.0, halved=0.5), None)

    class Means(torch.nn.Module):
        bottleneck = KLConfig(4).build()

        def code(self, x: torch.Tensor, noise: torch.Tensor) -> Code:
            return Code(torch.nn.functional.avg_pool2d(x, 4), torch.zeros(len(x)))

        def picture(self, z: torch.Tensor) -> torch.Tensor:
            return z.repeat_interleave(4, -1).repeat_interleave(4, -2)

    task.autoencoder = Means()
    torch.manual_seed(0)
    x = (torch.rand(4, 4, 2, 2) * 2 - 1).repeat_interleave(8, -1).repeat_interleave(8, -2)[..., :12, :12]
    assert float(task({"x": x}, Streams.of(0, 4))["loss"]) == pytest.approx(0, abs=1e-6)


def test_transparent_pictures_are_compared_over_a_background() -> None:
    """An invisible pixel's colour is nothing; the same error in opacity shows over any ground but the one of its own colour."""
    x = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])[..., None, None]  # nothing there
    y = torch.tensor([[-1.0, -1.0, -1.0, 1.0]])[..., None, None]  # black
    for ground in (0.0, 0.3, 1.0):
        g = torch.full((1, 3), ground)
        torch.testing.assert_close(_shown(x, g)[0, :3].flatten(), torch.full((3,), 2 * ground - 1))
        torch.testing.assert_close(_shown(y, g)[0, :3].flatten(), torch.full((3,), -1.0))


def test_the_feature_distance_is_its_formula() -> None:
    torch.manual_seed(0)
    network = PictureFeatures(3, 16, 16).eval()
    x, y = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    expected = []
    for a, b in zip(network.maps(x), network.maps(y)):
        a, b = a.detach().numpy().astype(np.float64), b.detach().numpy().astype(np.float64)
        u, v = (f / np.maximum(np.sqrt((f**2).sum(1, keepdims=True)), 1e-12) for f in (a, b))
        expected.append(((u - v) ** 2).sum(1).mean((1, 2)))
    np.testing.assert_allclose(feature_distance(network, x, y).detach().numpy(), np.mean(expected, 0), rtol=1e-4)
    torch.testing.assert_close(network.gather(network.maps(x)[-1].flatten(1)), network(x))


def test_psnr_is_its_formula(stickers: Path) -> None:
    data = read_pictures(stickers, PictureOptions(size=8), progress=False)
    torch.manual_seed(0)
    codec = tiny(3).build().eval()
    x = torch.from_numpy(data.pictures(range(N)))
    error = (codec.decode(codec.encode(x)).double() - x.double()).square().mean()
    assert psnr(codec, data) == pytest.approx(10 * math.log10(255**2 / float(error)), rel=1e-4)


def test_latents_of_another_codec_or_other_pictures_are_refused(stickers: Path, tmp_path: Path) -> None:
    data = read_pictures(stickers, PictureOptions(size=8, alpha=True), progress=False)
    torch.manual_seed(0)
    one, other = tiny().build().eval(), tiny().build().eval()
    file = tmp_path / "latents.safetensors"
    made, read = (cached_latents(one, data, "a", file, progress=False) for _ in range(2))
    assert torch.equal(made(range(N), torch.zeros(N, dtype=torch.bool)), read(range(N), torch.zeros(N, dtype=torch.bool)))
    with pytest.raises(InputError, match=f"made by codec {one.hash()[:16]}, and this run's are {other.hash()[:16]}"):
        cached_latents(other, data, "a", file, progress=False)
    with pytest.raises(InputError, match="made of pictures"):
        cached_latents(one, data.take(range(4)), "a", file, progress=False)
    with pytest.raises(InputError, match="made of pictures"):
        cached_latents(one, data, "b", file, progress=False)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="remove it"):
        cached_latents(one, data, "a", file, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8, "alpha": False}, "for pictures of colour and transparency (--alpha), and these have colour"),
        ({"size": 12, "alpha": True}, "for 8 x 8 pixels, and these pictures have 12 x 12: read them with --size 8"),
    ],
)
def test_codecs_for_other_pictures_are_refused(options: dict, message: str, run: Path, stickers: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        plan(str(stickers), Options(codec=str(run / "autoencoder"), **options), "latent")


def test_folders_that_are_no_codec_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_codec(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"a model\.ModelConfig, and no codec"):
        load_codec(run / "model")
    with pytest.raises(InputError, match="no diffusion model, but an autoencoder's codec"):
        load(run / "autoencoder")
    shutil.copytree(run / "autoencoder" / "model", tmp_path / "edited")
    config = json.loads((tmp_path / "edited" / "config.json").read_text())
    for widths, message in (([16], "has shape"), ([8, 16], r"AutoencoderConfig: 2 widths and 1 numbers of blocks")):
        config["model"]["autoencoder"]["widths"] = widths
        (tmp_path / "edited" / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=message):
            load_codec(tmp_path / "edited")


def test_a_codec_that_changed_since_the_plan_is_refused(run: Path, stickers: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "autoencoder" / "model", tmp_path / "codec")
    planned = short(stickers, "latent", width=16, depth=1, codec=str(tmp_path / "codec"))
    torch.manual_seed(1)
    save_codec(tiny().build(), tmp_path / "codec", "another")
    with pytest.raises(InputError, match="this run was planned with"):
        start(planned, tmp_path / "out")


def test_averages_of_a_latent_model_keep_its_codec(run: Path) -> None:
    assert average(run, 0.1).codec.hash() == load_codec(run / "autoencoder").hash()


def test_codecs_learn_from_pixels_features_and_an_adversary_unless_told_otherwise() -> None:
    losses = example_run("autoencoder").losses
    assert min(losses.absolute, losses.squared, losses.slope, losses.features, losses.adversarial) > 0
