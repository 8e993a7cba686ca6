"""What an engine is asked for: the one value that goes to the process that builds it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeresnext.spec import EngineOptions, Precision


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is built for and from; it goes to the process that builds as JSON.

    Args:
        name: Of the artefact, for messages and progress.
        backend: Which builds it, and will run it.
        file: The engine to write.
        precision: What it is to compute in.
        compute_capabilities: Such as `("8.9",)`; empty for the GPU of this machine.
        onnx: What to compile; the file states every precision.
        options: Batch profile and everything that is left to the user.
        layer_macs: Multiply-accumulates of each convolution and Gemm.
        weak_onnx: The same for releases without typed networks (TensorRT 8), where that is another file.
        plain_onnx: The network without Q/DQ, for INT8 whose thresholds stand beside the graph.
        calibration_cache: Those thresholds, in TensorRT's format.
    """

    name: str
    backend: str
    file: Path
    precision: Precision
    compute_capabilities: tuple[str, ...]
    onnx: Path
    options: EngineOptions
    layer_macs: dict[str, int]
    weak_onnx: Path | None = None
    plain_onnx: Path | None = None
    calibration_cache: Path | None = None
