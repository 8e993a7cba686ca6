"""What training in INT8 wins back, with labels and without, where calibration alone loses accuracy.

    python benchmarks/int8_training.py [--shapes WEIGHTS.safetensors --shapes-data DIR] [--only CASE ...]

Accuracy is that of the emitted files: each result is built, and its files are computed operator by operator.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from common import save_section, scratch
from quantization import rescaled
from tasks import PACKAGES, add_shapes, folder_images, trained_tasks
from torch.nn import functional

import edgeresnext
from edgeresnext.compiler.calibrate import observe, thresholds
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.thresholds import Method
from edgeresnext.machine.allocator import keeping_freed_memory
from edgeresnext.machine.environment import package_versions
from edgeresnext.model import checkpoints
from edgeresnext.model.resnext import normalise
from edgeresnext.spec import Activations, Ranges, Recipe
from edgeresnext.training.int8 import equalise, quantised, save
from edgeresnext.training.quantised import QuantisedNetwork

if TYPE_CHECKING:
    from pathlib import Path

    from tasks import Task
    from torch import Tensor, nn

BATCH = 64
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
        train: Training images; None for all.
        equalised: Whether training starts from channels that are evened out.
        learned: Whether thresholds are trained.
    """

    task: str
    factor: float = 1.0
    images: int = 512
    method: str = "max"
    train: int | None = None
    equalised: bool = False
    learned: bool = True


CASES = {
    "4 images, no repairs": Case(task="digits", images=4),
    "4 images, percentile:99, no repairs": Case(task="digits", images=4, method="percentile:99"),
    "4 images, percentile:99, thresholds fixed": Case(task="digits", images=4, method="percentile:99", learned=False),
    "channels rescaled by 64, no repairs": Case(task="digits", factor=64.0, equalised=True),
    "channels rescaled by 64, left so": Case(task="digits", factor=64.0),
    "signed, max thresholds": Case(task="shapes", train=1500),
    "signed, max thresholds, channels rescaled by 16": Case(task="shapes", factor=16.0, train=1500),
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a network is trained in INT8: Adam, a warm-up of a twentieth of the steps, then half a cosine to zero."""

    epochs: int = 2
    learning_rate: float = 1e-4
    threshold_rate: float = 3e-2
    temperature: float = 2.0


def read(path: Path, task: Task) -> tuple[Tensor, Tensor]:
    """Return all images of a labelled folder and their classes."""
    images, targets = folder_images(path, task.spec.preprocess)
    return torch.from_numpy(images), torch.from_numpy(targets)


def top1(network: nn.Module, task: Task, images: Tensor, targets: Tensor) -> float:
    """Return the share of images that are classified right."""
    with torch.no_grad():
        found = torch.cat([network(normalise(part, task.spec)).argmax(1) for part in images.split(BATCH)])
    return float((found == targets).double().mean())


def start(network: nn.Module, task: Task, images: Tensor, method: str) -> Ranges:
    """Return ranges by one method, from as few images as one likes: a build refuses fewer than eight."""
    graph = trace(network, task.spec.preprocess.size)
    limits = thresholds(graph, observe(graph, normalise(images, task.spec).split(BATCH)), Method.parse(method))
    chosen = {kind: dict.fromkeys(limits, method) for kind in KINDS}
    return Ranges(method=method, images=len(images), thresholds={method: limits}, chosen=chosen, digests={})


def shifted(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to a sixteenth of its size, repeating its edge."""
    reach, edge = inputs.shape[-1] // 16, inputs.shape[-1]
    padded = functional.pad(inputs, (reach,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * reach + 1, (len(inputs), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + edge, x : x + edge] for image, (y, x) in zip(padded, offsets, strict=True)])


def train(
    network: QuantisedNetwork, task: Task, images: Tensor, targets: Tensor | None, *, teacher: nn.Module, how: Schedule
) -> None:
    """Train with labels, or without by what the teacher says (Hinton et al. 2015, arXiv:1503.02531)."""
    generator = torch.Generator().manual_seed(0)
    thresholds = {"params": [network.log_thresholds], "lr": how.threshold_rate}
    groups = [{"params": list(network.network.parameters())}, thresholds]
    optimiser = torch.optim.Adam(groups, lr=how.learning_rate)
    steps = how.epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / (0.05 * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for _ in range(how.epochs):
        for indices in torch.randperm(len(images), generator=generator).split(BATCH):
            inputs = shifted(normalise(images[indices], task.spec), generator)
            logits = network(inputs)
            if targets is None:
                with torch.no_grad():
                    said = functional.log_softmax(teacher(inputs) / how.temperature, 1)
                found = functional.log_softmax(logits / how.temperature, 1)
                loss = functional.kl_div(found, said, log_target=True, reduction="batchmean") * how.temperature**2
            else:
                loss = functional.cross_entropy(logits, targets[indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def measure(name: str, case: Case, task: Task, root: Path, how: Schedule) -> list[dict[str, Any]]:
    """Return what calibration alone loses and what training wins back, in points of top-1 on the signed file."""
    task = task if case.factor == 1 else rescaled(task, root, case.factor)
    images, targets = read(task.calibration.parent / "train", task)
    tests = read(task.test, task)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    few, used = order[: case.images], order[: case.train]
    exact = checkpoints.load_saved(task.spec, task.weights)
    fp32 = top1(exact, task, *tests)
    before = top1(QuantisedNetwork(exact, task.spec, start(exact, task, images[few], case.method)), task, *tests)
    print(f"  FP32 {fp32:.4f}, calibrated {before:.4f}", flush=True)
    base = {
        "case": name, "task": task.name, "images": len(used), "top1_fp32": fp32, "top1_calibrated": before, **asdict(how)
    }  # fmt: skip
    lost = fp32 - before
    if lost < MEASURABLE:
        return [base | {"recovered": None}]
    rows = []
    for labels in (True, False):
        network = copy.deepcopy(exact).requires_grad_()
        if case.equalised:
            equalise(network, task.spec, normalise(images[used[:BATCH]], task.spec))
        begin = start(network, task, images[few], case.method)
        trained = QuantisedNetwork(network, task.spec, begin, learned=case.learned)
        at_start = top1(trained, task, *tests)
        began = time.perf_counter()
        train(trained, task, images[used], targets[used] if labels else None, teacher=exact, how=how)
        seconds = time.perf_counter() - began
        after = top1(trained, task, *tests)
        rows.append(
            base | {
                "labels": labels, "equalised": case.equalised, "top1_start": at_start, "top1": after,
                "top1_fp32_after": top1(network.eval(), task, *tests),
                "recovered": (after - before) / lost, "seconds": seconds,
            }
        )  # fmt: skip
        print(f"  labels {labels}: {at_start:.4f} to {after:.4f} in {seconds:.0f} s", flush=True)
    return rows


def everything(task: Task, root: Path, how: Schedule, count: int | None) -> list[dict[str, Any]]:
    """Return the accuracy of both emitted files after distillation for each scheme, as a build makes them."""
    images, _ = read(task.calibration.parent / "train", task)
    tests = read(task.test, task)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    used = order[:count]
    exact = checkpoints.load_saved(task.spec, task.weights)
    fp32 = top1(exact, task, *tests)
    rows = []
    for kind in KINDS:
        network = copy.deepcopy(exact).requires_grad_()
        trained = quantised(network, task.spec, task.images(), activations=kind)
        train(trained, task, images[used], None, teacher=exact, how=how)
        path = root / f"{kind}.safetensors"
        save(trained, path)
        bundle = edgeresnext.build(
            task.spec.name, weights=path, calibration=task.calibration, precisions=["int8"], output=root / f"{kind}-bundle",
            preprocess=task.spec.preprocess, recipe=Recipe(samples=64),
        )  # fmt: skip
        for file in bundle.manifest.onnx:
            logits = Evaluator.read(bundle.path / file.file).logits(tests[0].numpy())
            top = float((logits.argmax(1) == tests[1].numpy()).mean())
            rows.append({
                "task": task.name, "trained_for": kind, "file": file.file, "top1_fp32": fp32, "top1": top,
                "top1_simulated": top1(trained, task, *tests), "wider_rows": sum(file.wider_rows.values()),
            })  # fmt: skip
            print(f"  trained {kind}, {file.file}: {top:.4f} of {fp32:.4f}", flush=True)
    return rows


def main() -> None:
    """Measure and save; cases that were not run keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shapes(parser)
    parser.add_argument("--only", nargs="*", choices=[*CASES, "everything"], default=[*CASES, "everything"])
    given = parser.parse_args()
    with scratch() as root, keeping_freed_memory():
        known = trained_tasks(root, given)
        for name in given.only:
            wanted = [one for one in known if name == "everything" or one == CASES[name].task]
            for task in wanted:
                print(name, known[task].name, flush=True)
                where = root / task
                where.mkdir(exist_ok=True)
                if name == "everything":
                    found = everything(
                        known[task], where, Schedule(threshold_rate=1e-2), 3000 if task == "shapes" else None
                    )
                    key = f"everything, {task}"
                else:
                    found, key = measure(name, CASES[name], known[task], where, Schedule()), name
                save_section("int8_training", key, found, **package_versions(*PACKAGES))


if __name__ == "__main__":
    main()
