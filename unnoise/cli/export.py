"""unnoise export MODEL --out FOLDER: a model in the layout of another library."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from unnoise.checkpoints.foreign.export import refuse_taken
from unnoise.checkpoints.foreign.folder import INDEX, named, read_index
from unnoise.checkpoints.foreign.lora import parse_loras
from unnoise.cli.terminal import parse, refuse_existing
from unnoise.loading import load, with_loras


@dataclass(frozen=True)
class Export:
    """Write a model in the layout of the diffusers library, whose DiffusionPipeline.from_pretrained loads it."""

    model: tyro.conf.Positional[Path]
    """A model whose network diffusers has: those of open checkpoints, as they come or trained on here."""
    out: Path
    """The folder to write, which must not exist yet."""
    variant: str | None = None
    """Which weights of an open checkpoint, such as fp16, where it has several. Not given: the plain ones."""
    beside: tuple[Path, ...] = ()
    """What an open checkpoint lacks, or networks in place of its own; as `unnoise sample` takes it."""
    lora: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A LoRA to be written into the weights, as `unnoise sample` takes it; may be repeated."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights that are written."""
    format: Literal["diffusers"] = "diffusers"
    """The library that is to read it."""


def run(argv: list[str]) -> None:
    args = parse(Export, argv, "unnoise export")
    refuse_taken(args.out)  # before minutes of loading
    refuse_existing(args.out, overwrite=False)
    loras, model = parse_loras(args.lora), load(args.model, None, args.variant, args.beside)
    model = with_loras(model, loras) if loras else model
    model.export(args.out, getattr(torch, args.dtype))
    index = read_index(args.out / INDEX)
    lacks_t5 = str(index["_class_name"]).startswith("StableDiffusion3") and not named(index, "text_encoder_3")
    told = repr(str(args.out)) + (", text_encoder_3=None, tokenizer_3=None" if lacks_t5 else "")
    print(f"{args.out}: written for {args.format}; load it with diffusers.DiffusionPipeline.from_pretrained({told})")
