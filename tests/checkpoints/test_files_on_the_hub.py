"""Single files by their name on the hub, OWNER/NAME/FILE: the same as the files that lie there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import foreign_originals as originals
import numpy as np
import pytest
import torch
from beside_diffusers import randomised
from command_line import refused
from huggingface_hub import constants
from lora_files import kohya, merged, model_of, networks, ours_says, pairs, peft, theirs_says, written
from test_diffusers_names import close

import unnoise
from unnoise.checkpoints.foreign.adapters import controlnet, picture_prompt
from unnoise.checkpoints.foreign.hub import at_hand, is_hub_file
from unnoise.checkpoints.foreign.lora import low_rank
from unnoise.checkpoints.foreign.memory import numbers_at
from unnoise.checkpoints.foreign.opening import open_foreign
from unnoise.checkpoints.foreign.textual_inversion import textual_inversion
from unnoise.cli.adapters import numbers_of
from unnoise.cli.again import files
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_adapters import PICTURES, SHOWN, control_net, ip_adapter  # noqa: E402
from checkpoints.test_foreign_folder import UNET, Hub, cache, served  # noqa: E402, F401  # a fixture
from checkpoints.test_picture_prompts import redux_of  # noqa: E402

NAME = "someone/something"


def asked(*names: str) -> list[str]:
    return sorted(f"{name} from 0" for name in names)


@pytest.mark.usefixtures("cache")
def test_a_model_and_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network in a folder of the repository, the autoencoder beside its configuration; offline both are there still."""
    sizes = {"block_out_channels": (32, 64), "norm_num_groups": 32}
    pipeline, there = tiny.stable_diffusion(tmp_path / "parts", **sizes, attention_head_dim=8), tmp_path / "there"
    (there / "unets" / "old").mkdir(parents=True)
    file = written(there / "unets" / "old", originals.unet(pipeline.unet.state_dict(), 1), "sd [v1]")
    vae = randomised(tiny.vae(**sizes, scaling_factor=0.7), 9)
    vae.save_pretrained(there / "vae")
    (there / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    names = "unets/old/sd [v1].safetensors", "vae/diffusion_pytorch_model.safetensors"
    with served(there, monkeypatch):
        found = [open_foreign(f"{NAME}/{names[0]}", beside=[f"{NAME}/{names[1]}"]) for _ in range(2)]
    assert sorted(Hub.asked) == asked(*names, "vae/config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found.append(open_foreign(Path(f"{NAME}/{names[0]}"), beside=[Path(f"{NAME}/{names[1]}")]))
    expected = open_foreign(file)
    assert expected is not None
    for foreign in found:
        assert foreign is not None
        unet, codec = foreign.parts["unet"], foreign.parts["vae"]
        assert all(torch.equal(unet.tensors[k], v) for k, v in pipeline.unet.state_dict().items())
        assert (unet.config, foreign.scheduler) == (expected.parts["unet"].config, expected.scheduler)
        assert codec.config["scaling_factor"] == 0.7
        assert all(torch.equal(codec.tensors[k], v) for k, v in vae.state_dict().items())


@pytest.mark.usefixtures("cache")
def test_it_goes_on_where_it_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "unet").mkdir(parents=True)
    data = {"x": torch.arange(1000.0)}
    file = written(tmp_path / "there" / "unet", data, "diffusion_pytorch_model")
    assert str(file).endswith(UNET), "which the hub of the tests breaks off"
    with served(tmp_path / "there", monkeypatch):
        fetched = at_hand(f"{NAME}/{UNET}")
    assert fetched.read_bytes() == file.read_bytes()
    assert len(Hub.asked) == 2
    assert Hub.asked[0] == f"{UNET} from 0"
    assert not Hub.asked[1].endswith("from 0")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("published", ["kohya", "PEFT"])
def test_a_lora(published: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With PEFT's settings, which lie beside it."""
    theirs, ours = networks("SD 1")
    some, there = pairs(theirs, r"attn2\.to"), tmp_path / "there" / "loras"
    there.mkdir(parents=True)
    name = "my style" if published == "kohya" else "adapter_model"
    written(there, kohya(some) if published == "kohya" else peft(some, "base_model.model."), name)
    (there / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2}))
    with served(tmp_path / "there", monkeypatch):
        low_rank(model := model_of(ours), {Path(f"{NAME}/loras/{name}.safetensors"): 0.7})
    close(ours_says("SD 1", ours), theirs_says("SD 1", merged(theirs, some, 0.7 * 2 / 3)))
    low_rank(model, {})  # other tests draw with this network, too
    assert sorted(Hub.asked) == asked(f"loras/{name}.safetensors", "loras/adapter_config.json")


@pytest.mark.usefixtures("cache")
def test_what_is_attached_and_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ControlNet's file with the configuration beside it, and a word."""
    pipeline, there = tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "there"
    control_net(pipeline, there / "canny")
    SHOWN[0].save(tmp_path / "edges.png")
    word = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    written(there, {"emb_params": word}, "easy")
    folder, weights = tiny.save(pipeline, tmp_path / "model"), "canny/diffusion_pytorch_model.safetensors"
    drawn = []
    for hub in (True, False):
        model = unnoise.load(folder)
        with served(there, monkeypatch):
            where = NAME if hub else str(there)
            assert numbers_of([f"{where}/{weights}:edges.png"], [], None, bf16=False) == numbers_at(there / "canny") > 1000
            attached = model.attached(controlnet(f"{where}/{weights}", tmp_path / "edges.png"))
            assert textual_inversion(model, Path(f"{where}/easy.safetensors")) == ("easy",)
        if hub:
            assert sorted(Hub.asked) == asked(weights, "canny/config.json", "easy.safetensors")
        drawn.append(attached.sample("easy cat", 1, 7, steps=2).data)
    assert torch.equal(*drawn)


@pytest.mark.usefixtures("cache")
def test_redux_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in diffusers' layout, without the same weights in a file; an IP-Adapter's repository is named with its files."""
    plain, there = tiny.flux(tmp_path / "parts"), tmp_path / "there"
    redux_of(plain, there)
    with served(there, monkeypatch):
        named = picture_prompt(NAME, [PICTURES[0]])
        asked_for = sorted(Hub.asked)
    inner = ("image_embedder/config.json", "image_embedder/diffusion_pytorch_model.safetensors", "image_encoder/config.json")
    assert asked_for == asked(*inner, "image_encoder/model.safetensors", "feature_extractor/preprocessor_config.json")
    here = picture_prompt(there, [PICTURES[0]])
    assert named.name == "something"
    assert all(torch.equal(a, b) for a, b in zip(named.state_dict().values(), here.state_dict().values(), strict=True))
    (there / "image_embedder").rename(there / "elsewhere")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    with (
        served(there, monkeypatch),
        pytest.raises(InputError, match=rf"give one of its files: .*{NAME}/flux1-redux-dev.safetensors"),
    ):
        picture_prompt(NAME, [PICTURES[0]])


PICKLES: dict[str, tuple[Callable[[str], object], str]] = {
    "a model": (
        unnoise.load,
        r"no such file here; .* not fetched; take .* \(hf download a/b 'in here/x.ckpt'\) and convert it where it lies: python -c",
    ),
    "a ControlNet": (lambda name: controlnet(name, SHOWN[0]), r"is not fetched; take .* convert it where it lies: python -c"),  # type: ignore[arg-type]
    "a picture prompt": (lambda name: picture_prompt(name, []), "a pickle, which can run code .* convert it: python -c"),
    "a LoRA": (lambda name: low_rank(model_of(networks("SD 1")[1]), {name: 1.0}), "a pickle, .* convert it, .* python -c"),
}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("what", PICKLES)
def test_pickles_are_not_fetched(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, message = PICKLES[what]
    with served(tmp_path, monkeypatch), pytest.raises(InputError, match=message):
        opened("a/b/in here/x.ckpt" if what == "a model" else "a/b/x.bin")
    assert Hub.asked == []


@pytest.mark.usefixtures("cache")
def test_a_variant_of_one_file_is_refused_before_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"never read")
    with served(tmp_path, monkeypatch), pytest.raises(InputError, match=rf"{NAME}/x\.safetensors: --variant fp16: .* leave it out"):
        open_foreign(f"{NAME}/x.safetensors", "fp16")
    assert Hub.asked == []


@pytest.mark.usefixtures("cache")
def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    for name in ("flux1-dev-Q4_0.gguf", "flux1-dev-Q8_0.gguf"):
        (tmp_path / "there" / name).write_bytes(b"")
    how = ["a cat", "--out", str(tmp_path / "out")]
    with served(tmp_path / "there", monkeypatch):
        said = refused(["sample", f"{NAME}/flux1-dev-Q4_O.gguf", *how], capsys)
        assert said.endswith(f"{NAME} has no such file on the hub; {NAME}/flux1-dev-Q4_0.gguf is the nearest")
        said = refused(["sample", NAME, *how], capsys)
        files_there = f"{NAME}/flux1-dev-Q4_0.gguf, {NAME}/flux1-dev-Q8_0.gguf"
        assert said.endswith(f"has no model_index.json on the hub; give one of its files: {files_there}")
        said = refused(["sample", "no/one/x.gguf", *how], capsys)
        assert "no/one/x.gguf is no file here, and no/one no public model on the hub" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused(["sample", f"{NAME}/x.gguf", *how], capsys)
    assert said == f"unnoise: {NAME}/x.gguf: no such file, not in the cache of the hub, and HF_HUB_OFFLINE is set"


@pytest.mark.parametrize(
    ("address", "called"),
    [
        ("https://huggingface.co/some/model", "some/model"),
        ("hf.co/some/model/tree/main", "some/model"),
        ("https://huggingface.co/some/model/blob/main/a/x.safetensors?download=true", "some/model/a/x.safetensors"),
    ],
)
def test_an_address_is_told_by_its_name(address: str, called: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["sample", address, "a cat"], ["sample", str(tmp_path), "a cat", "--lora", address]):
        said = refused([*argv, "--out", str(tmp_path / "out")], capsys)
        assert said.endswith(f"an address; on the hub this is called {called}")


@pytest.mark.usefixtures("cache")
def test_what_lies_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that path; and where there is such a folder, what it lacks is not looked for elsewhere."""
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir(parents=True)
    Path(NAME, "x.safetensors").write_bytes(b"mine")
    shutil.copytree(NAME, tmp_path / "there")
    with served(tmp_path / "there", monkeypatch):
        assert at_hand(f"{NAME}/x.safetensors") == Path(NAME, "x.safetensors")
        assert at_hand(f"{NAME}/y.safetensors") == Path(NAME, "y.safetensors")
        with pytest.raises(InputError, match=r"y\.safetensors: no such file; a model is"):
            unnoise.load(f"{NAME}/y.safetensors")
    assert Hub.asked == []
    for path in (
        "/a/b/c.gguf",
        "./a/b/c.gguf",
        "../a/b.gguf",
        "a/../b/c.gguf",
        "a/b/../c.gguf",
        "a/b.gguf",
        "a/b/c.png",
        "~/a/b.gguf",
    ):
        assert not is_hub_file(path), path
    told = {
        "lora": ["a/b/c.safetensors:0.7", f"{NAME}/y.safetensors"],
        "embedding": ["a/b/c.safetensors"],
        "beside": ["a/b/c.gguf"],
    }
    every = ["a/b/c.safetensors", f"{NAME}/y.safetensors", "a/b/c.safetensors", "a/b/c.gguf"]
    assert files(told) == every, "none of which was ever fetched"


@pytest.mark.usefixtures("cache")
def test_what_was_fetched_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"theirs")
    told = {"lora": [f"{NAME}/x.safetensors:0.7"], "embedding": [f"{NAME}/x.safetensors", f"{NAME}/x.pt"], "beside": [NAME]}
    assert files(told) == [f"{NAME}/x.safetensors", f"{NAME}/x.safetensors", f"{NAME}/x.pt"]
    with served(tmp_path, monkeypatch):
        at_hand(f"{NAME}/x.safetensors")
    assert files(told) == [f"{NAME}/x.pt"]


@pytest.mark.usefixtures("cache")
def test_a_picture_prompt_with_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As h94/IP-Adapter lies there; the encoder is not fetched where another is named."""
    pipeline, there = tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "there"
    file = ip_adapter(pipeline.unet, there / "models")
    shown = np.asarray(SHOWN[0].convert("RGB"))
    own = picture_prompt(file, [shown])
    encoder = next(f for f in there.rglob("image_encoder"))
    with served(there, monkeypatch):
        name = f"{NAME}/models/{file.name}"
        drawn = picture_prompt(name, [shown], encoder)
        assert sorted(Hub.asked) == asked(f"models/{file.name}")
        fetched = picture_prompt(name, [shown])
    inside = encoder.relative_to(there).as_posix()
    assert sorted(Hub.asked) == asked(*(f"{inside}/{n}" for n in ("config.json", "model.safetensors")), f"models/{file.name}")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    pictures = [model.attached(p).sample("a cat", 1, 7, steps=2).data for p in (own, drawn, fetched)]
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])
