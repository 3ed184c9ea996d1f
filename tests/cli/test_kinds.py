"""Folders of weights that are no diffusion models say what they are, wherever they are given."""

from pathlib import Path

import pytest
import torch
from command_line import refused

from unnoise.checkpoints.codec import save_codec
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.evaluation.retrieval import RetrievalConfig, load_retrieval, save_retrieval
from unnoise.loading import load
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.modalities.words.distilled import NOTHING, PADDING, DistilledConfig
from unnoise.modalities.words.pieces import UNKNOWN
from unnoise.networks.autoencoder import AutoencoderConfig
from unnoise.networks.bottlenecks import KLConfig
from unnoise.networks.contrastive import ContrastiveConfig, PictureTowerConfig
from unnoise.networks.text import TextEncoderConfig
from unnoise.networks.word_encoder import WordEncoderConfig
from unnoise.recipes.text_encoders import save_distilled


@pytest.fixture(params=["an autoencoder's codec", "a retrieval network", "a text encoder"])
def others(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    torch.manual_seed(0)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    if "codec" in request.param:
        save_codec(LatentsConfig(8, 8, 3, AutoencoderConfig(3, KLConfig(2), 2, (8, 8), (1, 1))).build(), run / "model", "# A codec")
    elif "text" in request.param:
        pieces = "\n".join([PADDING, NOTHING, UNKNOWN, "a"])
        save_distilled(run / "model", DistilledConfig(WordEncoderConfig(4, 12, rank=8, width=12, depth=1, heads=1), pieces).build())
    else:
        network = ContrastiveConfig(PictureTowerConfig(16, 16, 3, features=8), TextEncoderConfig(width=16, depth=1, heads=1))
        save_retrieval(run / "model", RetrievalConfig(network, "2 pictures"), network.build())
    return request.param, run


def test_info_tells_what_a_finished_run_is_for(others: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    called, run = others
    option = {"codec": "--codec", "network": "--embedder", "encoder": "--text-encoder"}[called.split()[-1]]
    for place in (run, run / "model"):
        main(["info", str(place)])
        said = capsys.readouterr().out
        assert said.startswith(f"{place}: {called}; for ")
        assert f"{option} {place}`" in said


def test_they_are_refused_by_name_where_others_belong(others: tuple[str, Path]) -> None:
    called, run = others
    with pytest.raises(InputError, match=f"no diffusion model, but {called}; for `unnoise"):
        load(run)
    if "retrieval" in called:
        load_retrieval(run)
    else:
        with pytest.raises(InputError, match=f"no retrieval network .*, but {called}; for `unnoise"):
            load_retrieval(run)


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist; give a PNG or csv that unnoise wrote, or the folder" in refused(["info", str(tmp_path / "no")], capsys)
