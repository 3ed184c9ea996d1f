"""Picture prompts of FLUX and Stable Diffusion 3.5 beside whole pipelines of diffusers', loaded from their files: from the same
starting noise the same picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beside_diffusers import randomised
from networks.test_picture_prompts_of_diffusers import by_xlabs, flat, linear, sd3_adapter
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import unnoise
from unnoise.checkpoints.foreign.adapters import controlnet, face_prompt, picture_prompt
from unnoise.cli.adapters import numbers_of
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.model import DiffusionModel
from unnoise.networks.layers import patchify, unpatchify
from unnoise.networks.sd3 import SD3Config

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_adapters import exactly, ip_adapter, saved  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, latents, noise, same  # noqa: E402

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((16, 16, 3), (20, 14, 3), (12, 30, 3))]
SHOWN = [Image.fromarray(p) for p in PICTURES]
SIZE = {"height": 16, "width": 16}


def clip(folder: Path) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=12, patch_size=4, projection_dim=6)
    randomised(CLIPVisionModelWithProjection(config)).save_pretrained(folder)
    return folder


def flux_adapters(transformer: Any, folder: Path) -> list[Path]:
    """One in XLabs' file and one in diffusers' layout, with CLIP beside them."""
    config, files = transformer.config, [folder / "xlabs.safetensors", folder / "plain.safetensors"]
    words, width = config.joint_attention_dim, config.attention_head_dim * config.num_attention_heads
    for file, written in zip(files, (by_xlabs, flat)):
        pairs = [linear(f"{i}.to_{which}_ip", width, words) for i in range(config.num_layers) for which in "kv"]
        projection = linear("proj", 4 * words, 6) | {"norm.weight": torch.randn(words), "norm.bias": torch.randn(words)}
        save_file(written({"image_proj": projection, "ip_adapter": {k: v for p in pairs for k, v in p.items()}}), file)
    clip(folder / "image_encoder")
    return files


def siglip(folder: Path) -> Any:
    """And how pictures are prepared for it."""
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    network = randomised(SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=12, patch_size=4)))
    network.save_pretrained(folder)
    return network, SiglipImageProcessorPil(size={"height": 12, "width": 12})


def redux_of(flux: Any, folder: Path) -> Any:
    """A pipeline that makes words of pictures, saved in the folder as it is published: in diffusers' layout, and in a file."""
    encoder, prepare = siglip(folder / "image_encoder")
    embedder = randomised(diffusers.pipelines.flux.modeling_flux.ReduxImageEncoder(8, 48))
    embedder.save_pretrained(folder / "image_embedder")
    prepare.save_pretrained(folder / "feature_extractor")
    save_file(embedder.state_dict(), folder / "flux1-redux-dev.safetensors")
    words = {name: flux.components[name] for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")}
    return diffusers.FluxPriorReduxPipeline(encoder, prepare, embedder, **words)


def with_adapters(pipeline: Any, files: list[Path], scales: list[float]) -> Any:
    folder = str(files[0].parent)
    pipeline.load_ip_adapter(
        [folder] * len(files), [f.name for f in files], image_encoder_pretrained_model_name_or_path=f"{folder}/image_encoder",
        image_encoder_dtype=torch.float32, low_cpu_mem_usage=False,
    )  # fmt: skip
    pipeline.set_ip_adapter_scale(scales)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def packed(pipeline: Any, model: DiffusionModel, prompts: list[str] | None = PROMPTS, **how: Any) -> Tensor:
    """The last state."""
    x = patchify(noise(model, (4, 8, 8)), 2)
    return unpatchify(pipeline(prompts, latents=x, output_type="latent", **SIZE, **how).images, 4, 4, 2)


def test_two_ip_adapters_of_flux_and_a_control_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sees two pictures; the model is as it was without them."""
    exactly(monkeypatch)
    plain = tiny.flux(tmp_path / "parts")
    names = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
    config = {k: plain.transformer.config[k] for k in (*names, "axes_dims_rope")}
    net = diffusers.FluxControlNetModel(**config, num_layers=1, num_single_layers=1)
    saved(net, tmp_path / "net")
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    alone = packed(plain, model, num_inference_steps=3, guidance_scale=2.5)
    files, scales = flux_adapters(plain.transformer, tmp_path), [0.7, 0.4]
    pipeline = diffusers.FluxControlNetPipeline(**plain.components, controlnet=net)
    with_adapters(pipeline, files, scales)
    how = {"num_inference_steps": 3, "guidance_scale": 2.5, "controlnet_conditioning_scale": 0.8}
    shown = {"control_image": [SHOWN[0]] * 2, "ip_adapter_image": [SHOWN[:2], SHOWN[2]], "negative_ip_adapter_image": SHOWN[1:]}
    expected = packed(pipeline, model, **how, **shown)
    attached = model.attached(
        picture_prompt(files[0], PICTURES[:2], scale=scales[0]),
        controlnet(tmp_path / "net", PICTURES[0], 0.8),
        picture_prompt(files[1], PICTURES[2:], tmp_path / "image_encoder", scales[1]),
    )
    same(attached, plain, expected, steps=3, guidance=2.5, **SIZE)
    same(model, plain, alone, steps=3, guidance=2.5, **SIZE)
    assert (alone - expected).abs().max() > 0.1
    assert attached.sample("a cat", steps=1, bf16=True, **SIZE).settings["attached"][0]["pictures"] == 2


def test_an_ip_adapter_of_flux_that_is_guided(tmp_path: Path) -> None:
    """It is led away from words, and from a black picture."""
    plain = tiny.flux(tmp_path / "parts", guidance=False)
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    file = flux_adapters(plain.transformer, tmp_path)[0]
    how = {"num_inference_steps": 3, "true_cfg_scale": 3.0, "negative_prompt": ["dog"] * 2, "ip_adapter_image": SHOWN[0]}
    expected = packed(with_adapters(plain, [file], [0.9]), model, **how)
    same(
        model.attached(picture_prompt(file, PICTURES[:1], scale=0.9)),
        plain,
        expected,
        steps=3,
        guidance=3.0,
        negative="dog",
        **SIZE,
    )


def test_redux_beside_a_control_net_and_an_ip_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the ControlNet too, whose pipeline is given its tokens with T5's."""
    exactly(monkeypatch)
    plain = tiny.flux(tmp_path / "parts")
    names = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
    net = diffusers.FluxControlNetModel(**{k: plain.transformer.config[k] for k in (*names, "axes_dims_rope")}, num_layers=1)
    saved(net, tmp_path / "net")
    model, file = unnoise.load(tiny.save(plain, tmp_path / "model")), flux_adapters(plain.transformer, tmp_path)[0]
    prior = redux_of(plain, tmp_path / "redux")
    said = [prior(SHOWN[1], prompt=p) for p in PROMPTS]
    words = {f"{k}prompt_embeds": torch.cat([s[f"{k}prompt_embeds"] for s in said]) for k in ("", "pooled_")}
    pipeline = with_adapters(diffusers.FluxControlNetPipeline(**plain.components, controlnet=net), [file], [0.7])
    how = {"num_inference_steps": 3, "guidance_scale": 2.5, "controlnet_conditioning_scale": 0.8}
    shown = {"control_image": [SHOWN[0]] * 2, "ip_adapter_image": SHOWN[2]}
    expected = packed(pipeline, model, None, **words, **shown, **how)
    others = (controlnet(tmp_path / "net", PICTURES[0], 0.8), picture_prompt(file, PICTURES[2:], scale=0.7))
    for where in (tmp_path / "redux", tmp_path / "redux/flux1-redux-dev.safetensors"):
        attached = model.attached(*others, picture_prompt(where, PICTURES[1:2]))
        same(attached, plain, expected, steps=3, guidance=2.5, **SIZE)
    without = packed(pipeline, model, **shown, **how)
    same(model.attached(*others), plain, without, steps=3, guidance=2.5, **SIZE)
    assert (without - expected).abs().max() > 0.03


def test_redux_of_several_pictures_at_a_scale_and_for_some_steps(tmp_path: Path) -> None:
    """Behind T5's tokens, one after another; on the side that guidance leads away from there are none."""
    plain = tiny.flux(tmp_path / "parts", guidance=False)
    model, prior = unnoise.load(tiny.save(plain, tmp_path / "model")), redux_of(plain, tmp_path / "redux")
    words, pooled, _ = plain.encode_prompt(PROMPTS, None)
    more = prior.image_embedder(prior.encode_image(SHOWN[:2], "cpu", 1)).image_embeds.flatten(0, 1)
    told = {"prompt_embeds": torch.cat([words, 0.6 * more.detach().expand(2, -1, -1)], 1), "pooled_prompt_embeds": pooled}
    how = {"num_inference_steps": 3, "true_cfg_scale": 3.0, "negative_prompt": ["dog"] * 2}
    expected = packed(plain, model, None, **told, **how)
    attached = model.attached(picture_prompt(tmp_path / "redux", PICTURES[:2], scale=0.6))
    same(attached, plain, expected, steps=3, guidance=3.0, negative="dog", **SIZE)
    alone = packed(plain, model, **how)
    never = model.attached(picture_prompt(tmp_path / "redux", PICTURES[:2], interval=(0.0, 0.0001)))
    same(never, plain, alone, steps=3, guidance=3.0, negative="dog", **SIZE)
    assert (alone - expected).abs().max() > 0.1
    assert attached.sample("a cat", steps=1, bf16=True, **SIZE).settings["attached"][0]["pictures"] == 2
    own, seeing = (sum(p.numel() for p in network.parameters()) for network in (prior.image_embedder, prior.image_encoder))
    for where in ("redux", "redux/flux1-redux-dev.safetensors"):
        assert numbers_of([], [f"{tmp_path}/{where}:cat.png"], None, bf16=True) == own + 2 * seeing


def test_redux_and_an_ip_adapter_by_the_command_line(tmp_path: Path) -> None:
    """Two encoders: the folder's own, and the one that is named."""
    plain = tiny.flux(tmp_path / "parts")
    model, file = unnoise.load(tiny.save(plain, tmp_path / "model")), flux_adapters(plain.transformer, tmp_path)[0]
    redux_of(plain, tmp_path / "Redux-1.dev")
    clips = (tmp_path / "image_encoder").rename(tmp_path / "clip")
    for i in range(2):
        SHOWN[i].save(tmp_path / f"{i}.png")
    told = [f"{tmp_path}/Redux-1.dev:{tmp_path}/0.png", f"{file}:{tmp_path}/0.png,{tmp_path}/1.png:0.6:0.2:1"]
    prompts = [word for prompt in told for word in ("--picture-prompt", prompt)]
    size = ["-n", "1", "--steps", "2", "--height", "16", "--width", "16", "--out", str(tmp_path / "out")]
    main(["sample", str(model.path), "a cat", *prompts, "--picture-encoder", str(clips), *size])
    made = next(p for p in sorted((tmp_path / "out").iterdir()) if p.name != "sheet.png")
    attached = model.attached(
        picture_prompt(tmp_path / "Redux-1.dev", PICTURES[:1]), picture_prompt(file, PICTURES[:2], clips, 0.6, (0.2, 1.0))
    )
    expected = attached.sample("a cat", steps=2, **SIZE)
    assert [a["name"] for a in expected.settings["attached"]] == ["Redux-1.dev", "xlabs"]
    assert np.array_equal(np.asarray(Image.open(made)), expected.data[0].numpy())
    counted = [numbers_of([], [prompt], str(clips), bf16=False) for prompt in told]
    assert numbers_of([], told, str(clips), bf16=False) == sum(counted)


def test_redux_that_cannot_be_read(tmp_path: Path) -> None:
    plain, other = tiny.flux(tmp_path / "parts"), tiny.stable_diffusion(tmp_path / "others")
    first = unnoise.load(tiny.save(other, tmp_path / "first"))
    redux_of(plain, tmp_path / "redux")
    read, clips = picture_prompt(tmp_path / "redux", PICTURES[:1]), clip(tmp_path / "clip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"redux: FLUX.1 Redux is for FLUX.1 alone; this model has a SDUNet"):
        first.attached(read)
    with pytest.raises(InputError, match=r"empty: a folder without image_embedder, so not FLUX.1 Redux"):
        picture_prompt(tmp_path / "empty", PICTURES[:1])
    with pytest.raises(InputError, match=r"clip: is a CLIP; redux was trained with SigLIP"):
        picture_prompt(tmp_path / "redux", PICTURES[:1], clips)
    (tmp_path / "redux/model_index.json").write_text('{"_class_name": "FluxPriorReduxPipeline"}')
    with pytest.raises(
        InputError, match=r"redux: this is FLUX.1 Redux, a picture prompt; give it with the model, .*--picture-prompt"
    ):
        unnoise.load(tmp_path / "redux")
    with pytest.raises(InputError, match=r"flux1-redux-dev.safetensors: reads pictures, not embeddings"):
        face_prompt(tmp_path / "redux/flux1-redux-dev.safetensors", torch.zeros(1, 8))
    told = tmp_path / "redux/feature_extractor/preprocessor_config.json"
    told.write_text(told.read_text().replace("0.5", "0.4"))
    with pytest.raises(InputError, match=r"preprocessor_config.json: prepares pictures otherwise than for SigLIP of 12 pixels"):
        picture_prompt(tmp_path / "redux", PICTURES[:1])


def sd3_with_adapter(folder: Path, kind: str = "StableDiffusion3Pipeline", **parts: Any) -> tuple[Any, Any, Path]:
    """A pipeline without it, the same with it, and its file."""
    plain = tiny.sd3(folder / "parts")
    tiny.save(plain, folder / "model")
    encoder, prepare = siglip(folder / "image_encoder")
    save_file(flat(sd3_adapter(2, 16, 8, seen=8)), folder / "ip-adapter.safetensors")
    pipeline = getattr(diffusers, kind)(**{**plain.components, "image_encoder": encoder, "feature_extractor": prepare}, **parts)
    pipeline.load_ip_adapter(str(folder), "ip-adapter.safetensors", low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return plain, pipeline, folder / "ip-adapter.safetensors"


def test_an_ip_adapter_of_stable_diffusion_3(tmp_path: Path) -> None:
    """Half of its scale twice is the whole of it: what each finds is added."""
    plain, pipeline, file = sd3_with_adapter(tmp_path)
    model, how = unnoise.load(tmp_path / "model"), {"num_inference_steps": 3, "guidance_scale": 3.0, **SIZE}
    pipeline.set_ip_adapter_scale(0.0)
    alone = latents(pipeline, model, ip_adapter_image=SHOWN[1], **how)
    pipeline.set_ip_adapter_scale(0.8)
    expected = latents(pipeline, model, ip_adapter_image=SHOWN[1], negative_prompt=["dog"] * 2, **how)
    whole = model.attached(picture_prompt(file, PICTURES[1:2], scale=0.8))
    halves = model.attached(*(picture_prompt(file, PICTURES[1:2], tmp_path / "image_encoder", 0.4) for _ in range(2)))
    for attached in (whole, halves):
        same(attached, plain, expected, steps=3, guidance=3.0, negative="dog", **SIZE)
    same(model, plain, alone, steps=3, guidance=3.0, **SIZE)
    assert (alone - expected).abs().max() > 0.1
    several = model.attached(picture_prompt(file, PICTURES)).sample("a cat", steps=1, bf16=True, **SIZE)
    assert several.settings["attached"][0]["pictures"] == 3


def test_an_ip_adapter_of_stable_diffusion_3_beside_a_control_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exactly(monkeypatch)
    like = tiny.sd3(tmp_path / "like")
    config = {k: v for k, v in like.transformer.config.items() if not k.startswith("_") and k != "num_layers"}
    net = diffusers.SD3ControlNetModel(**config, num_layers=1)
    saved(net, tmp_path / "net")
    plain, pipeline, file = sd3_with_adapter(tmp_path, "StableDiffusion3ControlNetPipeline", controlnet=net)
    model = unnoise.load(tmp_path / "model")
    pipeline.set_ip_adapter_scale(0.5)
    how = {"num_inference_steps": 3, "guidance_scale": 3.0, "controlnet_conditioning_scale": 0.8, **SIZE}
    expected = latents(pipeline, model, control_image=[SHOWN[0]] * 2, ip_adapter_image=SHOWN[2], **how)
    attached = model.attached(picture_prompt(file, PICTURES[2:], scale=0.5), controlnet(tmp_path / "net", PICTURES[0], 0.8))
    same(attached, plain, expected, steps=3, guidance=3.0, **SIZE)


def test_an_ip_adapter_of_stable_diffusion_3_that_cannot_be_used(tmp_path: Path) -> None:
    _, _, file = sd3_with_adapter(tmp_path)
    model, flux = unnoise.load(tmp_path / "model"), unnoise.load(tiny.save(tiny.flux(tmp_path / "others"), tmp_path / "flux"))
    tensors, shorter, older = load_file(file), tmp_path / "shorter.safetensors", tmp_path / "older.safetensors"
    save_file({k: v for k, v in tensors.items() if not k.startswith("ip_adapter.1")}, shorter)
    save_file({k: v for k, v in tensors.items() if "time_embedding" not in k}, older)
    lacking = tmp_path / "lacking.safetensors"
    save_file({k: v for k, v in tensors.items() if k != "ip_adapter.1.norm_k.weight"}, lacking)
    dual = SD3Config(width=16, depth=2, heads=2, vector_dim=8, token_dim=8, positions=8, unit=4, dual=(0,)).build()
    for make, message in (
        (
            lambda: picture_prompt(file, PICTURES[:1]).check_fit(dual),
            "this model has 2 of 16, heads of 8, 1 with a second attention",
        ),
        (lambda: flux.attached(picture_prompt(file, PICTURES[:1])), "ip-adapter: is for Stable Diffusion 3.5; .* has a Flux"),
        (
            lambda: model.attached(picture_prompt(shorter, PICTURES[:1])),
            "it is for 1 blocks of 16, heads of 8; this model has 2 of",
        ),
        (
            lambda: picture_prompt(older, PICTURES[:1]),
            "older.safetensors: not the IP-Adapter for Stable Diffusion 3.5 that is known",
        ),
        (lambda: picture_prompt(lacking, PICTURES[:1]), "lacking.safetensors: the checkpoint lacks 'ip_adapter.1.norm_k.weight'"),
        (
            lambda: picture_prompt(file, PICTURES[:1], clip(tmp_path / "clip")),
            "clip: is a CLIP; ip-adapter.safetensors was trained",
        ),
        (lambda: face_prompt(file, torch.zeros(1, 8)), "reads pictures, not embeddings"),
    ):
        with pytest.raises(InputError, match=message) as e:
            make()
        assert "\n" not in str(e.value)


def test_ip_adapters_and_models_that_do_not_fit(tmp_path: Path) -> None:
    plain, other = tiny.flux(tmp_path / "parts"), tiny.stable_diffusion(tmp_path / "others")
    model, first = unnoise.load(tiny.save(plain, tmp_path / "model")), unnoise.load(tiny.save(other, tmp_path / "first"))
    (tmp_path / "u-net").mkdir()
    files, of_unet = flux_adapters(plain.transformer, tmp_path), ip_adapter(other.unet, tmp_path / "u-net")
    with pytest.raises(InputError, match="xlabs does not fit this model: it is for 1 layers of 32 to 32 and tokens of 48; this"):
        first.attached(picture_prompt(files[0], PICTURES[:1]))
    with pytest.raises(InputError, match=r"ip does not fit this model: .*; this model has 1 layers of 32 to 32 and tokens of 48"):
        model.attached(picture_prompt(of_unet, PICTURES[:1]))
