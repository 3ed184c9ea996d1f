"""What lies in a folder or on the hub: which files are read, and what is refused, in one line, through the command line."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from command_line import refused
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

import unnoise
from unnoise.checkpoints.foreign.folder import licence, read_diffusers, weights_of
from unnoise.checkpoints.foreign.hub import fetch_part, needed_files
from unnoise.cli.main import main
from unnoise.control.sampling import Start
from unnoise.core.errors import InputError
from unnoise.modalities.words.frozen import encoders_of

diffusers = pytest.importorskip("diffusers", reason="folders are those that diffusers writes")
import checkpoints.foreign_pipelines as tiny  # noqa: E402


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's layout, tiny."""
    folder = tmp_path_factory.mktemp("hub")
    return tiny.save(tiny.stable_diffusion(folder / "parts"), folder / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def test_a_folder_is_sampled_by_its_path(whole: Path, tmp_path: Path) -> None:
    """As it comes, and with what it was saved as again here: the same pictures."""
    how = ["a red cat", "-n", "2", "--steps", "3", "--seed", "7"]
    main(["sample", str(whole), *how, "--out", str(tmp_path / "out")])
    model = unnoise.load(whole)
    samples = model.sample("a red cat", 2, 7, steps=3)
    files = sorted((tmp_path / "out").glob("*.png"))
    assert len(files) == 3  # and the sheet
    assert torch.equal(torch.stack([picture(f) for f in files[:2]]), samples.data)
    model.save(tmp_path / "ours")
    again = unnoise.load(tmp_path / "ours")
    assert again.hash() == model.hash()
    assert torch.equal(again.sample("a red cat", 2, 7, steps=3).data, samples.data)


def test_a_text_encoder_that_is_a_link_has_its_tokenizer_beside_the_link(whole: Path, folder: Path, tmp_path: Path) -> None:
    """As one that several models share is linked into each of them."""
    (folder / "text_encoder").rename(tmp_path / "shared")
    (folder / "text_encoder").symlink_to(tmp_path / "shared")
    drawn, expected = (unnoise.load(f).sample("a red cat", 1, 7, steps=2).data for f in (folder, whole))
    assert torch.equal(drawn, expected)


def picture(file: Path) -> torch.Tensor:
    return torch.tensor(list(Image.open(file).convert("RGB").tobytes())).reshape(16, 16, 3).to(torch.uint8)


def test_pictures_to_begin_with(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One for both samples: its middle, where another shape than its own is asked for."""
    Image.linear_gradient("L").resize((20, 16)).convert("RGB").save(tmp_path / "a.png")
    how = [
        "sample",
        str(whole),
        "cat",
        "-n",
        "2",
        "--steps",
        "4",
        "--height",
        "16",
        "--start",
        str(tmp_path / "a.png"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert "strength 0.2 of 4 steps is less than one step" in refused([*how, "--strength", "0.2"], capsys)
    main([*how, "--strength", "0.5", "--seed", "7"])
    assert "a.png: of its 16 x 20 (height x width) the middle, in the shape of 16 x 16" in capsys.readouterr().err
    made = [picture(f) for f in sorted((tmp_path / "out").glob("*.png"))[:2]]
    start = torch.tensor(list(Image.open(tmp_path / "a.png").crop((2, 0, 18, 16)).tobytes())).reshape(16, 16, 3).to(torch.uint8)
    samples = unnoise.load(whole).sample("cat", 2, 7, steps=4, start=Start(torch.stack([start, start]), 0.5))
    assert torch.equal(torch.stack(made), samples.data)


def test_bfloat16_is_read_on_request_and_float16_never_computed_with(whole: Path, tmp_path: Path) -> None:
    exact = unnoise.load(whole).sample("a red cat", 2, 7, steps=3).data.float()
    model = unnoise.load(whole, torch.bfloat16)
    assert {p.dtype for p in model.denoiser.parameters()} == {torch.bfloat16}
    made = model.sample("a red cat", 2, 7, steps=3).data.float()
    assert 0 < float((made - exact).abs().mean()) < 0.05 * float(exact.std())
    with pytest.raises(InputError, match=r"float16: float32 or bfloat16"):
        unnoise.load(whole, torch.float16)
    half = tiny.stable_diffusion(tmp_path / "parts").to(torch.float16)
    model = unnoise.load(tiny.save(half, tmp_path / "half", variant="fp16"))
    assert {p.dtype for p in model.denoiser.parameters()} == {torch.float32}
    assert torch.equal(model.denoiser.network.first.weight, half.unet.conv_in.weight.float())


def test_weights_are_those_in_the_file_not_a_copy(whole: Path) -> None:
    """Mapped into memory: the same file read twice lies in memory once, and is no memory of the process's own."""
    model = unnoise.load(whole)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc to see mappings in")
    at = model.denoiser.network.first.weight.data_ptr()
    spans = [line.split() for line in maps.read_text().splitlines()]
    name = next(s[-1] for s in spans if int(s[0].split("-")[0], 16) <= at < int(s[0].split("-")[1], 16))
    assert name.endswith("unet/diffusion_pytorch_model.safetensors")


def test_shards_and_variants(folder: Path) -> None:
    unet = folder / "unet"
    tensors = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    for i, some in enumerate((names[:20], names[20:]), 1):
        save_file({n: tensors[n] for n in some}, unet / f"diffusion_pytorch_model-0000{i}-of-00002.safetensors")
    read = read_diffusers(folder).parts["unet"].tensors
    assert set(read) == set(tensors)
    assert all(torch.equal(read[n], tensors[n]) for n in names)
    for name, variant in (
        ("model.fp16-00002-of-00002", "fp16"),
        ("model-00002-of-00002.fp16", "fp16"),
        ("model-00002-of-00002", ""),
    ):
        first = name.replace("00002-of", "00001-of")
        assert weights_of([f"{name}.safetensors", f"{first}.safetensors"], variant, "x") == [
            f"{first}.safetensors", f"{name}.safetensors",
        ]  # fmt: skip
    assert weights_of(["model.fp16.safetensors", "model.safetensors"], None, "x") == ["model.safetensors"]
    assert weights_of(["model.fp16.safetensors", "model.safetensors"], "fp16", "x") == ["model.fp16.safetensors"]
    with pytest.raises(InputError, match="no variant 'ema' of its weights; there are plain, fp16"):
        weights_of(["model.fp16.safetensors", "model.safetensors"], "ema", "x")


def test_an_index_says_which_files_count(folder: Path) -> None:
    """Beside it lie a whole file and shards of another number, from before; its own may be called as they like."""
    unet = folder / "unet"
    tensors = load_file(unet / "diffusion_pytorch_model.safetensors")
    other = {n: t + 1 if t.is_floating_point() else t for n, t in tensors.items()}
    save_file(other, unet / "diffusion_pytorch_model.safetensors")
    for i in (1, 2, 3):
        save_file(other, unet / f"diffusion_pytorch_model-0000{i}-of-00003.safetensors")
    names, index = sorted(tensors), unet / "diffusion_pytorch_model.safetensors.index.json"
    halves = {"first.safetensors": names[:20], "second.safetensors": names[20:]}
    for file, some in halves.items():
        save_file({n: tensors[n] for n in some}, unet / file)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: file for file, some in halves.items() for n in some}}))
    read = read_diffusers(folder).parts["unet"].tensors
    assert set(read) == set(tensors)
    assert all(torch.equal(read[n], tensors[n]) for n in names)
    (unet / "second.safetensors").unlink()  # it is of no use any more
    assert torch.equal(read_diffusers(folder).parts["unet"].tensors[names[0]], other[names[0]])
    for broken in ("[]", "{}", '{"weight_map": {"a": 5}}', '{"weight_map"'):
        index.write_text(broken)
        with pytest.raises(InputError, match=r"index\.json: "):
            read_diffusers(folder)


def test_a_variant_that_lies_in_shards(folder: Path) -> None:
    """Known by its index, whatever its files are called; other parts have it as one file, or not at all."""
    unet, vae = folder / "unet", folder / "vae"
    tensors = load_file(unet / "diffusion_pytorch_model.safetensors")
    doubled = {n: 2 * t if t.is_floating_point() else t for n, t in tensors.items()}
    save_file(doubled, unet / "some.safetensors")
    told = json.dumps({"weight_map": dict.fromkeys(doubled, "some.safetensors")})
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(told)
    for there in (False, True):
        if there:
            shutil.copy(vae / "diffusion_pytorch_model.safetensors", vae / "diffusion_pytorch_model.fp16.safetensors")
        read = read_diffusers(folder, "fp16").parts["unet"].tensors
        assert all(torch.equal(read[n], doubled[n]) for n in doubled)
    (unet / "some.safetensors").unlink()
    with pytest.raises(InputError, match=r"index\.fp16\.json: names 'some.safetensors', which is not there; fetch the model again"):
        read_diffusers(folder, "fp16")
    told = json.dumps({"weight_map": dict.fromkeys(doubled, "s" * 300)})
    (unet / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(told)
    with pytest.raises(InputError, match=r"names 'sss.*', which is not there"):
        read_diffusers(folder, "fp16")


def test_of_text_encoders_the_whole_file_comes_first(folder: Path) -> None:
    """As transformers reads them; without it the shards that the index names."""
    place = folder / "text_encoder"
    tensors = load_file(place / "model.safetensors")
    save_file({n: torch.zeros_like(t) for n, t in tensors.items()}, place / "zeros.safetensors")
    told = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "zeros.safetensors")})
    (place / "model.safetensors.index.json").write_text(told)
    transformers = pytest.importorskip("transformers")
    name = next(n for n in tensors if n.endswith("fc1.weight"))
    for expected in (tensors[name], torch.zeros_like(tensors[name])):
        theirs = transformers.CLIPTextModel.from_pretrained(place).state_dict()
        assert torch.equal(next(t for n, t in theirs.items() if name.endswith(n) or n.endswith(name)), expected)
        assert torch.equal(read_diffusers(folder).parts["text_encoder"].tensors[name], expected)
        encoder = encoders_of(unnoise.load(folder).conditioner)["text_encoder"].opened.network.state_dict()
        assert torch.equal(next(t for n, t in encoder.items() if name.endswith(n)), expected)
        (place / "model.safetensors").unlink(missing_ok=True)


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


def shorten(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20]) and None


def edit(name: str, **changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changed}))

    return change


def pickled(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def one_shard(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00003.safetensors"))


def mixed_up(folder: Path) -> None:
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "unet/diffusion_pytorch_model.safetensors")


def nf4(folder: Path) -> None:
    """As bitsandbytes packs a layer: two numbers in a byte, and how they are unpacked beside it."""
    tensors = load_file(folder / UNET)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    tensors |= {name: torch.zeros(tensors[name].numel() // 2, 1, dtype=torch.uint8), f"{name}.absmax": torch.ones(1)}
    save_file({**tensors, f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)}, folder / UNET)


def integers(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    save_file({k: (v * 50).to(torch.int8) if v.ndim == 2 else v for k, v in tensors.items()}, folder / UNET)


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
TORCHAO = {"quant_method": "torchao", "quant_type": "int8wo"}
SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/diffusion_pytorch_model.safetensors"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no text encoder": (drop("text_encoder"), "text_encoder: no such folder, though model_index.json names a text_encoder"),
    "no tokenizer": (drop("tokenizer"), "tokenizer: no such folder"),
    "no scheduler": (drop("scheduler"), "scheduler_config.json: no such file"),
    "left out": (edit("model_index.json", vae=[None, None]), "no vae, which a StableDiffusionPipeline needs"),
    "truncated": (shorten(UNET), f"{UNET}: not whole as safetensors"),
    "truncated words": (shorten("text_encoder/model.safetensors"), "text_encoder/model.safetensors: not whole as safetensors"),
    "truncated json": (shorten("unet/config.json"), "config.json: not readable as JSON"),
    "one shard": (one_shard, "unet: file 2 of the 3 that its weights lie in is missing"),
    "mixed-up files": (mixed_up, "unet: the checkpoint lacks 'time_embedding.linear_1.weight'"),
    "another size": (edit("unet/config.json", cross_attention_dim=24), "unet: the checkpoint's"),
    "another vae": (edit("vae/config.json", latent_channels=8), "vae: the checkpoint's"),
    "quantised": (nf4, "unet: its weights are quantised ('down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"),
    "integers": (integers, "unet: its weights are quantised ('"),
    "said to be quantised": (
        edit("unet/config.json", quantization_config=NF4),
        "unet: its weights are quantised (bitsandbytes nf4, says config.json), which is not read from a folder; take the same",
    ),
    "words said to be quantised": (
        edit("text_encoder/config.json", quantization_config=TORCHAO),
        "text_encoder: its weights are quantised (torchao int8wo",
    ),
    "pickled": (pickled, "diffusion_pytorch_model.bin: a pickle, which can run code when it is opened; safetensors are read"),
    "video": (edit("unet/config.json", _class_name="UNetSpatioTemporalConditionModel"), "Stable Video Diffusion (UNetSpatio"),
    "depth": (edit("unet/config.json", in_channels=5), "unet: the checkpoint's 'conv_in.weight'"),
    "several depths, one way": (
        edit("unet/config.json", transformer_layers_per_block=[[1], [1]]),
        "transformer_layers_per_block [[1], [1]]: those on the way up (reverse_ ...) are to be said beside several",
    ),
    "unknown scheduler": (
        edit("scheduler/scheduler_config.json", _class_name="DDIMSchedular"),
        "unknown scheduler in scheduler_config.json 'DDIMSchedular'",
    ),
    **{
        f"{part}: {changed}": (edit(f"{part}/{file}.json", **changed), f"{part}: its settings are none that a")
        for part, file, changed in (
            ("unet", "config", {"attention_head_dim": None}),
            ("unet", "config", {"attention_head_dim": 0}),
            ("unet", "config", {"norm_num_groups": 0}),
            ("unet", "config", {"in_channels": None}),
            ("unet", "config", {"cross_attention_dim": -1}),
            ("vae", "config", {"latent_channels": 10**9}),
            ("unet", "config", {"transformer_layers_per_block": None}),
            ("scheduler", "scheduler_config", {"beta_end": None}),
            ("scheduler", "scheduler_config", {"beta_start": "x"}),
            ("scheduler", "scheduler_config", {"beta_end": -1}),
        )
    },
    **{
        f"{part} of many layers": (edit(f"{part}/config.json", **changed), f"{part}: {name} {10**9}: its settings are none that a")
        for part, changed in (
            ("unet", {"layers_per_block": 10**9}),
            ("unet", {"transformer_layers_per_block": [1, 10**9]}),
            ("vae", {"layers_per_block": 10**9}),
            ("text_encoder", {"num_hidden_layers": 10**9}),
        )
        for name in changed
    },
    "no kind of activation": (edit("text_encoder/config.json", hidden_act=0), "hidden_act"),
    "no number of words": (edit("text_encoder/config.json", hidden_size="16"), "its settings are none that a model can have"),
    "no heads": (edit("text_encoder/config.json", num_attention_heads=0), "its settings are none that a model can have"),
    "blocks of several numbers": (edit("unet/config.json", layers_per_block=[1, 2]), "layers_per_block [1, 2]: a U-Net of"),
    "no index": (edit("model_index.json", _class_name=None), "names no pipeline (_class_name)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_in_one_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    breaks, message = BROKEN[name]
    breaks(folder)
    said = refused(["sample", str(folder), "a red cat", "--out", str(folder / "out")], capsys)
    assert message in said
    assert not (folder / "out").exists()


def test_numbers_that_are_said_level_by_level(folder: Path) -> None:
    usual = unnoise.load(folder).hash()
    edit("unet/config.json", layers_per_block=[1, 1], cross_attention_dim=[16, 16])(folder)
    assert unnoise.load(folder).hash() == usual


def test_a_text_encoder_of_another_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "text_encoder")
    tiny.encoder(folder, "text_encoder", width=24)
    said = refused(["sample", str(folder), "a red cat", "--out", str(folder / "out")], capsys)
    assert "parts of different models: the text encoders' tokens have a width of 24, the network reads 16" in said


def test_pictures_for_a_model_that_takes_none(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (20, 30)).save(picture)
    how = ["sample", str(whole), "cat", "--fill", str(picture), "--out", str(tmp_path / "out")]
    assert "as many of each" in refused(how, capsys)
    with pytest.raises(InputError, match=r"was not trained to fill in pictures; sample\(fill=Fill"):
        unnoise.model.inpainting(unnoise.load(whole))
    follow = ["--follow", str(picture)]
    assert "--fill and --follow: a model does one of them" in refused([*how, "--mask", str(picture), *follow], capsys)
    how[3:5] = follow
    assert "was not trained to follow pictures; a ControlNet beside it does" in refused(how, capsys)


LISTING = [
    ".gitattributes", "README.md", "model_index.json", "v1-5-pruned.ckpt", "v1-5-pruned-emaonly.safetensors",
    "feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors", "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json",
    "unet/config.json", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.safetensors", "vae/diffusion_flax_model.msgpack",
]  # fmt: skip
"""Of a model on the hub."""


def test_what_is_fetched_is_what_is_read() -> None:
    plain = needed_files(LISTING, None, "x")
    weights = ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"]
    assert sorted(n for n in plain if n.endswith(".safetensors")) == [f"{w}.safetensors" for w in weights]
    assert set(plain) - set(LISTING) == set()
    assert [n for n in plain if "checker" in n or "feature" in n or n.endswith((".bin", ".ckpt", ".msgpack"))] == []
    half = needed_files(LISTING, "fp16", "x")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in half
    assert "vae/diffusion_pytorch_model.safetensors" in half, "the one there is, where a part has no such variant"
    with pytest.raises(InputError, match=r"a/x: has no model_index.json on the hub; give its file: a/x/flux.safetensors$"):
        needed_files(["README.md", "flux.safetensors"], None, "a/x")
    with pytest.raises(InputError, match=r"; give one of its files: a/x/flux-Q4_0.gguf, a/x/more/ae.safetensors$"):
        needed_files(["flux-Q4_0.gguf", "old.ckpt", "more/ae.safetensors"], None, "a/x")
    with pytest.raises(InputError, match=r"nor any file of weights in safetensors or GGUF, which would be given as a/x/FILE"):
        needed_files(["old.ckpt"], None, "a/x")
    with pytest.raises(InputError, match=r"x/unet/diffusion_pytorch_model.bin: a pickle"):
        needed_files([n for n in LISTING if not (n.startswith("unet") and n.endswith("safetensors"))], None, "x")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_variant_that_some_parts_have(folder: Path) -> None:
    """The others come as they are; one that none has is refused."""
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * 0.5 for k, v in load_file(plain).items()}, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    halved, whole = unnoise.load(folder, variant="fp16"), unnoise.load(folder)
    assert torch.equal(halved.denoiser.network.first.weight, 0.5 * whole.denoiser.network.first.weight)
    ours, theirs = (m.codec.autoencoder.state_dict() for m in (halved, whole))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    with pytest.raises(InputError, match="no variant 'ema' of its weights"):
        unnoise.load(folder, variant="ema")


def test_a_name_on_the_hub_when_offline(
    whole: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was fetched before is run; what was not is refused."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    there = cache / "models--someone--something"
    shutil.copytree(whole, there / "snapshots" / "abc")
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text("abc")
    main(["sample", "someone/something", "a red cat", "-n", "1", "--steps", "2", "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "sheet.png").exists()
    said = refused(["sample", "someone/else", "a red cat", "--out", str(tmp_path / "none")], capsys)
    assert said == "unnoise: someone/else: no such folder, not in the cache of the hub, and HF_HUB_OFFLINE is set"


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that its client asks for, from a folder; the first big file breaks off halfway, once."""

    folder: Path
    asked: list[str]
    broken: bool

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        files = sorted(f.relative_to(self.folder).as_posix() for f in self.folder.rglob("*") if f.is_file())
        if path.startswith("/api/models/someone/something"):
            tree = [{"type": "file", "path": f, "size": (self.folder / f).stat().st_size, "oid": "0" * 40} for f in files]
            model = {"id": "someone/something", "sha": "a" * 40, "siblings": [{"rfilename": f} for f in files]}
            self._answer(json.dumps(tree if "/tree/" in path else model).encode())
            return
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in files:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if path.startswith("/api/models/") else "EntryNotFound")
            self.end_headers()
            return
        data = (self.folder / name).read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        if self.command == "GET":
            self.asked.append(f"{name} from {start}")
        cut = self.command == "GET" and not start and name == UNET and not self.broken
        self._answer(data[start:], name, len(data), start, len(data) // 2 if cut else None)
        if cut:
            type(self).broken = True
            self.close_connection = True

    def _answer(self, data: bytes, name: str = "", whole: int = 0, start: int = 0, most: int | None = None) -> None:
        self.send_response(206 if start else 200)
        for key, value in {"Content-Length": len(data), "ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": "a" * 40}.items():
            self.send_header(key, str(value))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:most])

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder as someone/something on a hub of our own."""
    Hub.folder, Hub.asked, Hub.broken = folder, [], False
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of a broken file are whole pieces
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        yield
        server.shutdown()


@pytest.mark.usefixtures("cache")
def test_a_name_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is asked for once, the rest of a file that broke off alone; then nothing is, and nobody when offline."""
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "sd.ckpt").write_bytes(b"pickle")
    with served(folder, monkeypatch):
        for _ in range(2):
            model = unnoise.load("someone/something")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert unnoise.load("someone/something").hash() == model.hash(), "what was fetched is enough"
    assert torch.equal(model.denoiser.network.first.weight, load_file(folder / UNET)["conv_in.weight"])
    whole = [a for a in Hub.asked if a.endswith("from 0")]
    assert len(whole) == len(set(whole))
    assert any(a.startswith(UNET) and not a.endswith("from 0") for a in Hub.asked)
    assert not [a for a in Hub.asked if ".bin" in a or ".ckpt" in a]


@pytest.mark.usefixtures("cache")
def test_one_network_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a ControlNet lies there: its configuration and its plain weights are fetched, once, and are there when offline."""
    (tmp_path / "net" / "samples").mkdir(parents=True)
    weights, name = {"conv.weight": torch.randn(3, 2)}, "diffusion_pytorch_model"
    save_file(weights, tmp_path / "net" / f"{name}.safetensors")
    for other in (f"{name}.fp16.safetensors", f"{name}.bin", "samples/a.png", "samples/config.json", "README.md"):
        (tmp_path / "net" / other).write_bytes(b"not to be read")
    (tmp_path / "net" / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    with served(tmp_path / "net", monkeypatch):
        fetched = {fetch_part("someone/something") for _ in range(2)}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (folder,) = fetched | {fetch_part("someone/something")}
    assert sorted(Hub.asked) == ["config.json from 0", f"{name}.safetensors from 0"]
    assert {p.name for p in folder.rglob("*")} == {"config.json", f"{name}.safetensors"}
    assert torch.equal(load_file(folder / f"{name}.safetensors")["conv.weight"], weights["conv.weight"])


def test_the_licence_in_the_card(tmp_path: Path) -> None:
    assert licence(tmp_path) == "not stated"
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\ntags:\n- a\n---\n# A model\n")
    assert licence(tmp_path) == "openrail++"
    (tmp_path / "README.md").write_text("# A model\n")
    assert licence(tmp_path) == "not stated"
