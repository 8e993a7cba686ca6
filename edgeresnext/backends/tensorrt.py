"""TensorRT 8.6 to 11: engines for the GPU of this machine, a Jetson's or a workstation's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
from filelock import FileLock

from edgeresnext.backends.engine import AMPERE, TURING, EngineBackend
from edgeresnext.backends.request import EngineRequest
from edgeresnext.errors import RequestError
from edgeresnext.machine import gpu
from edgeresnext.machine.gpu import Gpu
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import Engine, EngineOptions, Precision


class TensorRT(EngineBackend):
    """Builds on the very GPU that will run the engine, and runs it there."""

    name = "tensorrt"
    title = "TensorRT"
    distributions = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
    how_to_install = (
        "on a Jetson it comes with JetPack (python3 -m venv --system-site-packages sees it), else pip install tensorrt"
    )
    without_gpu = "TensorRT builds on the GPU that will run the engine."
    for_outdated_driver = "update the driver, or pip install tensorrt-cu12 in a fresh environment"
    tunes = True

    def check(self, options: EngineOptions, precision: Precision) -> None:
        """Refuse a workspace beyond the GPU's memory, a timing cache that cannot be kept, and what a DLA cannot do."""
        device = self.device()
        _check_compatibility(options, device)
        workspace = options.workspace_bytes
        if workspace is not None and workspace > device.memory_bytes:
            raise RequestError(
                f"a workspace of {workspace:,} bytes exceeds the {device.memory_bytes:,} of {device.name}",
                "Give less, or leave it out.",
                values=("workspace_bytes",),
            )
        if options.timing_cache:
            path = Path(options.timing_cache)
            if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
                raise RequestError(
                    f"cannot write the timing cache '{path}'",
                    "Give a file in a directory of yours.",
                    values=("timing_cache",),
                )
        smallest, usual, largest = options.batch
        if options.dla_core is not None and smallest != largest:
            raise RequestError(
                f"a DLA engine has one batch size, and {smallest}:{largest} is a range",
                f"Give one, such as {usual}.",
                values=("batch", "dla_core"),
            )
        if options.dla_core is not None and precision == "fp32":
            raise RequestError(
                "a DLA computes fp16 and int8, not fp32", "Ask for one of these.", values=("precisions", "dla_core")
            )

    def build(self, request: EngineRequest, progress: Progress = silent) -> Engine:
        """Compile for the GPU of this machine, one build at a time: tactics are chosen by their time."""
        device = gpu.detect()
        if request.options.workspace_bytes is None and device is not None and device.integrated:
            # The GPU's memory is the machine's: without a limit TensorRT takes what the system needs.
            options = msgspec.structs.replace(request.options, workspace_bytes=device.memory_bytes // 2)
            request = msgspec.structs.replace(request, options=options)
        with FileLock(Path(tempfile.gettempdir()) / f"edgeresnext-gpu-{os.getuid()}.lock"):
            return super().build(request, progress)


def _check_compatibility(options: EngineOptions, device: Gpu) -> None:
    """Refuse engines for other GPUs where this one builds none: on a Jetson, or before the generation that began it."""
    both = ("hardware_compatible", "capability_compatible")
    if options.hardware_compatible and options.capability_compatible:
        raise RequestError(
            "hardware_compatible and capability_compatible contradict each other",
            "The first is for all GPUs from Ampere on, the second for those of this compute capability: give one.",
            values=both,
        )
    for name, since, generation in zip(both, (AMPERE, TURING), ("Ampere", "Turing"), strict=True):
        if getattr(options, name) and (device.integrated or float(device.compute_capability) < since):
            raise RequestError(
                f"{device.name} (compute capability {device.compute_capability}) builds no {name.replace('_', '-')} "
                "engines",
                f"Those are for desktop GPUs from {generation} on, and not for Jetsons.",
                values=(name,),
            )


BACKEND = TensorRT()
