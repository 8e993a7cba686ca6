"""What `edgeresnext build` costs: ResNeXt-50 32x4d from local weights with 64 calibration images.

    python benchmarks/build.py [--before CHECKOUT]

With a checkout of an earlier release, both build in turn, and the ratio of their times is saved too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import make_photos, save, scratch

import edgeresnext

MODEL = "resnext50_32x4d"
CALIBRATION_IMAGES = 64
RUNS = 3

CHILD = """
import json, sys, time
import edgeresnext
from edgeresnext.compiler import emit as module
from edgeresnext.measure.memory import own_peak
import onnx

emitting = 0.0
def timed(function):
    def call(*arguments, **options):
        global emitting
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            emitting += time.perf_counter() - start
    return call
module.emit, onnx.save = timed(module.emit), timed(onnx.save)
start = time.perf_counter()
bundle = edgeresnext.build(sys.argv[1], weights=sys.argv[2], calibration=sys.argv[3], output=sys.argv[4])
print(json.dumps({"wall_s": time.perf_counter() - start, "emit_s": emitting, "peak_bytes": own_peak(),
                  "snr_db": {file.file: file.fidelity.snr_db for file in bundle.manifest.onnx}}))
"""
"""A process of its own, so that its peak memory is the build's alone; writing the files counts as emitting."""


def once(checkout: Path, *arguments: str) -> dict[str, Any]:
    """Build in a fresh process, with the package of a checkout."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", CHILD, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=checkout)
    return json.loads(re.findall(r"\{.*\}", done.stdout)[-1]) | {"process_s": time.perf_counter() - start}


def main() -> None:
    """Build several times in fresh processes and save the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an earlier release, to build with in turn")
    given = parser.parse_args()
    checkouts = {"runs": Path(edgeresnext.__file__).parents[1]} | ({"before": given.before} if given.before else {})
    figures: dict[str, Any] = {"model": MODEL, "calibration_images": CALIBRATION_IMAGES}
    with scratch() as folder:
        photos = make_photos(folder / "photos", CALIBRATION_IMAGES)
        bundle = edgeresnext.build(MODEL, random_weights=True, precisions=["fp32"], output=folder / "weights")
        weights = bundle.file("weights.safetensors")
        for number in range(RUNS):
            for name, checkout in checkouts.items():
                output = folder / f"{name}{number}"
                run = once(checkout, MODEL, str(weights), str(photos), str(output))
                print(name, run, flush=True)
                figures.setdefault(name, []).append(run)
    if given.before:
        pairs = zip(figures["runs"], figures["before"], strict=True)
        figures["over_before"] = median(run["wall_s"] / before["wall_s"] for run, before in pairs)
    save("build", figures)


if __name__ == "__main__":
    main()
