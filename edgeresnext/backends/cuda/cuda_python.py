"""CUDA by cuda-python: the runtime API, which works in the device's primary context by itself."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.cuda.api import NON_BLOCKING, Cuda
from edgeresnext.errors import BackendError


class CudaPython(Cuda):
    """CUDA's runtime API through cuda-python (`cuda.bindings`)."""

    library = "cuda-python"
    graphs = True

    def __init__(self) -> None:
        self._runtime = importlib.import_module("cuda.bindings.runtime")
        if not self.call("cudaGetDeviceCount"):
            raise BackendError("CUDA finds no GPU", "edgeresnext doctor shows what is missing.")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the first device current in this thread for the block; PyTorch may have chosen another."""
        before = int(self.call("cudaGetDevice"))
        if before:
            self.call("cudaSetDevice", 0)
        try:
            yield
        finally:
            if before:
                self.call("cudaSetDevice", before)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime API by name.

        Raises:
            BackendError: It did not succeed.
        """
        error, *values = getattr(self._runtime, name)(*arguments)
        if error != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(error)
            raise BackendError(f"CUDA's {name} failed: {text.decode() if isinstance(text, bytes) else text}")
        return values[0] if len(values) == 1 else tuple(values)

    def memory(self) -> tuple[int, int]:
        free, total = self.call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        try:
            return int(self.call("cudaMalloc", nbytes))
        except BackendError as error:
            raise self.shortage(nbytes, "GPU memory") from error

    def free(self, memory: int) -> None:
        self.call("cudaFree", memory)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        try:
            address = int(self.call("cudaHostAlloc", nbytes, 0))
        except BackendError as error:
            raise self.shortage(nbytes, "page-locked host memory") from error
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def unpin(self, array: NDArray[np.uint8]) -> None:
        self.call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> Any:
        return self.call("cudaStreamCreateWithFlags", NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        self.call("cudaStreamSynchronize", stream)

    def event(self) -> Any:
        return self.call("cudaEventCreate")

    def record(self, event: Any, stream: Any) -> None:
        self.call("cudaEventRecord", event, stream)

    def seconds_between(self, start: Any, end: Any) -> float:
        return float(self.call("cudaEventElapsedTime", start, end)) / 1e3

    def to_device(self, memory: int, source: NDArray[np.uint8], stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", memory, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: NDArray[np.uint8], memory: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target.ctypes.data, memory, target.nbytes, kind, stream)

    def capture(self, stream: Any, queue: Callable[[], None]) -> Any:
        # Thread-local: other threads go on allocating memory, which a global capture would forbid.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            queue()
        except BaseException:
            with suppress(BackendError):  # it ends the capture, and says only that it was broken
                self.call("cudaGraphDestroy", self.call("cudaStreamEndCapture", stream))
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self.call("cudaGraphLaunch", graph, stream)

    def release(self, *things: Any) -> None:
        for thing in things:
            self.call(_DESTROY[type(thing).__name__], thing)


_DESTROY = {
    "cudaStream_t": "cudaStreamDestroy",
    "cudaEvent_t": "cudaEventDestroy",
    "cudaGraphExec_t": "cudaGraphExecDestroy",
}
