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


def make_runtime(trt: Any, listen: Callable[[str, str], None]) -> tuple[Any, tuple[Any, ...]]:
    """Return a runtime of module `trt`, and what must live as long as its engines; errors go to `listen`.

    TensorRT-RTX compiles in threads of its own. A logger of Python would take the interpreter's lock there, which a
    destructor that waits for such a thread holds: it gets NVIDIA's logger, and errors come by a recorder, which is
    called where something failed only.

    Raises:
        TypeError: The runtime does not start (pybind11: the factory returned null).
    """
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        logger = make_logger(trt, listen)
        return trt.Runtime(logger), (logger,)
    logger, recorder = trt.Logger(trt.Logger.ERROR), _make_recorder(trt, listen)
    runtime = trt.Runtime(logger)
    runtime.error_recorder = recorder
    return runtime, (logger, recorder)


def _make_recorder(trt: Any, listen: Callable[[str, str], None]) -> Any:
    """Return an error recorder of module `trt` that gives every error to `listen`, and keeps none."""

    class Recorder(trt.IErrorRecorder):
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def report_error(self, code: Any, description: str) -> bool:
            del code
            listen("ERROR", description)
            return False  # not fatal: the call that failed returns

        def num_errors(self) -> int:
            return 0

        get_num_errors = num_errors  # what the binding really calls (pyCore.cpp)

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            """Nothing is kept."""

    return Recorder()


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
