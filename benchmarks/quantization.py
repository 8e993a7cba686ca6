"""INT8 of three networks by us, by NNCF and by onnxruntime's quantiser: the same images, all run by OpenVINO.

    python benchmarks/quantization.py [--shapes WEIGHTS.safetensors --shapes-data DIR] [--only SECTION ...]

Sections: calibration (time and memory), peers, methods, repairs, rounding, rescaled, gate. Every quantiser runs in a process of its
own, so that peak memory is its own. The shapes' weights come from `calibration/shapes/train.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
from common import save_section, scratch
from peer_files import open_model, with_nncf, with_onnxruntime
from tasks import (
    CALIBRATION_IMAGES,
    MANY_IMAGES,
    PACKAGES,
    Task,
    add_shapes,
    fp32_file,
    graph_of,
    interleaved,
    logits_of,
    normalised,
    quality,
    said,
    tasks,
    writers,
)  # fmt: skip

import edgeresnext
from edgeresnext import Gate
from edgeresnext.machine.environment import package_versions
from edgeresnext.measure.memory import own_peak
from edgeresnext.measure.statistics import speedup, summarise
from edgeresnext.spec import REPAIRS as EVERY_REPAIR
from edgeresnext.spec import ModelSpec, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeresnext.backends.base import Session
    from edgeresnext.data.calibration_set import CalibrationSet

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from rescaled import rescale

COST_ROUNDS = 2
METHODS = ("max", "percentile:99.99", "percentile:99.999", "mse", "entropy", "auto")
REPAIRS = ((), ("equalisation",), ("bias-correction",), ("weight-clipping",), ("equalisation", "bias-correction"))
DEFAULT_AND_NAIVE = {"max, no repair": Recipe(method="max", repairs=()), "default": Recipe()}
ROUNDING = {"standard": Recipe().repairs, "and rounding": EVERY_REPAIR}
FILES = ("int8", "int8-cpu")
QUANTISERS = ("edgeresnext", "NNCF", "onnxruntime, MinMax", "onnxruntime, Entropy")


def quantise(task: Task, quantiser: str, samples: int, output: Path, fp32: Path) -> dict[str, Any]:
    """Quantise a network, and return what that took."""
    images = task.images(samples)
    singles = (image for batch in images.batches(None) for image in batch)
    started, worked = time.perf_counter(), time.process_time()
    if quantiser in ROUNDING:
        writer = next(writers(task, images, [Recipe(samples=samples, repairs=ROUNDING[quantiser])], output))
        for name in FILES:
            writer.write(name)
    elif quantiser == "edgeresnext":
        next(writers(task, images, [Recipe(samples=samples)], output)).write("int8-cpu")
    elif quantiser == "edgeresnext, entropy calibration alone":
        calibrate_alone(task, images)
    elif quantiser == "NNCF":
        with_nncf(singles, fp32, output)
    else:
        with_onnxruntime(singles, fp32, output, quantiser.rpartition(", ")[2])
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    return {"seconds": seconds, "cpu_seconds": worked, "peak_bytes": own_peak()}


def calibrate_alone(task: Task, images: CalibrationSet) -> None:
    """Find entropy thresholds, and with them those of all other methods."""
    from edgeresnext.compiler.calibrate import observe, thresholds
    from edgeresnext.compiler.thresholds import Method

    graph = graph_of(task)
    thresholds(graph, observe(graph, normalised(task, images.batches(None))), Method.parse("entropy"))


def apart(task: Task, quantiser: str, samples: int, output: Path, fp32: Path) -> dict[str, Any]:
    """Run `quantise` in a new process."""
    given = {
        "name": task.name, "labelled": task.labelled, "spec": msgspec.to_builtins(task.spec),
        "weights": str(task.weights), "calibration": str(task.calibration), "test": str(task.test),
        "quantiser": quantiser, "samples": samples, "output": str(output), "fp32": str(fp32),
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(given)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{quantiser} failed:\n{run.stderr}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    print(f"  {quantiser}: {found['seconds']:.1f} s, {found['peak_bytes'] / 2**20:.0f} MiB", flush=True)
    return found


def child(text: str) -> None:
    """Do what `apart` asks for."""
    given = json.loads(text)
    paths = {name: Path(given[name]) for name in ("weights", "calibration", "test")}
    spec = msgspec.convert(given["spec"], ModelSpec)
    task = Task(name=given["name"], labelled=given["labelled"], spec=spec, **paths)
    found = quantise(task, given["quantiser"], given["samples"], Path(given["output"]), Path(given["fp32"]))
    print(json.dumps(found))


def calibration(task: Task, root: Path) -> dict[str, Any]:
    """Time and memory of entropy calibration, ours and onnxruntime's, in turn; and ours with four times the images."""
    fp32 = fp32_file(task, root)
    ours, theirs = [], []
    for _ in range(COST_ROUNDS):
        ours.append(apart(task, "edgeresnext, entropy calibration alone", CALIBRATION_IMAGES, root / "x", fp32))
        theirs.append(apart(task, "onnxruntime, Entropy", CALIBRATION_IMAGES, root / "y", fp32))
    many = apart(task, "edgeresnext, entropy calibration alone", MANY_IMAGES, root / "x", fp32)
    seconds = [median(run["seconds"] for run in runs) for runs in (ours, theirs)]
    return {
        "task": task.name, "images": CALIBRATION_IMAGES, "many": MANY_IMAGES, "ours": ours, "onnxruntime": theirs,
        "ours_many": many, "ratio": seconds[0] / seconds[1],
        "growth_bytes": many["peak_bytes"] - max(run["peak_bytes"] for run in ours),
    }  # fmt: skip


def peers(task: Task, root: Path) -> list[dict[str, Any]]:
    """Quality and latency of every quantiser's INT8 on one backend."""
    fp32 = fp32_file(task, root)
    images, targets = task.tests()
    exact_session = open_model(fp32, task.spec)
    exact = logits_of(exact_session, images)
    sessions: dict[str, Session] = {"fp32": exact_session}
    rows = []
    for quantiser in QUANTISERS:
        output = root / f"{task.weights.stem}-{quantiser.replace(', ', '-')}"
        costs = apart(task, quantiser, CALIBRATION_IMAGES, output, fp32)
        (file,) = [*output.glob("*.onnx"), *output.glob("*.xml")]
        sessions[quantiser] = open_model(file, task.spec)
        rows.append(
            {"quantiser": quantiser, **costs, **quality(task, logits_of(sessions[quantiser], images), exact, targets)}
        )
        if quantiser == "NNCF":  # what it leaves in floating point may run in bfloat16
            name = "NNCF, rest as OpenVINO chooses"
            sessions[name] = open_model(file, task.spec, "")
            rows.append(
                {"quantiser": name, **costs, **quality(task, logits_of(sessions[name], images), exact, targets)}
            )
    samples = interleaved(sessions, images[:16])
    for row in rows:
        latency, _ = summarise(samples[row["quantiser"]])
        ratio, error = speedup(samples[row["quantiser"]], samples["edgeresnext"])
        row |= {
            "p50_s": latency.p50,
            "over_ours": ratio,
            "over_ours_error": error,
            "samples_s": samples[row["quantiser"]],
        }
        print(f"  {row['quantiser']}: {said(row)}, {latency.p50 * 1e3:.2f} ms, {ratio:.2f} x ours", flush=True)
    return rows


def variants(task: Task, root: Path, recipes: dict[str, Recipe]) -> list[dict[str, Any]]:
    """Quality of one network by several recipes, in both files, without a gate."""
    fp32 = fp32_file(task, root)
    images, targets = task.tests()
    exact = logits_of(open_model(fp32, task.spec), images)
    rows = []
    output = root / f"{task.weights.stem}-variants"
    drawn = task.images(next(iter(recipes.values())).samples)
    for name, writer in zip(recipes, writers(task, drawn, recipes.values(), output), strict=True):
        for file in FILES:
            writer.write(file)
            found = quality(task, logits_of(open_model(output / f"{file}.onnx", task.spec), images), exact, targets)
            rows.append({"recipe": name, "file": file, **found})
            print(f"  {name} {file}: {said(found)}", flush=True)
    return rows


def rounding(task: Task, root: Path) -> list[dict[str, Any]]:
    """Quality of both files without rounding among the repairs and with it, and what calibrating and writing them takes."""
    fp32 = fp32_file(task, root)
    images, targets = task.tests()
    exact = logits_of(open_model(fp32, task.spec), images)
    rows = []
    for recipe in ROUNDING:
        output = root / f"{task.weights.stem}-{recipe.replace(' ', '-')}"
        costs = apart(task, recipe, CALIBRATION_IMAGES, output, fp32)
        for file in FILES:
            found = quality(task, logits_of(open_model(output / f"{file}.onnx", task.spec), images), exact, targets)
            rows.append({"recipe": recipe, "file": file, **costs, **found})
    return rows


def by_method(samples: int) -> dict[str, Recipe]:
    """Return a recipe a method, all with all repairs."""
    return {method: Recipe(method=method, samples=samples) for method in METHODS}


def by_repair(samples: int) -> dict[str, Recipe]:
    """Return a recipe a set of repairs, all with the default method."""
    names = {" and ".join(repairs) or "none": repairs for repairs in REPAIRS} | {"all": Recipe().repairs}
    return {name: Recipe(samples=samples, repairs=repairs) for name, repairs in names.items()}


def rescaled(task: Task, root: Path, factor: float = 64.0) -> Task:
    """Return the same network with a quarter of the channels inside each block times `factor`, undone by their reader."""
    weights = rescale(task.weights, root / f"rescaled-{task.weights.name}", factor=factor)
    return dataclasses.replace(task, weights=weights, name=f"{task.name}, rescaled")


def broken(task: Task, root: Path) -> Task:
    """Return the same network with rescaled channels in its second stage, which naive calibration breaks."""
    return dataclasses.replace(task, weights=rescale(task.weights, root / "layer2.safetensors", only="layer2"))


def gate(task: Task, root: Path) -> list[dict[str, Any]]:
    """Build a network that naive calibration breaks, without the gate, with it, and with one that it cannot pass."""
    rows = []
    cases = {
        "with the gate": Gate(validation=str(task.test)),
        "all must stay INT8": Gate(validation=str(task.test), min_int8=1.0),
    }
    for name, limits in cases.items():
        started = time.perf_counter()
        try:
            bundle = edgeresnext.build(
                task.spec.name, weights=task.weights, calibration=task.calibration, precisions=["int8"],
                recipe=Recipe(method="max", repairs=()), preprocess=task.spec.preprocess, gate=limits,
                output=root / "gated",
            )  # fmt: skip
        except edgeresnext.EdgeResNeXtError as error:
            rows.append({
                "case": name, "exit_code": error.exit_code, "message": error.what, "seconds": time.perf_counter() - started,
            })  # fmt: skip
            print(f"  {name}: exit {error.exit_code}: {error.what}", flush=True)
            continue
        for file in bundle.manifest.onnx:
            verdict = file.verdict
            assert verdict is not None
            rows.append({
                "case": name, "exit_code": 0, "file": file.file, "drop": verdict.drop, "images": verdict.images,
                "returned": verdict.returned, "int8_convolutions": verdict.int8_convolutions, "tries": verdict.tries,
                "seconds": time.perf_counter() - started,
            })  # fmt: skip
            print(
                f"  {name} {file.file}: drop {verdict.drop}, {len(verdict.returned)} layers returned, {verdict.tries} plans",
                flush=True,
            )
    return rows


def main() -> None:
    """Measure and save; sections that were not run keep their figures."""
    sections: dict[str, Callable[[dict[str, Task], list[Task], Path], Any]] = {
        "calibration": lambda known, _, root: calibration(known["random"], root),
        "peers": lambda known, _, root: [row for task in known.values() for row in peers(task, root)],
        "methods": lambda _, trained, root: [row for task in trained for row in variants(task, root, by_method(512))],
        "repairs": lambda known, _, root: [
            row for task in known.values() for row in variants(task, root, by_repair(64))
        ],
        "rounding": lambda known, _, root: [row for task in known.values() for row in rounding(task, root)],
        "rescaled": lambda _, trained, root: [
            row for task in trained for row in variants(rescaled(task, root), root, DEFAULT_AND_NAIVE)
        ],
        "gate": lambda known, _, root: gate(broken(known["digits"], root), root),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser)
    parser.add_argument("--only", nargs="*", choices=sections, default=list(sections))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    with scratch() as root:
        known = tasks(root, given)
        trained = [task for name, task in known.items() if name != "random"]
        for section in given.only:
            print(section, flush=True)
            save_section(
                "quantization", section, sections[section](known, trained, root), **package_versions(*PACKAGES)
            )


if __name__ == "__main__":
    main()
