"""The prior against the exact posterior of a mixture of Gaussians; prior and decoder trained and sampled as one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.optim import Adam

from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.processes.gaussian import mean
from unnoise.core.random import Streams
from unnoise.core.state import Batch
from unnoise.core.weights import DataWeight
from unnoise.loading import load
from unnoise.modalities.conditioning import LabelsConfig
from unnoise.modalities.image.data import InMemory, PictureData
from unnoise.recipes.cascade import Cascade
from unnoise.recipes.evaluate import evaluate
from unnoise.recipes.options import Options
from unnoise.recipes.run import Preview, preview_samples
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.recipes.train import train
from unnoise.recipes.unclip import unclip_prior


def test_the_prior_learns_a_mixture_of_gaussians() -> None:
    """u | word c ~ N(m_c, s^2): the best answer is E[u | u_t, c] = m_c + a s^2 (u_t - a m_c) / (a^2 s^2 + sigma^2)."""
    dim, s, words = 4, 0.3, ("red", "green", "blue")
    pixels = InMemory(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8))
    data = PictureData(pixels, 8, 8, 1, tuple("abcdef"), tuple((w,) for w in words * 2), None, (), ())
    config = unclip_prior(OpenPictures(data), PictureSource("x"), Options(width=32, depth=2)).model
    told = LabelsConfig(words, 16)
    network = replace(config.network, features=dim, vector_dim=16, token_dim=0)
    torch.manual_seed(0)
    model = replace(config, network=network, conditioner=told).build()
    means = torch.randn(3, dim)
    draw = torch.Generator().manual_seed(1)
    parameters = [*model.denoiser.parameters(), *model.conditioner.parameters()]
    optimiser, objective = Adam(parameters, 3e-3), Denoising(SquaredError(DataWeight()))
    for k in range(400):
        c = torch.randint(3, (128,), generator=draw)
        u = means[c] + s * torch.randn(128, dim, generator=draw)
        loss = objective(model.denoiser, Batch(u[:, None], model.conditioner({"ids": c})), Streams.of(k, 128))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if k == 300:
            optimiser.param_groups[0]["lr"] = 3e-4
    c = torch.randint(3, (2000,), generator=draw)
    u = means[c] + s * torch.randn(2000, dim, generator=draw)
    schedule = model.config.process.schedule
    for t in (0.2, 0.5, 0.9):
        times = torch.full((2000,), t, dtype=torch.float64)
        a, sigma = float(schedule.alpha(times[:1])), float(schedule.sigma(times[:1]))
        x = a * u + sigma * torch.randn(2000, dim, generator=draw)
        with torch.no_grad():
            said = mean(model.denoiser(x[:, None], times, model.conditioner({"ids": c})))[:, 0]
        best = means[c] + a * s**2 * (x - a * means[c]) / (a**2 * s**2 + sigma**2)
        assert float((said - best).square().mean()) < 0.05 * float(means.var(0, correction=0).mean())  # of what words tell
        assert float((said - u).square().mean()) < 1.25 * float((best - u).square().mean())


COLOURS = {"red": (230, 20, 20), "blue (dark": (20, 20, 230)}  # a bracket of a name is no weight


def test_prior_and_decoder_share_an_embedder_and_are_sampled_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for i in range(40):
        name = list(COLOURS)[i % 2]
        x = np.full((8, 8, 3), 255, dtype=np.uint8)
        a, b = rng.integers(0, 4, 2)
        x[a : a + 4, b : b + 4] = COLOURS[name]
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(tmp_path / "set" / name / f"{i}.png")
    small = {"steps": 2, "batch": 8, "width": 32, "depth": 1}
    first = train(tmp_path / "set", tmp_path / "embedder", recipe="retrieval", **{**small, "depth": None})
    prior = train(tmp_path / "set", tmp_path / "prior", recipe="unclip-prior", embedder=str(tmp_path / "embedder"), **small)
    decoder = train(tmp_path / "set", tmp_path / "decoder", recipe="unclip-decoder", embedder=str(tmp_path / "embedder"), **small)
    picture = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for model in (prior.codec, decoder.conditioner, load(tmp_path / "decoder").conditioner):
        torch.testing.assert_close(model.look(picture), first.pictures(picture))
    made = Cascade((prior, decoder)).sample(["red", None], 2, seed=1)
    assert made.data.shape == (4, 8, 8, 3)
    alone = Cascade((prior, decoder)).sample("red", sample_seeds=made.seeds[1:2])
    assert int((alone.data[0].int() - made.data[1].int()).abs().max()) <= 1
    weighted = Cascade((prior, decoder)).sample("(red:1.5) [red::0.4]", sample_seeds=made.seeds[1:2])  # read by both
    assert weighted.settings["then"] == [decoder.path or decoder.config.about.name]
    main(["sample", str(tmp_path / "prior"), "red", "-n", "2", "--steps", "2", "--seed", "7", "--out", str(tmp_path / "made")])
    capsys.readouterr()
    main(["info", str(tmp_path / "made" / "embeddings.safetensors")])
    again = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("unnoise sample")).split()
    main([*again[1:-1], str(tmp_path / "again")])
    first, twin = (load_file(tmp_path / name / "embeddings.safetensors")["embeddings"] for name in ("made", "again"))
    torch.testing.assert_close(twin, first[: len(twin)])
    with pytest.raises(InputError, match=r"a prior makes embeddings, no pictures; draw with .* --then DECODER"):
        evaluate(tmp_path / "prior", tmp_path / "set", tmp_path / "report")
    assert not (tmp_path / "report").exists()
    opened = PictureSource(str(tmp_path / "set")).open(progress=False)
    assert preview_samples(decoder, Preview(n=2), opened).data.shape == (2, 8, 8, 3)
