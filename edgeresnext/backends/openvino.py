"""OpenVINO on the CPU: the fastest way to run a bundle without a GPU."""

from __future__ import annotations

import functools
import importlib.util
import threading
from typing import TYPE_CHECKING

import numpy as np

from edgeresnext.backends.base import Backend, Session
from edgeresnext.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    import openvino
    from numpy.typing import NDArray

    from edgeresnext.spec import Engine, ModelSpec, Precision


class OpenVINOSession(Session):
    """A compiled model with one request, taken by one thread at a time: a second would compete for the same cores."""

    def __init__(self, compiled: openvino.CompiledModel, model: ModelSpec) -> None:
        super().__init__(model)
        self._request: openvino.InferRequest | None = compiled.create_infer_request()
        self._lock = threading.Lock()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._lock:
            if self._request is None:
                raise BackendError("this session is closed", "Open it again.")
            try:
                self._request.infer([images], share_inputs=True)
            except RuntimeError as error:
                raise BackendError(f"OpenVINO failed on a batch of {len(images)}: {error}") from error
            return np.array(self._request.get_output_tensor(0).data, np.float32)

    def close(self) -> None:
        """Free the request."""
        with self._lock:
            self._request = None


class OpenVINO(Backend):
    """Runs ONNX files on the CPU; fp32 means fp32, bf16 only where the CPU has it."""

    name = "openvino"

    def unavailable(self, precision: Precision) -> str | None:
        """Return what is missing for `precision`."""
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed: pip install 'edgeresnext[cpu]'"
        if precision not in ("fp32", "bf16", "int8"):
            return f"OpenVINO on a CPU has no {precision}; use fp32, bf16 or int8"
        try:
            _core()
        except (ImportError, OSError, RuntimeError) as error:  # a wheel for another system library, say
            return f"OpenVINO is installed but does not start: {error}"
        if precision == "bf16" and "BF16" not in _capabilities():
            return "this CPU has no bfloat16 instructions (AVX512_BF16, AMX or Arm BF16)"
        return None

    def open(
        self, file: Path, model: ModelSpec, precision: Precision, threads: int | None, engine: Engine | None = None
    ) -> OpenVINOSession:
        """Compile an ONNX file for the CPU, with the batch left free."""
        del engine  # there is none
        config: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Without the hint OpenVINO runs float32 in bfloat16 on CPUs that have it: another precision.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = _core().compile_model(str(file), "CPU", config)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refuses '{file}': {error}") from error
        return OpenVINOSession(compiled, model)


@functools.cache
def _core() -> openvino.Core:
    import openvino

    return openvino.Core()


@functools.cache
def _capabilities() -> frozenset[str]:
    return frozenset(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


BACKEND = OpenVINO()
