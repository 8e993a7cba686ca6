"""Start TensorRT or TensorRT-RTX: import it, hear what it logs, and let its runtime load an engine."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edgeresnext.errors import BackendError, NotInstalledError
from edgeresnext.spec import EngineOptions


def load_module(name: str) -> Any:
    """Return the module `tensorrt` or `tensorrt_rtx`.

    Raises:
        NotInstalledError: It cannot be imported, or a library that it needs cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise NotInstalledError(
            f"{name} does not start: {error}", "edgeresnext doctor shows what is missing."
        ) from error


def make_logger(trt: Any, listen: Callable[[str, str], None]) -> Any:
    """Return a logger of module `trt` that gives every message to `listen`: the severity's name, and the text."""

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 demands the direct call

        def log(self, severity: Any, msg: str) -> None:
            listen(severity.name, msg)

    return Listener()


def allow(runtime: Any, options: EngineOptions) -> None:
    """Let a runtime load an engine that was built with these options; its digest has been checked.

    A version-compatible engine carries the runtime of its own release as code, which TensorRT loads only when told.
    """
    if options.version_compatible:
        runtime.engine_host_code_allowed = True
    if options.dla_core is not None:
        if options.dla_core >= runtime.num_DLA_cores:
            raise BackendError(
                f"the engine was built for DLA core {options.dla_core}, and this device has {runtime.num_DLA_cores}",
                "Build it again, without a DLA core: edgeresnext build BUNDLE --target here.",
                values=("dla_core",),
            )
        runtime.DLA_core = options.dla_core
