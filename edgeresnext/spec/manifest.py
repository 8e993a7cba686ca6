"""What a bundle holds, and how near to PyTorch it must be."""

from __future__ import annotations

from typing import Literal

from edgeresnext.spec.artifact import CPU, Artifact
from edgeresnext.spec.network import ModelSpec
from edgeresnext.spec.quantisation import TRAINED, Gate, Plan, Recipe, Verdict
from edgeresnext.spec.value import Precision, Value

MANIFEST_SCHEMA = 3

READABLE_SCHEMAS = (1, 2, 3)
"""Schema 1 is that of the releases before INT8 was made right on CPUs without VNNI; 2 has no layers kept by hand in its
recipe, and options of engines that are gone."""


class FileEntry(Value, frozen=True, kw_only=True):
    """A file of a bundle: its size and SHA-256."""

    bytes: int
    sha256: str


FP32_MAX_ERROR = 1e-4
"""Largest logit difference of an FP32 artefact, over the largest logit: float32 rounding in another order."""

MIN_SNR_DB: dict[Precision, float] = {"fp16": 35.0, "bf16": 20.0, "int8": 15.0}
"""Signal-to-noise ratio under which an artefact is taken for broken rather than quantised."""

MIN_TRAINED_SNR_DB = 5.0
"""The same of INT8 that was trained: its weights learned to be clipped, and say something else where they are not.
Digits that were trained with labels may have 10 dB, and all but one of 600 images as right as before."""


class Fidelity(Value, frozen=True, kw_only=True):
    """How far logits are from PyTorch's on the same images.

    `snr_db` is 10 log10(sum of squared reference / sum of squared difference), None where they are equal;
    `max_error` is the largest absolute difference over the largest absolute reference logit, None where a logit is not
    a finite number.
    """

    snr_db: float | None
    max_error: float | None

    def shortfall(self, precision: Precision, method: str = "") -> str:
        """Return by how much this misses what `precision` must reach, by a method of calibration, or nothing."""
        if self.max_error is None:
            return "its logits are NaN or infinite"
        if precision == "fp32":
            return "" if self.max_error <= FP32_MAX_ERROR else f"logits differ by {self.max_error:.1e} of the largest"
        floor = MIN_TRAINED_SNR_DB if precision == "int8" and method == TRAINED else MIN_SNR_DB[precision]
        if self.snr_db is None or self.snr_db >= floor:
            return ""
        return f"signal-to-noise of the logits is {self.snr_db:.1f} dB, below {floor:g} dB"


class OnnxFile(Value, frozen=True, kw_only=True):
    """What one ONNX file is, how far it is from PyTorch on the golden images, and what the gate said of it.

    `fidelity` is what the file says, in exact integer arithmetic, which is the same on every machine; `saturated` what
    CPUs without VNNI make of a file that is for CPUs. Against that saturation it has `wider_rows`: in how many of each
    layer's rows weights have a wider step, and `pixel_layers`, which read the image as uint8 around a zero point with
    weights so small that no image saturates.
    """

    file: str
    opset: int
    plan: Plan
    fidelity: Fidelity
    saturated: Fidelity | None = None
    wider_rows: dict[str, int] = {}
    pixel_layers: tuple[str, ...] = ()
    verdict: Verdict | None = None


class Timing(Value, frozen=True, kw_only=True):
    """A quick latency measurement of one artefact at build time: the median at batch 1."""

    artifact: str
    latency_s: float
    samples: int


class Selection(Value, frozen=True, kw_only=True):
    """The measurement by which `load` ranks artefacts: where it was taken, fastest first.

    `conditions` are what the order depends on: processor, instruction sets, runtimes and GPU. Where they are others,
    `load` measures anew.
    """

    machine: str
    timings: tuple[Timing, ...]
    conditions: dict[str, str] = {}


class Manifest(Value, frozen=True, kw_only=True):
    """The table of contents of a bundle, and everything needed to trust it.

    `targets` are those that it was built for; `layer_macs` the multiply-accumulates of each convolution and Gemm.
    """

    model: ModelSpec
    trained: bool
    golden: str
    parameters: int
    macs: int
    artifacts: tuple[Artifact, ...]
    onnx: tuple[OnnxFile, ...]
    selection: Selection
    files: dict[str, FileEntry]
    created_with: dict[str, str]
    calibration: str = ""
    targets: tuple[str, ...] = (CPU,)
    layer_macs: dict[str, int] = {}
    recipe: Recipe = Recipe()
    gate: Gate | None = None
    schema: int = MANIFEST_SCHEMA


class Check(Value, frozen=True, kw_only=True):
    """The result of replaying golden images on one artefact; `latency_s` the median at batch 1, where it was timed."""

    artifact: str
    status: Literal["ok", "skipped", "failed"]
    fidelity: Fidelity | None = None
    reason: str = ""
    latency_s: float | None = None
