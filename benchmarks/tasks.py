"""What INT8 is measured on: networks with images, their files as a build writes them, and how those are judged."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import make_photos
from peer_files import write_fp32

from edgeresnext.cli.demo import weights as digits_weights
from edgeresnext.data import calibration_set, digits, folder
from edgeresnext.measure.latency import interleave
from edgeresnext.model.catalogue import specify
from edgeresnext.spec import Preprocess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from edgeresnext.backends.base import Session
    from edgeresnext.data.calibration_set import CalibrationSet
    from edgeresnext.pipeline.onnx_files import Writer
    from edgeresnext.spec import ModelSpec, Ranges, Recipe

RESNEXT = "resnext50_32x4d"
CALIBRATION_IMAGES, TEST_IMAGES, MANY_IMAGES = 64, 64, 256
SHAPES_PX = 32
ROUNDS = 60
PACKAGES = ("torch", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True, kw_only=True)
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
        arrays, targets = folder_images(self.test, self.spec.preprocess)
        return arrays, targets if self.labelled else None


def folder_images(path: Path, preprocess: Preprocess) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images of a folder as a network takes them, and their classes."""
    from edgeresnext.data.images import batches

    found = folder.scan(path)
    arrays = np.concatenate([images for images, _ in batches(found.images, preprocess, 16)])
    return arrays, np.array(found.targets)


def add_shapes(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the drawn shapes."""
    parser.add_argument("--shapes", help="weights trained on the drawn shapes")
    parser.add_argument("--shapes-data", help="folder with the drawn shapes")


def tasks(root: Path, given: argparse.Namespace) -> dict[str, Task]:
    """Return the networks; the shapes only where their weights are given."""
    from edgeresnext.model import checkpoints

    spec = specify(RESNEXT)
    checkpoints.save_state(checkpoints.random_network(spec, 0), root / "random.safetensors")
    random = Task(
        name="ResNeXt-50 32x4d, 224 px, random weights", spec=spec, weights=root / "random.safetensors",
        calibration=make_photos(root / "photos", MANY_IMAGES), test=make_photos(root / "test", TEST_IMAGES, 1),
        labelled=False,
    )  # fmt: skip
    return {"random": random} | trained_tasks(root, given)


def trained_tasks(root: Path, given: argparse.Namespace) -> dict[str, Task]:
    """Return the networks that are trained; the shapes only where their weights are given."""
    folders = digits.prepare(root / "digits")
    with digits_weights() as path:
        (root / "digits.safetensors").write_bytes(path.read_bytes())
    found = {
        "digits": Task(
            name="resnext20_8x4d, handwritten digits", spec=specify("resnext20_8x4d"),
            weights=root / "digits.safetensors", calibration=folders["calibration"], test=folders["validation"],
            labelled=True,
        )
    }  # fmt: skip
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


def graph_of(task: Task) -> Any:
    """Return the traced graph of a task's network."""
    from edgeresnext.compiler.graph import trace
    from edgeresnext.model import checkpoints

    network = checkpoints.load_saved(task.spec, Path(task.weights))
    return trace(network, task.spec.preprocess.size)


def normalised(task: Task, arrays: Iterator[NDArray[np.uint8]]) -> Iterator[Any]:
    """Yield batches as the network takes them."""
    import torch

    from edgeresnext.model.resnext import normalise

    for array in arrays:
        yield normalise(torch.from_numpy(array), task.spec)


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


def fp32_file(task: Task, root: Path) -> Path:
    """Write a network in FP32, the input of the other quantisers."""
    from edgeresnext.model import checkpoints

    path = root / f"fp32-{task.weights.stem}.onnx"
    write_fp32(checkpoints.load_saved(task.spec, Path(task.weights)), task.spec, path)
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


def said(found: dict[str, Any]) -> str:
    """Return what `quality` found, in words."""
    snr = "exact" if found["snr_db"] is None else f"{found['snr_db']:.1f} dB"
    return snr if found["top1"] is None else f"{snr}, top-1 {found['top1']:.4f} of {found['top1_fp32']:.4f}"


def interleaved(sessions: dict[str, Session], images: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Time all sessions in turn, and return the seconds of each."""
    samples, failures = interleave(sessions, images, 1, min_rounds=ROUNDS, max_rounds=ROUNDS, budget_s=0)
    if failures:
        raise SystemExit(str(failures))
    return samples
