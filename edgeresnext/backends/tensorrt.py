"""TensorRT 8.6 to 11: engines for the GPU of this machine, a Jetson's or a workstation's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeresnext.backends import gpu
from edgeresnext.backends._trt.backend import NO_GPU, EngineRuntime
from edgeresnext.backends._trt.build import build_engine
from edgeresnext.errors import NotInstalledError, RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeresnext.backends.base import EngineRequest
    from edgeresnext.spec import Engine


class TensorRT(EngineRuntime):
    """Builds on the very GPU that will run the engine, and runs it there."""

    name = "tensorrt"
    module = "tensorrt"
    title = "TensorRT"
    distributions = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
    how_to_install = (
        "on a Jetson it comes with JetPack (python3 -m venv --system-site-packages sees it), else pip install tensorrt"
    )

    def build(self, engine: Path, request: EngineRequest) -> Engine:
        """Compile for the GPU of this machine."""
        if request.compute_capabilities:
            raise RequestError(
                f"TensorRT cannot build for compute capability {', '.join(request.compute_capabilities)} from here",
                "Build there: edgeresnext build BUNDLE --target here.",
            )
        device = gpu.detect()
        if device is None:
            raise NotInstalledError(NO_GPU, "TensorRT builds on the GPU that will run the engine.")
        if (reason := self.missing()) is not None:
            raise NotInstalledError(reason)
        options = request.options
        if options.dla_core is not None:
            self._check_dla(request)
        free = options.workspace_bytes
        if free is not None and free > device.memory_bytes:
            raise RequestError(
                f"a workspace of {free:,} bytes exceeds the memory of {device.name}, {device.memory_bytes:,} bytes",
                "Give less --workspace, or leave it out.",
            )
        return build_engine(self.module, engine, request, device)

    def _check_dla(self, request: EngineRequest) -> None:
        """Refuse what the deep learning accelerator cannot do."""
        smallest, _, largest = request.options.batch
        if smallest != largest:
            raise RequestError(
                f"a DLA engine has one batch size, and {smallest}:{largest} is a range",
                f"Give --batch {largest}.",
            )
        if request.precision == "fp32":
            raise RequestError("a DLA computes fp16 and int8, not fp32", "Give --precision fp16 or --precision int8.")


BACKEND = TensorRT()
