"""How long one waits before anything happens: `unnoise --help`, `import unnoise` beside `import torch`, and a picture by each of
the models that ship, from the command's start to its end.

    python benchmarks/startup.py [--rounds 7]

Whole processes, taking turns; medians and minima of wall seconds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = ["-m", "unnoise", "sample", "--overwrite", "-n", "1", "--out", str(Path(tempfile.gettempdir()) / "unnoise-startup")]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "unnoise --help": ["-m", "unnoise", "--help"],
    "import torch": ["-c", "import torch"],
    "import unnoise": ["-c", "import unnoise"],
    "import unnoise, all of its names": ["-c", "import unnoise; unnoise.load, unnoise.train"],
    "unnoise sample, scenes": [*SAMPLE, "three red apples left of a sign that says OPEN"],
    "unnoise sample, stickers": [*SAMPLE, "grinning face wearing a crown"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for i in range(rounds + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if i > 0:  # the first round fills the disk cache
                taken[name].append(time.perf_counter() - began)
    torch_median = statistics.median(taken["import torch"])
    print(f"{'command':<34} {'minimum':>8} {'median':>8} {'/ import torch':>15}")
    for name, seconds in taken.items():
        print(
            f"{name:<34} {min(seconds):>8.3f} {statistics.median(seconds):>8.3f} {statistics.median(seconds) / torch_median:>15.2f}"
        )


if __name__ == "__main__":
    main()
