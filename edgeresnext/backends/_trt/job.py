"""What passes between a build and its child process, as JSON lines."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeresnext.spec import EngineOptions, Precision


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is to build.

    `module` is the Python package, `compute_capabilities` empty for the GPU of this machine. Files are paths, or empty:
    `onnx` is for releases whose networks are typed, `weak_onnx` for the others, `plain_onnx` (without Q/DQ) for INT8 by
    thresholds that stand beside the graph: in `calibration_cache`, or found by TensorRT on `implicit_images` (.npy) and
    kept in `implicit_cache`.
    """

    module: Literal["tensorrt", "tensorrt_rtx"]
    onnx: str
    weak_onnx: str
    plain_onnx: str
    engine: str
    precision: Precision
    compute_capabilities: tuple[str, ...]
    options: EngineOptions
    calibration_cache: str = ""
    implicit_images: str = ""
    implicit_cache: str = ""


class Progressed(msgspec.Struct, frozen=True, tag="progress"):
    """How far the build is."""

    percent: int


class Logged(msgspec.Struct, frozen=True, tag="log"):
    """What the builder warned of."""

    text: str


class Built(msgspec.Struct, frozen=True, tag="built", kw_only=True):
    """The engine is written, compiled from `onnx`. `anatomy` is the layer list, as `anatomy_from` gives it."""

    onnx: str
    release: str
    anatomy: str
    anatomy_from: Literal["log", "inspector"]
    notes: tuple[str, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The build did not succeed; `error` is the class of the error."""

    error: str
    what: str
    hint: str = ""


Event = Progressed | Logged | Built | Failed
