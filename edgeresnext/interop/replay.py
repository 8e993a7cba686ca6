"""Proof of exported files: golden images go through them as the other program sends them, and the logits come back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import unreported
from edgeresnext.bundle import Bundle
from edgeresnext.errors import AccuracyError, BackendError
from edgeresnext.extras import require
from edgeresnext.spec import Artifact, Fidelity, ModelSpec, Value

MAX_DIFFERENCE = 1e-3
"""Largest difference between the logits of an exported file and of the bundle's own, over the largest logit."""

_ERRORS_ONLY = 3


class Replay(Value, frozen=True, kw_only=True):
    """What golden images made of exported files.

    `difference` is the largest one between the logits of the exported file and those of the bundle's own, over the
    largest logit; `fidelity` compares the exported file with PyTorch.
    """

    images: int
    difference: float
    fidelity: Fidelity


def judge(bundle: Bundle, artifact: Artifact, logits: NDArray[np.float32], own: NDArray[np.float32]) -> Replay:
    """Return how far exported files are from the bundle's own and from PyTorch.

    Args:
        bundle: Whose golden images were replayed.
        artifact: What was exported, for its precision and what its file says.
        logits: Of the exported file, float32 `(N, classes)`.
        own: Of the bundle's own file, likewise.

    Raises:
        AccuracyError: They differ by more than `MAX_DIFFERENCE`, or are too far from PyTorch's.
    """
    largest = float(np.abs(own).max())
    difference = float(np.abs(logits.astype(np.float64) - own).max()) / largest if largest else np.inf
    found = Replay(images=len(logits), difference=difference, fidelity=bundle.golden().compare(logits))
    reason = bundle.shortfall(artifact, found.fidelity)
    if not difference <= MAX_DIFFERENCE:  # also where it is no number
        reason = f"its logits differ from those of {artifact.file} by {difference:.1e} of the largest"
    if reason:
        raise AccuracyError(
            f"the exported {artifact.precision} file does not reproduce the golden images: {reason}; nothing is left",
            "Verify the bundle; if it is right, report this as a bug.",
        )
    return found


def run_as_written(file: bytes, model: ModelSpec, images: NDArray[Any]) -> NDArray[np.float32]:
    """Return the logits `(N, classes)`, float32, that an ONNX file gives for a batch of what it takes.

    ONNX Runtime runs it without optimisations, as it is written: what it fuses differs by processor.

    Args:
        file: What stands in it.
        model: The network, for the names of input and output.
        images: As the file takes them.

    Raises:
        NotInstalledError: ONNX Runtime is missing.
        BackendError: It refuses the file.
    """
    require("cpu", "onnxruntime", needed_by="the proof of an export")
    onnxruntime = unreported.onnxruntime()

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        (logits,) = session.run([model.output.name], {model.input.name: images})
    except Exception as error:  # its exceptions share no base class of their own
        raise BackendError(f"ONNX Runtime refuses the exported file: {error}", "Report this as a bug.") from error
    return np.asarray(logits, np.float32)
