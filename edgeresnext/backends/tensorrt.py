"""TensorRT 8.6 to 11: engines for the GPU of this machine, a Jetson's or a workstation's."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from filelock import FileLock

from edgeresnext.backends._trt.backend import NO_GPU, EngineRuntime
from edgeresnext.backends._trt.build import build_engine
from edgeresnext.errors import NotInstalledError, RequestError
from edgeresnext.machine import gpu

if TYPE_CHECKING:
    from edgeresnext.backends.base import EngineRequest
    from edgeresnext.machine.gpu import Gpu
    from edgeresnext.spec import Engine, EngineOptions, Precision

_AMPERE = 8.0
"""Compute capability from which AMPERE_PLUS engines can be built and run."""


class TensorRT(EngineRuntime):
    """Builds on the very GPU that will run the engine, and runs it there."""

    name = "tensorrt"
    module = "tensorrt"
    title = "TensorRT"
    distributions = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
    how_to_install = (
        "on a Jetson it comes with JetPack (python3 -m venv --system-site-packages sees it), else pip install tensorrt"
    )

    def check(self, options: EngineOptions, precision: Precision) -> None:
        """Refuse a workspace beyond the GPU's memory, a timing cache that cannot be kept, and what a DLA cannot do."""
        device = self._device()
        if options.hardware_compatible and (device.integrated or float(device.compute_capability) < _AMPERE):
            raise RequestError(
                f"{device.name} (compute capability {device.compute_capability}) builds no hardware-compatible engines",
                "Leave --hardware-compatible out: it is for desktop GPUs from Ampere on.",
            )
        workspace = options.workspace_bytes
        if workspace is not None and workspace > device.memory_bytes:
            raise RequestError(
                f"a workspace of {workspace:,} bytes exceeds the {device.memory_bytes:,} of {device.name}",
                "Give less --workspace, or leave it out.",
            )
        if options.timing_cache:
            path = Path(options.timing_cache)
            if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
                raise RequestError(f"cannot write the timing cache '{path}'", "Give a file in a directory of yours.")
        smallest, usual, largest = options.batch
        if options.dla_core is None:
            return
        if smallest != largest:
            raise RequestError(
                f"a DLA engine has one batch size, and {smallest}:{largest} is a range", f"Give --batch {usual}."
            )
        if precision == "fp32":
            raise RequestError("a DLA computes fp16 and int8, not fp32", "Give --precision fp16 or --precision int8.")

    def build(self, engine: Path, request: EngineRequest) -> Engine:
        """Compile for the GPU of this machine, one build at a time: tactics are chosen by their time."""
        device = self._device()
        if (reason := self.missing()) is not None:
            raise NotInstalledError(reason)
        if request.options.workspace_bytes is None and device.integrated:
            # The GPU's memory is the machine's: without a limit TensorRT takes what the system needs.
            options = msgspec.structs.replace(request.options, workspace_bytes=device.memory_bytes // 2)
            request = dataclasses.replace(request, options=options)
        with FileLock(Path(tempfile.gettempdir()) / f"edgeresnext-gpu-{os.getuid()}.lock"):
            return build_engine(self.module, engine, request, device)

    def _device(self) -> Gpu:
        """Return the GPU to build for."""
        device = gpu.detect()
        if device is None:
            raise NotInstalledError(NO_GPU, "TensorRT builds on the GPU that will run the engine.")
        return device


BACKEND = TensorRT()
