"""Stable Diffusion 1.5 beside diffusers, torch.compile, torchao and OpenVINO: a step of its U-Net, decoding, and the first picture.

    python benchmarks/stable_diffusion.py [--side 512] [--rounds 5] [--threads 2] [--tiny] [--compile [TOOL ...]] [--device cuda]
    python benchmarks/stable_diffusion.py --cold [FOLDER] [--side 512] [--steps 1]     from nothing to the first picture
    python benchmarks/stable_diffusion.py --picture [FOLDER] [--side 512] [--steps 20] [--rounds 1]     from words to picture, warm

--side: of the pictures. --tiny: a U-Net of two narrow levels, to try the script. --compile: with torch.compile (on a CPU with
freezing), and on a CPU torchao and OpenVINO where they are installed, also in int8 (`prepared.py`: what of it); they take minutes
to prepare and their gigabytes of memory, and are left out without it. `--compile openvino` prepares with that alone.
Weights are random, the same for all; a step is a call for both sides of guidance (batch 2, 77 tokens). The rows take turns, one
call a round: machines with shared cores swing by factors within minutes, so compare ratios, which are of calls seconds apart.
The first line is what the processor does at matrix products in the same minute. With one thread of a CPU seconds are of
processor time; on a GPU times are of CUDA events, and ours and torch.compile's kernels are also launched as one graph. "error"
is the difference from the first row, in the L2 norm; "prepared" the wall seconds of a row's first call, for torch.compile,
OpenVINO and graphs with their making; ours, and int8's (seconds), come before and are not in it. Peak memory is told by --cold,
whose rows are processes of their own: pages of mapped files that were touched count; "its own" is without them. Its ratios are
of processor time, and a side of 64 leaves next to nothing to compute.
For --picture "error" is the root mean square difference of the pictures, of 0 to 1, from the same noise (DDIM, guidance 7.5): what
bfloat16 itself makes is the second row's. Random weights change along a walk as they happen to, so what caching costs in a picture
is for trained ones to say (`benchmarks/step_caching.py`); what it saves is said here.
FOLDER: what `--write FOLDER` wrote, else it is written first. For steps and decodings glibc is told to keep freed memory;
`--malloc default` leaves it as it is.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from prepared import Row, graphed, with_openvino, with_torch, with_torchao
from throughput import matmul_probe, seconds
from torch import Tensor, nn

import unnoise
from unnoise.checkpoints.diffusers_names import UNET_TABLE, translate, unet_config
from unnoise.checkpoints.foreign.parts import AsType, Part
from unnoise.checkpoints.foreign.vae_names import read_autoencoder
from unnoise.control.step_caching import Every, StepCaching
from unnoise.core.allocator import keep_freed_memory
from unnoise.core.random import Streams
from unnoise.modalities.words.frozen import encoders_of
from unnoise.model import DiffusionModel
from unnoise.networks import int8

TOOLS = ("torch", "torchao", "openvino")
UNET: Mapping[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8, "cross_attention_dim": 768, "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
TINY: Mapping[str, Any] = {
    "block_out_channels": (64, 128), "attention_head_dim": 2, "cross_attention_dim": 768, "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


def timed(work: Row, device: torch.device) -> float:
    """Seconds of one call."""
    if device.type != "cuda":
        return seconds(lambda: work())
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def compare(
    what: str, rows: Mapping[str, Row], rounds: int, device: torch.device, error: Callable[[Tensor, Tensor], float] = relative
) -> None:
    said: dict[str, Tensor] = {}
    prepared: dict[str, float] = {}
    for name, row in rows.items():
        began = time.perf_counter()
        said[name] = row().float().cpu()
        prepared[name] = time.perf_counter() - began
    times: dict[str, list[float]] = {name: [] if rounds else [prepared[name]] for name in rows}
    for i in range(rounds):
        for name, row in rows.items():
            times[name].append(timed(row, device))
            print(f"round {i + 1}/{rounds} {name}: {times[name][-1]:.3f} s", end="\033[K\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    first = next(iter(rows))
    print(f"\n{what:42} {'best':>8} {'median':>8} {'faster':>7} {'error':>8} {'prepared':>9}")
    for name, ts in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[first], ts))
        wrong = error(said[name], said[first])
        shown = f"{min(ts):8.3f} {statistics.median(ts):8.3f} {ratio:7.2f} {wrong:8.1e} {prepared[name]:9.1f}"
        print(f"{name:42} {shown}", flush=True)


def steps(config: Mapping[str, Any], side: int, prepare: Collection[str], device: torch.device) -> dict[str, Row]:
    """The U-Net's rows; the reference first. prepare: of TOOLS."""
    import diffusers

    torch.manual_seed(0)
    with torch.device(device):
        x, t, tokens = torch.randn(2, 4, side // 8, side // 8), torch.full((2,), 500), torch.randn(2, 77, 768)
        theirs = diffusers.UNet2DConditionModel(**config, sample_size=side // 8).eval()
    weights = {k: v.bfloat16() for k, v in theirs.state_dict().items()}  # shared where the layout is the same

    def copy(last: bool) -> nn.Module:
        with torch.device("meta"):
            network = diffusers.UNet2DConditionModel.from_config(theirs.config).eval()
        network.load_state_dict(weights, assign=True)
        return network.to(memory_format=torch.channels_last) if last else network

    def call(network: nn.Module, last: bool = False) -> Row:
        like = next(network.parameters()).dtype
        a = x.to(like, memory_format=torch.channels_last) if last else x.to(like)
        return lambda: network(a, t, tokens.to(like)).sample

    def ours() -> nn.Module:
        with torch.device("meta"):
            network = unet_config({**theirs.config}).build().eval()
        network.load_state_dict(translate(AsType(weights, torch.bfloat16), UNET_TABLE, network.state_dict()), assign=True)
        return network

    mine = ours()
    single, half = call(theirs), call(copy(False))
    cond = {"tokens": tokens}
    rows: dict[str, Row] = {
        "diffusers, float32": single,
        "diffusers, bfloat16": half,
        "diffusers, bfloat16, channels_last": call(copy(True), True),
        "unnoise, bfloat16": lambda: mine(x, t / 1000, cond),
    }
    if device.type == "cuda":
        rows["unnoise, bfloat16, CUDA graph"] = graphed(rows["unnoise, bfloat16"])
    if device.type == "cpu" and int8.available():
        int8.to_int8(rounded := ours())
        rows["unnoise, int8"] = lambda: rounded(x, t / 1000, cond)
    if "torch" in prepare:
        rows |= with_torch(lambda: copy(True), call)
    if "torchao" in prepare and device.type == "cpu":
        rows |= with_torchao(lambda: copy(True), call)
    if "openvino" in prepare and device.type == "cpu":
        rows |= with_openvino(theirs, x, t, tokens)
    return rows


def decodings(side: int, device: torch.device) -> dict[str, Row]:
    import diffusers

    torch.manual_seed(0)
    with torch.device(device):
        theirs = diffusers.AutoencoderKL(**VAE, sample_size=side).eval()
        z = torch.randn(1, 4, side // 8, side // 8)
    half = diffusers.AutoencoderKL.from_config(theirs.config).to(device, torch.bfloat16).eval()
    half.load_state_dict(theirs.state_dict())
    part = Part({**theirs.config, "_class_name": "AutoencoderKL"}, AsType(theirs.state_dict(), torch.bfloat16), "-")
    config, weights = read_autoencoder(part, side, side)
    with torch.device("meta"):
        codec = config.build()
    codec.load_state_dict(weights, assign=True)
    return {
        "diffusers, float32": lambda: theirs.decode(z).sample,
        "diffusers, bfloat16": lambda: half.decode(z.bfloat16()).sample,
        "unnoise, bfloat16": lambda: codec.autoencoder.decode(z),
    }


LOAD = "import sys, torch, unnoise\nmodel = unnoise.load(sys.argv[1], torch.bfloat16).to('DEVICE')\n"
THEIRS = (
    "import sys, torch, diffusers\np = diffusers.StableDiffusionPipeline.from_pretrained(\n"
    "    sys.argv[1], torch_dtype=torch.bfloat16, safety_checker=None).to('DEVICE')\n"
)
COLD = {
    "import torch, weights read once": "import sys, torch; from safetensors import safe_open\n"
    "for f in sys.argv[2:]:\n    with safe_open(f, 'pt') as o:\n        for k in o.keys(): o.get_tensor(k).sum()",
    "unnoise, loaded": LOAD,
    "unnoise, first picture": LOAD + "model.sample('a', steps=STEPS, sampler='ddim', height=SIDE)",
    "unnoise sample": "import sys; from unnoise.cli.main import main\n"
    "main(['sample', sys.argv[1], 'a', '-n', '1', '--steps', 'STEPS', '--height', 'SIDE', '--bf16', '--device', 'DEVICE',\n"
    "      '--out', sys.argv[1] + '/made', '--overwrite'])",
    "diffusers, bfloat16, loaded": THEIRS,
    "diffusers, bfloat16, first picture": THEIRS + "p.scheduler = diffusers.DDIMScheduler.from_config(p.scheduler.config)\n"
    "p('a', num_inference_steps=STEPS, height=SIDE, width=SIDE)",
}
"""Whole processes; SIDE, STEPS and DEVICE are put in."""


class Ended(NamedTuple):
    """A process that has ended: its seconds, of processor time and by the clock, and GiB that it held at its largest (`ru_maxrss`).

    own: at its most, as far as looking every 20 ms has seen it, without pages of mapped files, which the system may take back.
    """

    seconds: float
    wall: float
    peak: float
    own: float


def ended(command: list[str], cache: str) -> Ended:
    began, own = time.perf_counter(), 0
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"XDG_CACHE_HOME": cache} | threads
    )
    while not (found := os.wait4(process.pid, os.WNOHANG))[0]:
        with suppress(OSError):
            told = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            own = max(own, int(told[1])) if told else own
        time.sleep(0.02)
    if found[1]:
        raise SystemExit(f"{command[-1]}: ended with {os.waitstatus_to_exitcode(found[1])}")
    usage = found[2]
    return Ended(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 2**20, own / 2**20)


def cold(folder: str, side: int, steps: int, rounds: int, device: torch.device) -> None:
    """Whole processes on a folder of weights in bfloat16, which take turns; the disk cache is warm."""
    files = sorted(str(f) for f in Path(folder).rglob("*.safetensors"))
    seen: dict[str, list[Ended]] = {name: [] for name in COLD}
    with tempfile.TemporaryDirectory() as cache:
        for i in range(rounds + 1):  # the first round fills the disk cache, and that of hashes
            for name, code in COLD.items():
                code = code.replace("STEPS", str(steps)).replace("SIDE", str(side)).replace("DEVICE", str(device))
                seen[name].append(ended([sys.executable, "-W", "ignore", "-c", code, folder, *files], cache))
                print(f"round {i}/{rounds} {name}", end="\033[K\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    floor = [e.seconds for e in next(iter(seen.values()))[1:]]
    what = f"cold start, {steps} steps of {side} x {side}, seconds"
    print(f"\n{what:42} {'best':>8} {'median':>8} {'times the first':>16} {'by the clock':>13} {'peak GiB':>9} {'its own':>8}")
    for name, all_of in seen.items():
        each = [e.seconds for e in all_of[1:]]
        ratio = statistics.median(b / a for a, b in zip(floor, each))
        wall = statistics.median(e.wall for e in all_of[1:])
        peak, own = max(e.peak for e in all_of), max(e.own for e in all_of)
        print(f"{name:42} {min(each):8.2f} {statistics.median(each):8.2f} {ratio:16.2f} {wall:13.2f} {peak:9.2f} {own:8.2f}")


def pictures(folder: str, side: int, steps: int, device: torch.device) -> dict[str, Row]:
    """Whole pictures, words and decoding with them; the reference first."""
    import diffusers

    size = {"height": side, "width": side}
    mine = unnoise.load(folder, torch.bfloat16).to(device)
    noise = Streams.each([1]).normal("prior", (4, side // 8, side // 8)).to(device)

    def call(dtype: torch.dtype) -> Row:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None).to(device)
        pipeline.set_progress_bar_config(disable=True)
        how = {"num_inference_steps": steps, "guidance_scale": 7.5, "latents": noise.to(dtype), "output_type": "np"}
        return lambda: torch.from_numpy((pipeline("a", **how, **size).images * 255).round()) / 255

    def draw(model: DiffusionModel, caching: StepCaching | None = None) -> Row:
        how = {"sample_seeds": [1], "steps": steps, "sampler": "ddim", "guidance": 7.5, "caching": caching}

        def row() -> Tensor:
            for encoder in encoders_of(model.conditioner).values():
                encoder.apart()  # what was encoded before is forgotten, as diffusers does
            return model.sample("a", **how, **size).data / 255

        return row

    rows = {
        "diffusers, float32": call(torch.float32),
        "diffusers, bfloat16": call(torch.bfloat16),
        "unnoise, bfloat16": draw(mine),
        **{f"unnoise, bfloat16, --cache {n}": draw(mine, StepCaching(Every(n))) for n in (2, 3)},
    }
    if device.type == "cpu" and int8.available():
        rounded = unnoise.load(folder, torch.bfloat16).to_int8()
        rows["unnoise, int8"] = draw(rounded)
        rows |= {f"unnoise, int8, --cache {n}": draw(rounded, StepCaching(Every(n))) for n in (2, 3)}
    return rows


def write(config: Mapping[str, Any], folder: str) -> None:
    """A pipeline of random weights, with a tokenizer that knows single letters."""
    import json

    import diffusers
    import transformers

    letters = [chr(c) for c in range(97, 123)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    place = Path(folder) / "tokenizer"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    text = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    diffusers.StableDiffusionPipeline(
        diffusers.AutoencoderKL(**VAE, sample_size=512),
        transformers.CLIPTextModel(text),
        transformers.CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=77),
        diffusers.UNet2DConditionModel(**config, sample_size=64),
        diffusers.DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1),
        None, None, requires_safety_checker=False,
    ).to(torch.bfloat16).save_pretrained(folder)  # fmt: skip


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5, help="0: each row's first call is what counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="of a picture; 1 for --cold, 20 for --picture by default")
    parser.add_argument("--malloc", choices=("kept", "default"), default="kept")
    parser.add_argument("--write", metavar="FOLDER", help="write the pipeline that --cold starts, and end")
    parser.add_argument("--cold", nargs="?", const="", metavar="FOLDER", help="whole processes, from nothing to the first picture")
    parser.add_argument("--picture", nargs="?", const="", metavar="FOLDER", help="whole pictures, warm")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--compile", nargs="*", choices=TOOLS, metavar="TOOL", help=f"of {', '.join(TOOLS)}; all where none is named"
    )
    options = parser.parse_args()
    prepare = TOOLS if options.compile == [] else options.compile or ()
    torch.set_num_threads(options.threads)
    config, device = TINY if options.tiny else UNET, torch.device(options.device)
    if options.write:
        write(config, options.write)
        return
    speeds = ", ".join(f"{k} {v:.3f}" for k, v in matmul_probe().items())
    print(f"{options.threads} threads, load {os.getloadavg()[0]:.1f}; matmul TFLOP/s on the CPU: {speeds}", flush=True)
    if options.malloc == "kept" and options.cold is None:
        keep_freed_memory()
    size = f"{options.side} x {options.side}"
    if (given := options.cold if options.cold is not None else options.picture) is not None:
        with tempfile.TemporaryDirectory() as made:
            if not given:
                tiny = ["--tiny"] if options.tiny else []
                subprocess.run([sys.executable, __file__, "--write", made, *tiny], check=True)
            if options.cold is not None:
                cold(given or made, options.side, options.steps or 1, options.rounds, device)
            else:
                n = options.steps or 20
                rows = pictures(given or made, options.side, n, device)
                compare(f"seconds a picture, {n} steps, {size}", rows, options.rounds, device, off)
        return
    compare(f"seconds a step, {size}", steps(config, options.side, prepare, device), options.rounds, device)
    compare(f"seconds a decoding, {size}", decodings(options.side, device), options.rounds, device)


if __name__ == "__main__":
    main()
