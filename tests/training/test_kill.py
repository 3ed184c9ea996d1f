"""kill -9 three times, once or twice while a checkpoint is written; `benchmarks/kill.py` does it twenty times."""

import subprocess
import sys
from pathlib import Path


def test_killed_runs_end_with_the_same_weights():
    script = Path(__file__).parents[2] / "benchmarks" / "kill.py"
    done = subprocess.run([sys.executable, str(script), "--kills", "3"], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "3 kills" in done.stdout
