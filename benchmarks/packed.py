"""FLUX.1 and Stable Diffusion 3.5 in their published sizes as GGUF: memory and seconds with weights kept packed, in int8, unpacked.

    python benchmarks/packed.py [--family flux|sd3.5-medium] [--kind Q4_0] [--side 256] [--steps 2] [--ways packed int8 bfloat16]
                                [--folder FOLDER] [--threads 2]

Weights are random, for none can be downloaded here; sizes, packing and shapes are the published ones. Text encoders and the
autoencoder are small: what is measured is the network. Each row is a process of its own: seconds to open, of the median call of the
network, and what it held at most, of which "own" is without pages of mapped files, which the system may take back. int8 is made
of packed weights, once. What does not fit into memory is refused, and said.
FOLDER: what an earlier call wrote there is used again.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

WAYS = ("packed", "int8", "bfloat16")
SIZES: dict[str, dict[str, Any]] = {
    "flux": {
        "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24, "in_channels": 16,
        "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
    },
    "sd3.5-medium": {
        "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "in_channels": 4,
        "caption_projection_dim": 1536, "pooled_projection_dim": 768 + 1280, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
        "out_channels": 4, "sample_size": 128, "patch_size": 2, "dual_attention_layers": tuple(range(13)),
    },
}  # fmt: skip
"""Of codes of 4 channels in place of 16, for the small autoencoder's sake."""


def write(family: str, kind: str, folder: Path) -> None:
    """A folder of diffusers without its network, and the network beside it."""
    import diffusers
    import transformers

    sizes = SIZES[family]
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, shift_factor=0.1,
    )  # fmt: skip
    letters = ["<|startoftext|>", "<|endoftext|>", *(c + e for c in "abcdefghijklmnopqrstuvwxyz" for e in ("", "</w>"))]

    def clip(width: int, kind: type) -> Any:
        config = transformers.CLIPTextConfig(
            vocab_size=len(letters), hidden_size=width, projection_dim=width, num_attention_heads=width // 64,
            num_hidden_layers=2, intermediate_size=width, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        return kind(config)

    tokenizer = transformers.CLIPTokenizer(vocab={c: i for i, c in enumerate(letters)}, merges=[], model_max_length=77)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in "abcdefghijklmnopqrstuvwxyz")]
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=len(pieces), d_model=4096, d_ff=64, num_layers=1, num_heads=2)
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    t5_tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    if family == "flux":
        cls, words = diffusers.FluxTransformer2DModel, {"text_encoder": clip(768, transformers.CLIPTextModel)}
        words |= {"tokenizer": tokenizer, "text_encoder_2": t5, "tokenizer_2": t5_tokenizer}
        pipeline: Any = diffusers.FluxPipeline(scheduler, vae, transformer=None, **words)
    else:
        cls, projected = diffusers.SD3Transformer2DModel, transformers.CLIPTextModelWithProjection
        words = {"text_encoder": clip(768, projected), "text_encoder_2": clip(1280, projected), "text_encoder_3": t5}
        words |= {"tokenizer": tokenizer, "tokenizer_2": tokenizer, "tokenizer_3": t5_tokenizer}
        pipeline = diffusers.StableDiffusion3Pipeline(None, scheduler, vae, **words)
    with torch.device("meta"):
        network = cls(**sizes)
    pipeline.save_pretrained(folder)
    index = (folder / "model_index.json").read_text()
    (folder / "model_index.json").write_text(
        re.sub(r'"transformer": \[\s*null,\s*null\s*\]', f'"transformer": ["diffusers", "{cls.__name__}"]', index)
    )
    network.save_config(folder / "transformer")
    write_gguf({name: tuple(p.shape) for name, p in network.state_dict().items()}, kind, folder / "network.gguf")


def write_gguf(shapes: dict[str, tuple[int, ...]], kind: str, path: Path) -> None:
    """Matrices packed, random numbers about .02 in size; all else in float32."""
    import gguf

    packing, rng = gguf.GGMLQuantizationType[kind], np.random.default_rng(0)
    block, length = gguf.GGML_QUANT_SIZES[packing]
    some = gguf.quantize(rng.normal(0, 0.02, (1024, 4096)).astype(np.float32), packing).reshape(-1, length)
    blocks = np.resize(some, (max(int(np.prod(s)) for s in shapes.values()) // block, length))
    writer = gguf.GGUFWriter(path, "flux")
    for name, shape in shapes.items():
        if len(shape) == 2 and shape[1] % block == 0:
            columns = shape[1] // block * length
            writer.add_tensor(name, blocks[: shape[0] * shape[1] // block].reshape(shape[0], columns), raw_dtype=packing)
        else:
            writer.add_tensor(name, rng.normal(0, 0.02, shape).astype(np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def drawn(folder: Path, way: str, side: int, steps: int, threads: int) -> None:
    """One picture; prints what it took."""
    import unnoise
    from unnoise.checkpoints.foreign.memory import Wanted
    from unnoise.core.allocator import keep_freed_memory
    from unnoise.core.errors import InputError

    torch.set_num_threads(threads)
    keep_freed_memory()
    own = [0]
    threading.Thread(target=watch, args=(own,), daemon=True).start()
    began = time.perf_counter()
    try:
        wanted = Wanted(side, side, guidance=1.0)
        model = unnoise.load(folder, torch.bfloat16, beside=[folder / "network.gguf"], wanted=wanted, packed=way != "bfloat16")
    except InputError as e:
        print(f"refused: {e}")
        return
    model = model.to_int8() if way == "int8" else model
    opened, calls = time.perf_counter() - began, []
    forward = model.denoiser.network.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = forward(*args, **kwargs)
        calls.append(time.perf_counter() - start)
        return out

    model.denoiser.network.forward = timed  # type: ignore[method-assign]
    model.sample("a", steps=steps, guidance=1.0, height=side, width=side)
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**20  # type: ignore[index]
    print(f"{opened:8.0f} {statistics.median(calls):10.1f} {peak:10.1f} {own[0] / 2**20:8.1f}")


def watch(own: list[int]) -> None:
    while True:
        with suppress(OSError):
            told = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
            own[0] = max(own[0], int(told[1]) if told else 0)
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=SIZES, default="flux")
    parser.add_argument("--kind", default="Q4_0")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=WAYS, help="draw in this way, in this process")
    args = parser.parse_args()
    if args.only:
        drawn(args.folder, args.only, args.side, args.steps, args.threads)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made) / "model"
        if not (folder / "network.gguf").exists():
            write(args.family, args.kind, folder)
        size = (folder / "network.gguf").stat().st_size / 2**30
        print(f"{args.family}, {args.kind}, {size:.1f} GiB; {args.side} x {args.side}, {args.threads} threads")
        print(f"{'':9} {'opened s':>8} {'a call s':>10} {'peak GiB':>10} {'own':>8}", flush=True)
        same = [f"--{k}={getattr(args, k)}" for k in ("side", "steps", "threads")]
        for way in args.ways:
            command = [sys.executable, "-W", "ignore", __file__, "--only", way, f"--folder={folder}", *same]
            told = subprocess.run(command, check=False, capture_output=True, text=True)
            said = told.stdout.strip("\n") if told.returncode == 0 else f"ended with {told.returncode}: {told.stderr[-300:]}"
            print(f"{way:9} {said}", flush=True)


if __name__ == "__main__":
    main()
