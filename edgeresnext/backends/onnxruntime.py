"""ONNX Runtime on the CPU: the portable fallback."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import unreported
from edgeresnext.backends.base import Backend, Opening, Operation, Session
from edgeresnext.errors import BackendError
from edgeresnext.extras import lacking
from edgeresnext.spec import ModelSpec, Precision

if TYPE_CHECKING:
    import onnxruntime

_ERRORS_ONLY = 3
_KERNEL = "_kernel_time"
"""What the profiler adds to the name of a node for the time of its kernel."""


class ONNXRuntimeSession(Session):
    """An inference session; ONNX Runtime locks for itself."""

    def __init__(self, session: onnxruntime.InferenceSession, model: ModelSpec) -> None:
        super().__init__(model)
        self._session: onnxruntime.InferenceSession | None = session

    def _open(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise self.closed()
        return self._session

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        session = self._open()
        try:
            (logits,) = session.run([self.model.output.name], {self.model.input.name: images})
        except Exception as error:  # its exceptions share no base class of their own
            raise BackendError(f"ONNX Runtime failed on a batch of {len(images)}: {error}") from error
        return np.asarray(logits, np.float32)

    def compute_s(self, images: NDArray[np.uint8]) -> float | None:
        """Return the seconds of one run between buffers that are bound already."""
        session = self._open()
        try:
            binding = session.io_binding()
            binding.bind_cpu_input(self.model.input.name, np.ascontiguousarray(images))
            binding.bind_output(self.model.output.name)
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            return time.perf_counter() - start
        except Exception as error:  # its exceptions share no base class of their own
            raise BackendError(f"ONNX Runtime failed on a batch of {len(images)}: {error}") from error

    def profile(self, images: NDArray[np.uint8], runs: int) -> tuple[Operation, ...]:
        """Return what ONNX Runtime's profiler tells; it writes its events to a file, which is removed."""
        for _ in range(runs):
            self.run(images)
        session = self._open()
        file = Path(session.end_profiling())
        try:
            events = msgspec.json.decode(file.read_bytes())
        except (OSError, msgspec.DecodeError) as error:  # scratch that is full or read-only
            raise BackendError(f"ONNX Runtime's profile in '{file}' cannot be read: {error}") from None
        finally:
            with suppress(OSError):
                file.unlink()
        seconds: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                key = event["name"].removesuffix(_KERNEL), event["args"].get("op_name", "")
                seconds.setdefault(key, []).append(event["dur"] / 1e6)
        return tuple(
            Operation(name=name, kind=kind, seconds=median(taken[-runs:]))  # those before warmed up
            for (name, kind), taken in seconds.items()
        )

    def close(self) -> None:
        """Free the session."""
        self._session = None


class ONNXRuntime(Backend):
    """Runs ONNX files on the CPU with ONNX Runtime's own optimisations."""

    name = "onnxruntime"
    survives_fork = True  # each session has threads of its own

    def unavailable(self, precision: Precision) -> str | None:
        """Return what is missing for `precision`."""
        if missing := lacking("cpu", "onnxruntime"):
            return missing
        if precision not in ("fp32", "int8"):
            return f"ONNX Runtime on a CPU has no {precision}; use fp32 or int8"
        return None

    def start(self, opening: Opening) -> ONNXRuntimeSession:
        """Load an ONNX file with all optimisations."""
        return ONNXRuntimeSession(_session(opening), opening.model)  # the file states its precision


def _session(opening: Opening) -> Any:  # noqa: ANN401 - its package may be missing
    runtime = unreported.onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.load_model_format", "ONNX")  # and not what its first bytes look like
    # Otherwise its idle threads go on spinning after a run and starve whatever runs next in the process: PyTorch's
    # median rose from 3 to 10 ms and its p90 to 67 ms on two cores (small network, variants run in turn).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if opening.profiled:
        options.enable_profiling = True
        try:
            options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "edgeresnext-onnxruntime")
        except FileNotFoundError as error:
            raise BackendError(f"ONNX Runtime writes its profile to a file: {error.strerror}") from None
    if opening.threads:
        options.intra_op_num_threads = opening.threads
    try:
        return runtime.InferenceSession(opening.content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise BackendError(f"ONNX Runtime refuses '{opening.file}': {error}") from error


BACKEND = ONNXRuntime()
