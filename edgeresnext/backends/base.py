"""What a runtime must offer, and the one place that imports runtimes by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeresnext.errors import DataError, RequestError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeresnext.spec import Artifact, ModelSpec, Precision


class Session(ABC):
    """An artefact loaded into a runtime. Safe to call from several threads.

    Args:
        model: The network that the artefact holds; inputs are checked against it.
    """

    detail: str = ""
    """What the runtime chose for itself, for tables; such as a memory layout."""

    def __init__(self, model: ModelSpec) -> None:
        self.model = model

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits `(N, classes)`, float32, of uint8 RGB images `(N, crop_px, crop_px, 3)`.

        Raises:
            DataError: The images have another shape or type.
            BackendError: The runtime failed.
        """
        edge = self.model.preprocess.crop_px
        wanted = (edge, edge, 3)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != wanted:
            got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise DataError(
                f"expected a uint8 array (N, {edge}, {edge}, 3), got {got}",
                "Images are RGB, channels last, 0..255; use `predict` for images of any size.",
            )
        if len(images) == 0:
            return np.empty((0, self.model.classes), np.float32)
        return self._run(np.ascontiguousarray(images))

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Let the runtime choose how to run batches like `images`, and warm up."""
        self.run(images)

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run checked images; the result belongs to the caller."""

    def close(self) -> None:  # noqa: B027 - most runtimes free themselves
        """Free what the runtime holds; the session cannot be used afterwards."""


class Backend(ABC):
    """A runtime."""

    name: ClassVar[str]

    @abstractmethod
    def unavailable(self, precision: Precision) -> str | None:
        """Return None where this machine can run `precision`, or one line: what is missing and how to get it."""

    @abstractmethod
    def open(self, file: Path, model: ModelSpec, precision: Precision, threads: int | None) -> Session:
        """Load an artefact.

        Args:
            file: The artefact; its digest has been checked.
            model: The network that it holds.
            precision: What to compute in, exactly.
            threads: CPU threads; None leaves the choice to the runtime.

        Raises:
            BackendError: The runtime refuses the file.
        """


NAMES = ("openvino", "onnxruntime", "torch")
"""Every backend."""

BASELINE = "torch"
"""The backend that everything else is compared with."""

TARGETS: dict[str, dict[str, dict[Precision, str]]] = {
    "cpu": {
        "openvino": {"int8": "int8-cpu", "bf16": "fp32", "fp32": "fp32"},
        "onnxruntime": {"int8": "int8-cpu", "fp32": "fp32"},
    },
}
"""For each target the backends that serve it, and the ONNX file that each of their precisions runs."""

NOT_YET = ("rtx20", "rtx30", "rtx40", "rtx50", "jetson-orin", "jetson-thor", "here")
"""Targets that are planned and not built yet."""


def get(name: str) -> Backend:
    """Return the backend called `name`; its runtime is imported when it is used, not here.

    Raises:
        RequestError: There is no such backend.
    """
    if name not in NAMES:
        raise unknown_name("backend", name, NAMES)
    module = importlib.import_module(f"edgeresnext.backends.{name}")
    backend: Backend = module.BACKEND
    return backend


def unavailable(artifact: Artifact) -> str | None:
    """Return None where this machine can run an artefact, or one line: what is missing and how to get it."""
    if artifact.backend not in NAMES:
        return f"this release has no backend '{artifact.backend}'"
    return get(artifact.backend).unavailable(artifact.precision)


def check_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """Return the targets, each once.

    Raises:
        RequestError: One is unknown, or not built yet.
    """
    found = tuple(dict.fromkeys(targets))
    for target in found:
        if target in NOT_YET:
            raise RequestError(
                f"target '{target}' is planned, but this release builds for {', '.join(TARGETS)} only",
                "Build with --target cpu: the bundle's onnx/ files are the ones that `trtexec --onnx=...` takes.",
            )
        if target not in TARGETS:
            raise unknown_name("target", target, TARGETS)
    if not found:
        raise RequestError("no target given", f"Known: {', '.join(TARGETS)}.")
    return found
