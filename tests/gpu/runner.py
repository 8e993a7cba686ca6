"""Run the stages of tests/gpu: each check in a process of its own with a time limit, what was found as JSON.

python -m gpu.runner [--out DIR] [--only STAGE,...] [--minutes N] [--seconds N]

Ends with 0 where nothing failed, 1 where something did, 4 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from gpu.check import checks_of, stage

STAGES = (
    "inventory", "cuda", "dlpack", "probes", "engines", "bench", "threads", "cycles", "fallback", "classic", "official",
)  # fmt: skip
PROBE_S = 60
KILLED_S = 10
"""How long a process may take to go after it was killed: one that waits for a broken driver never does."""

TAIL = 20
BAD = ("failed", "timed out", "crashed")


def run_stage(name, out, folder, *, deadline, seconds=600.0, scale=1.0, say=print):
    """Run one stage and keep what it found in `out/NAME.json`, written anew after every check.

    Args:
        name: The stage.
        out: Where JSON and reports go.
        folder: What stages share.
        deadline: `time.monotonic()` at which nothing more is begun.
        seconds: How long the long runs take.
        scale: See `Work`.
        say: Takes a line for people.

    Returns:
        What was written.
    """
    title = (stage(name).__doc__ or name).strip().splitlines()[0]
    found = {"stage": name, "title": title, "started": now(), "gpu": None, "status": "running", "checks": []}
    file = out / f"{name}.json"
    device, trouble = probe(out)
    found["gpu"] = device
    if device is None:
        found |= {"status": "failed" if trouble else "no GPU", "reason": trouble or "no NVIDIA GPU with a driver"}
        write(file, found)
        say(f"{name}: {found['status']}: {found['reason']}")
        return found
    for one in checks_of(name):
        left = deadline - time.monotonic()
        if left <= 0:
            result = {"status": "not run", "reason": "the time was up"}
        else:
            result = run_check(name, one, out, folder, limit_s=min(one.limit_s, left), seconds=seconds, scale=scale)
        found["checks"].append({"name": one.name, "title": one.title, "limit_s": one.limit_s, **result})
        write(file, found)
        say(f"{name}  {one.name}  {result['status']}{told(result)}")
    found["status"] = verdict(found["checks"])
    found["ended"] = now()
    write(file, found)
    return found


def run_check(name, one, out, folder, *, limit_s, seconds, scale):
    """Run one check in a process of its own; what it found, or how the process ended."""
    for place in (out, folder):
        place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        result = Path(scratch) / "result.json"
        arguments = ("check", name, one.name, result, folder, out, str(seconds), str(scale))
        ended, taken_s, output = child(arguments, limit_s)
        found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    if ended == 0 and found is not None:
        return found | ({"output": output} if found["status"] == "failed" else {})
    after = f" after it had {found['status']}" if found is not None else ""
    return {"status": "timed out" if ended is None else "crashed", "seconds": taken_s, "output": output} | {
        "reason": f"it did not end within {limit_s:.0f} s" if ended is None else f"{how(ended)}{after}"
    }


def child(arguments, limit_s):
    """Run `gpu.child`; its exit status (None where its time was up), the seconds it took, the end of what it said."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu.child", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            ended = None
        finally:  # with all that it has started, also on Ctrl-C
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_S)
        said.seek(0)
        tail = said.read().decode(errors="replace").splitlines()[-TAIL:]
    return ended, time.monotonic() - start, tail


def probe(out):
    """Ask for the GPU in a process of its own; (what the driver says of it or None, what went wrong or nothing)."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-probe-") as scratch:
        result = Path(scratch) / "gpu.json"
        ended, _, output = child(("probe", result), PROBE_S)
        if result.exists() and ended == 0:
            return json.loads(result.read_text(encoding="utf-8")), ""
    if ended is None:
        return None, f"the driver did not answer within {PROBE_S} s"
    return None, f"asking for the GPU {how(ended)}: {' | '.join(output[-3:])}"


def how(ended):
    """Say how a process ended."""
    return f"ended by {signal.Signals(-ended).name}" if ended < 0 else f"ended with exit code {ended}"


def verdict(checks):
    """Say in a word what became of a stage."""
    statuses = {one["status"] for one in checks}
    if statuses & set(BAD):
        return "failed"
    return "passed" if "passed" in statuses else "skipped" if "skipped" in statuses else "not run"


def told(result):
    """Say after a status how long it took, or why."""
    if result["status"] == "passed":
        return f"  {result['seconds']:.1f} s"
    return f": {result['reason']}"


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def write(file, found):
    """Write JSON, whole or not at all: the machine may be taken away at any moment."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def main(arguments=None):
    """Run what was asked for; see the head of this file."""
    parser = argparse.ArgumentParser(
        prog="tests/gpu/run.sh", description="Check edgeresnext on the GPU of this machine."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-results"), help="folder for JSON and reports [gpu-results]"
    )
    parser.add_argument("--only", default=",".join(STAGES), help=f"stages, of {', '.join(STAGES)}")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which nothing more is begun [30]")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the official benchmark [600]")
    parser.add_argument("--scale", type=float, default=1.0, help="of repetitions; 0.1 is a tenth [1]")
    given = parser.parse_args(arguments)
    names = [name for name in given.only.split(",") if name]
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        parser.error(f"no stage '{unknown[0]}'; there are {', '.join(STAGES)}")
    out = given.out.absolute()
    deadline = time.monotonic() + 60 * given.minutes
    found = [
        run_stage(name, out, out / "work", deadline=deadline, seconds=given.seconds, scale=given.scale)
        for name in names
    ]
    statuses = [one["status"] for one in found]
    told_of = ", ".join(f"{one['stage']} {one['status']}" for one in found)
    sys.stdout.write(f"{len(found)} stages in {out}: {told_of}\n")
    return 1 if "failed" in statuses else 4 if "no GPU" in statuses else 0


if __name__ == "__main__":
    sys.exit(main())
