"""Pretrained networks by name: preprocessing and features against transformers' own, on small random checkpoints that it wrote."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from unnoise.core.errors import InputError
from unnoise.core.measure import Examples
from unnoise.evaluation.pretrained import Preparation, find_encoder
from unnoise.modalities.image.measure import Pictures
from unnoise.networks.inception import Inception


def pictures(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth with sharp edges: resizing has something to overshoot at."""
    g = np.random.default_rng(seed)
    coarse = g.integers(0, 256, (n, -(-height // 8), -(-width // 8), channels), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8, 1), dtype=np.uint8))[:, :height, :width]


def write_dinov2(where) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14)
        transformers.Dinov2Model(config).save_pretrained(where)
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 56, "width": 56},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(where)


def write_clip(where) -> None:
    """Both towers, as such checkpoints are shared; another size, and another mean and deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = transformers.CLIPConfig(
            text_config={**small, "vocab_size": 50},
            vision_config={**small, "image_size": 48, "patch_size": 16},
            projection_dim=24,
        )
        transformers.CLIPModel(config).save_pretrained(where)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}).save_pretrained(where)


WRITE = {"dinov2": write_dinov2, "clip": write_clip}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp("networks") / kind for kind in WRITE}
    for kind, where in made.items():
        WRITE[kind](where)
    return made


def theirs(kind: str, where, array: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixel values, features) by transformers' own classes, from Pillow's pictures."""
    processor = transformers.AutoImageProcessor.from_pretrained(where)
    seen = [Image.fromarray(a.squeeze()).convert("RGB") for a in array]
    pixels = processor(images=seen, return_tensors="pt")["pixel_values"]
    model = transformers.AutoModel.from_pretrained(where).eval()
    with torch.no_grad():
        if kind == "dinov2":
            return pixels, model(pixel_values=pixels).last_hidden_state[:, 0]
        return pixels, model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)


@pytest.mark.parametrize("size", [(32, 32, 1), (40, 28, 3), (90, 130, 3), (64, 64, 3)])
@pytest.mark.parametrize("kind", WRITE)
def test_features_are_those_of_transformers(folders, kind, size):
    """Pixels within two levels of 255 of Pillow's, which rounds twice, a twentieth in the mean; features as near as that lets."""
    array = pictures(4, *size)
    pixels, features = theirs(kind, folders[kind], array)
    encoder = find_encoder(f"{kind}:{folders[kind]}")
    rows = Pictures.of(array)
    rgb = torch.from_numpy(array).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    prepared = encoder.prepare(rgb)
    assert prepared.shape == pixels.shape
    std = torch.tensor(transformers.AutoImageProcessor.from_pretrained(folders[kind]).image_std)[:, None, None]
    apart = (prepared - pixels).abs() * std * 255
    assert float(apart.max()) < 2.01
    assert float(apart.mean()) < 0.05
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(rows, rows), encoder.network(prepared), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoder.network(pixels), features, rtol=1e-4, atol=1e-5)
    spread = float(features.std(0).mean())
    assert float((encoder.features(rows, rows) - features).abs().max()) < 0.05 * spread


def test_the_hash_is_of_the_weights(folders, tmp_path):
    encoder = find_encoder(f"clip:{folders['clip']}")
    assert encoder.name == f"CLIP (clip), {encoder.hash}"
    write_clip(tmp_path / "clip")
    assert find_encoder(f"clip:{tmp_path / 'clip'}").hash == encoder.hash
    tensors = load_file(tmp_path / "clip" / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] += 1e-3
    save_file(tensors, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    assert find_encoder(f"clip:{tmp_path / 'clip'}").hash != encoder.hash


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """As torch-fidelity's conversion has it: with the classifying layer, and without counters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = {k: v for k, v in Inception().state_dict().items() if "num_batches" not in k}
    tensors |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    where = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file(tensors, where)
    return where


def test_inception_reads_a_file(inception_file):
    encoder = find_encoder(f"inception:{inception_file}")
    array = pictures(2, 16, 24, channels=1)
    rows = Pictures.of(array)
    network = Inception().eval()
    network.load_state_dict({k: v for k, v in load_file(inception_file).items() if not k.startswith("fc.")}, strict=False)
    with torch.no_grad():
        want = network(torch.from_numpy(np.repeat(array, 3, 3)).permute(0, 3, 1, 2))
    got = encoder.features(rows, rows)
    assert float(want.std(0).max()) > 0
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_what_cannot_be_loaded_is_said_in_one_line(folders, inception_file, tmp_path):
    (tmp_path / "old.pth").write_bytes(b"\x80\x04N.")
    (tmp_path / "cut.safetensors").write_bytes(inception_file.read_bytes()[:1000])
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    write_clip(tmp_path / "no_weights")
    (tmp_path / "no_weights" / "model.safetensors").unlink()
    write_clip(tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"short")
    write_clip(tmp_path / "partly")
    tensors = load_file(tmp_path / "partly" / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "visual_projection" not in k}, tmp_path / "partly" / "model.safetensors")
    write_clip(tmp_path / "unprepared")
    for f in (tmp_path / "unprepared").glob("*processor*"):
        f.unlink()
    for name, told in {
        "resnet:x": "no network for features",
        "inception": "no network for features",
        "inception:": "no network for features",
        f"inception:{tmp_path / 'none.safetensors'}": "no such file",
        f"inception:{tmp_path / 'cut.safetensors'}": "not readable as safetensors",
        f"inception:{tmp_path / 'other.safetensors'}": "not the Inception",
        f"dinov2:{tmp_path / 'none'}": "no such folder",
        f"dinov2:{tmp_path / 'empty'}": "could not be loaded",
        f"dinov2:{folders['clip']}": "of the type clip",
        f"clip:{tmp_path / 'no_weights'}": "could not be loaded",
        f"clip:{tmp_path / 'cut'}": "could not be loaded",
        f"clip:{tmp_path / 'partly'}": "1 weights are missing, the first visual_projection.weight",
        f"clip:{tmp_path / 'unprepared'}": "could not be loaded",
    }.items():
        with pytest.raises(InputError, match=told) as caught:
            find_encoder(name)
        assert "\n" not in str(caught.value), name
    with pytest.raises(InputError, match=r"(?s)old\.pth.*pickled.*save_file"):
        find_encoder(f"inception:{tmp_path / 'old.pth'}")


def test_the_way_out_of_a_pickle_works(inception_file, tmp_path):
    """The lines that the refusal prints, run as they stand."""
    torch.save(load_file(inception_file), tmp_path / "weights.pth")
    with pytest.raises(InputError) as caught:
        find_encoder(f"inception:{tmp_path / 'weights.pth'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]), {})
    want = find_encoder(f"inception:{inception_file}").hash
    assert find_encoder(f"inception:{tmp_path / 'weights.safetensors'}").hash == want


class Others(Examples):
    kind = "table"

    def __len__(self):
        return 60

    take = tensor = attributes = draw = look = measures = None


def test_rows_that_it_cannot_look_at_are_refused(folders):
    encoder = find_encoder(f"clip:{folders['clip']}")
    rows = Pictures.of(pictures(3, 20, 20))
    with pytest.raises(InputError, match="looks at pictures; these rows are a table"):
        encoder.features(Others(), rows)
    with pytest.raises(InputError, match="cannot be compared"):
        encoder.features(Pictures.of(pictures(3, 24, 20)), rows)
    four = Pictures.of(pictures(3, 20, 20, channels=4))
    with pytest.raises(InputError, match="4 channels"):
        encoder.features(four, four)


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"size": {"longest_edge": 9}}, "resized to"), ({"resample": 1}, "resampling number 1")],
)
def test_preprocessing_that_is_not_known_is_refused(changed, told):
    usual = {
        "size": {"shortest_edge": 8},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    x = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(Preparation.of(usual, "here")(x), torch.ones(1, 3, 8, 8))
    with pytest.raises(InputError, match=told):
        Preparation.of({**usual, **changed}, "here")
