"""Commands that are killed, or fail, at each call that changes a file system: the quick ones; the benchmark tries them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "benchmarks" / "kill_points.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it forks, and counts what Linux does")
@pytest.mark.parametrize("only", ["kills", "errors"])
@pytest.mark.parametrize("case", ["sign", "export --deepstream", "calibration/folder", "weights by address, gone on"])
def test_nothing_is_lost_or_left(only, case):
    done = subprocess.run(
        [sys.executable, str(HARNESS), "--only", only, "--case", case, "--check", "--jobs", "1"], capture_output=True,
        text=True, check=False, env=os.environ | {"PYTHONPATH": str(HARNESS.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tried = next(line for line in done.stdout.splitlines() if line.strip().startswith("{"))
    assert {"kills": "'kills': ", "errors": "'failures': "}[only] in tried
