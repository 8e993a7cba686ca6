"""INT8 by processor: the same files on CPUs with VNNI and without, of which oneDNN is told that this machine is one.

    python benchmarks/processors.py [--shapes WEIGHTS.safetensors --shapes-data DIR] [--only SECTION ...]

Sections: files (ours, the same without anything against saturation, FP32, and NNCF with each of its settings: signal-to-noise,
accuracy, latency in interleaved rounds), load (a bundle of this machine's, loaded elsewhere). Every processor is a process of
its own. The shapes' weights come from `calibration/shapes/train.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from common import save_section, scratch
from peer_files import open_model, open_with_onnxruntime, with_nncf
from tasks import (
    CALIBRATION_IMAGES,
    PACKAGES,
    Task,
    add_shapes,
    fp32_file,
    interleaved,
    logits_of,
    quality,
    said,
    tasks,
    writers,
)  # fmt: skip

from edgeresnext.machine import cpu
from edgeresnext.machine.environment import package_versions
from edgeresnext.measure.statistics import speedup, summarise
from edgeresnext.spec import ModelSpec, Recipe

if TYPE_CHECKING:
    from edgeresnext.backends.base import Session
    from edgeresnext.pipeline.onnx_files import Writer

PROCESSORS = {"AVX2": "AVX2", "AVX-512 without VNNI": "AVX512_CORE", "this machine": ""}
"""What oneDNN may use, as ONEDNN_MAX_CPU_ISA; it can only be told to use less than there is."""
NNCF = ("DISABLE", "FIRST_LAYER", "ENABLE")
LOADS = 5
LOADED = "resnet50"


def possible() -> dict[str, str]:
    """Return the processors that this machine can be."""
    found = {name: limit for name, limit in PROCESSORS.items() if limit != "AVX512_CORE" or "avx512f" in cpu.isa()}
    return (
        found
        if cpu.isa() & {"avx512_vnni", "avx_vnni", "amx_int8"}
        else {n: limit for n, limit in found.items() if limit}
    )


def on(limit: str, *arguments: str) -> Any:
    """Run this script under a limit, and return what it found."""
    variables = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    environment = variables | ({"ONEDNN_MAX_CPU_ISA": limit} if limit else {})
    run = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def write_files(task: Task, root: Path) -> dict[str, Path]:
    """Write every file of a network that is compared."""
    drawn = task.images()
    output = root / f"{task.weights.stem}-processors"
    writer = next(writers(task, drawn, [Recipe(samples=CALIBRATION_IMAGES)], output))
    writer.write("int8-cpu")
    files = {"fp32": fp32_file(task, root), "ours": output / "int8-cpu.onnx", "saturating": saturating(writer, output)}
    singles = [image for batch in drawn.batches(None) for image in batch]
    for setting in NNCF:
        files[f"NNCF {setting}"] = with_nncf(singles, files["fp32"], output / f"nncf-{setting}", setting)
    return files


def saturating(writer: Writer, folder: Path) -> Path:
    """Write the INT8 file that nothing is done for: all layers, uint8 after ReLU, steps by the largest weight."""
    import onnx

    from edgeresnext.compiler.correct import channel_means, corrected
    from edgeresnext.compiler.emit import emit
    from edgeresnext.compiler.quantise import quantise, weight_limits

    assert writer.ranges is not None
    assert writer.images is not None
    plan = msgspec.structs.replace(writer.plan("int8"), activations="unsigned")
    numbers = quantise(writer.graph, plan, writer.ranges.limits("unsigned"), weight_limits(writer.graph))
    numbers = corrected(writer.graph, numbers, writer.images, channel_means(writer.graph, writer.images))
    onnx.save(emit(writer.graph, numbers, writer.spec), folder / "saturating.onnx")
    return folder / "saturating.onnx"


def measure(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare files on this processor: how near to FP32, how many right, how fast."""
    spec = msgspec.convert(given["spec"], ModelSpec)
    with np.load(given["images"]) as arrays:
        images, exact = arrays["images"], arrays["logits"]
        targets = arrays.get("targets")
    task = Task(
        name=given["name"], spec=spec, weights=Path(), calibration=Path(), test=Path(), labelled=targets is not None
    )
    files = {name: Path(file) for name, file in given["files"].items()}
    sessions: dict[str, Session] = {name: open_model(file, spec) for name, file in files.items()}
    sessions |= {f"onnxruntime {name}": open_with_onnxruntime(files[name], spec) for name in ("fp32", "ours")}
    rows = [{"file": name, **quality(task, logits_of(one, images), exact, targets)} for name, one in sessions.items()]
    samples = interleaved(sessions, images[:16])
    for row in rows:
        name = row["file"]
        row["snr_db"] = row["snr_db"] if np.isfinite(row["snr_db"]) else None  # FP32 here is what FP32 was taken from
        row |= {
            "p50_s": summarise(samples[name])[0].p50,
            "over_saturating": speedup(samples[name], samples["saturating"]),
            "over_fp32": speedup(samples["fp32"], samples[name]),
            "samples_s": samples[name],
        }
    return rows


def files(task: Task, root: Path) -> list[dict[str, Any]]:
    """Compare the files of one network on every processor that this machine can be."""
    written = write_files(task, root)
    images, targets = task.tests()
    exact = logits_of(open_model(written["fp32"], task.spec), images)
    arrays = root / f"{task.weights.stem}.npz"
    np.savez(arrays, images=images, logits=exact, **({} if targets is None else {"targets": targets}))
    given = {
        "name": task.name, "spec": msgspec.to_builtins(task.spec), "images": str(arrays),
        "files": {name: str(file) for name, file in written.items()},
    }  # fmt: skip
    found = []
    for name, limit in possible().items():
        for row in on(limit, "--measure", json.dumps(given)):
            found.append({"processor": name, "limit": limit, **row})
            print(
                f"  {name}, {row['file']}: {said(row)}, {row['p50_s'] * 1e3:.2f} ms, "
                f"{row['over_saturating'][0]:.3f} x saturating, {row['over_fp32'][0]:.2f} x faster than fp32",
                flush=True,
            )
    return found


def load_once(path: str, test: str) -> dict[str, Any]:
    """Load a bundle twice on this processor, and classify images where there are some."""
    import edgeresnext
    from edgeresnext.bundle import read
    from edgeresnext.data import folder
    from edgeresnext.data.images import batches

    taken = []
    for prove in (False, True, True):
        started = time.perf_counter()
        with edgeresnext.load(path, prove=prove) as classifier:
            taken.append(time.perf_counter() - started)
            name, reason = classifier.artifact.name, classifier.reason
    found: dict[str, Any] = {
        "artifact": name,
        "reason": reason,
        "unproven_s": taken[0],
        "first_s": taken[1],
        "later_s": taken[2],
    }
    if test:
        photos = folder.scan(test)
        spec = read(path).manifest.model
        images = np.concatenate([some for some, _ in batches(photos.images, spec.preprocess, 50)])
        with edgeresnext.load(path) as chosen, edgeresnext.load(path, backend="torch") as torch:
            for what, one in (("top1", chosen), ("top1_torch", torch)):
                logits = np.concatenate([one.logits(images[i : i + 50]) for i in range(0, len(images), 50)])
                found[what] = float((logits.argmax(1) == np.array(photos.targets)).mean())
    return found


def loads(known: dict[str, Task], root: Path) -> list[dict[str, Any]]:
    """Load bundles of this machine's on other processors: what is chosen, and what the first load costs."""
    import edgeresnext

    digits = known["digits"]
    bundles = {
        "digits": edgeresnext.build(
            digits.spec.name, weights=digits.weights, calibration=digits.calibration, output=root / "digits-bundle"
        ).path,
        LOADED: edgeresnext.build(LOADED, random_weights=True, output=root / LOADED, precisions=["fp32", "int8"]).path,
    }
    found = []
    limits = possible() | {"SSE4.1": "SSE41"}
    for name, path in bundles.items():
        test = str(digits.test) if name == "digits" else ""
        for processor, limit in limits.items():
            runs = []
            for number in range(LOADS):
                os.environ["EDGERESNEXT_CACHE"] = str(root / f"cache-{name}-{limit}-{number}")
                runs.append(on(limit, "--load", str(path), test))
            row = {"bundle": name, "processor": processor, "limit": limit, **runs[0]}
            row |= {key: median(run[key] for run in runs) for key in ("unproven_s", "first_s", "later_s")}
            row["proof_s"] = median(run["first_s"] - run["later_s"] for run in runs)
            found.append(row)
            print(f"  {row}", flush=True)
    return found


def main() -> None:
    """Measure and save; sections that were not run keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser)
    parser.add_argument("--only", nargs="*", choices=["files", "load"], default=["files", "load"])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(json.loads(given.measure))))
        return
    if given.load:
        print(json.dumps(load_once(*given.load)))
        return
    with scratch() as root:
        known = tasks(root, given)
        for section in given.only:
            print(section, flush=True)
            if section == "files":
                found = [row for task in known.values() for row in files(task, root)]
            else:
                found = loads(known, root)
            save_section("processors", section, found, **package_versions(*PACKAGES))


if __name__ == "__main__":
    main()
