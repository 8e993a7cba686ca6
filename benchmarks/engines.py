"""What TensorRT-RTX engines cost to build without a GPU, and what is in them: layers, bytes, estimated latency."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from common import save, scratch

import edgeresnext
from edgeresnext.machine.environment import package_versions
from edgeresnext.runtime.inspect import inspect

MODELS = ("resnext50_32x4d", "resnext101_64x4d")
BUILD_TARGETS = ("rtx40", "rtx30")
PRECISIONS = ("fp16", "int8")
OTHER_TARGETS = {"rtx20": ("fp16",), "rtx50": ("fp16", "int8"), "rtx40": ("fp32",)}
"""Beside those of the timed build, for the table of layers."""

CHILD = """
import json, sys, threading, time
from pathlib import Path
import edgeresnext
from edgeresnext.pipeline import on_device

def resident(status):
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return {name: int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}

peaks = {"tree_bytes": 0, "child_bytes": 0, "own_bytes": 0}
def watch(stop):
    own = Path("/proc/self")
    while not stop.wait(0.01):
        total = resident(own / "status")["VmRSS"]
        peaks["own_bytes"] = max(peaks["own_bytes"], total)
        for task in own.glob("task/*/children"):
            for number in task.read_text().split():
                process = Path("/proc") / number
                try:
                    if "worker" not in (process / "cmdline").read_text():
                        continue  # still the copy of this process, before it starts its program
                    child = resident(process / "status")
                except OSError:
                    continue
                total += child["VmRSS"]
                peaks["child_bytes"] = max(peaks["child_bytes"], child["VmHWM"])
        peaks["tree_bytes"] = max(peaks["tree_bytes"], total)

whole = on_device.compile_engines
seconds = 0.0
def timed(*arguments):
    global seconds
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(stop,))
    thread.start()
    start = time.perf_counter()
    try:
        return whole(*arguments)
    finally:
        seconds = time.perf_counter() - start
        stop.set()
        thread.join()
on_device.compile_engines = timed
model, output, *names = sys.argv[1:]
targets, precisions = names[0].split(","), names[1].split(",")
start = time.perf_counter()
edgeresnext.build(model, random_weights=True, targets=targets, precisions=precisions, output=output)
print(json.dumps({"wall_s": time.perf_counter() - start, "engines_s": seconds, **peaks}))
"""
"""A process of its own; memory is watched while engines are built, of the child that builds and of both together."""


def main() -> None:
    """Build each model's engines in a fresh process, look into them, and save the figures."""
    builds: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for model in MODELS:
        with scratch() as folder:
            bundle = folder / "bundle"
            command = [sys.executable, "-c", CHILD, model, str(bundle), ",".join(BUILD_TARGETS), ",".join(PRECISIONS)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            run = json.loads(re.findall(r"\{.*\}", done.stdout)[-1])
            print(model, run, flush=True)
            builds.append({"model": model, "engines": len(BUILD_TARGETS) * len(PRECISIONS), **run})
            if model != MODELS[0]:
                continue
            plain = edgeresnext.build(model, random_weights=True, output=folder / "all")
            for target, precisions in {**dict.fromkeys(BUILD_TARGETS, PRECISIONS), **OTHER_TARGETS}.items():
                edgeresnext.build_engines(plain.path, targets=[target], precisions=precisions)
            edgeresnext.build_engines(plain.path, targets=["rtx40"], precisions=PRECISIONS)
            for file in sorted((plain.path / "engines").iterdir()):
                found = inspect(file)
                layers.append({
                    "engine": found["name"],
                    "layers": len(found["engine"]["layers"]),
                    "bytes": found["bytes"],
                    **found["totals"],
                    "estimate_s": found["estimate_s"],
                })  # fmt: skip
                print(layers[-1], flush=True)
    save("engines", {"builds": builds, "model": MODELS[0], "layers": layers}, **package_versions("tensorrt-rtx"))


if __name__ == "__main__":
    main()
