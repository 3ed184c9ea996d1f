"""A folder that diffusers saved, with LoRA files and a learnt word on it: diffusers' picture, in Python and by the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import unnoise
from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.checkpoints.foreign.textual_inversion import textual_inversion
from unnoise.cli.main import main
from unnoise.core.random import Streams
from unnoise.core.state import State

pytest.importorskip("peft", reason="diffusers applies LoRA files through PEFT")
diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402

PROMPT, SEEDS = "a <toy> red", (5, 6)


def lora(network: nn.Module, prefix: str, ends: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    """In kohya's naming."""
    rng, out = torch.Generator().manual_seed(seed), {}
    for name, layer in network.named_modules():
        if name.endswith(ends) and isinstance(layer, nn.Linear):
            flat = prefix + name.replace(".", "_")
            out[f"{flat}.lora_down.weight"] = torch.randn(2, layer.in_features, generator=rng) / layer.in_features**0.5
            out[f"{flat}.lora_up.weight"] = torch.randn(layer.out_features, 2, generator=rng) / 2
            out[f"{flat}.alpha"] = torch.tensor(1.0)
    return out


def convolutions(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Of the residual blocks, in kohya's naming: k x k down, 1 x 1 up."""
    rng, out = torch.Generator().manual_seed(seed), {}
    for name, layer in network.named_modules():
        if ".resnets." in name and isinstance(layer, nn.Conv2d):
            flat, inputs = "lora_unet_" + name.replace(".", "_"), layer.in_channels * layer.kernel_size[0] ** 2
            out[f"{flat}.lora_down.weight"] = torch.randn(2, *layer.weight.shape[1:], generator=rng) / inputs**0.5
            out[f"{flat}.lora_up.weight"] = torch.randn(layer.out_channels, 2, 1, 1, generator=rng) / 2
            out[f"{flat}.alpha"] = torch.tensor(1.0)
    return out


def test_the_picture_is_diffusers_and_the_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    folder = tiny.save(pipeline, tmp_path / "model")
    both = lora(pipeline.unet, "lora_unet_", ("to_q", "to_v", "net.2"), 1)
    both |= lora(pipeline.text_encoder, "lora_te_text_model_", ("1.mlp.fc1", "1.self_attn.q_proj", "1.self_attn.out_proj"), 2)
    # without out_proj, which kohya's files always have, diffusers would drop q_proj
    save_file(both, tmp_path / "both.safetensors")
    save_file(lora(pipeline.unet, "lora_unet_", ("attn2.to_k",), 3), tmp_path / "net.safetensors")
    toy = {"<toy>": torch.randn(2, 16, generator=torch.Generator().manual_seed(4)) * 10}
    save_file(toy, tmp_path / "toy.safetensors")

    model = unnoise.load(folder)
    plain = model.sample(PROMPT, n=2, sample_seeds=SEEDS, steps=3).data
    textual_inversion(model, tmp_path / "toy.safetensors")
    adapted = low_rank(model, {tmp_path / "both.safetensors": (0.7, 0.4), tmp_path / "net.safetensors": -0.5})
    states: list[State] = []
    made = model.sample(PROMPT, n=2, sample_seeds=SEEDS, steps=3, watch=lambda i, n, x: states.append(x))
    adapted.merge()
    model.sample(PROMPT, n=2, sample_seeds=SEEDS, steps=3, watch=lambda i, n, x: states.append(x))

    pipeline.load_textual_inversion(dict(toy))
    pipeline.load_lora_weights(tmp_path / "both.safetensors", adapter_name="both")
    pipeline.load_lora_weights(tmp_path / "net.safetensors", adapter_name="net")
    pipeline.set_adapters(["both", "net"], [{"unet": 0.7, "text_encoder": 0.4}, -0.5])
    shape = model.codec.shape()
    assert isinstance(shape, tuple)
    start, guidance = Streams.each(SEEDS).normal("prior", shape), model.config.sampling.guidance
    expected = pipeline([PROMPT] * 2, latents=start, output_type="latent", num_inference_steps=3, guidance_scale=guidance).images
    for state in (states[2], states[5]):  # beside the weights, and merged
        assert isinstance(state, Tensor)
        assert float((state - expected).abs().max() / expected.std()) < 1e-3
    assert (made.data != plain).float().mean() > 0.3

    out, loras = tmp_path / "out", [f"{tmp_path}/both.safetensors:0.7:0.4", f"{tmp_path}/net.safetensors:-0.5"]
    more = ["--lora", loras[0], "--lora", loras[1], "--embedding", str(tmp_path / "toy.safetensors"), "--steps", "3"]
    main(["sample", str(folder), PROMPT, "--sample-seeds", "5", "6", "--out", str(out), *more])
    pictures = [torch.tensor(np.asarray(Image.open(f))) for f in sorted(out.glob("*.png")) if "sheet" not in f.name]
    assert torch.equal(torch.stack(pictures), made.data)
    capsys.readouterr()
    main(["info", str(sorted(out.glob("*.png"))[0])])
    assert "both.safetensors:0.7:0.4" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sample", str(folder), PROMPT, "--lora", "missing.safetensors", "--out", str(tmp_path / "no")])
    assert "missing.safetensors: no such file" in capsys.readouterr().err
    twice = ["--lora", loras[1], "--lora", f"{tmp_path}/net.safetensors:0.3"]
    said = refused(["sample", str(folder), PROMPT, *twice, "--out", str(tmp_path / "no")], capsys)
    assert said.endswith("net.safetensors: given twice, with weights -0.5 and 0.3; give it once, with the weight it is to have")


def test_a_lora_of_lcm_with_its_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lcm-lora-sdv1-5: kohya's naming, of every linear layer of the U-Net, the embedding's and convolutions too; the sampler is
    asked for, 4 steps without guidance. Their scheduler is given the noise that ours draws."""
    pipeline = tiny.stable_diffusion(tmp_path / "parts")
    folder = tiny.save(pipeline, tmp_path / "model")
    ends = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "linear_1", "linear_2", "time_emb_proj")
    save_file(lora(pipeline.unet, "lora_unet_", ends, 1) | convolutions(pipeline.unet, 2), tmp_path / "lcm.safetensors")
    model = unnoise.load(folder)
    low_rank(model, {tmp_path / "lcm.safetensors": 1.0})
    states: list[State] = []
    how = {"n": 2, "sample_seeds": SEEDS, "steps": 4, "guidance": 1.0, "sampler": "lcm"}
    model.sample("a red cat", **how, watch=lambda i, n, x: states.append(x))

    shape, streams = model.codec.shape(), Streams.each(SEEDS)
    assert isinstance(shape, tuple)
    pipeline.register_modules(scheduler=diffusers.LCMScheduler.from_config(pipeline.scheduler.config))
    drawn = iter([streams.scoped("sampler").at(i).normal("lcm", shape) for i in range(4)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *args, **kwargs: next(drawn))
    start = streams.normal("prior", shape)
    told = {"latents": start, "output_type": "latent", "num_inference_steps": 4, "guidance_scale": 1.0}
    plain = pipeline(["a red cat"] * 2, **told).images
    pipeline.load_lora_weights(tmp_path / "lcm.safetensors")
    drawn = iter([streams.scoped("sampler").at(i).normal("lcm", shape) for i in range(4)])
    expected = pipeline(["a red cat"] * 2, **told).images
    assert float((plain - expected).abs().max() / expected.std()) > 0.1
    assert isinstance(states[-1], Tensor)
    assert float((states[-1] - expected).abs().max() / expected.std()) < 1e-3
