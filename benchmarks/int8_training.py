"""What training in INT8 wins back, with labels and without, where calibration alone loses accuracy.

    python benchmarks/int8_training.py [--shapes WEIGHTS.safetensors --shapes-data DIR] [--only CASE ...]

Trained by the recipe `int8` as `edgeresnext train --int8` does it. The calibration images, on which no network was
trained, choose the epoch: by labels or, without, by how often it agrees with the teacher. Accuracy is on other images
still: of the simulated network, which is the signed file to the bit, where a case begins as no build would; with
everything on, of the files that are built, computed operator by operator.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from common import save_section, scratch, some_images
from quantization import rescaled
from tasks import PACKAGES, add_shapes, folder_images, trained_tasks

import edgeresnext
from edgeresnext.compiler.calibrate import observe, thresholds
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.thresholds import Method
from edgeresnext.machine.allocator import keeping_freed_memory
from edgeresnext.machine.environment import package_versions
from edgeresnext.model import checkpoints
from edgeresnext.model.resnext import normalise
from edgeresnext.pipeline.ranges import preprocess_digest
from edgeresnext.progress import silent
from edgeresnext.spec import Activations, Ranges, Recipe
from edgeresnext.training import recipes
from edgeresnext.training.images import Images, split
from edgeresnext.training.int8 import equalise, restore_thresholds, save
from edgeresnext.training.losses import Loss
from edgeresnext.training.processes import Processes
from edgeresnext.training.quantised import QuantisedNetwork
from edgeresnext.training.run_folder import BEST, RunFolder
from edgeresnext.training.trainer import Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from tasks import Task
    from torch import Tensor, nn

BATCH = 64
RECIPE = recipes.RECIPES["int8"]
MEASURABLE = 0.01
"""Top-1 that must be lost, as a share, before it makes sense to say how much of it is won back."""
KINDS: tuple[Activations, ...] = ("signed", "unsigned")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network whose INT8 loses accuracy, or should.

    Args:
        task: The network.
        factor: By which a quarter of the channels inside each block are rescaled, undone by their readers.
        images: Of the training images, on which it is calibrated.
        method: How.
        equalised: Whether training starts from channels that are evened out.
        learned: Whether thresholds are trained.
    """

    task: str
    factor: float = 1.0
    images: int = 512
    method: str = "max"
    equalised: bool = False
    learned: bool = True


CASES = {
    "4 images, no repairs": Case(task="digits", images=4),
    "4 images, percentile:99, no repairs": Case(task="digits", images=4, method="percentile:99"),
    "4 images, percentile:99, thresholds fixed": Case(task="digits", images=4, method="percentile:99", learned=False),
    "channels rescaled by 64, no repairs": Case(task="digits", factor=64.0, equalised=True),
    "channels rescaled by 64, left so": Case(task="digits", factor=64.0),
    "signed, max thresholds": Case(task="shapes"),
    "signed, max thresholds, channels rescaled by 16": Case(task="shapes", factor=16.0),
    "signed, max thresholds, channels rescaled by 16, evened out": Case(task="shapes", factor=16.0, equalised=True),
}
A_CLASS = {"digits": None, "shapes": 150}
"""Training images of each class in the cases; None for all."""


def top1(network: nn.Module, task: Task, images: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the share of images that are classified right."""
    with torch.no_grad():
        parts = [network(normalise(part, task.spec)).argmax(1) for part in torch.from_numpy(images).split(BATCH)]
    return float((torch.cat(parts).numpy() == targets).mean())


def start(network: nn.Module, task: Task, images: Tensor, method: str) -> Ranges:
    """Return ranges by one method, from as few images as one likes: a build refuses fewer than eight."""
    graph = trace(network, task.spec.preprocess.size)
    limits = thresholds(graph, observe(graph, normalise(images, task.spec).split(BATCH)), Method.parse(method))
    chosen = {kind: dict.fromkeys(limits, method) for kind in KINDS}
    digests = {"preprocess": preprocess_digest(task.spec.preprocess)}
    return Ranges(method=method, images=len(images), thresholds={method: limits}, chosen=chosen, digests=digests)


def train(
    network: QuantisedNetwork, task: Task, folders: dict[str, Path], root: Path, teacher: nn.Module | None
) -> None:
    """Train a quantised network from where it is; it is left as it was best."""
    learned = network.log_thresholds.requires_grad
    recipe = msgspec.structs.replace(RECIPE, distil=teacher is not None, learned_ranges=learned)
    recipe = recipes.decide(recipe, task.spec, fine_tuning=True)
    pictures = split(folders["train"], folders["chooses"], recipe)
    assert pictures.validation is not None
    preprocess = task.spec.preprocess
    root.mkdir(parents=True)
    Trainer(
        network=network, plain=network.network, spec=task.spec, recipe=recipe,
        loss=Loss(recipe=recipe, classes=task.spec.classes, teacher=teacher),
        train=Images(folder=pictures.train, preprocess=preprocess, recipe=recipe),
        validation=Images(folder=pictures.validation, preprocess=preprocess, recipe=None),
        run=RunFolder(path=root), processes=Processes(), best=lambda _: save(network, root / BEST),
        callbacks=[lambda one: print(f"    epoch {one.epoch}: {one.top1 or one.agreement:.4f}", flush=True)],
        progress=silent,
    ).go()  # fmt: skip
    network.network.load_state_dict(checkpoints.load_saved(task.spec, root / BEST).state_dict())
    restore_thresholds(network, root / BEST)


def files(task: Task, weights: Path, output: Path, tests: tuple[NDArray[Any], NDArray[Any]]) -> dict[str, float]:
    """Build what was trained, and return the top-1 of each of its INT8 files."""
    bundle = edgeresnext.build(
        task.spec.name, weights=weights, calibration=task.calibration, precisions=["int8"], output=output,
        preprocess=task.spec.preprocess, recipe=Recipe(samples=64),
    )  # fmt: skip
    assert bundle.manifest.onnx, "the build takes the trained ranges along"
    found = {one.file: Evaluator.read(bundle.path / one.file).logits(tests[0]) for one in bundle.manifest.onnx}
    return {name: float((logits.argmax(1) == tests[1]).mean()) for name, logits in found.items()}


def measure(name: str, case: Case, task: Task, root: Path) -> list[dict[str, Any]]:
    """Return what calibration alone loses and what training wins back, in points of top-1 on the signed file."""
    task = task if case.factor == 1 else rescaled(task, root, case.factor)
    folders = {
        labels: learned_from(task, A_CLASS[case.task], root / f"{labels}", labels=labels) for labels in (True, False)
    }
    images = torch.from_numpy(folder_images(folders[False]["train"], task.spec.preprocess)[0])
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    tests = folder_images(task.test, task.spec.preprocess)
    exact = checkpoints.load_saved(task.spec, task.weights)
    few = images[: case.images]
    fp32 = top1(exact, task, *tests)
    before = top1(QuantisedNetwork(exact, task.spec, start(exact, task, few, case.method)), task, *tests)
    print(f"  FP32 {fp32:.4f}, calibrated {before:.4f}", flush=True)
    base = {
        "case": name, "task": task.name, "images": len(images), "test_images": len(tests[0]), "top1_fp32": fp32,
        "top1_calibrated": before,
    }  # fmt: skip
    lost = fp32 - before
    if lost < MEASURABLE:
        return [base | {"recovered": None}]
    rows = []
    for labels in (True, False):
        network = copy.deepcopy(exact).requires_grad_()
        if case.equalised:
            equalise(network, task.spec, normalise(images[:BATCH], task.spec))
        begin = start(network, task, few, case.method)
        trained = QuantisedNetwork(network, task.spec, begin, learned=case.learned)
        at_start = top1(trained, task, *tests)
        began = time.perf_counter()
        train(trained, task, folders[labels], root / f"{name}-{labels}", None if labels else exact)
        seconds = time.perf_counter() - began
        after = top1(trained, task, *tests)
        rows.append(
            base | {
                "labels": labels, "equalised": case.equalised, "top1_start": at_start, "top1": after,
                "epochs": RECIPE.epochs, "recovered": (after - before) / lost, "seconds": seconds,
            }
        )  # fmt: skip
        print(f"  labels {labels}: {at_start:.4f} to {after:.4f} in {seconds:.0f} s", flush=True)
    return rows


def learned_from(task: Task, count: int | None, target: Path, *, labels: bool) -> dict[str, Path]:
    """Return the folders of images that are learned from and that choose; without class folders where there are no labels."""
    return {
        "train": some_images(task.calibration.parent / "train", target / "train", count, flat=not labels),
        "chooses": some_images(task.calibration, target / "chooses", flat=not labels),
    }


def everything(task: Task, root: Path) -> list[dict[str, Any]]:
    """Return the accuracy of both emitted files after `edgeresnext train --int8`, with labels and distilled, for each scheme."""
    tests = folder_images(task.test, task.spec.preprocess)
    fp32 = top1(checkpoints.load_saved(task.spec, task.weights), task, *tests)
    rows = []
    for labels in (True, False):
        folders = learned_from(task, None, root / f"all-{labels}", labels=labels)
        for kind in KINDS:
            run = edgeresnext.train(
                folders["train"], validation=folders["chooses"], model=task.spec.name, weights=task.weights, output=root / f"run-{kind}-{labels}",
                preprocess=task.spec.preprocess,
                recipe=msgspec.structs.replace(RECIPE, int8=kind, distil=not labels),
            )  # fmt: skip
            for file, top in files(task, run.weights, root / f"{kind}-{labels}-bundle", tests).items():
                rows.append({
                    "task": task.name, "trained_for": kind, "labels": labels, "file": file, "top1_fp32": fp32, "top1": top,
                    "test_images": len(tests[0]), "best_epoch": run.best.epoch,
                    "seconds": sum(one.seconds for one in run.history),
                })  # fmt: skip
                print(f"  trained {kind}, labels {labels}, {file}: {top:.4f} of {fp32:.4f}", flush=True)
    return rows


def main() -> None:
    """Measure and save; cases that were not run keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser)
    parser.add_argument("--only", nargs="*", choices=[*CASES, "everything"], default=[*CASES, "everything"])
    given = parser.parse_args()
    for name in given.only:
        with scratch() as root, keeping_freed_memory():
            known = trained_tasks(root, given)
            for task in [one for one in known if name == "everything" or one == CASES[name].task]:
                print(name, known[task].name, flush=True)
                where = root / task
                where.mkdir(exist_ok=True)
                if name == "everything":
                    found, key = everything(known[task], where), f"everything, {task}"
                else:
                    found, key = measure(name, CASES[name], known[task], where), name
                save_section("int8_training", key, found, **package_versions(*PACKAGES))


if __name__ == "__main__":
    main()
