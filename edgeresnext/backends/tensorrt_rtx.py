"""TensorRT-RTX: engines for GeForce and other RTX GPUs, built on any machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeresnext.backends._trt.backend import NO_GPU, EngineRuntime
from edgeresnext.backends._trt.build import build_engine
from edgeresnext.errors import NotInstalledError, RequestError
from edgeresnext.machine import gpu

if TYPE_CHECKING:
    from pathlib import Path

    from edgeresnext.backends.base import EngineRequest
    from edgeresnext.spec import Engine, EngineOptions, Precision


class TensorRTRTX(EngineRuntime):
    """Builds ahead of time for named compute capabilities, or for the GPU of this machine."""

    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    title = "TensorRT-RTX"
    distributions = ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
    how_to_install = "pip install 'edgeresnext[rtx]' (x86-64)"

    def check(self, options: EngineOptions, precision: Precision) -> None:
        """Refuse the options that are TensorRT's alone."""
        del precision
        given = {
            "--dla": options.dla_core is not None,
            "--implicit-calibration": bool(options.implicit_calibration),
            "--version-compatible": options.version_compatible,
            "--hardware-compatible": options.hardware_compatible,
            "--timing-cache": bool(options.timing_cache),
            "--int8-grouped off": options.int8_grouped == "off",
        }
        if any(given.values()):
            names = ", ".join(name for name, is_given in given.items() if is_given)
            raise RequestError(f"TensorRT-RTX has no {names}", "Leave it out, or build with TensorRT on the device.")

    def build(self, engine: Path, request: EngineRequest) -> Engine:
        """Compile for the compute capabilities asked for; the GPU's driver does the rest at first load."""
        if (reason := self.missing()) is not None:
            raise NotInstalledError(reason)
        device = None if request.compute_capabilities else gpu.detect()
        if device is None and not request.compute_capabilities:
            raise NotInstalledError(NO_GPU, "Name the GPUs instead: --target rtx40.")
        return build_engine(self.module, engine, request, device)


BACKEND = TensorRTRTX()
