"""Models sampled in whole numbers of eight bits: in Python, from the command line, and what does not go with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from safetensors.torch import save_file
from tiny import tiny_config, wide_model

import unnoise
from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.networks.int8 import Int8Linear, available

pytestmark = pytest.mark.skipif(not available(), reason="this processor has neither VNNI nor AMX")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "wide"
    wide_model().save(path)
    return path


def pictures(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(f)) for f in sorted(folder.glob("0*.png"))]).astype(int)


def test_it_draws_nearly_the_usual_pictures_with_every_layer_in_place() -> None:
    model = wide_model()
    usual = model.sample(["one", "two"], seed=3)
    assert model.to_int8() is model
    inside = [m for m in model.denoiser.modules() if isinstance(m, Int8Linear)]
    assert len(inside) == 2 * 4  # queries, keys and values; their way out; both of the feed-forward layer; words stay narrow
    made = model.to_int8().sample(["one", "two"], seed=3)
    off = np.abs(np.asarray(made.data, int) - np.asarray(usual.data, int))
    assert 0 < off.mean() < 4
    assert made.settings["int8"] is True
    assert made.settings["model_hash"] == usual.settings["model_hash"]  # it is the same model
    assert usual.settings["int8"] is None


def test_a_sample_comes_out_the_same_in_any_company() -> None:
    model = wide_model().to_int8()
    together, alone = model.sample(["one", "two"], sample_seeds=[4, 5]), model.sample(["two"], sample_seeds=[5])
    assert int((together.data[1:].int() - alone.data.int()).abs().max()) <= 1


def test_the_command_line_draws_what_python_does_and_the_picture_says_how(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sample", str(folder), "one", "-n", "2", "--seed", "6", "--int8", "--out", str(tmp_path / "made")])
    expected = unnoise.load(folder).to_int8().sample(["one"], n=2, seed=6, bf16=True)
    assert np.array_equal(pictures(tmp_path / "made"), np.asarray(expected.data, int)[..., 0])
    main(["info", str(sorted((tmp_path / "made").glob("0*.png"))[0])])
    assert "--bf16 --int8" in capsys.readouterr().out


@pytest.mark.parametrize("beside", [["--exact"], ["--budget", "10s"], ["--error", "0.1"]])
def test_what_it_does_not_go_with_is_refused_on_the_command_line(
    beside: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["sample", str(folder), "one", "--int8", *beside, "--out", str(tmp_path / "made")], capsys)
    assert "int8" in said
    assert beside[0].strip("-") in said
    assert not (tmp_path / "made").exists()


def test_weights_that_are_gone_are_not_saved_moved_or_sampled_exactly(tmp_path: Path) -> None:
    model = wide_model().to_int8()
    for what in (
        lambda: model.save(tmp_path / "m"),
        lambda: model.export(tmp_path / "m"),
        lambda: model.to("cuda"),
        lambda: model.sample(exact=True),
    ):
        with pytest.raises(InputError, match="in int8"):
            what()
    assert model.to("cpu") is model
    assert not (tmp_path / "m").exists()


def test_models_of_the_same_weights_keep_their_name() -> None:
    model = wide_model()
    name, other = model.hash(), model.attached()
    assert other.to_int8().in_int8
    assert model.in_int8
    assert model.hash() == other.hash() == name


def test_narrow_networks_and_other_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="128 channels"):
        tiny_config().build().to_int8()
    monkeypatch.setattr("unnoise.networks.int8.available", lambda: False)
    with pytest.raises(InputError, match="VNNI"):
        wide_model().to_int8()


def test_an_open_checkpoint_with_a_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beside the weights is merged into them; afterwards there is nothing to hang one on."""
    pytest.importorskip("diffusers", reason="it saves the checkpoint")
    import checkpoints.foreign_pipelines as tiny

    monkeypatch.setattr("unnoise.networks.int8.LEAST", 8)
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    folder, file, rng = tiny.save(pipeline, tmp_path / "model"), tmp_path / "lora.safetensors", torch.Generator().manual_seed(1)
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2"
    pair = {"down": torch.randn(2, 32, generator=rng), "up": 10 * torch.randn(8, 2, generator=rng)}
    save_file({f"{layer}.lora_{k}.weight": v for k, v in pair.items()}, file)

    usual, model = unnoise.load(folder, torch.bfloat16), unnoise.load(folder, torch.bfloat16)
    plain = usual.sample("a", seed=3, steps=3)
    low_rank(usual, {file: 1.0})
    expected = usual.sample("a", seed=3, steps=3)
    adapted = low_rank(model, {file: 1.0})
    made = model.to_int8().sample("a", seed=3, steps=3)
    with pytest.raises(InputError, match="merged for good"):
        adapted.unmerge()
    off, change = (np.abs(np.asarray(a.data, int) - np.asarray(expected.data, int)).mean() for a in (made, plain))
    assert 0 < off < change / 3
    with pytest.raises(InputError, match="int8"):
        low_rank(model, {file: 1.0})
    argv = ["sample", str(folder), "a", "-n", "1", "--seed", "3", "--steps", "3", "--int8", "--lora", str(file)]
    main([*argv, "--out", str(tmp_path / "o")])
    assert np.array_equal(pictures(tmp_path / "o"), np.asarray(made.data, int))
