"""recall@1 against enumeration of every choice of names; the section on pictures and texts whose agreement is known."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, normalize

from unnoise.core.errors import InputError
from unnoise.evaluation.retrieval import (
    Retrieval,
    RetrievalConfig,
    agreement_section,
    load_retrieval,
    recall_at_1,
    save_retrieval,
)  # fmt: skip
from unnoise.modalities.image.embeddings import seen
from unnoise.modalities.image.measure import Pictures
from unnoise.networks.contrastive import ContrastiveConfig, PictureTowerConfig
from unnoise.networks.text import TextEncoderConfig

TOWER = PictureTowerConfig(8, 8, 3, dim=8, features=16)
CONFIG = RetrievalConfig(ContrastiveConfig(TOWER, TextEncoderConfig(24, 16, 1, 2, buckets=64)), "a test", {"recall": 0.5})


@pytest.mark.parametrize("among", [2, 4, 7])
def test_recall_is_the_mean_over_all_choices_of_the_wrong_names(among: int) -> None:
    torch.manual_seed(0)
    pictures, texts = (normalize(torch.randn(n, 3), dim=-1) for n in (12, 7))
    right = torch.randint(0, 7, (12,))
    got = recall_at_1(pictures, texts, right, among)
    scores = (pictures.double() @ texts.double().T).tolist()
    for i in range(12):
        r = int(right[i])
        choices = list(combinations([j for j in range(7) if j != r], among - 1))
        wins = sum(all(scores[i][j] < scores[i][r] for j in choice) for choice in choices)
        assert float(got[i]) == pytest.approx(wins / len(choices), abs=1e-12)


def test_a_tie_is_a_mistake_and_few_names_are_all_there() -> None:
    same = torch.ones(4, 2)
    assert recall_at_1(same[:1], same, torch.tensor([1]), 100).tolist() == [0.0]
    best = torch.eye(3)
    assert recall_at_1(best, best, torch.arange(3), 100).tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(InputError, match="at least 2"):
        recall_at_1(best[:1], best[:1], torch.tensor([0]))


def test_pictures_are_seen_over_white_and_at_the_towers_size() -> None:
    torch.manual_seed(1)
    rgba = torch.randint(0, 256, (3, 8, 8, 4), dtype=torch.uint8)
    x = rgba.double() / 255
    white = x[..., :3] * x[..., 3:] + (1 - x[..., 3:])
    torch.testing.assert_close(seen(rgba, TOWER), (2 * white - 1).permute(0, 3, 1, 2).float())
    grey = torch.randint(0, 256, (2, 16, 16, 1), dtype=torch.uint8)
    small = interpolate(grey.permute(0, 3, 1, 2).float() / 127.5 - 1, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen(grey, TOWER), small.expand(-1, 3, -1, -1))


def test_saved_loaded_and_refused_when_edited(tmp_path: Path) -> None:
    network = CONFIG.network.build().eval()
    save_retrieval(tmp_path / "net", CONFIG, network)
    found = load_retrieval(tmp_path / "net")
    assert found.config == CONFIG
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    torch.testing.assert_close(found.pictures(pixels), network.picture(seen(torch.from_numpy(pixels), TOWER)).detach())
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    config["model"]["network"]["picture"]["dim"] = 4
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not the weights of its config"):
        load_retrieval(tmp_path / "net")
    with pytest.raises(InputError, match="no such file"):
        load_retrieval(tmp_path)


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


class Told(Retrieval):
    """Reads and sees colours."""

    def pictures(self, pixels, progress=False):
        return normalize(torch.as_tensor(np.asarray(pixels)).float().mean((1, 2)) / 127.5 - 1, dim=-1)

    def texts(self, texts):
        return normalize(torch.tensor([COLOURS[t] for t in texts]).float() / 127.5 - 1, dim=-1)


def painted(names: list[str]) -> Pictures:
    return Pictures.of(np.stack([np.full((8, 8, 3), COLOURS[n], dtype=np.uint8) for n in names]))


class Painter:
    """Makes what it is asked for, but blue for green."""

    name = "painter"

    def make(self, prompts, seed, guidance=None):
        return painted(["blue" if p == "green" else p for p in prompts])


def test_the_section_says_what_was_made_right_beside_real_rows() -> None:
    names = ["red", "green", "blue", "black"]
    told = names * 5
    judge = Told(replace(CONFIG), CONFIG.network.build(), "0" * 16)
    section = agreement_section(Painter(), judge, painted(told), [*told[:-1], None], names, n=40)
    made, real = section.measures
    assert made.name == "recall@1 among 4"
    assert made.value == pytest.approx(1 - sum(t == "green" for t in told[:-1]) / 19, abs=0.03)  # asked for evenly
    assert made.floor == real.value == 1.0
    with pytest.raises(InputError, match="fewer than two"):
        agreement_section(Painter(), judge, painted(told), [None] * 20, names)
