"""GGUF files, written by the gguf package: what is read back is what its scalar definitions say, from ggml's own comments.

The oracle of each packing is a slow reading of one block, written here from the layout in ggml-common.h.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import foreign_originals as originals
import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.checkpoints.foreign.ggml import UNPACK
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.single import open_single
from unnoise.core.errors import InputError

gguf = pytest.importorskip("gguf", reason="writes the files that are read")
diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
Kind = gguf.GGMLQuantizationType


def half(raw: bytes) -> float:
    return float(struct.unpack("<e", raw)[0])


def q8_0(b: bytes) -> list[float]:
    """d, 32 signed bytes."""
    return [half(b[:2]) * q for q in struct.unpack("<32b", b[2:])]


def q4_0(b: bytes) -> list[float]:
    """d, 32 nibbles: the low ones first; less 8."""
    return [half(b[:2]) * ((b[2 + i % 16] >> 4 * (i // 16) & 15) - 8) for i in range(32)]


def q4_1(b: bytes) -> list[float]:
    """d, m, 32 nibbles."""
    return [half(b[:2]) * (b[4 + i % 16] >> 4 * (i // 16) & 15) + half(b[2:4]) for i in range(32)]


def q5_0(b: bytes) -> list[float]:
    """d, 32 fifth bits, 32 nibbles; less 16."""
    high = int.from_bytes(b[2:6], "little")
    return [half(b[:2]) * ((b[6 + i % 16] >> 4 * (i // 16) & 15 | (high >> i & 1) << 4) - 16) for i in range(32)]


def q5_1(b: bytes) -> list[float]:
    """d, m, 32 fifth bits, 32 nibbles."""
    high = int.from_bytes(b[4:8], "little")
    return [half(b[:2]) * (b[8 + i % 16] >> 4 * (i // 16) & 15 | (high >> i & 1) << 4) + half(b[2:4]) for i in range(32)]


def q2_k(b: bytes) -> list[float]:
    """16 bytes (scale, minimum), 64 bytes of two bits, d, dmin: x = d scale q - dmin minimum."""
    scales, qs, d, dmin = b[:16], b[16:80], half(b[80:82]), half(b[82:84])
    out = []
    for i in range(256):
        s = scales[i // 16]
        q = qs[32 * (i // 128) + i % 32] >> 2 * (i % 128 // 32) & 3
        out.append(d * (s & 15) * q - dmin * (s >> 4))
    return out


def q3_k(b: bytes) -> list[float]:
    """32 bytes of third bits, 64 of two bits, 12 of sixteen scales of six bits, d: x = d (scale - 32) (q - 4)."""
    high, qs, packed, d = b[:32], b[32:96], b[96:108], half(b[108:110])
    out = []
    for i in range(256):
        j = i // 16
        scale = packed[j % 8] >> 4 * (j // 8) & 15 | (packed[8 + j % 4] >> 2 * (j // 4) & 3) << 4
        q = qs[32 * (i // 128) + i % 32] >> 2 * (i % 128 // 32) & 3
        out.append(d * (scale - 32) * (q - (0 if high[i % 32] >> (i // 32) & 1 else 4)))
    return out


def six_bits(packed: bytes, j: int) -> tuple[int, int]:
    """ggml's get_scale_min_k4."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def q4_k(b: bytes) -> list[float]:
    """d, dmin, 12 bytes of eight (scale, minimum) of six bits, 128 of nibbles."""
    d, dmin, packed, qs = half(b[:2]), half(b[2:4]), b[4:16], b[16:]
    out = []
    for i in range(256):
        scale, least = six_bits(packed, i // 32)
        out.append(d * scale * (qs[32 * (i // 64) + i % 32] >> 4 * (i % 64 // 32) & 15) - dmin * least)
    return out


def q5_k(b: bytes) -> list[float]:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles."""
    d, dmin, packed, high, qs = half(b[:2]), half(b[2:4]), b[4:16], b[16:48], b[48:]
    out = []
    for i in range(256):
        scale, least = six_bits(packed, i // 32)
        low = qs[32 * (i // 64) + i % 32] >> 4 * (i % 64 // 32) & 15
        out.append(d * scale * (low | (high[i % 32] >> (i // 32) & 1) << 4) - dmin * least)
    return out


def q6_k(b: bytes) -> list[float]:
    """128 bytes of low nibbles, 64 of two high bits, 16 signed scales, d: x = d scale (q - 32)."""
    low, high, scales, d = b[:128], b[128:192], struct.unpack("<16b", b[192:208]), half(b[208:210])
    out = []
    for i in range(256):
        k, r = i // 128, i % 128
        nibble = low[64 * k + r % 64] >> 4 * (r // 64) & 15
        out.append(d * scales[i // 16] * ((nibble | (high[32 * k + r % 32] >> 2 * (r // 32) & 3) << 4) - 32))
    return out


def open_gguf(path: Path) -> Part:
    """The one part of a file."""
    (part,) = open_single(path).parts.values()
    return part


PACKINGS: dict[str, Callable[[bytes], list[float]]] = {
    "Q8_0": q8_0, "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1,
    "Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k,
}  # fmt: skip


def flux() -> dict[str, Tensor]:
    """Of a tiny FLUX whose width is a whole block of the K packings."""
    sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 128, "num_attention_heads": 2}
    more = {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (16, 56, 56)}
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(**{**sizes, **more}).state_dict()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return flux()


def written(path: Path, tensors: dict[str, Tensor], packed: dict[str, tuple[np.ndarray, int]], arch: str = "flux") -> Path:
    """All tensors as float32 but those that are packed."""
    writer = gguf.GGUFWriter(path, arch)
    for name, tensor in tensors.items():
        if name in packed:
            data, kind = packed[name]
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", PACKINGS)
def test_packings(name: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    """Random bytes, with scales that are numbers, read as the definition says; of a fused tensor, every part alone."""
    kind, rng = Kind[name], np.random.default_rng(7)
    size, length = gguf.GGML_QUANT_SIZES[kind]
    tensors = originals.flux(state)
    fused = "double_blocks.0.img_attn.qkv.weight"
    rows, columns = tensors[fused].shape
    raw = rng.integers(0, 256, (rows, columns // size, length), dtype=np.uint8)
    scales = rng.uniform(0.001, 0.1, (2, rows, columns // size)).astype("<f2")[..., None].view(np.uint8)
    for i, at in enumerate(
        {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,)}.get(name, (0, 2))
    ):
        raw[:, :, at : at + 2] = scales[i]
    part = open_gguf(written(tmp_path / "m.gguf", tensors, {fused: (raw.reshape(rows, -1), kind)}))
    read = PACKINGS[name]
    for i, x in enumerate("qkv"):
        ours = part.tensors[f"transformer_blocks.0.attn.to_{x}.weight"]
        assert ours.shape == (256, 256)
        for row in (0, 100, 255):
            expected = [v for block in raw[256 * i + row] for v in read(block.tobytes())]
            torch.testing.assert_close(ours[row], torch.tensor(expected), rtol=1e-6, atol=1e-7)
    for other in ("norm_out.linear.weight", "single_transformer_blocks.0.proj_mlp.weight"):
        assert torch.equal(part.tensors[other], state[other])
    assert set(part.tensors) == set(state)


@pytest.mark.parametrize("name", PACKINGS)
def test_all_bytes_are_unpacked_as_llama_cpp_does(name: str) -> None:
    """Bit for bit, scales that are no numbers or none among them; of one block and of many."""
    size, length = gguf.GGML_QUANT_SIZES[Kind[name]]
    blocks = np.random.default_rng(11).integers(0, 256, (500, length), dtype=np.uint8)
    blocks[0], blocks[1] = 0, 255
    expected = gguf.dequantize(blocks, Kind[name])
    assert expected.shape == (500, size)
    ours = UNPACK[name](torch.from_numpy(blocks))
    np.testing.assert_array_equal(ours.numpy(), expected)
    np.testing.assert_array_equal(UNPACK[name](torch.from_numpy(blocks[7:8])).numpy(), expected[7:8])


def test_rare_packings_are_the_packages(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors, name = originals.flux(state), "double_blocks.0.img_mlp.0.weight"
    kind = Kind.IQ4_NL
    raw = np.random.default_rng(3).integers(0, 120, (*tensors[name].shape[:1], 256 // 32 * 18), dtype=np.uint8)
    part = open_gguf(written(tmp_path / "m.gguf", tensors, {name: (raw, kind)}))
    ours = part.tensors["transformer_blocks.0.ff.net.0.proj.weight"]
    assert torch.equal(ours, torch.from_numpy(gguf.dequantize(raw, kind)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_stay_as_they_are(dtype: torch.dtype, state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = originals.flux(state, "model.diffusion_model.")
    name = "model.diffusion_model.double_blocks.0.img_mlp.0.weight"
    kind = Kind.F16 if dtype == torch.float16 else Kind.BF16
    raw = tensors[name].to(dtype)
    data = raw.numpy() if dtype == torch.float16 else raw.view(torch.uint8).numpy()
    found = open_single(written(tmp_path / "m.gguf", tensors, {name: (data, kind)}))
    part = found.parts["transformer"]
    ours = part.tensors["transformer_blocks.0.ff.net.0.proj.weight"]
    assert found.pipeline == "FluxPipeline"
    assert ours.dtype == dtype
    assert torch.equal(ours, raw)


def test_tensors_that_are_stored_flat(tmp_path: Path) -> None:
    """Convolutions, whose rows are no whole blocks: ComfyUI lays them flat, and says their shape beside."""
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=32, **blocks)
    tensors = originals.unet(theirs.state_dict(), 1, "")
    name = "input_blocks.0.0.weight"  # 32 x 4 x 3 x 3: rows of 36
    packed = gguf.quantize(tensors[name].numpy().reshape(-1, 32), Kind.Q8_0)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "sd1")
    writer.add_array(f"comfy.gguf.orig_shape.{name}", tuple(tensors[name].shape))
    for other, tensor in tensors.items():
        writer.add_tensor(other, packed if other == name else tensor.numpy(), raw_dtype=Kind.Q8_0 if other == name else None)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    part = open_gguf(tmp_path / "m.gguf")
    expected = [v for block in packed.reshape(-1, 34) for v in q8_0(block.tobytes())]
    ours = part.tensors["conv_in.weight"]
    torch.testing.assert_close(ours, torch.tensor(expected).reshape(32, 4, 3, 3), rtol=1e-6, atol=1e-7)
    assert torch.equal(part.tensors["conv_out.weight"], theirs.state_dict()["conv_out.weight"])


def test_bad_files(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = originals.flux(state)
    whole = written(tmp_path / "m.gguf", tensors, {}).read_bytes()
    for length in (2, 10, 1000, len(whole) // 2, len(whole) - 64):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut.gguf: not whole as GGUF"):
            open_gguf(tmp_path / "cut.gguf")
    (tmp_path / "no.gguf").write_bytes(b"no model at all, but long enough to look like one" * 9)
    with pytest.raises(InputError, match=r"no.gguf: not whole as GGUF"):
        open_single(tmp_path / "no.gguf")
    with pytest.raises(InputError, match=r"no such file"):
        open_gguf(tmp_path / "absent.gguf")
    encoder = written(tmp_path / "gemma.gguf", {"blk.0.attn_q.weight": torch.ones(4, 4)}, {}, "gemma2")
    with pytest.raises(InputError, match=r"a gemma2 text encoder as GGUF"):
        open_gguf(encoder)
    encoder = written(tmp_path / "t5.gguf", {"enc.blk.0.attn_q.weight": torch.ones(4, 4)}, {}, "t5encoder")
    with pytest.raises(InputError, match=r"t5.gguf: the file lacks 'shared.weight'"):
        open_gguf(encoder)
    wan = {"head.modulation": torch.ones(2), "patch_embedding.weight": torch.ones(2, 2)}
    with pytest.raises(InputError, match=r"this is Wan"):
        open_gguf(written(tmp_path / "wan.gguf", wan, {}, "wan"))
