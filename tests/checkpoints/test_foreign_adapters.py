"""Adapters beside whole pipelines of diffusers', loaded from their files: from the same starting noise the same picture."""

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beside_diffusers import randomised
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.adapters import controlnet, face_prompt, picture_prompt
from unnoise.cli.main import main
from unnoise.control.self_guidance import PerturbedAttention
from unnoise.core.errors import InputError
from unnoise.loading import with_loras
from unnoise.model import DiffusionModel
from unnoise.networks.layers import patchify, unpatchify

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_originals as originals  # noqa: E402
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, SEEDS, latents, noise, same  # noqa: E402
from networks.test_adapters_of_diffusers import projection  # noqa: E402

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(3)]
SHOWN = [Image.fromarray(p) for p in PICTURES]
HINT = {"conditioning_embedding_out_channels": (8, 8)}
UNET = ("in_channels", "block_out_channels", "layers_per_block", "norm_num_groups", "down_block_types", "cross_attention_dim")


def _written(file: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, file)
    return file


def saved(network: Any, folder: Path) -> Path:
    randomised(network).save_pretrained(folder)
    return folder


def control_net(pipeline: Any, folder: Path, **more: Any) -> Any:
    """One for the U-Net of a pipeline, saved in the folder."""
    config = {name: pipeline.unet.config[name] for name in (*UNET, "attention_head_dim")}
    network = diffusers.ControlNetModel(**config, **HINT, **more)
    saved(network, folder)
    return network


def ip_adapter(unet: Any, folder: Path, kind: str = "plain") -> Path:
    """One for a U-Net, and the encoder of pictures beside it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=12,
        patch_size=4,
        projection_dim=6,
    )
    randomised(CLIPVisionModelWithProjection(config)).save_pretrained(folder / "image_encoder")
    width = unet.config.cross_attention_dim
    tensors = {f"image_proj.{k}": v for k, v in projection(kind, 6 if kind == "plain" else 8, width).items()}
    for i, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            out = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            tensors |= {f"ip_adapter.{i}.to_{x}_ip.weight": torch.randn(out, width) / width**0.5 for x in "kv"}
    save_file(tensors, folder / "ip.safetensors")
    return folder / "ip.safetensors"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test's weights are the same alone and after others."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, DiffusionModel]:
    folder = tmp_path_factory.mktemp("sd")
    pipeline = tiny.stable_diffusion(folder / "parts")
    return pipeline, unnoise.load(tiny.save(pipeline, folder / "model"))


def test_two_control_nets_and_a_picture_prompt_at_once(stable_diffusion: tuple, tmp_path: Path) -> None:
    """The second ControlNet acts in the first half of the steps alone; two pictures prompt together."""
    plain, model = stable_diffusion
    nets = [control_net(plain, tmp_path / name) for name in ("a", "b")]
    file = ip_adapter(plain.unet, tmp_path)
    parts = {**plain.components, "unet": copy.deepcopy(plain.unet), "controlnet": nets}
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(0.6)
    how = {"num_inference_steps": 6, "guidance_scale": 4.0, "controlnet_conditioning_scale": [0.8, 0.5]}
    shown = {"image": SHOWN[:2], "ip_adapter_image": [SHOWN[1:]]}
    expected = latents(pipeline, model, **how, **shown, control_guidance_end=[1.0, 0.5])
    half = float(model.config.sampling.choice().grid.of(model.codec.shape()).times(6, model.config.process)[3])
    attached = model.attached(
        controlnet(tmp_path / "a", PICTURES[0], 0.8),
        controlnet(tmp_path / "b", PICTURES[1], 0.5, interval=(half, 1.0)),
        picture_prompt(file, PICTURES[1:], scale=0.6),
    )
    same(attached, pipeline, expected, steps=6, guidance=4.0)
    alone = latents(plain, model, num_inference_steps=6, guidance_scale=4.0)
    same(model, plain, alone, steps=6, guidance=4.0)  # the model itself is as it was
    assert (alone - expected).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["plain", "plus", "full face"])
def test_ip_adapters_of_every_kind(kind: str, stable_diffusion: tuple, tmp_path: Path) -> None:
    plain, model = stable_diffusion
    file = ip_adapter(plain.unet, tmp_path, kind)
    pipeline = diffusers.StableDiffusionPipeline(
        **{**plain.components, "unet": copy.deepcopy(plain.unet)}, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(0.7)
    how = {"num_inference_steps": 4, "guidance_scale": 4.0}
    expected = latents(pipeline, model, **how, ip_adapter_image=[SHOWN[1:]])
    same(model.attached(picture_prompt(file, PICTURES[1:], scale=0.7)), pipeline, expected, steps=4, guidance=4.0)
    assert (latents(plain, model, **how) - expected).abs().max() > 0.1


def test_embeddings_prompt_as_the_pictures_they_are_of(stable_diffusion: tuple, tmp_path: Path) -> None:
    """A plain IP-Adapter is told CLIP's embeddings, and 0 for no picture: those of a picture, told as they are, draw the same."""
    plain, model = stable_diffusion
    file = ip_adapter(plain.unet, tmp_path / "ip")
    pictures = picture_prompt(file, PICTURES, scale=0.6, interval=(0.5, 1.0))
    embeddings = face_prompt(file, pictures.get_buffer("seen"), 0.6, (0.5, 1.0))
    drawn = [model.attached(prompt).sample("a cat", steps=3, guidance=4.0).data for prompt in (pictures, embeddings)]
    assert torch.equal(*drawn)


def test_guess_mode(stable_diffusion: tuple, tmp_path: Path) -> None:
    plain, model = stable_diffusion
    parts = {**plain.components, "controlnet": control_net(plain, tmp_path / "a")}
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 4, "guidance_scale": 3.0, "guess_mode": True, "controlnet_conditioning_scale": 0.9}
    x = noise(model)
    expected = pipeline(["", ""], [SHOWN[0]] * 2, latents=x, output_type="latent", **how).images
    attached = model.attached(controlnet(tmp_path / "a", PICTURES[0], 0.9, guess=True))
    states: list[Tensor] = []
    attached.sample(n=2, sample_seeds=SEEDS, steps=4, guidance=3.0, watch=lambda i, n, x: states.append(x))
    assert float((states[-1] - expected).abs().max() / expected.std()) < 1e-3
    both = attached.sample("a cat", 2, 7, steps=2, guidance=3.0, exact=True)
    alone = attached.sample("a cat", sample_seeds=both.seeds[1:], steps=2, guidance=3.0, exact=True)
    assert torch.equal(both.data[1], alone.data[0])  # as ever: the same in any company


def test_shuffled_pictures(stable_diffusion: tuple, tmp_path: Path) -> None:
    """Heard on the side alone that guidance leads to, at its full scale; in guess mode no otherwise."""
    plain, model = stable_diffusion
    parts = {**plain.components, "controlnet": control_net(plain, tmp_path / "shuffle", global_pool_conditions=True)}
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 4, "guidance_scale": 3.0, "controlnet_conditioning_scale": 0.9}
    expected = latents(pipeline, model, image=[SHOWN[0]] * 2, **how)
    for guess in (False, True):
        attached = model.attached(controlnet(tmp_path / "shuffle", PICTURES[0], 0.9, guess=guess))
        same(attached, pipeline, expected, steps=4, guidance=3.0)


def test_filling_in(stable_diffusion: tuple, tmp_path: Path) -> None:
    """What is transparent is drawn anew; it is shown as -1, as diffusers' pipeline for it does (`make_inpaint_condition`)."""
    plain, model = stable_diffusion
    parts = {**plain.components, "controlnet": control_net(plain, tmp_path / "control_v11p_sd15_inpaint")}
    pipeline = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    opacity = np.full((16, 16, 1), 255, np.uint8)
    opacity[2:13, 3:14] = 90
    picture = np.concatenate([PICTURES[0], opacity], -1)
    shown = torch.tensor(PICTURES[0]).permute(2, 0, 1)[None].expand(2, -1, -1, -1) / 255
    holes = torch.tensor(opacity[..., 0] == 90).expand_as(shown)
    how = {"num_inference_steps": 4, "guidance_scale": 3.0, "controlnet_conditioning_scale": 3.0}
    expected = latents(pipeline, model, image=torch.where(holes, -1.0, shown), **how)
    Image.fromarray(picture).save(tmp_path / "hole.png")
    for given in (picture, tmp_path / "hole.png"):
        attached = model.attached(controlnet(tmp_path / "control_v11p_sd15_inpaint", given, 3.0))
        same(attached, pipeline, expected, steps=4, guidance=3.0)
    file = tmp_path / "control_v11p_sd15_inpaint/diffusion_pytorch_model.safetensors"
    same(model.attached(controlnet(file, picture, 3.0)), pipeline, expected, steps=4, guidance=3.0)
    whole = latents(pipeline, model, image=shown, **how)
    assert (whole - expected).abs().max() / expected.std() > 0.01  # ten times what `same` forgives
    with pytest.raises(InputError, match="draws anew what is transparent in its picture, and nothing is"):
        controlnet(tmp_path / "control_v11p_sd15_inpaint", np.concatenate([PICTURES[0], 0 * opacity + 255], -1))
    with pytest.raises(InputError, match=r"uint8 \(height, width, 4\), not"):
        controlnet(tmp_path / "control_v11p_sd15_inpaint", PICTURES[0])


def test_t2i_adapter(stable_diffusion: tuple, tmp_path: Path) -> None:
    plain, model = stable_diffusion
    adapter = diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    saved(adapter, tmp_path / "sketch")
    parts = {k: v for k, v in plain.components.items() if k != "image_encoder"}
    pipeline = diffusers.StableDiffusionAdapterPipeline(**parts, adapter=adapter, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 4, "guidance_scale": 3.0, "adapter_conditioning_scale": 0.7}
    expected = latents(pipeline, model, image=[SHOWN[0]] * 2, **how)
    same(model.attached(controlnet(tmp_path / "sketch", PICTURES[0], 0.7)), pipeline, expected, steps=4, guidance=3.0)


def test_perturbed_attention_beside_a_control_net(stable_diffusion: tuple, tmp_path: Path) -> None:
    """Their scale is ours less 1; both halves of their batch are told the same of the control picture."""
    plain, model = stable_diffusion
    parts = {**plain.components, "unet": copy.deepcopy(plain.unet), "controlnet": control_net(plain, tmp_path / "a")}
    pipeline = diffusers.StableDiffusionControlNetPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers="mid")
    pipeline.set_progress_bar_config(disable=True)
    expected = latents(pipeline, model, image=[SHOWN[0]] * 2, num_inference_steps=4, guidance_scale=0.0, pag_scale=2.0)
    attached = model.attached(controlnet(tmp_path / "a", PICTURES[0]))
    same(attached, pipeline, expected, steps=4, guidance=1.0, inner=PerturbedAttention(3.0))


def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their control pictures are drawn from the autoencoder's posterior; here they are its mean."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.mark.parametrize("summary", [True, False])
def test_stable_diffusion_3(summary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exactly(monkeypatch)
    plain = tiny.sd3(tmp_path / "parts")
    config = {k: v for k, v in plain.transformer.config.items() if not k.startswith("_") and k != "num_layers"}
    net = diffusers.SD3ControlNetModel(**config, num_layers=1, force_zeros_for_pooled_projection=not summary)
    saved(net, tmp_path / "net")
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    pipeline = diffusers.StableDiffusion3ControlNetPipeline(**plain.components, controlnet=net)
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "guidance_scale": 3.0, "controlnet_conditioning_scale": 0.8}
    expected = latents(pipeline, model, control_image=[SHOWN[0]] * 2, **how, height=16, width=16)
    same(model.attached(controlnet(tmp_path / "net", PICTURES[0], 0.8)), pipeline, expected, steps=3, guidance=3.0)


def test_a_control_net_for_several_kinds_of_pictures(tmp_path: Path) -> None:
    """One picture with a scale, and two at once. It is published under a plain ControlNet's class, beside other weights."""
    plain = tiny.sdxl(tmp_path / "parts")
    names = ("transformer_layers_per_block", "use_linear_projection", "addition_embed_type", "addition_time_embed_dim")
    config = {k: plain.unet.config[k] for k in (*UNET, *names, "attention_head_dim", "projection_class_embeddings_input_dim")}
    width = config["block_out_channels"][0]
    union = {"num_trans_channel": width, "num_proj_channel": width, "num_trans_head": 2, "num_control_type": 8}
    net = diffusers.ControlNetUnionModel(**config, **HINT, **union)
    saved(net, tmp_path / "net")
    told = json.loads((tmp_path / "net/config.json").read_text())
    (tmp_path / "net/config.json").write_text(json.dumps({**told, "_class_name": "ControlNetModel", "num_control_type": 6}))
    file = tmp_path / "net/diffusion_pytorch_model_promax.safetensors"
    (tmp_path / "net/diffusion_pytorch_model.safetensors").rename(file)
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    pipeline = diffusers.StableDiffusionXLControlNetUnionPipeline(**plain.components, controlnet=net, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    side = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 16, "width": 16}
    for pictures, modes, scale in (([0], [7], 0.8), ([0, 1], [3, 1], 1.0)):
        shown = {"control_image": [SHOWN[i] for i in pictures], "control_mode": list(modes)}
        expected = latents(pipeline, model, **shown, controlnet_conditioning_scale=scale, **side)
        attached = model.attached(controlnet(file, [PICTURES[i] for i in pictures], scale, mode=modes))
        same(attached, pipeline, expected, steps=3, guidance=3.0)


def test_flux_by_xlabs(tmp_path: Path) -> None:
    """It sees the picture itself, and halves it three times: so does the autoencoder."""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = tiny.vae(block_out_channels=(8, 8, 8, 8), shift_factor=0.1, **kinds)
    plain = diffusers.FluxPipeline(**{**tiny.flux(tmp_path / "parts").components, "vae": vae})
    names = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
    config = {k: plain.transformer.config[k] for k in (*names, "axes_dims_rope", "guidance_embeds")}
    kind = {"num_layers": 1, "num_single_layers": 0, "patch_size": 2, "conditioning_embedding_channels": 4}
    net = diffusers.FluxControlNetModel(**config, **kind)
    saved(net, tmp_path / "net")
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    pipeline = diffusers.FluxControlNetPipeline(**plain.components, controlnet=net)
    pipeline.set_progress_bar_config(disable=True)
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    x, size = patchify(noise(model, (4, 8, 8)), 2), {"height": 64, "width": 64}
    how = {"num_inference_steps": 3, "guidance_scale": 2.5, "controlnet_conditioning_scale": 0.8}
    packed = pipeline(
        PROMPTS, latents=x, output_type="latent", control_image=[Image.fromarray(picture)] * 2, **size, **how
    ).images  # fmt: skip
    attached = model.attached(controlnet(tmp_path / "net", picture, 0.8))
    same(attached, pipeline, unpatchify(packed, 4, 4, 2), steps=3, guidance=2.5, **size)


@pytest.mark.parametrize(("modes", "singles"), [([2], 1), ([2, 0], 0)], ids=["one picture", "two, of joint blocks alone"])
def test_flux(modes: list[int], singles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures go through it one after another. Theirs drops the second unless the times of both are told."""
    exactly(monkeypatch)
    plain = tiny.flux(tmp_path / "parts")
    names = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
    config = {k: plain.transformer.config[k] for k in (*names, "axes_dims_rope")}
    net = diffusers.FluxControlNetModel(**config, num_layers=1, num_single_layers=singles, num_mode=3)
    saved(net, tmp_path / "net")
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    several = diffusers.FluxMultiControlNetModel([net])
    pipeline = diffusers.FluxControlNetPipeline(**plain.components, controlnet=several)
    pipeline.set_progress_bar_config(disable=True)
    x, n = patchify(noise(model, (4, 8, 8)), 2), len(modes)
    how = {"num_inference_steps": 3, "guidance_scale": 2.5, "controlnet_conditioning_scale": [0.8] * n, "control_mode": modes}
    how |= {"control_guidance_start": [0.0] * n, "control_guidance_end": [1.0] * n, "height": 16, "width": 16}
    packed = pipeline(PROMPTS, latents=x, output_type="latent", control_image=SHOWN[:n], **how).images
    attached = model.attached(controlnet(tmp_path / "net", PICTURES[:n], 0.8, mode=modes))
    same(attached, pipeline, unpatchify(packed, 4, 4, 2), steps=3, guidance=2.5, height=16, width=16)


def test_the_command_line(stable_diffusion: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as in Python; what cannot be is refused in one line."""
    plain, model = stable_diffusion
    control_net(plain, tmp_path / "canny")
    file = ip_adapter(plain.unet, tmp_path)
    for i in range(3):
        SHOWN[i].save(tmp_path / f"{i}.png")
    control, prompt = f"{tmp_path}/canny:{tmp_path}/0.png:0.8:0.2:1", f"{file}:{tmp_path}/1.png,{tmp_path}/2.png:0.6"
    asked = ["sample", str(model.path), "a cat", "-n", "1", "--steps", "2", "--out", str(tmp_path / "out")]
    main([*asked, "--control", control, "--picture-prompt", prompt])
    attached = model.attached(
        controlnet(tmp_path / "canny", PICTURES[0], 0.8, interval=(0.2, 1.0)), picture_prompt(file, PICTURES[1:], scale=0.6)
    )
    expected = attached.sample("a cat", steps=2)
    made = next(p for p in sorted((tmp_path / "out").iterdir()) if p.name != "sheet.png")
    assert np.array_equal(np.asarray(Image.open(made)), expected.data[0].numpy())
    capsys.readouterr()
    main(["info", str(made)])
    again = next(shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  unnoise sample"))
    main([*again[1:-1], str(tmp_path / "again")])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again" / made.name)), expected.data[0].numpy())
    SHOWN[0].resize((20, 12)).save(tmp_path / "wide.png")  # drawn in its shape: 16 x 16 pixels are 256, 12 x 20 are 240
    main([*asked[:-2], "--control", f"{tmp_path}/canny:{tmp_path}/wide.png", "--out", str(tmp_path / "wide")])
    assert Image.open(next((tmp_path / "wide").glob("000*.png"))).size == (20, 12)
    SHOWN[0].resize((45, 20)).save(tmp_path / "wide.png")  # whose shape two pixels to a code cannot quite have
    main([*asked[:-2], "--control", f"{tmp_path}/canny:{tmp_path}/wide.png", "--out", str(tmp_path / "wider")])
    assert Image.open(next((tmp_path / "wider").glob("000*.png"))).size == (24, 10)
    (tmp_path / "canny.pth").write_bytes(b"PK\x03\x04 and so on")
    for told, message in (
        ("canny", "--control 'canny': tell it as WHERE:PICTURE"),
        ("a:b:c", "WHERE:PICTURE:SCALE"),
        (f"{tmp_path}/canny:{tmp_path}/0.png=3", "canny: mode 3: it was trained on one kind of control picture"),
        (f"{tmp_path}/canny.pth:{tmp_path}/0.png", "canny.pth: a pickle, which may run anything"),
    ):
        with pytest.raises(SystemExit):
            main([*asked, "--overwrite", "--control", told])
        assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_pictures_as_a_newcomer_gives_them(stable_diffusion: tuple, tmp_path: Path) -> None:
    """One alone, by its name, as an array or as PIL opens it; what is no adapter is told how to make one."""
    plain, model = stable_diffusion
    control_net(plain, tmp_path / "canny")
    file = ip_adapter(plain.unet, tmp_path)
    SHOWN[0].save(tmp_path / "0.png")
    made = [
        model.attached(controlnet(tmp_path / "canny", shown), picture_prompt(file, shown)).sample("a cat", steps=2).data
        for shown in (PICTURES[0], str(tmp_path / "0.png"), SHOWN[0], [SHOWN[0]])
    ]
    assert all(torch.equal(made[0], other) for other in made[1:])
    with pytest.raises(InputError, match=r"'canny' is attached as controlnet\(...\) and picture_prompt\(...\) make it"):
        model.attached("canny")
    with pytest.raises(InputError, match="LoRA files with their weights are meant"):
        with_loras(model, [file])


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_a_control_net_under_its_makers_names(prefix: str, tmp_path: Path) -> None:
    """Widths that divide into their 32 groups and 8 heads."""
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 16, "layers_per_block": 1}
    channels = {"block_out_channels": (32, 64), "conditioning_embedding_out_channels": (4, 6, 8, 10)}
    network = diffusers.ControlNetModel(in_channels=4, **kinds, **channels)
    expected = controlnet(saved(network, tmp_path / "folder"), PICTURES[0]).network
    theirs = network.state_dict()
    others = {k: v for k, v in theirs.items() if not k.startswith("controlnet_")}
    tensors = {k: v.contiguous() for k, v in originals.unet(others, 1, prefix).items()}
    hints = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    renamed = {f"controlnet_cond_embedding.{h}": f"input_hint_block.{2 * i}" for i, h in enumerate(hints)}
    renamed |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(4)} | {
        "controlnet_mid_block": "middle_block_out.0"
    }
    for ours, original in renamed.items():
        tensors |= {f"{prefix}{original}.{leaf}": theirs[f"{ours}.{leaf}"].clone() for leaf in ("weight", "bias")}
    save_file(tensors, tmp_path / "canny.safetensors")
    read = controlnet(tmp_path / "canny.safetensors", PICTURES[0])
    with pytest.raises(
        InputError, match=r"the differences of a ControlNet from its model, .* name the network that it is to steer"
    ):
        controlnet(_written(tmp_path / "diff.safetensors", tensors | {"difference": torch.ones(1)}), PICTURES[0])
    assert read.name == "canny"
    assert read.network.config == expected.config
    assert all(torch.equal(a, b) for a, b in zip(read.network.state_dict().values(), expected.state_dict().values(), strict=True))


def test_bad_input(stable_diffusion: tuple, tmp_path: Path) -> None:
    plain, model = stable_diffusion
    control_net(plain, tmp_path / "a")
    file = ip_adapter(plain.unet, tmp_path)
    Image.fromarray(PICTURES[0]).save(tmp_path / "edges.png")
    (tmp_path / "text.png").write_text("no picture")
    config = {name: plain.unet.config[name] for name in UNET}
    saved(diffusers.ControlNetModel(**{**config, "block_out_channels": (8, 24)}, **HINT), tmp_path / "other")
    wide = np.zeros((16, 24, 3), np.uint8)
    union = {"num_trans_head": 2, "num_trans_channel": 8, "num_proj_channel": 8, "num_control_type": 3} | {
        "addition_time_embed_dim": 4
    }
    saved(diffusers.ControlNetUnionModel(**config, **HINT, **union), tmp_path / "union")
    told = json.loads((tmp_path / "union/config.json").read_text())
    saved(diffusers.ControlNetUnionModel(**config, **HINT, **union), tmp_path / "odd")
    (tmp_path / "odd/config.json").write_text(json.dumps({**told, "num_trans_channel": 12}))
    for make, message in (
        (lambda: controlnet(tmp_path / "b", PICTURES[0]), "b: no such file or folder; a ControlNet or T2I-Adapter is a folder"),
        (lambda: controlnet(tmp_path / "a", tmp_path / "none.png"), "none.png: no such picture"),
        (lambda: controlnet(tmp_path / "a", tmp_path / "text.png"), "text.png: not a picture"),
        (lambda: controlnet(tmp_path / "a", PICTURES[0], mode=1), "mode 1: it was trained on one kind of control picture"),
        (lambda: controlnet(tmp_path / "union", PICTURES[0]), "mode not told: .* say one of 0 to 2 for each picture"),
        (lambda: controlnet(tmp_path / "union", PICTURES[:2], mode=2), "mode 2: .* 0 to 2 for each picture"),
        (lambda: controlnet(tmp_path / "union", PICTURES[0], mode=3), "mode 3: .* 0 to 2 for each picture"),
        (lambda: controlnet(tmp_path / "a", []), "give at least one"),
        (lambda: controlnet(tmp_path / "odd", PICTURES[0], mode=0), "num_trans_channel 12: .* has 8 there"),
        (lambda: controlnet(tmp_path / "a", PICTURES[0], interval=(0.7, 0.2)), "interval"),
        (
            lambda: model.attached(controlnet(tmp_path / "other", PICTURES[0])),
            r"other does not fit this model: its widths \(8, 24\)",
        ),
        (lambda: model.attached(controlnet(tmp_path / "a", wide)).sample("a"), "16 x 24 .height x width., and 16 x 16 is drawn"),
        (lambda: picture_prompt(tmp_path / "ip.bin", PICTURES), "a pickle, which can run code"),
        (lambda: picture_prompt(tmp_path / "none.safetensors", PICTURES), "none.safetensors: no such file"),
        (lambda: picture_prompt(file, []), "give at least one"),
        (lambda: picture_prompt(file, PICTURES, tmp_path / "a"), "picture encoder"),
        (lambda: face_prompt(file, torch.zeros(1, 5)), "takes .pictures, 6. from an encoder"),
    ):
        with pytest.raises(InputError, match=message) as e:
            make()
        assert "\n" not in str(e.value)
    small = model.attached(controlnet(tmp_path / "a", np.ascontiguousarray(PICTURES[0][::2, ::2])))
    assert small.sample("a cat", steps=1).settings["attached"][0]["name"] == "a"  # another size of the same shape is resized
