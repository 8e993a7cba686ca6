"""What INT8 files lose on validation images, image by image against PyTorch in FP32.

What a file says is computed exactly, operator by operator, so that a verdict is the same on every machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import registry
from edgeresnext.backends.base import Session
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.data.folder import ImageFolder
from edgeresnext.errors import BackendError
from edgeresnext.measure.accuracy import Classified, best_classes, classify
from edgeresnext.measure.statistics import mcnemar
from edgeresnext.progress import Progress
from edgeresnext.spec import Gate, ModelSpec, Verdict

_BASELINE = "PyTorch"
_ARITHMETIC = "exact"
"""Who computed what a file says: nobody's kernels."""
_MOST_BYTES = 2**28
"""Of decoded images that are kept while plans are tried: 1,783 images of 224 px."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The images of a gate.

    Args:
        gate: What is to be reached.
        photos: The images.
        targets: Right class of each image; None where it does not matter.
    """

    gate: Gate
    photos: ImageFolder
    targets: tuple[int, ...] | None = None


class _ExactSession(Session):
    """An ONNX file as it is written."""

    def __init__(self, path: Path, model: ModelSpec) -> None:
        super().__init__(model)
        self._evaluator = Evaluator.read(path)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._evaluator.logits(images)


class _Kept:
    """Keeps the images that it is shown, so that further plans need not decode them."""

    def __init__(self) -> None:
        self.batches: list[NDArray[np.uint8]] = []

    def add(self, images: NDArray[np.uint8], *_: object) -> None:
        """Keep a batch."""
        self.batches.append(images)


class Judge:
    """Classifies validation images with INT8 files, and once with PyTorch.

    Args:
        model: The network.
        weights: Its `.safetensors` file.
        validation: The images.
        progress: Told how far each pass over the images is.
    """

    def __init__(self, model: ModelSpec, weights: Path, validation: Validation, progress: Progress) -> None:
        self._model = model
        self._weights = weights
        self._validation = validation
        self._progress = progress
        self._baseline: Classified | None = None
        self._images: NDArray[np.uint8] | None = None

    def run(self, files: Mapping[str, Path]) -> Classified:
        """Return what ONNX files, by name, and PyTorch make of the images.

        Raises:
            BackendError: PyTorch or a file fails.
            DataError: Too many images cannot be decoded.
        """
        exact = {name: _ExactSession(path, self._model) for name, path in files.items()}
        if self._baseline is None:
            self._baseline = self._first(exact)
            return self._baseline
        if self._images is None:
            best = self._classified(exact).best
        else:
            best = {name: best_classes(session.run(self._images)) for name, session in exact.items()}
            self._progress("accuracy gate", len(self._images), len(self._images))
        return dataclasses.replace(self._baseline, best={_BASELINE: self._baseline.best[_BASELINE], **best})

    def _first(self, exact: Mapping[str, Session]) -> Classified:
        """Run files and PyTorch, and keep the decoded images where they do not take too much memory."""
        height, width = self._model.preprocess.size
        kept = _Kept() if len(self._validation.photos.images) * height * width * 3 <= _MOST_BYTES else None
        pytorch = registry.get(registry.BASELINE).open(self._weights, self._model, registry.BASELINE_ARTIFACT)
        try:
            found = self._classified({_BASELINE: pytorch, **exact}, kept)
        finally:
            pytorch.close()
        self._images = None if kept is None else np.concatenate(kept.batches)
        return found

    def _classified(self, sessions: Mapping[str, Session], kept: _Kept | None = None) -> Classified:
        found = classify(
            sessions,
            self._validation.photos.images,
            self._validation.targets,
            self._model.preprocess,
            lambda done, total: self._progress("accuracy gate", done, total),
            watcher=kept,
        )
        if found.failures:
            raise BackendError(f"the accuracy gate could not run: {'; '.join(found.failures.values())}")
        return found


def verdict(found: Classified, name: str, calibrated: Collection[str], int8_convolutions: float) -> Verdict:
    """Return what one file of a comparison loses.

    Args:
        found: What `Judge.run` returned.
        name: The file.
        calibrated: Digests of the images that were calibrated on.
        int8_convolutions: Share of its convolutions that are INT8.
    """
    right, still = found.top(_BASELINE, 1), found.top(name, 1)
    flips = found.flips(name, found.best[_BASELINE][:, 0])
    return Verdict(
        images=len(found.best[name]),
        runtime=_ARITHMETIC,
        agreement=found.agreement(name, _BASELINE),
        top1_fp32=right,
        top1=still,
        drop=None if right is None or still is None else 100 * (right - still),
        lost=flips[0] if flips else 0,
        gained=flips[1] if flips else 0,
        p_value=mcnemar(*flips) if flips else None,
        int8_convolutions=int8_convolutions,
        overlap=sum(digest in calibrated for digest in found.digests),
    )
