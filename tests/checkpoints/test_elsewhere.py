"""What a GPU would be given, on a device that is not there: every tensor lies where it should, and pictures are the processor's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import CROSSED, ELSEWHERE, elsewhere
from PIL import Image
from tiny import tiny_model
from torch import Tensor, nn

import unnoise
from unnoise.cli.main import main
from unnoise.modalities.image.latents import Latents
from unnoise.model import controlled, editing, inpainting
from unnoise.samplers.registry import SAMPLERS

diffusers = pytest.importorskip("diffusers", reason="the checkpoints are written by diffusers")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_composed import SHOWN, adapters, control_net  # noqa: E402
from checkpoints.test_dit_pictures import pixart, sana  # noqa: E402

KINDS: dict[str, Callable[[Path], Any]] = {
    "sd": tiny.stable_diffusion,
    "inpainting": lambda folder: tiny.stable_diffusion(folder, "StableDiffusionInpaintPipeline", in_channels=9),
    "instructed": lambda folder: tiny.stable_diffusion(folder, "StableDiffusionInstructPix2PixPipeline", in_channels=8),
    "xl": tiny.sdxl,
    "refiner": tiny.refiner,
    "sd3": tiny.sd3,
    "flux": tiny.flux,
    "fill": lambda folder: tiny.flux(folder, kind="FluxFillPipeline", channels=48),
    "canny": lambda folder: tiny.flux(folder, kind="FluxControlPipeline", channels=32),
    "kontext": lambda folder: tiny.flux(folder, kind="FluxKontextPipeline"),
    "pixart": lambda folder: pixart(folder, "PixArtSigmaPipeline"),
    "sana": sana,
}


@pytest.fixture(autouse=True)
def there() -> Iterator[None]:
    """Throughout, for text encoders are kept between calls, and stay where they were."""
    with elsewhere():
        yield


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a kind, made when it is first asked for; beside them pictures 0.png, 1.png, 2.png."""
    root = tmp_path_factory.mktemp("lying")
    for i, picture in enumerate(SHOWN):
        picture.save(root / f"{i}.png")

    def folder(kind: str) -> Path:
        place = root / kind
        return place if place.exists() else tiny.save(KINDS[kind](root / f"{kind}-parts"), place)

    return folder


def drawn(out: Path) -> Tensor:
    return torch.stack([torch.tensor(np.asarray(Image.open(f))) for f in sorted(out.glob("0*.png"))]).float()


def made(out: Path, device: str, *argv: str) -> Tensor:
    main(["sample", *argv, "--device", device, "--out", str(out)])
    return drawn(out)


def same(out: Path, *argv: str) -> None:
    """What the command draws on both devices: no pixel is more than one level apart, and none of the pictures is flat."""
    here, far = (made(out / name, name, *argv) for name in ("cpu", str(ELSEWHERE)))
    assert float(here.std()) > 1
    assert float((here - far).abs().max()) <= 1


def test_a_forgotten_device_is_seen() -> None:
    class Forgetful(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.arange(2)

    forgetful, x = Forgetful(2, 2).to(ELSEWHERE), torch.ones(1, 2, device=ELSEWHERE)
    assert forgetful.weight.device == x.device == ELSEWHERE
    with pytest.raises(RuntimeError, match=r"aten.add.Tensor: some tensors lie elsewhere, and these on the processor: \[\(2,\)\]"):
        forgetful(x)
    with pytest.raises(RuntimeError, match="these on the processor"):
        nn.Linear.forward(forgetful, torch.ones(1, 2))
    with pytest.raises(RuntimeError):
        x.numpy()
    y = torch.tensor([3.0, 1.0], device=ELSEWHERE)
    y[torch.tensor([1])] = 2.0  # positions may lie here
    assert (y * torch.tensor(2.0)).cpu().tolist() == [6.0, 4.0]  # so may numbers


@pytest.mark.parametrize("kind", ["sd", "xl", "refiner", "sd3", "flux", "pixart", "sana", "kontext"])
def test_families(kind: str, lying: Callable[[str], Path], tmp_path: Path) -> None:
    """In bfloat16, which kernels for processors round in other places, it is off from float32 with at most twice the variance."""
    size = ["--height", "16"] if kind in ("sd3", "flux", "kontext") else []
    argv = [str(lying(kind)), "a [cat:dog:0.5]", "-n", "2", "--steps", "2", *size]
    same(tmp_path, *argv)
    exact = drawn(tmp_path / "cpu")
    here, far = (made(tmp_path / f"half-{name}", name, *argv, "--bf16") - exact for name in ("cpu", str(ELSEWHERE)))
    assert float(far.square().mean()) <= 2 * float(here.square().mean())


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "refiner"])
def test_a_network_waits_for_nothing(kind: str, lying: Callable[[str], Path]) -> None:
    """No number is read or brought while it computes: a GPU's queue stays full, and its kernels can be recorded (CUDA graphs)."""
    model = unnoise.load(lying(kind), torch.bfloat16).to(ELSEWHERE)
    network, calls = model.denoiser.get_submodule("network"), 0
    codec = model.codec.resized(16, 16) if isinstance(model.codec, Latents) else None
    assert codec is not None
    pictures = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    given: Any = None
    if kind in ("inpainting", "fill"):
        given = inpainting(model).of(codec, pictures, np.ones((1, 16, 16), dtype=bool))
    elif kind in ("instructed", "kontext"):
        given = editing(model).of(codec, pictures)
    elif kind == "canny":
        given = controlled(model).of(codec, pictures)
    usual = network.forward

    def watched(*args: Any) -> Tensor:
        nonlocal calls
        calls, before = calls + 1, len(CROSSED)
        out: Tensor = usual(*args)
        assert CROSSED[before:] == []
        return out

    network.forward = watched  # type: ignore[method-assign]
    before = len(CROSSED)
    model.sample("a (cat:1.2)", steps=2, height=16, given=given)
    assert calls >= 2
    assert len(CROSSED) > before, "what lies beside the network does read and bring numbers"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("inpainting", "--fill 0.png --mask 1.png"),
        ("instructed", "--change 0.png --picture-guidance 1.5"),
        ("fill", "--fill 0.png --mask 1.png --height 16"),
        ("canny", "--follow 0.png --height 16"),
        ("sd", "--start 0.png --strength 0.7"),
        ("xl", "--fill 0.png --mask 1.png --strength 0.8"),
        ("sd", "--negative x --rescale 0.5 --interval 0.2 0.8 --cache 2"),
        ("xl", "--inner pag --original 40 24 --height 16 --width 24"),
        ("sd3", "--inner seg --rule apg --height 16"),
        ("xl", "--cache-within 0.1 --cache-order 1"),
        ("flux", "--start 0.png --height 16 --exact"),
        ("xl", "--then refiner"),
        ("sd", "--weaker sd --rule cfg-zero"),
    ],
)
def test_options(kind: str, options: str, lying: Callable[[str], Path], tmp_path: Path) -> None:
    root = lying(kind).parent
    named = [str(root / o) if o.endswith(".png") else str(lying(o)) if o in KINDS else o for o in options.split()]
    same(tmp_path, str(root / kind), "a cat", "-n", "2", "--steps", "4", *named)


def test_a_picture_that_is_looked_at(lying: Callable[[str], Path]) -> None:
    expected, far = (unnoise.load(lying("kontext")).to(device) for device in ("cpu", ELSEWHERE))
    seen = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 24, 16, 3), dtype=np.uint8))
    how: dict[str, Any] = {"steps": 3, "height": 16, "true_guidance": 2.0, "negative": "x"}
    here, there = (torch.as_tensor(m.sample("a", given=editing(m).of(m.codec, seen), **how).data).float() for m in (expected, far))
    assert float((here - there).abs().max()) <= 1


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_adapters(kind: str, lying: Callable[[str], Path], tmp_path: Path) -> None:
    """A LoRA of the network and of words, a learnt word, a ControlNet and a picture prompt."""
    folder = lying(kind)
    plain = diffusers.DiffusionPipeline.from_pretrained(folder)
    control_net(plain.unet, tmp_path / "edges")
    style, toy, ip, _ = adapters(plain, kind, tmp_path)
    shown = [str(folder.parent / f"{i}.png") for i in range(3)]
    more = ["--embedding", str(toy), "--lora", f"{style}:0.7:0.4", "--control", f"{tmp_path}/edges:{shown[0]}:0.8"]
    more += ["--picture-prompt", f"{ip}:{shown[1]},{shown[2]}:0.6"]
    same(tmp_path, str(folder), "a <toy> in rain", "-n", "2", "--steps", "2", *more)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler: str) -> None:
    here, far = tiny_model(), tiny_model().to(ELSEWHERE)
    how: dict[str, Any] = {"sampler": sampler, "steps": 5}
    expected, made = (torch.as_tensor(m.sample(["one", "two"], **how).data).float() for m in (here, far))
    assert float((made - expected).abs().max()) <= 1


@pytest.mark.parametrize("name", ["scenes", "stickers"])
def test_what_ships(name: str, tmp_path: Path) -> None:
    same(tmp_path, name, "two red apples" if name == "scenes" else "a cat", "-n", "1", "--steps", "2")
