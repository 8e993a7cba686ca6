"""INT8 of three networks by us, by NNCF and by onnxruntime's quantiser: the same images, all run by OpenVINO.

    python benchmarks/quantization.py [--shapes WEIGHTS.safetensors --shapes-data DIR] [--only SECTION ...]

Sections: calibration (time and memory), peers, methods, repairs, rescaled, gate. Every quantiser runs in a process of its
own, so that peak memory is its own. The shapes' weights come from `calibration/shapes/train.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from common import RESULTS, load, make_photos, save, scratch
from peers import open_model, with_nncf, with_onnxruntime, write_fp32

from edgeresnext.cli.demo import weights as digits_weights
from edgeresnext.data import calibration_set, digits, folder
from edgeresnext.measure.memory import own_peak
from edgeresnext.model.catalogue import specify
from edgeresnext.spec import ModelSpec, Preprocess, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from edgeresnext.backends.base import Session
    from edgeresnext.data.calibration_set import CalibrationSet
    from edgeresnext.pipeline.onnx_files import Writer
    from edgeresnext.spec import Ranges

RESNEXT = "resnext50_32x4d"
CALIBRATION_IMAGES, TEST_IMAGES, MANY_IMAGES = 64, 64, 256
ROUNDS = 60
SHAPES_PX = 32
COST_ROUNDS = 2
METHODS = ("max", "percentile:99.99", "percentile:99.999", "mse", "entropy", "auto")
REPAIRS = ((), ("equalisation",), ("bias-correction",), ("weight-clipping",), ("equalisation", "bias-correction"), None)
QUANTISERS = ("edgeresnext", "NNCF", "onnxruntime, MinMax", "onnxruntime, Entropy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A network with images to calibrate and to test on."""

    name: str
    spec: ModelSpec
    weights: Path
    calibration: Path
    test: Path
    labelled: bool

    def images(self, samples: int = CALIBRATION_IMAGES) -> CalibrationSet:
        """Return the calibration images."""
        return calibration_set.from_folder(folder.scan(self.calibration), self.spec.preprocess, samples, 0)

    def tests(self) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """Return the test images, and their classes where they have some."""
        from edgeresnext.data.images import batches

        found = folder.scan(self.test)
        arrays = np.concatenate([images for images, _ in batches(found.images, self.spec.preprocess, 16)])
        return arrays, np.array(found.targets) if self.labelled else None


def tasks(root: Path, given: argparse.Namespace) -> dict[str, Task]:
    """Return the networks; the shapes only where their weights are given."""
    from edgeresnext.model import checkpoints

    spec = specify(RESNEXT)
    checkpoints.save_state(checkpoints.random_network(spec, 0), root / "random.safetensors")
    found = {
        "random": Task(
            name="ResNeXt-50 32x4d, 224 px, random weights", spec=spec, weights=root / "random.safetensors",
            calibration=make_photos(root / "photos", MANY_IMAGES), test=make_photos(root / "test", TEST_IMAGES, 1),
            labelled=False,
        )
    }  # fmt: skip
    folders = digits.prepare(root / "digits")
    with digits_weights() as path:
        (root / "digits.safetensors").write_bytes(path.read_bytes())
    found["digits"] = Task(
        name="resnext20_8x4d, handwritten digits", spec=specify("resnext20_8x4d"), weights=root / "digits.safetensors",
        calibration=folders["calibration"], test=folders["validation"], labelled=True,
    )  # fmt: skip
    if given.shapes:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "calibration"))
        from shapes import drawing as shapes

        folders = shapes.prepare(given.shapes_data or root / "shapes")
        preprocess = Preprocess(resize_px=SHAPES_PX, crop_px=SHAPES_PX)
        found["shapes"] = Task(
            name="resnext20_8x4d, drawn shapes",
            spec=specify("resnext20_8x4d", classes=len(shapes.CLASSES), preprocess=preprocess), weights=Path(given.shapes),
            calibration=folders["calibration"], test=folders["validation"], labelled=True,
        )  # fmt: skip
    return found


# One quantiser, in a process of its own


def quantise(task: Task, quantiser: str, samples: int, output: Path, fp32: Path) -> dict[str, Any]:
    """Quantise a network, and return what that took."""
    images = task.images(samples)
    singles = (image for batch in images.batches(None) for image in batch)
    started = time.perf_counter()
    if quantiser == "edgeresnext":
        next(writers(task, images, [Recipe(samples=samples)], output)).write("int8-cpu")
    elif quantiser == "edgeresnext, entropy calibration alone":
        calibrate_alone(task, images)
    elif quantiser == "NNCF":
        with_nncf(singles, fp32, output)
    else:
        with_onnxruntime(singles, fp32, output, quantiser.rpartition(", ")[2])
    return {"seconds": time.perf_counter() - started, "peak_bytes": own_peak()}


def graph_of(task: Task) -> Any:  # noqa: ANN401 - a graph
    """Return the traced graph of a task's network."""
    from edgeresnext.compiler.graph import trace
    from edgeresnext.model import checkpoints

    network = checkpoints.load_network(task.spec, task.weights, checkpoints.read_state(task.weights))
    return trace(network, task.spec.preprocess.crop_px)


def normalised(task: Task, arrays: Iterator[NDArray[np.uint8]]) -> Iterator[Any]:
    """Yield batches as the network takes them."""
    import torch

    from edgeresnext.model.resnext import normalise

    for array in arrays:
        yield normalise(torch.from_numpy(array), task.spec)


def calibrate_alone(task: Task, images: CalibrationSet) -> None:
    """Find entropy thresholds, and with them those of all other methods."""
    from edgeresnext.compiler.calibrate import observe, thresholds
    from edgeresnext.compiler.thresholds import Method

    graph = graph_of(task)
    thresholds(graph, observe(graph, normalised(task, images.batches(None))), Method.parse("entropy"))


def writers(task: Task, images: CalibrationSet, recipes: Iterable[Recipe], output: Path) -> Iterator[Writer]:
    """Yield what writes the files of each recipe as a build does; networks are calibrated once, equalised or not."""
    import torch

    from edgeresnext.bundle import Golden
    from edgeresnext.compiler.correct import IMAGES
    from edgeresnext.compiler.execute import Executor
    from edgeresnext.pipeline.onnx_files import Writer
    from edgeresnext.pipeline.ranges import calibrate

    graph = graph_of(task)
    first = next(normalised(task, iter([images.golden])))
    golden = Golden(images=images.golden, logits=Executor(graph, torch.device("cpu")).logits(first).numpy())
    sample = torch.cat(list(normalised(task, images.batches(IMAGES))))
    output.mkdir(exist_ok=True)
    known: dict[bool, Ranges] = {}
    for recipe in recipes:
        equalised = "equalisation" in recipe.repairs
        found = calibrate(
            graph, task.spec, images, recipe,
            weights_digest="", given=known.get(equalised), output=output / "none", progress=lambda *_: None,
        )  # fmt: skip
        known[equalised] = found.ranges
        yield Writer(
            graph=found.graph, spec=task.spec, recipe=recipe, ranges=found.ranges, images=sample, golden=golden,
            folder=output,
        )  # fmt: skip


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


# What became of it


def fp32_file(task: Task, root: Path) -> Path:
    """Write a network in FP32, the input of the other quantisers."""
    from edgeresnext.model import checkpoints

    path = root / f"fp32-{task.weights.stem}.onnx"
    write_fp32(checkpoints.load_network(task.spec, task.weights, checkpoints.read_state(task.weights)), task.spec, path)
    return path


def logits_of(session: Session, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run all images."""
    return np.concatenate([session.run(images[i : i + 16]) for i in range(0, len(images), 16)])


def quality(
    task: Task, logits: NDArray[np.float32], exact: NDArray[np.float32], targets: NDArray[np.int64] | None
) -> dict[str, Any]:
    """Compare logits with those of FP32."""
    noise = float(np.square(logits.astype(np.float64) - exact).sum())
    found: dict[str, Any] = {
        "task": task.name,
        "snr_db": 10 * float(np.log10(np.square(exact.astype(np.float64)).sum() / noise)),
        "agreement": float((logits.argmax(1) == exact.argmax(1)).mean()),
        "images": len(exact),
        "top1": None,
        "top1_fp32": None,
    }
    if targets is not None:
        found["top1"] = float((logits.argmax(1) == targets).mean())
        found["top1_fp32"] = float((exact.argmax(1) == targets).mean())
    return found


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
    from edgeresnext.measure.latency import interleave
    from edgeresnext.measure.statistics import speedup, summarise

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
    samples, failures = interleave(sessions, images[:16], 1, min_rounds=ROUNDS, max_rounds=ROUNDS, budget_s=0)
    if failures:
        raise SystemExit(str(failures))
    for row in rows:
        latency, _ = summarise(samples[row["quantiser"]])
        ratio, error = speedup(samples[row["quantiser"]], samples["edgeresnext"])
        row |= {
            "p50_s": latency.p50,
            "over_ours": ratio,
            "over_ours_error": error,
            "samples_s": samples[row["quantiser"]],
        }
        top1 = "" if row["top1"] is None else f", top-1 {row['top1']:.4f} of {row['top1_fp32']:.4f}"
        print(
            f"  {row['quantiser']}: {row['snr_db']:.1f} dB{top1}, {latency.p50 * 1e3:.2f} ms, {ratio:.2f} x ours",
            flush=True,
        )
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
        for file in ("int8", "int8-cpu"):
            writer.write(file)
            found = quality(task, logits_of(open_model(output / f"{file}.onnx", task.spec), images), exact, targets)
            rows.append({"recipe": name, "file": file, **found})
            top1 = "" if found["top1"] is None else f", top-1 {found['top1']:.4f} of {found['top1_fp32']:.4f}"
            print(f"  {name} {file}: {found['snr_db']:.1f} dB{top1}", flush=True)
    return rows


def by_method(samples: int) -> dict[str, Recipe]:
    """Return a recipe a method, all with all repairs."""
    return {method: Recipe(method=method, samples=samples) for method in METHODS}


def by_repair(samples: int) -> dict[str, Recipe]:
    """Return a recipe a set of repairs, all with the default method."""
    names = {" and ".join(repairs) or "none": repairs for repairs in REPAIRS if repairs is not None}
    found = {name: Recipe(samples=samples, repairs=repairs) for name, repairs in names.items()}
    return found | {"all": Recipe(samples=samples)}


def rescaled(task: Task, root: Path, factor: float = 64.0) -> Task:
    """Return the same network with a quarter of the channels inside each block times `factor`, undone by their reader."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from rescaled import rescale

    target = root / f"rescaled-{task.weights.name}"
    return dataclasses.replace(
        task, weights=rescale(task.weights, target, factor=factor), name=f"{task.name}, rescaled"
    )


def gate(task: Task, root: Path) -> list[dict[str, Any]]:
    """Build a network that naive calibration breaks, without the gate, with it, and with one that it cannot pass."""
    import edgeresnext
    from edgeresnext import Gate

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
                recipe=Recipe(method="max", repairs=()), preprocess=task.spec.preprocess, gate=limits, output=root / "gated",
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", help="weights trained on the drawn shapes")
    parser.add_argument("--shapes-data", help="folder with the drawn shapes")
    parser.add_argument("--only", nargs="*", default=["calibration", "peers", "methods", "repairs", "rescaled", "gate"])
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    figures = load("quantization") if (RESULTS / "quantization.json").exists() else {}
    figures.pop("environment", None)
    with scratch() as root:
        known = tasks(root, given)
        trained = [task for name, task in known.items() if name != "random"]
        for section in given.only:
            print(section, flush=True)
            if section == "calibration":
                figures[section] = calibration(known["random"], root)
            elif section == "peers":
                figures[section] = [row for task in known.values() for row in peers(task, root)]
            elif section == "methods":
                figures[section] = [row for task in trained for row in variants(task, root, by_method(512))]
            elif section == "repairs":
                figures[section] = [row for task in known.values() for row in variants(task, root, by_repair(64))]
            elif section == "rescaled":
                recipes = {"max, no repair": Recipe(method="max", repairs=()), "default": Recipe()}
                figures[section] = [row for task in trained for row in variants(rescaled(task, root), root, recipes)]
            elif section == "gate":
                sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
                from rescaled import rescale

                task = known["digits"]
                broken = rescale(task.weights, root / "layer2.safetensors", only="layer2")
                figures[section] = gate(dataclasses.replace(task, weights=broken), root)
            packages = ("torch", "onnxruntime", "openvino", "nncf")
            save("quantization", figures, **{name: importlib.metadata.version(name) for name in packages})


if __name__ == "__main__":
    main()
