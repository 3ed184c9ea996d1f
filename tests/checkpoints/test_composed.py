"""Adapters of all kinds at once, beside pipelines of diffusers' that have them too: the same picture, the command's as well."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.adapters import controlnet, picture_prompt
from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.checkpoints.foreign.textual_inversion import textual_inversion
from unnoise.cli.main import main

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_adapters import HINT, PICTURES, SHOWN, UNET, ip_adapter, saved  # noqa: E402
from checkpoints.test_foreign_pictures import SEEDS, noise  # noqa: E402
from checkpoints.test_lora_pictures import lora  # noqa: E402

PROMPT = "a <toy> in (heavy:1.0) rain"
CONTROLLED = {"sd": "StableDiffusionControlNetPipeline", "xl": "StableDiffusionXLControlNetPipeline"}


def control_net(unet: Any, folder: Path) -> Any:
    more = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim", "use_linear_projection")
    names = (*UNET, "attention_head_dim", "transformer_layers_per_block", *more)
    network = diffusers.ControlNetModel(**{name: unet.config[name] for name in names}, **HINT)
    saved(network, folder)
    return network


def adapters(plain: Any, kind: str, folder: Path) -> tuple[Path, Path, Path, dict[str, Tensor]]:
    """Of LoRAs one of the U-Net and a text encoder; of an IP-Adapter one that sees the encoder's tokens; a learnt word."""
    tensors = lora(plain.unet, "lora_unet_", ("to_q", "to_v", "net.2"), 1)
    words = ("1.mlp.fc1", "1.self_attn.q_proj", "1.self_attn.out_proj")
    tensors |= lora(plain.text_encoder, "lora_te1_text_model_" if kind == "xl" else "lora_te_text_model_", words, 2)
    save_file(tensors, folder / "style.safetensors")
    word = {"clip_l": 10 * torch.randn(2, 16, generator=torch.Generator().manual_seed(4))}
    if kind == "xl":
        word["clip_g"] = 10 * torch.randn(2, 24, generator=torch.Generator().manual_seed(5))
    save_file(word if kind == "xl" else {"<toy>": word["clip_l"]}, folder / "<toy>.safetensors")
    return folder / "style.safetensors", folder / "<toy>.safetensors", ip_adapter(plain.unet, folder), word


@pytest.mark.parametrize("kind", CONTROLLED)
def test_all_at_once(kind: str, tmp_path: Path) -> None:
    plain = tiny.sdxl(tmp_path / "parts") if kind == "xl" else tiny.stable_diffusion(tmp_path / "parts")
    folder = tiny.save(plain, tmp_path / "model")
    net = control_net(plain.unet, tmp_path / "edges")
    style, toy, ip, word = adapters(plain, kind, tmp_path)

    model = unnoise.load(folder)
    textual_inversion(model, toy)
    low_rank(model, {style: (0.7, 0.4)})
    attached = model.attached(controlnet(tmp_path / "edges", PICTURES[0], 0.8), picture_prompt(ip, PICTURES[1:], scale=0.6))
    states: list[Tensor] = []
    how = {"steps": 3, "guidance": 4.0}
    made = attached.sample(PROMPT, n=2, sample_seeds=SEEDS, watch=lambda i, n, x: states.append(x), **how)

    parts = {**plain.components, "unet": copy.deepcopy(plain.unet), "controlnet": net}
    pipeline = getattr(diffusers, CONTROLLED[kind])(**parts, **({} if kind == "xl" else {"requires_safety_checker": False}))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion({"<toy>": word["clip_l"]}, tokenizer=pipeline.tokenizer, text_encoder=pipeline.text_encoder)
    if kind == "xl":
        encoder = {"tokenizer": pipeline.tokenizer_2, "text_encoder": pipeline.text_encoder_2}
        pipeline.load_textual_inversion({"<toy>": word["clip_g"]}, **encoder)
    pipeline.load_lora_weights(style, adapter_name="style")
    pipeline.set_adapters(["style"], [{"unet": 0.7, "text_encoder": 0.4}])
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name=ip.name, low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(0.6)
    plainly = PROMPT.replace("(heavy:1.0)", "heavy")
    told = {"num_inference_steps": 3, "guidance_scale": 4.0, "controlnet_conditioning_scale": 0.8}
    shown = {"image": SHOWN[0], "ip_adapter_image": [SHOWN[1:]]}
    expected = pipeline([plainly] * 2, latents=noise(model), output_type="latent", **told, **shown).images
    assert float((states[-1] - expected).abs().max() / expected.std()) < 1e-3

    for i, picture in enumerate(SHOWN):
        picture.save(tmp_path / f"{i}.png")
    main([
        "sample", str(folder), PROMPT, "--sample-seeds", *map(str, SEEDS), "--steps", "3", "--guidance", "4",
        "--out", str(tmp_path / "out"),
        "--embedding", str(toy), "--lora", f"{style}:0.7:0.4", "--control", f"{tmp_path}/edges:{tmp_path}/0.png:0.8",
        "--picture-prompt", f"{ip}:{tmp_path}/1.png,{tmp_path}/2.png:0.6",
    ])  # fmt: skip
    drawn = [torch.tensor(np.asarray(Image.open(f))) for f in sorted((tmp_path / "out").glob("0*.png"))]
    assert torch.equal(torch.stack(drawn), made.data)


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_what_is_exported_draws_as_they_do(kind: str, tmp_path: Path) -> None:
    """LoRAs, of text encoders too, in the weights, and learnt words among the others; the model itself stays as it was."""
    plain = (tiny.stable_diffusion if kind == "sd" else tiny.sdxl)(tmp_path / "parts")
    folder = tiny.save(plain, tmp_path / "model")
    style, toy, _, _ = adapters(plain, kind, tmp_path)
    model = unnoise.load(folder)
    usual = model.sample("a <toy>", 1, 3, steps=2).data
    textual_inversion(model, toy)
    low_rank(model, {style: (0.7, 0.4)})
    made, own = model.sample("a <toy>", 1, 3, steps=2).data, model.hash()
    model.export(tmp_path / "again")
    assert torch.equal(model.sample("a <toy>", 1, 3, steps=2).data, made)
    assert model.hash() == own
    again = unnoise.load(tmp_path / "again").sample("a <toy>", 1, 3, steps=2).data
    assert float((again.float() - made.float()).abs().max()) <= 1
    assert float((usual.float() - made.float()).abs().max()) > 1
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    ids = theirs.tokenizer("a <toy>").input_ids
    assert theirs.tokenizer.convert_ids_to_tokens(ids[2]) == "<toy>"
    vector = theirs.text_encoder.get_input_embeddings().weight[ids[2]]
    assert torch.equal(vector, load_file(toy)["clip_l" if kind == "xl" else "<toy>"].flatten()[: len(vector)])

    main(["export", str(folder), "--lora", f"{style}:0.7:0.4", "--out", str(tmp_path / "by-command")])
    for part in ("unet", "text_encoder"):
        first, second = (load_file(next((tmp_path / n / part).glob("*.safetensors"))) for n in ("again", "by-command"))
        assert all(torch.equal(first[name][: len(w)], w) for name, w in second.items() if w.ndim)


def test_info_tells_what_each_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tiny.stable_diffusion(tmp_path / "parts")
    control_net(plain.unet, tmp_path / "edges")
    style, toy, ip, _ = adapters(plain, "sd", tmp_path)
    for file, said in (
        (style, "a LoRA; it is no model; give it with"), (toy, "vectors named '<toy>', as textual inversions have"),
        (ip, "an IP-Adapter;"), (tmp_path / "edges" / "diffusion_pytorch_model.safetensors", "a ControlNet;"),
    ):  # fmt: skip
        main(["info", str(file)])
        assert capsys.readouterr().out.startswith(f"{file}: {said}")
