"""OpenVINO on the CPU: the fastest way to run a bundle without a GPU."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import unreported
from edgeresnext.backends.base import Backend, Opening, Operation, Session
from edgeresnext.errors import BackendError
from edgeresnext.extras import lacking
from edgeresnext.machine import child, cpu
from edgeresnext.spec import ModelSpec, Precision

if TYPE_CHECKING:
    import openvino


class OpenVINOSession(Session):
    """A compiled model with one request, taken by one thread at a time: a second would compete for the same cores."""

    def __init__(self, compiled: openvino.CompiledModel, model: ModelSpec) -> None:
        super().__init__(model)
        self._request: openvino.InferRequest | None = compiled.create_infer_request()
        self._lock = threading.Lock()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._lock:
            if self._request is None:
                raise self.closed()
            try:
                self._request.infer([images], share_inputs=True)
            except Exception as error:  # a message of its own that is no UTF-8 too
                raise BackendError(f"OpenVINO failed on a batch of {len(images)}: {error}") from error
            return np.array(self._request.get_output_tensor(0).data, np.float32)

    def compute_s(self, images: NDArray[np.uint8]) -> float | None:
        """Return the seconds of one inference on an input that is bound already."""
        openvino = unreported.openvino()
        with self._lock:
            if self._request is None:
                raise self.closed()
            try:
                bound = openvino.Tensor(np.ascontiguousarray(images), shared_memory=True)
                self._request.set_input_tensor(bound)
                start = time.perf_counter()
                self._request.infer()
                return time.perf_counter() - start
            except Exception as error:  # a message of its own that is no UTF-8 too
                raise BackendError(f"OpenVINO failed on a batch of {len(images)}: {error}") from error

    def profile(self, images: NDArray[np.uint8], runs: int) -> tuple[Operation, ...]:
        """Return what the counters tell, in whole microseconds; less than one, and what was fused, is left out."""
        openvino = unreported.openvino()
        executed = openvino.ProfilingInfo.Status.EXECUTED
        self.run(images)
        seconds: dict[tuple[str, str], list[float]] = {}
        for _ in range(runs):
            self.run(images)
            with self._lock:
                for one in self._request.get_profiling_info() if self._request else ():
                    if one.status == executed:
                        taken = one.real_time.total_seconds()
                        seconds.setdefault((one.node_name, one.node_type), []).append(taken)
        return tuple(Operation(name=name, kind=kind, seconds=median(taken)) for (name, kind), taken in seconds.items())

    def close(self) -> None:
        """Free the request."""
        with self._lock:
            self._request = None


class OpenVINO(Backend):
    """Runs ONNX files on the CPU; fp32 means fp32, bf16 only where the CPU has it."""

    name = "openvino"

    def unavailable(self, precision: Precision) -> str | None:
        """Return what is missing for `precision`."""
        if missing := lacking("cpu", "openvino"):
            return missing
        if precision not in ("fp32", "bf16", "int8"):
            return f"OpenVINO on a CPU has no {precision}; use fp32, bf16 or int8"
        return _crash() or _not_starting() or _unfit(precision)

    def start(self, opening: Opening) -> OpenVINOSession:
        """Compile an ONNX file for the CPU, with the batch left free."""
        config: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Without the hint OpenVINO runs float32 in bfloat16 on CPUs that have it: another precision.
            "INFERENCE_PRECISION_HINT": "bf16" if opening.artifact.precision == "bf16" else "f32",
            "PERF_COUNT": opening.profiled,
        }
        if opening.threads:
            config["INFERENCE_NUM_THREADS"] = opening.threads
        try:
            compiled = _core().compile_model(_read(opening.content), "CPU", config)
        except Exception as error:  # those of its frontends share no base class of their own
            raise BackendError(f"OpenVINO refuses '{opening.file}': {error}") from error
        return OpenVINOSession(compiled, opening.model)


def _not_starting() -> str | None:
    """Return why OpenVINO cannot be used though it is installed, or None."""
    try:
        _core()
    except (ImportError, OSError, RuntimeError) as error:  # a wheel for another system library, say
        return f"OpenVINO is installed but does not start: {error}"
    return None


def _unfit(precision: Precision) -> str | None:
    """Return why this processor is not given a precision, or None."""
    if precision == "bf16" and not ("BF16" in _capabilities() and cpu.bfloat16()):
        return "this CPU has no bfloat16 instructions (AVX512_BF16, AMX or Arm BF16), or oneDNN may not use them"
    if precision == "int8" and cpu.is_arm():
        # tests/device/arm64.sh, Cortex-A72 and -A76: 2025.4 has -10 dB, 2026.4 18 dB or an error, where 2024.6 had
        # 37.6 dB and ONNX Runtime has 38.3 dB of the same file. Not yet run on hardware.
        return "OpenVINO computes INT8 wrongly on Arm since 2025; ONNX Runtime computes it rightly"
    return None


_TOPOLOGY = Path("/sys/devices/system/cpu/cpu0/topology")
_PROBE_S = 60
_PROBE = """
import sys
sys.modules["openvino_telemetry"] = None
import openvino
from openvino import opset13
image = opset13.parameter([1, 4], openvino.Type.f32)
openvino.Core().compile_model(openvino.Model([opset13.relu(image)], [image], "probe"), "CPU")
"""


@functools.cache
def _crash() -> str | None:
    """Return why OpenVINO must not be touched in this process, or None.

    On Arm without the kernel's description of the processor, as in emulators and some containers, OpenVINO 2026.4 ends
    the process when it compiles. That cannot be caught: there a child process tries it first.
    """
    if not cpu.is_arm() or sys.platform != "linux" or _TOPOLOGY.exists() or not sys.executable:
        return None
    try:
        tried = subprocess.run(  # noqa: S603 - Python itself, and a constant
            child.running(_PROBE), capture_output=True, timeout=_PROBE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"OpenVINO does not start here: '{_TOPOLOGY.parent}' lacks what it asks of an Arm processor"
    if tried.returncode < 0:  # ended by a signal; anything else is an error that this process can catch
        return f"OpenVINO crashes here ({tried.returncode}): '{_TOPOLOGY}' is missing, which it needs on Arm"
    return None


def _read(content: bytes) -> openvino.Model:
    """Return the model of an ONNX file: by that frontend alone, for others find their own formats in the same bytes."""
    frontends = unreported.openvino().frontend.FrontEndManager()
    frontend = frontends.load_by_framework("onnx")
    model: openvino.Model = frontend.convert(frontend.load(io.BytesIO(content)))
    return model


@functools.cache
def _core() -> openvino.Core:
    core: openvino.Core = unreported.openvino().Core()
    return core


@functools.cache
def _capabilities() -> frozenset[str]:
    return frozenset(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


BACKEND = OpenVINO()
