"""What a backend can run, and how engines are built."""

from __future__ import annotations

from typing import Literal

from edgeresnext.spec.value import Precision, Value

CPU = "cpu"
"""The target that every machine is."""


class EngineOptions(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """How an engine is built; what is None is left to TensorRT. Options that an earlier release had are passed over.

    `batch` is the smallest, the most frequent and the largest number of images a run. `dla_core` builds for that deep
    learning accelerator of a Jetson. `int8_grouped` says whether grouped convolutions are INT8 in INT8 engines: "auto"
    builds both ways and keeps the faster. `hardware_compatible` is for all GPUs from Ampere on, `capability_compatible`
    for all of the compute capability. `backend` is tensorrt or tensorrt_rtx, for the target `here` where both are
    installed. `device` is the GPU that `here` is, by its index among those that CUDA offers or by its UUID, without it
    the first; a manifest does not keep it.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: str = ""
    version_compatible: bool = False
    hardware_compatible: bool = False
    capability_compatible: bool = False
    dla_core: int | None = None
    int8_grouped: Literal["auto", "on", "off"] = "auto"
    backend: str | None = None
    device: int | str | None = None


class EngineLayer(Value, frozen=True, kw_only=True):
    """One layer of an engine, as its builder lists it: what was fused, and what one image moves and computes.

    `modules` are the layers of the network that it holds, wholly or in part. Bytes are those of one image: activations
    read and written, and constants. `macs` are the multiply-accumulates of the convolutions and Gemms in it.
    """

    name: str
    kind: str
    modules: tuple[str, ...]
    types: str
    formats: str
    read_bytes: int
    written_bytes: int
    constant_bytes: int
    macs: int


class Engine(Value, frozen=True, kw_only=True):
    """What a compiled engine is, and where it can run: only there, and only with the release that built it.

    `release` is the TensorRT release (four numbers), `compute_capabilities` such as ("8.9",), `platform` such as
    "linux-x86_64"; `device`, its `multiprocessors` (0: unknown) and `driver` are those of the machine that built it,
    empty where it was built ahead of time. `onnx` is the file that was compiled; `calibration_sha256` the cache with
    the thresholds, where those stood beside it.
    """

    release: str
    compute_capabilities: tuple[str, ...]
    onnx: str
    onnx_sha256: str
    options: EngineOptions
    built_s: float
    platform: str
    calibration_sha256: str = ""
    device: str = ""
    multiprocessors: int = 0
    driver: str = ""
    notes: tuple[str, ...] = ()
    layers: tuple[EngineLayer, ...] = ()


class Artifact(Value, frozen=True, kw_only=True):
    """Something that a backend can run: one file of the bundle, in one precision, for one target.

    `mode` is a way to run it other than the usual one, which only benchmarks take: "compile" for PyTorch.
    """

    backend: str
    precision: Precision
    target: str
    file: str
    engine: Engine | None = None
    mode: str = ""

    @property
    def name(self) -> str:
        """The short name used in tables and messages, such as `openvino-int8` or `rtx40-fp16`."""
        return variant_name(self.backend, self.precision, self.target, self.mode)


def variant_name(backend: str, precision: Precision, target: str, mode: str = "") -> str:
    """Return the short name of a variant: by its backend on CPUs, by its target where that implies the backend."""
    return "-".join(filter(None, (backend if target == CPU else target, precision, mode)))
