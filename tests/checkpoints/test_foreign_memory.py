"""What a model is estimated to need, against what torch's profiler sees it allocate, and against what can be counted by hand."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from unnoise.checkpoints.foreign import memory
from unnoise.checkpoints.foreign.memory import (
    KERNELS,
    RUNTIME,
    Need,
    Plan,
    Wanted,
    check_fits,
    check_memory,
    estimate,
    free_memory,
    numbers,
    numbers_at,
    peak,
)
from unnoise.checkpoints.foreign.parts import Foreign, Part
from unnoise.core.errors import InputError
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.networks.flux import FluxConfig
from unnoise.networks.kl_autoencoder import KLAutoencoderConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig

UNET = SDUNetConfig(widths=(32, 64), blocks=1, depths=(1, 0), heads=(2, 2), token_dim=24)
SD3 = SD3Config(width=64, depth=2, heads=2, vector_dim=12, token_dim=24, positions=32, unit=16)
FLUX = FluxConfig(width=64, joint=1, single=2, heads=2, axes=(8, 12, 12), vector_dim=12, token_dim=24)


def test_what_can_be_counted_by_hand() -> None:
    """Two layers in a row, of which the second's input is let go; a view costs nothing, what is kept by hand stays."""
    x = torch.zeros(8, 64, device="meta")
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.Linear(64, 64))
    assert peak(lambda: layers(x)) == 8 * (256 + 256) * 4
    assert peak(lambda: x.T.reshape(64, 8).T) == 0
    assert peak(lambda: [x + 1, x + 2, x.view(-1)]) == 2 * 8 * 64 * 4
    assert peak(lambda: (x + 1).sum()) == 8 * 64 * 4 + 4
    assert peak(lambda: x.to(torch.bfloat16)) == 8 * 64 * 2


def allocated(network: nn.Module, x: Tensor, cond: dict[str, Tensor]) -> int:
    """The most bytes that the processor's allocator held at once while a network ran."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        network(x, torch.full((len(x),), 0.5), cond)
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("config", [UNET, SD3, FLUX], ids=["U-Net", "SD3", "FLUX"])
def test_a_step_takes_what_is_estimated(config: SDUNetConfig | SD3Config | FluxConfig) -> None:
    """Within a fifth: real kernels take some more beside, or work in place."""
    network = config.build().eval()
    codec = LatentsConfig(256, 192, 3, KLAutoencoderConfig(latent_channels=config.channels, widths=(32, 32, 32, 32), blocks=1))
    need = estimate(config, codec, Plan(256, 192, batch=2, passes=1), tokens=20)
    real = allocated(network, torch.randn(2, config.channels, 32, 24), {"tokens": torch.randn(2, 20, 24)})
    assert 0.8 * need.step < real < KERNELS * need.step
    assert need.weights >= sum(p.numel() * 4 for p in network.parameters())


def test_halves_take_half_and_pictures_add_up() -> None:
    codec = LatentsConfig(256, 256, 3, KLAutoencoderConfig(widths=(32, 32, 32, 32), blocks=1))
    whole, half = (estimate(UNET, codec, Plan(256, 256, dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert half.step == pytest.approx(whole.step / 2, rel=0.05)
    assert half.weights == pytest.approx(whole.weights / 2, rel=0.01)
    assert [estimate(UNET, codec, Plan(256, 256, d), 10).encoders for d in (torch.float32, torch.bfloat16)] == [40, 20]
    four = estimate(UNET, codec, Plan(256, 256, batch=4))
    assert four.step == pytest.approx(4 * whole.step, rel=0.05)
    assert estimate(UNET, codec, Plan(256, 256, passes=1)).step == pytest.approx(whole.step / 2, rel=0.05)
    tall = estimate(UNET, codec, Plan(2048, 256))  # decoded in tiles: no more than one tile at a time
    assert tall.decode == pytest.approx(estimate(UNET, codec, Plan(512, 256)).decode, rel=0.01)


def test_numbers_of_a_part() -> None:
    tensors = {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.tensor(1.0)}
    assert numbers(Part({}, tensors, "here")) == 18


def test_free_memory(tmp_path: Path) -> None:
    """What the system says, or a container's limit less what it holds but files."""
    there = free_memory()
    assert there is not None
    whole = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1]) * 1024
    assert 0 < there <= whole
    assert memory._container(tmp_path) is None
    for name, text in {
        "memory.max": "1000000\n",
        "memory.current": "400000\n",
        "memory.stat": "anon 5\ninactive_file 30000\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory._container(tmp_path) == 630_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container(tmp_path) is None


def linear(plan: Plan) -> Need:
    """4 GB of weights in float32, 1 GB of encoders, 16 bytes a pixel and picture in a step."""
    size = plan.dtype.itemsize
    return Need(10**9 * size, 10**9, plan.height * plan.width * plan.batch * 4 * size, 10**6)


def total(plan: Plan) -> int:
    return linear(plan).total


def test_what_would_fit_is_named() -> None:
    plan = Plan(1024, 1024, batch=400)
    check_memory("m", linear, plan, None)
    check_memory("m", linear, plan, total(plan))
    alone, half = Plan(1024, 1024), Plan(1024, 1024, torch.bfloat16)
    with pytest.raises(
        InputError, match=r"400 x 1024 x 1024 in float32 needs about .* GB are free; 1024 x 1024 in float32 \(--batch 1\) would fit"
    ):
        check_memory("m", linear, plan, total(alone))
    with pytest.raises(InputError, match=r"; 1024 x 1024 in bfloat16 \(--batch 1\) would fit, with about 3.4 GB"):
        check_memory("m", linear, plan, total(half))
    small = total(Plan(512, 256, torch.bfloat16))
    with pytest.raises(InputError, match=r"; 256 x 512 in bfloat16 would fit"):
        check_memory("m", linear, Plan(2048, 1024), small)
    with pytest.raises(InputError, match=r"m: .*weights 4.0, text encoders 1.0, .*no smaller picture fits either") as refused:
        check_memory("m", linear, plan, RUNTIME)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes all that is free with its encoders fits without them."""
    codec = LatentsConfig(256, 256, 3, KLAutoencoderConfig(widths=(32, 32, 32, 32), blocks=1))
    with torch.device("meta"):
        parts = {"unet": UNET.build().state_dict(), "vae": codec.autoencoder.build().state_dict()}
        parts["text_encoder"] = {"weight": torch.zeros(10**6, 100)}
    foreign = Foreign("P", {name: Part({}, tensors, name) for name, tensors in parts.items()}, {}, {}, "model.safetensors")
    need = estimate(UNET, codec, Plan(256, 256), 10**8)
    monkeypatch.setattr(memory, "free_memory", lambda device: need.total)
    check_fits(foreign, UNET, codec, torch.float32)
    monkeypatch.setattr(memory, "free_memory", lambda device: need.total - 10**6)
    with pytest.raises(
        InputError, match=r"model.safetensors: 256 x 256 in float32 .*text encoders 0.4.*; 256 x 256 in bfloat16 would fit"
    ):
        check_fits(foreign, UNET, codec, torch.float32)
    check_fits(Foreign("P", {"unet": foreign.parts["unet"]}, {}, {}, "m"), UNET, codec, torch.float32)


def test_what_is_wanted_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pictures at once, larger ones, and what lies beside, each need what they are estimated at, and are refused below."""
    codec = LatentsConfig(256, 256, 3, KLAutoencoderConfig(widths=(32, 32, 32, 32), blocks=1))
    with torch.device("meta"):
        parts = {"unet": UNET.build().state_dict(), "vae": codec.autoencoder.build().state_dict()}
    foreign = Foreign("P", {name: Part({}, tensors, name) for name, tensors in parts.items()}, {}, {}, "m")
    for wanted, plan, beside, fits in (
        (Wanted(batch=8), Plan(256, 256, batch=8), 0, r"8 x 256 x 256 in float32 .*; 256 x 256 in float32 \(--batch 1\) would fit"),
        (Wanted(512, 512), Plan(512, 512), 0, r"512 x 512 in float32 .*; 512 x 512 in bfloat16 would fit"),
        (Wanted(beside=10**8), Plan(256, 256), 10**8, r"256 x 256 in float32 .*beside 0.4.*; 256 x 256 in bfloat16 would fit"),
    ):
        need = estimate(UNET, codec, plan, beside=beside)
        monkeypatch.setattr(memory, "free_memory", lambda device, need=need: need.total)
        check_fits(foreign, UNET, codec, torch.float32, wanted)
        monkeypatch.setattr(memory, "free_memory", lambda device, need=need: need.total - 10**6)
        with pytest.raises(InputError, match=fits):
            check_fits(foreign, UNET, codec, torch.float32, wanted)


def test_a_gpu_is_asked_for_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, and the machine's for the weights alone, which are read through it."""
    codec = LatentsConfig(256, 256, 3, KLAutoencoderConfig(widths=(32, 32, 32, 32), blocks=1))
    with torch.device("meta"):
        parts = {"unet": UNET.build().state_dict(), "vae": codec.autoencoder.build().state_dict()}
    foreign = Foreign("P", {name: Part({}, tensors, name) for name, tensors in parts.items()}, {}, {}, "m")
    need, wanted = estimate(UNET, codec, Plan(256, 256)), Wanted(device="cuda:1")
    for here, there, refused in (
        (need.weights + RUNTIME, need.total, None),
        (need.weights + RUNTIME, need.total - 10**6, "are free on cuda:1; 256 x 256 in bfloat16 would fit"),
        (need.weights + RUNTIME - 10**6, need.total, "go through this machine's memory"),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda device, here=here, there=there: here if device == "cpu" else there)
        if refused is None:
            check_fits(foreign, UNET, codec, torch.float32, wanted)
        else:
            with pytest.raises(InputError, match=refused):
                check_fits(foreign, UNET, codec, torch.float32, wanted)


def test_numbers_at_a_place(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    assert numbers_at(tmp_path) == numbers_at(tmp_path / "diffusion_pytorch_model.safetensors") == 17
    assert numbers_at(tmp_path / "owner/name") == 0
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04")
    assert numbers_at(tmp_path / "a.pth") == 0, "who reads it says why it cannot be read"
