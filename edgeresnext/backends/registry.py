"""The backends by name: the one place that imports runtimes, when they are first asked for."""

from __future__ import annotations

import importlib
from typing import cast

from edgeresnext.backends.base import Backend
from edgeresnext.backends.engine import EngineBackend
from edgeresnext.bundle import WEIGHTS
from edgeresnext.errors import unknown_name
from edgeresnext.spec import CPU, Artifact

ENGINE_NAMES = ("tensorrt", "tensorrt_rtx")
"""The backends that run engines."""

NAMES = ("openvino", "onnxruntime", "torch", *ENGINE_NAMES)
"""Every backend."""

BASELINE = "torch"
"""The backend that everything else is compared with."""

BASELINE_ARTIFACT = Artifact(backend=BASELINE, precision="fp32", target=CPU, file=WEIGHTS)
"""PyTorch in FP32, eager, on the CPU: what every artefact is checked against."""

CUDA_TARGET = "torch-cuda"
"""Target of PyTorch on the GPU. Not yet run on hardware."""

COMPILE = "compile"
"""Mode of a network that `torch.compile` has compiled."""


def get(name: str) -> Backend:
    """Return the backend called `name`; its runtime is imported when it is used, not here.

    Raises:
        RequestError: There is no such backend.
    """
    if name not in NAMES:
        raise unknown_name("backend", name, NAMES)
    module = importlib.import_module(f"edgeresnext.backends.{name}")
    backend: Backend = module.BACKEND
    return backend


def get_engine_backend(name: str) -> EngineBackend:
    """Return the backend called `name`, one of those that run engines.

    Raises:
        RequestError: There is no such backend.
    """
    if name not in ENGINE_NAMES:
        raise unknown_name("engine backend", name, ENGINE_NAMES)
    return cast("EngineBackend", get(name))


def unavailable(artifact: Artifact) -> str | None:
    """Return None where this machine can run an artefact, or one line: what is missing and how to get it."""
    if artifact.backend not in NAMES:
        return f"this release has no backend '{artifact.backend}'"
    backend = get(artifact.backend)
    return backend.unavailable(artifact.precision) or backend.misfit(artifact)
