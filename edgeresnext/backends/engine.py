"""Engines: what they are built for, and what TensorRT and TensorRT-RTX, which build and run them, answer alike."""

from __future__ import annotations

import importlib.metadata
import logging
import re
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from edgeresnext.backends import cuda
from edgeresnext.backends._trt.module import load_module
from edgeresnext.backends._trt.parent import build_engine
from edgeresnext.backends._trt.session import EngineSession
from edgeresnext.backends.base import Backend, Opening, Session
from edgeresnext.backends.engine_header import platform_name, read_header, runs_later, same_release
from edgeresnext.backends.request import EngineRequest
from edgeresnext.errors import BackendError, NotInstalledError
from edgeresnext.extras import installed
from edgeresnext.machine import gpu
from edgeresnext.machine.gpu import Gpu
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import Artifact, Engine, EngineOptions, Precision

REBUILD = "edgeresnext build BUNDLE --target here"
NO_GPU = "no NVIDIA GPU with a driver on this machine"
TURING, AMPERE = 7.5, 8.0
"""Compute capabilities from which SAME_COMPUTE_CAPABILITY and AMPERE_PLUS engines can be built (NvInfer.h)."""

_log = logging.getLogger("edgeresnext")
_told: set[Path] = set()
"""The engines of other GPUs of which a warning was given."""


class EngineBackend(Backend):
    """A runtime whose artefacts are engines: compiled for one kind of GPU by one release of it."""

    title: ClassVar[str]
    how_to_install: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    """Names under which the package may be installed, for its version; it is imported by the backend's own name."""
    without_gpu: ClassVar[str]
    """What to do about a build for the GPU of a machine that has none."""
    for_outdated_driver: ClassVar[str]
    """What to do where the driver is older than the package's CUDA release."""
    tunes: ClassVar[bool]
    """Whether engines are tuned for the very model of GPU that built them."""

    def release(self) -> str:
        """Return the installed release, such as "10.3.0"; empty where the package does not say it without loading."""
        for name in self.distributions:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return ""

    def missing(self) -> str | None:
        """Return None where the package is installed, or one line: what is missing and how to get it."""
        return None if installed(self.name) else f"{self.title} is not installed: {self.how_to_install}"

    def cuda_major(self) -> int | None:
        """Return the CUDA release that the package was built for, such as 13; None where its name does not say it."""
        for name in self.distributions:
            if (found := re.search(r"-cu(\d+)", name)) is not None:
                try:
                    importlib.metadata.version(name)
                except importlib.metadata.PackageNotFoundError:
                    continue
                return int(found[1])
        return None

    def outdated_driver(self) -> str | None:
        """Return None, or that this machine's driver is older than the package's CUDA release.

        A driver runs programs for its own major release of CUDA and those before it (CUDA Compatibility).
        """
        device, major = gpu.detect(), self.cuda_major()
        if device is None or major is None or int(device.driver.split(".")[0]) >= major:
            return None
        return f"{self.title} is installed for CUDA {major}, and this driver runs CUDA up to {device.driver}"

    @abstractmethod
    def check(self, options: EngineOptions, precision: Precision) -> None:
        """Refuse options that this runtime, or this machine, cannot build with.

        Raises:
            RequestError: One of them is not for it.
            NotInstalledError: A GPU is missing.
        """

    def device(self) -> Gpu:
        """Return the GPU of this machine.

        Raises:
            NotInstalledError: There is none.
        """
        device = gpu.detect()
        if device is None:
            raise NotInstalledError(NO_GPU, self.without_gpu, values=("targets",))
        return device

    def build(self, request: EngineRequest, progress: Progress = silent) -> Engine:
        """Compile an ONNX file for the compute capabilities asked for, else for the GPU of this machine.

        What the builder warns of is logged.

        Args:
            request: What for, from what, and how.
            progress: Told how far the build is, in percent.

        Raises:
            NotInstalledError: The runtime is missing, or a GPU that it needs.
            RequestError: The options do not fit this runtime, the target or each other.
            BackendError: The build failed; its last words are in the message.
        """
        if (reason := self.missing()) is not None:
            raise NotInstalledError(reason)
        return build_engine(request, None if request.compute_capabilities else self.device(), progress)

    def unavailable(self, precision: Precision) -> str | None:
        """Return what is missing to run an engine."""
        if precision == "bf16":
            return f"{self.title} engines are fp32, fp16 or int8"
        if gpu.detect() is None:
            return f"{NO_GPU}: edgeresnext doctor shows what is missing"
        if (reason := self.missing()) is not None:
            return reason
        if (reason := self.outdated_driver()) is not None:
            return f"{reason}: {self.for_outdated_driver}"
        return cuda.unavailable()

    def misfit(self, artifact: Artifact) -> str | None:
        """Return why this machine cannot run an engine, told by the manifest alone, and the way out."""
        engine = artifact.engine
        if engine is None:
            return None
        device = gpu.detect()
        if device is not None and not self._runs_on(engine, device.compute_capability):
            capabilities = " or ".join(engine.compute_capabilities)
            built_on = f" ({engine.device})" if engine.device else ""
            return (
                f"built for compute capability {capabilities}{built_on}, and this GPU, {device.name}, "
                f"has {device.compute_capability}: {REBUILD}"
            )
        here = platform_name()
        if engine.platform != here:
            return f"built for {engine.platform}, and this is {here}: {REBUILD}"
        try:
            release = self.release() or str(load_module(self.name).__version__)
        except NotInstalledError as error:
            return error.what
        later = engine.options.version_compatible and runs_later(engine.release, release)
        if not same_release(release, engine.release) and not later:
            return f"built by {self.title} {engine.release}, and {release} is installed: {REBUILD}"
        return None

    def _runs_on(self, engine: Engine, capability: str) -> bool:
        """Whether an engine runs on GPUs of a compute capability."""
        if capability in engine.compute_capabilities:
            return True
        both = (capability, *engine.compute_capabilities)
        return engine.options.hardware_compatible and all(float(one) >= AMPERE for one in both)

    def start(self, opening: Opening) -> Session:
        """Deserialise an engine; threads of the CPU have no part in it, and any engine can be profiled."""
        file, artifact = opening.file, opening.artifact
        if (reason := self.unavailable(artifact.precision)) is not None:
            raise BackendError(f"cannot run '{file}': {reason}")
        header = read_header(file, opening.content)
        if header.backend != self.name:
            raise BackendError(f"'{file}' is an engine for {header.backend}, not {self.name}", REBUILD)
        options = artifact.engine.options if artifact.engine else None
        if artifact.engine is not None and self.tunes:
            _tell_of_other_device(artifact.engine, file)
        return EngineSession(self.name, file, opening.model, options, opening.content)


def _tell_of_other_device(engine: Engine, file: Path) -> None:
    """Say, once an engine and process, that it was tuned on another model of GPU than this machine's.

    NVIDIA on such engines: they may be slower, fail or hang (NVIDIA/TensorRT #2900, #3829).
    """
    device = gpu.detect()
    portable = engine.options.hardware_compatible or engine.options.capability_compatible
    if device is None or not engine.device or portable or file in _told:
        return
    built, here = (engine.device, engine.multiprocessors), (device.name, device.multiprocessors)
    if built[0] == here[0] and (built[1] == here[1] or not all((built[1], here[1]))):
        return
    _told.add(file)
    _log.warning(
        "'%s' was built on another GPU, %s with %s multiprocessors; this one, %s with %s, may run it slowly or not at "
        "all: %s",
        file, *built, *here, REBUILD,
    )  # fmt: skip
