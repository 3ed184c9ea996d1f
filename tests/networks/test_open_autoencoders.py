"""The autoencoders of open checkpoints: diffusers' own, tiny and with random weights, against ours with the same weights."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from unnoise.checkpoints.codec import load_codec, save_codec
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.vae_names import KL_FORMER_NAMES, read_autoencoder
from unnoise.core.errors import InputError
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.image.tiling import tiled
from unnoise.networks.doubling import Doubling

diffusers = pytest.importorskip("diffusers", reason="the autoencoders to compare with are diffusers'")

LEVELS = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3, "layers_per_block": 1}
KL = {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, **LEVELS}
FLUX = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False}
KINDS, SCALES = ("ResBlock", "EfficientViTBlock", "EfficientViTBlock"), ((), (5, 3), (5, 3))
DC = {
    "latent_channels": 4, "attention_head_dim": 4, "encoder_block_types": KINDS, "decoder_block_types": KINDS,
    "encoder_block_out_channels": (8, 16, 16), "decoder_block_out_channels": (8, 16, 16),
    "encoder_layers_per_block": (1, 2, 1), "decoder_layers_per_block": (2, 1, 1), "encoder_qkv_multiscales": SCALES,
    "decoder_qkv_multiscales": SCALES, "upsample_block_type": "interpolate", "downsample_block_type": "conv",
}  # fmt: skip
TINY = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}

CASES: dict[str, tuple[str, Mapping[str, object]]] = {
    "SD 1": ("AutoencoderKL", KL),
    "FLUX": ("AutoencoderKL", {**KL, **FLUX, "use_post_quant_conv": False}),
    "without attention": ("AutoencoderKL", {**KL, "mid_block_add_attention": False, "use_post_quant_conv": False}),
    "TAESD": ("AutoencoderTiny", TINY),
    "TAEF1": ("AutoencoderTiny", {**TINY, "latent_channels": 16, "num_encoder_blocks": (2, 1, 1, 1)}),
    "Sana": ("AutoencoderDC", {**DC, "scaling_factor": 0.41407}),
}
TWO = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1)}
CASES["TAESD, two levels"] = ("AutoencoderTiny", {**TWO, "num_decoder_blocks": (1, 1)})
everything = pytest.mark.parametrize("name", CASES)


def theirs_of(name: str) -> nn.Module:
    """Random weights of a size at which every part has its say; what starts at zero or one as well."""
    kind, config = CASES[name]
    torch.manual_seed(0)
    network = getattr(diffusers, kind)(**config).eval().requires_grad_(False)
    for key, p in network.named_parameters():
        p.copy_(torch.randn_like(p) * (0.2 if p.ndim == 1 else p[0].numel() ** -0.5) + (p.ndim == 1 and key.endswith("weight")))
    return network


def part_of(theirs: nn.Module, **changed: object) -> Part:
    return Part({**theirs.config, "_class_name": type(theirs).__name__, **changed}, theirs.state_dict(), "vae")


def codec_of(theirs: nn.Module, height: int = 32, width: int = 48, **changed: object) -> Latents:
    config, weights = read_autoencoder(part_of(theirs, **changed), height, width)
    codec = config.build().eval()
    codec.load_state_dict(weights)
    return codec


def moments(theirs: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    said = theirs.encode(x)
    if hasattr(said, "latent_dist"):
        return said.latent_dist.mean, said.latent_dist.std
    z = said.latents if hasattr(said, "latents") else said.latent
    return z, torch.zeros_like(z)


def pictures(n: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Within 1e-5 of their own size."""
    assert ours.shape == theirs.shape
    assert float(theirs.std()) > 0.03
    assert float((ours - theirs).abs().max() / theirs.std()) < tolerance


@everything
@torch.no_grad()
def test_codes_and_pictures_are_those_of_diffusers(name: str) -> None:
    theirs = theirs_of(name)
    ours = codec_of(theirs).autoencoder
    x = torch.randn(2, 3, 32, 48)
    mean, std = moments(theirs, x)
    close(ours.encode(x), mean)
    close(ours.posterior(x)[0], mean)
    torch.testing.assert_close(ours.posterior(x)[1], std, rtol=1e-5, atol=0)
    close(ours.decode(mean), theirs.decode(mean).sample)
    close(ours.decode(mean[..., :1, :2]), theirs.decode(mean[..., :1, :2]).sample)


@torch.no_grad()
def test_files_from_before_attention_was_renamed() -> None:
    theirs = theirs_of("SD 1")
    present = part_of(theirs)
    former = dict(present.tensors)
    for name in present.tensors:
        for old, new in KL_FORMER_NAMES.items():
            if f".attentions.0.{new}." in name:
                former[name.replace(f".{new}.", f".{old}.")] = former.pop(name)
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in former
    _, expected = read_autoencoder(present, 32, 32)
    _, weights = read_autoencoder(Part(present.config, former, "vae"), 32, 32)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in weights)


@everything
@torch.no_grad()
def test_states_are_scaled_and_shifted_as_their_pipelines_do(name: str) -> None:
    theirs = theirs_of(name)
    codec, pixels, data = codec_of(theirs), PixelsConfig(32, 48, 3).build(), pictures(2, 32, 48)
    scale, shift = theirs.config.scaling_factor, getattr(theirs.config, "shift_factor", None) or 0.0
    state = (moments(theirs, pixels.encode(data))[0] - shift) * scale
    close(codec.encode(data), state)
    made = pixels.decode(theirs.decode(state / scale + shift).sample)
    assert int((codec.decode(state).int() - made.int()).abs().max()) <= 1  # a rounding at a half
    mean, std = codec.posterior(data)
    close(mean, state)
    torch.testing.assert_close(std, moments(theirs, pixels.encode(data))[1] * scale, rtol=1e-4, atol=0)


def test_every_channel_may_have_a_mean_and_a_spread_of_its_own() -> None:
    """As in Playground 2.5: z = state std / scale + mean (StableDiffusionXLPipeline)."""
    mean, std = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
    codec = codec_of(theirs_of("SD 1"), latents_mean=mean, latents_std=std, scaling_factor=0.5)
    torch.testing.assert_close(codec.mean, torch.tensor(mean))
    torch.testing.assert_close(codec.std, torch.tensor(std) / 0.5)


@pytest.mark.parametrize(
    ("name", "absent"), [("SD 1", ("scaling_factor", "shift_factor", "use_quant_conv")), ("Sana", ("decoder_in_shortcut",))]
)
def test_what_older_configurations_do_not_say_is_as_in_diffusers(name: str, absent: tuple[str, ...]) -> None:
    """Stable Diffusion 1's own file has no scaling factor: it is 0.18215 there."""
    part = part_of(theirs_of(name))
    older = Part({k: v for k, v in part.config.items() if k not in absent}, part.tensors, "vae")
    config, weights = read_autoencoder(older, 32, 48)
    expected_config, expected = read_autoencoder(part, 32, 48)
    assert config == expected_config
    assert all(torch.equal(weights[k], expected[k]) for k in expected)
    assert name != "SD 1" or torch.allclose(weights["std"], torch.tensor(1 / 0.18215))


def test_the_autoencoder_in_bfloat16_keeps_the_states_scale(tmp_path: Path) -> None:
    codec = codec_of(theirs_of("FLUX"))
    data = pictures(1, 32, 48)
    state, picture = codec.encode(data), codec.decode(torch.zeros(1, 16, 8, 12)).float()
    codec.autoencoder.bfloat16()
    assert codec.mean.dtype == codec.std.dtype == codec.encode(data).dtype == torch.float32
    assert float((codec.encode(data) - state).square().mean().sqrt() / state.std()) < 0.03
    assert float((codec.decode(torch.zeros(1, 16, 8, 12)).float() - picture).abs().mean()) < 2


@everything
def test_a_codec_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    codec = codec_of(theirs_of(name))
    save_codec(codec, tmp_path / "codec", "# A codec\n")
    loaded = load_codec(tmp_path / "codec")
    assert loaded.config == codec.config
    assert loaded.hash() == codec.hash()


# -- published sizes ---------------------------------------------------------------------------------------------------------


def _wide(blocks: int) -> dict[str, object]:
    widths = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": blocks}
    return {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, **widths}


SANA = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
PUBLISHED: dict[str, tuple[str, Mapping[str, object], int, tuple[int, int, int]]] = {
    "SD 1, 2 and XL": ("AutoencoderKL", _wide(2), 83_653_863, (4, 128, 96)),
    "SD 3 and FLUX": ("AutoencoderKL", {**_wide(2), **FLUX, "use_post_quant_conv": False}, 83_819_683, (16, 128, 96)),
    "TAESD and TAESDXL": ("AutoencoderTiny", {}, 2_445_063, (4, 128, 96)),
    "TAESD3 and TAEF1": ("AutoencoderTiny", {"latent_channels": 16}, 2_458_899, (16, 128, 96)),
    "Sana": (
        "AutoencoderDC",
        {
            "encoder_block_types": SANA, "decoder_block_types": SANA, "upsample_block_type": "interpolate",
            "downsample_block_type": "conv", "scaling_factor": 0.41407,
        },
        312_250_275,
        (32, 32, 24),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_accounted_for(name: str) -> None:
    """With nothing allocated: every tensor of theirs has its place, by name and shape."""
    kind, changed, parameters, shape = PUBLISHED[name]
    with torch.device("meta"):
        theirs = getattr(diffusers, kind)(**changed)
        config, weights = read_autoencoder(part_of(theirs), 1024, 768)
        codec = config.build()
    assert {k: v.shape for k, v in codec.state_dict().items()} == {k: v.shape for k, v in weights.items()}
    assert sum(p.numel() for p in codec.parameters()) == sum(p.numel() for p in theirs.parameters()) == parameters
    assert codec.shape() == shape


# -- tiles -------------------------------------------------------------------------------------------------------------------


def in_tiles(codec: Latents, tile: int) -> Latents:
    parts = codec.config.__class__(codec.config.height, codec.config.width, 3, codec.config.autoencoder, tile).build().eval()
    parts.load_state_dict(codec.state_dict())
    return parts


def test_tiles_of_tiny_autoencoders_are_exactly_the_whole() -> None:
    whole = codec_of(theirs_of("TAESD, two levels"), 200, 40)
    parts = in_tiles(whole, 8)
    assert parts.tiling(2).side == 128
    data = pictures(1, 200, 40)
    torch.testing.assert_close(parts.encode(data), whole.encode(data), rtol=1e-5, atol=1e-5)
    state = whole.encode(data)
    assert int((parts.decode(state).int() - whole.decode(state).int()).abs().max()) <= 1  # a rounding at a half


@pytest.mark.parametrize("name", ["SD 1", "Sana"])
@pytest.mark.parametrize(("uneven", "most"), [(1.0, 0.15), (2.0, 0.4)], ids=["even", "uneven"])
@torch.no_grad()
def test_tiles_of_normed_and_attending_autoencoders_are_near_the_whole(name: str, uneven: float, most: float) -> None:
    """Tiles of 256 pixels in a picture of 512: what they miss of the whole, in units of the picture's own spread. Most where the
    codes' size grows fourfold from top to bottom, for then each tile is normed by other statistics.
    """
    whole = codec_of(theirs_of(name), 512, 64)
    parts = in_tiles(whole, 256)
    z = torch.randn(1, whole.config.latent_channels, 128, 16) * torch.linspace(1 / uneven, uneven, 128)[:, None]
    picture = whole.autoencoder.decode(z)
    missed = tiled(parts.autoencoder.decode, z, parts.tiling(1), Fraction(4)) - picture
    side_by_side = torch.cat([whole.autoencoder.decode(half) for half in z.chunk(2, 2)], 2) - picture

    def jump(x: Tensor) -> float:
        """From the last row above the seam of the tiles side by side to the first one below it, or one of the rows around."""
        return float(x[:, :, 240:272].diff(dim=2).square().mean((0, 1, 3)).max().sqrt())

    assert float(missed.square().mean().sqrt() / picture.std()) < most
    assert jump(missed) < 0.5 * jump(side_by_side)


def test_no_more_pictures_go_through_at_once_than_a_tile_has_room_for() -> None:
    codec = codec_of(theirs_of("FLUX"))
    parts = in_tiles(codec, 64)
    seen: list[int] = []
    for half in (parts.autoencoder.encoder, parts.autoencoder.decoder):
        half.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    data = pictures(5, 32, 48)
    state = codec.encode(data)
    torch.testing.assert_close(parts.encode(data), state, rtol=1e-5, atol=1e-5)
    assert int((parts.decode(state).int() - codec.decode(state).int()).abs().max()) <= 1  # a rounding at a half
    assert seen == [2, 2, 1, 2, 2, 1]


# -- layers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 4)])
def test_doubling_is_repeating_pixels_before_the_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer, x = Doubling(5, 3).double(), torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = conv2d(interpolate(x, scale_factor=2.0, mode="nearest"), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)
    weights = torch.randn_like(expected)
    inputs = (x, layer.weight)
    for ours, theirs in zip(*(torch.autograd.grad((y * weights).sum(), inputs) for y in (layer(x), expected))):
        torch.testing.assert_close(ours, theirs)


# -- what does not fit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("SD 1", {"_class_name": "VQModel"}, "vae: autoencoders of class VQModel are not known here; AutoencoderKL"),
        ("SD 1", {"block_out_channels": None}, "vae: the configuration of the autoencoder cannot be understood"),
        ("Sana", {"encoder_qkv_multiscales": []}, "vae: the configuration of the autoencoder cannot be understood"),
        ("SD 1", {"act_fn": "gelu"}, "vae: act_fn 'gelu'"),
        ("SD 1", {"down_block_types": ("AttnDownEncoderBlock2D",) * 3}, "vae: down_block_types"),
        ("SD 1", {"norm_num_groups": 3}, "vae: widths .* do not divide into 3 groups"),
        (
            "SD 1",
            {"latents_mean": [0.0, 1.0, 2.0], "latents_std": [1.0] * 4},
            "vae: 3 numbers for an autoencoder's latents of 4 channels",
        ),
        ("SD 1", {"latent_channels": 5}, r"vae: the checkpoint's '.*' is \(8"),
        ("SD 1", {"use_quant_conv": False}, "vae: the checkpoint has 'quant_conv.bias', which has no place"),
        ("FLUX", {"use_quant_conv": True}, "vae: the checkpoint lacks 'quant_conv.weight'"),
        ("TAESD", {"upsample_fn": "bilinear"}, "vae: upsample_fn 'bilinear'"),
        ("Sana", {"decoder_norm_types": ("batch_norm",) * 3}, "vae: decoder_norm_types"),
        ("Sana", {"upsample_block_type": "pixel_shuffle"}, "vae: upsample_block_type 'pixel_shuffle'"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, changed: dict[str, object], message: str) -> None:
    part = part_of(theirs_of(name), **changed)
    with pytest.raises(InputError, match=message):
        read_autoencoder(part, 32, 32)


def test_an_incomplete_configuration_is_refused() -> None:
    part = part_of(theirs_of("SD 1"))
    config = {k: v for k, v in part.config.items() if k != "block_out_channels"}
    with pytest.raises(InputError, match="vae: the configuration of the autoencoder lacks 'block_out_channels'"):
        read_autoencoder(Part(config, part.tensors, "vae"), 32, 32)
