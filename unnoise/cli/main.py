"""`unnoise COMMAND ...`: finds the command, and turns bad input into one line and exit status 2. `--help` loads nothing heavy."""

import io
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

from unnoise import __version__
from unnoise.core.allocator import keep_freed_memory
from unnoise.core.errors import InputError, nearest

COMMANDS = {
    "train": "train a model on a folder, zip or npz of pictures, or on a csv table",
    "resume": "go on with an interrupted training run",
    "average": "the model of a run with averaged weights of another width, rebuilt after training",
    "sample": "make new data with a trained model: pictures or a table",
    "evaluate": "measure a model or samples against real data, and write a report",
    "compare": "diffusion against GANs and autoencoders on your data, at equal parameters and compute",
    "info": "what a file, a model or a run is, and the command that makes it again",
    "export": "write a model in the layout of diffusers, for its pipelines to load",
    "example": "write a small real data set to try things on (digits, stacked-digits, breast-cancer)",
    "demo": "train on real handwritten digits and draw everything, in a few minutes",
}

HELP = f"""unnoise {__version__}: diffusion models for any kind of data

usage: unnoise COMMAND ...    (unnoise COMMAND --help shows every option)

{chr(10).join(f"  {name:<9} {what}" for name, what in COMMANDS.items())}

  unnoise train photos/ --out runs/photos
  unnoise sample runs/photos "a red apple" -n 16 --seed 7 --out apples
"""


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    warnings.formatwarning = _one_line
    try:
        try:
            _run(argv)
        except SystemExit:
            _flush()  # a command's --help exits
            raise
        _flush()
    except InputError as e:
        print(f"unnoise: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output has gone (`unnoise ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Exception as e:  # torch's, by its name: torch is not loaded for --help
        if type(e).__name__ != "OutOfMemoryError":
            raise
        print(f"unnoise: the GPU's memory is full: {str(e).splitlines()[0]} Fewer at once (--batch) need less.", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as e:
        print(f"\nunnoise: {str(e) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(130) from None


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
    elif argv[0] in ("-V", "--version"):
        print(f"unnoise {__version__}")
    else:
        keep_freed_memory()
        command(argv[0]).run(argv[1:])


def _flush() -> None:
    """Here, where it is met that the reader has gone."""
    if sys.stdout is not None:
        sys.stdout.flush()


_formatted = warnings.formatwarning


def _one_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """What unnoise warns of, without the place in its code; other libraries' warnings as they are."""
    if category is UserWarning and Path(__file__).parents[1] in Path(filename).parents:
        return f"unnoise: {message}\n"
    return _formatted(message, category, filename, lineno, line)


def command(name: str) -> ModuleType:
    """The module of a command; it offers run(argv)."""
    if name not in COMMANDS:
        near = nearest(name, COMMANDS, 2)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; the commands are {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {name!r}{hint}")
    return import_module(f"unnoise.cli.{name}")
