"""What `edgeresnext build` costs: ResNeXt-50 32x4d from local weights with 64 calibration images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

from common import make_photos, save, scratch

import edgeresnext

MODEL = "resnext50_32x4d"
CALIBRATION_IMAGES = 64

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
edgeresnext.build(sys.argv[1], weights=sys.argv[2], calibration=sys.argv[3], output=sys.argv[4])
print(json.dumps({"wall_s": time.perf_counter() - start, "emit_s": emitting, "peak_bytes": own_peak()}))
"""
"""A process of its own, so that its peak memory is the build's alone; writing the files counts as emitting."""


def main() -> None:
    """Build in a fresh process, twice, and save the figures of both."""
    with scratch() as folder:
        photos = make_photos(folder / "photos", CALIBRATION_IMAGES)
        bundle = edgeresnext.build(MODEL, random_weights=True, precisions=["fp32"], output=folder / "weights")
        weights = bundle.file("weights.safetensors")
        runs = []
        for number in range(2):
            start = time.perf_counter()
            command = [sys.executable, "-c", CHILD, MODEL, str(weights), str(photos), str(folder / f"bundle{number}")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            run = json.loads(re.findall(r"\{.*\}", done.stdout)[-1]) | {"process_s": time.perf_counter() - start}
            print(run, flush=True)
            runs.append(run)
        save("build", {"model": MODEL, "calibration_images": CALIBRATION_IMAGES, "runs": runs})


if __name__ == "__main__":
    main()
