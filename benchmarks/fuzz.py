"""Look for bytes that a parser neither takes nor refuses in words: coverage-guided, target by target.

python benchmarks/fuzz.py [--seconds S] [--only TARGET]. Ten minutes a target; needs the extra `fuzz` (Python 3.11 to
3.13). What is found lies in build/fuzz/TARGET-found; mended, it becomes a file of tests/fuzzing/corpus.

python benchmarks/fuzz.py --properties 250: what hypothesis makes of the same parsers, without that extra.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import save_section

from edgeresnext.machine.environment import package_versions

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from fuzzing.targets import CORPUS, TARGETS  # noqa: E402 - behind the path that it lies on

PLACE = ROOT / "build" / "fuzz"
PROPERTIES = ("tests/property/test_parsers.py", "tests/property/test_round_trips.py")
SECONDS, WAIT_S, MEMORY_MIB, LARGEST = 600, 20, 2048, 1 << 15
"""Time a target, and what one input may take: seconds, memory, bytes."""
MEMORY = Path("/dev/shm")  # noqa: S108 - for files that live for a millisecond, where there is such a place
ENDS = 20
"""Times that a target may end its process before it is left alone."""


def fuzz(name: str, seconds: float, scratch: str) -> dict[str, Any]:
    """Return what became of a target in so many seconds: how often it ran, how much of it was seen, what was found."""
    corpus, found = PLACE / name, PLACE / f"{name}-found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in found.iterdir()}
    total: dict[str, Any] = {
        "target": name,
        "seconds": 0,
        "executions": 0,
        "seeds": len(list((CORPUS / name).iterdir())),
    }
    for _ in range(ENDS):
        log, start = PLACE / f"{name}.log", time.monotonic()
        with log.open("wb") as output:
            subprocess.run(
                [
                    sys.executable, str(Path(__file__).with_name("fuzz_one.py")), name, str(found), str(corpus), str(CORPUS / name),
                    f"-max_total_time={max(1, round(seconds - total['seconds']))}", f"-timeout={WAIT_S}", f"-report_slow_units={WAIT_S}",
                    f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={LARGEST}", f"-artifact_prefix={found}{os.sep}", "-print_final_stats=1",
                ],
                stdout=output, stderr=subprocess.STDOUT, check=False, env=os.environ | {"TMPDIR": scratch},
            )  # fmt: skip
        said = log.read_text(encoding="utf-8", errors="replace")
        ran = re.search(r"^Done \d+ runs in (\d+) second", said, re.MULTILINE)  # without what went before
        total["seconds"] += int(ran[1]) if ran else round(time.monotonic() - start)
        numbers = dict(re.findall(r"^stat::(\w+):\s+(\d+)$", said, re.MULTILINE))
        shown = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+)", said, re.MULTILINE)
        total["executions"] += int(numbers.get("number_of_executed_units", shown[-1][0] if shown else 0))
        if shown:
            total |= {"coverage": int(shown[-1][1]), "features": int(shown[-1][2])}
        total["peak_mib"] = max(total.get("peak_mib", 0), int(numbers.get("peak_rss_mb", 0)))
        if total["seconds"] > seconds - 1:
            break
    total["inputs"] = len(list(corpus.iterdir()))
    total["found"] = sorted({path.name for path in found.iterdir()} - before)
    return total


def properties(examples: int) -> dict[str, Any]:
    """Return how many examples hypothesis tried of the properties of all parsers, and how many of them failed."""
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-show-statistics", *PROPERTIES],
        env=os.environ | {"EDGERESNEXT_EXAMPLES": str(examples)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    counts = re.findall(r"(\d+) passing(?: examples)?, (\d+) failing", said)
    ended = {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|error)", said.splitlines()[-1])}
    return {
        "examples": sum(int(passing) + int(failing) for passing, failing in counts),
        "failing": sum(int(failing) for _, failing in counts),
        "properties": ended,
    }


def main() -> None:
    """Fuzz what is asked for, and save what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument(
        "--properties", type=int, metavar="EXAMPLES", help="try hypothesis instead, each property so often"
    )
    given = parser.parse_args()
    if given.properties:
        found = properties(given.properties)
        print(found, flush=True)
        save_section("fuzz", "properties", found, **package_versions("hypothesis"))
        return
    for name in given.only or TARGETS:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            found = fuzz(name, given.seconds, folder)
        print(found, flush=True)
        save_section("fuzz", name, found, **package_versions("atheris", "pillow", "msgspec", "numpy", "torch"))


if __name__ == "__main__":
    main()
