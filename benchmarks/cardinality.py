"""Cardinality at equal size, and where activation stands: python benchmarks/cardinality.py FOLDER [--task digits].

The first study of the ResNeXt paper (arXiv:1611.05431, table 3) on small networks: one block a stage, C groups of d
channels so that all have about as many parameters, activation behind convolutions (arXiv:1512.03385) or before them
(arXiv:1603.05027), on the digits and on the drawn shapes. FOLDER keeps the trained networks, and is where they are
looked for before they are trained. The shapes take an hour where bfloat16 is in hardware, and four where it is not.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save
from tasks import folder_images

import edgeresnext
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.data import digits
from edgeresnext.machine.environment import package_versions
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.model.resnext import ResNeXt
from edgeresnext.spec import ModelSpec, Preprocess, TrainingRecipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "calibration"))
from shapes import drawing as shapes

WIDTHS = {1: 40, 2: 28, 4: 20, 8: 12, 16: 8, 32: 4}
"""Channels a group by groups: multiples of four, which INT8 needs, nearest to equal parameters (table 2 of the paper)."""
RECIPES = {"digits": TrainingRecipe(epochs=8), "shapes": TrainingRecipe(epochs=12, precision="bf16")}
ROUNDS = 200


def spec_of(task: str, order: Any, cardinality: int) -> ModelSpec:
    """Return one network of the study."""
    preprocess = PREPROCESS["digits"] if task == "digits" else Preprocess(resize_px=32, crop_px=32)
    return ModelSpec(
        name=f"resnext11_{cardinality}x{WIDTHS[cardinality]}d", depths=(1, 1, 1), cardinality=cardinality,
        width_per_group=WIDTHS[cardinality], preprocess=preprocess, stem="cifar", base_channels=16, order=order,
        final_norm=order == "pre", classes=10 if task == "digits" else len(shapes.CLASSES),
    )  # fmt: skip


def trained(task: str, spec: ModelSpec, folders: dict[str, Path], output: Path) -> Path:
    """Return the weights of a network, trained where they are not there."""
    weights = output / "best.safetensors"
    if not (output / "report.html").exists():
        resume = output if (output / "run.json").exists() else None
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = ResNeXt(spec)
        run = edgeresnext.train(
            folders["train"], output=None if resume else output, resume=resume, model=network,
            validation=folders["validation"], preprocess=spec.preprocess, recipe=None if resume else RECIPES[task],
        )  # fmt: skip
        print(task, spec.order, spec.name, f"top-1 {run.best.top1:.2%}", flush=True)
    return weights


def judged(spec: ModelSpec, weights: Path, folders: dict[str, Path], output: Path) -> dict[str, Any]:
    """Return accuracy, what INT8 costs, and latencies of one network."""
    bundle = edgeresnext.build(
        weights, calibration=folders["calibration"], output=output, precisions=["fp32", "int8"],
        preprocess=spec.preprocess,
    )  # fmt: skip
    pixels, targets = folder_images(folders["validation"], spec.preprocess)

    def top1(name: str) -> float:
        logits = Evaluator.read(bundle.file(f"onnx/{name}.onnx")).logits(pixels)
        return 100 * float((logits.argmax(1) == targets).mean())

    found = {name: top1(name) for name in ("fp32", "int8", "int8-cpu")}
    sessions = {
        precision: edgeresnext.load(bundle.path, backend="openvino", precision=precision, threads=1)
        for precision in ("fp32", "int8")
    }
    image = pixels[:1]
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, one in sessions.items():
            start = time.perf_counter()
            one.logits(image)
            times[name].append(time.perf_counter() - start)
    for one in sessions.values():
        one.close()
    return {
        "order": spec.order, "cardinality": spec.cardinality, "width": spec.width_per_group,
        "parameters": bundle.manifest.parameters, "macs": bundle.manifest.macs, "top1": found,
        "snr_db": {file.file: file.fidelity.snr_db for file in bundle.manifest.onnx},
        "p50_s": {name: float(np.median(samples)) for name, samples in times.items()},
    }  # fmt: skip


def main() -> None:
    """Train what is not there, judge all, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=RECIPES, action="append")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    folders = {"digits": digits.prepare(given.folder / "digits"), "shapes": shapes.prepare(given.folder / "shapes")}
    rows = []
    for task in given.task or RECIPES:
        for order in ("post", "pre"):
            for cardinality in WIDTHS:
                spec = spec_of(task, order, cardinality)
                name = f"{task}-{order}-{spec.name}"
                weights = trained(task, spec, folders[task], given.folder / name)
                rows.append({"task": task, **judged(spec, weights, folders[task], given.folder / f"{name}-bundle")})
                print(rows[-1], flush=True)
    recipes = {task: RECIPES[task].epochs for task in given.task or RECIPES}
    save("cardinality", {"epochs": recipes, "rows": rows}, **package_versions("torch", "openvino"))


if __name__ == "__main__":
    main()
