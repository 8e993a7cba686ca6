"""CUDA's driver API: by ctypes, which needs no package; `cuda_python` makes the same calls through its bindings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.cuda.api import DEVICE_MAPPED, NON_BLOCKING, Cuda
from edgeresnext.errors import BackendError
from edgeresnext.machine import libcuda
from edgeresnext.machine.libcuda import OUT_OF_MEMORY, CudaError

CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads go on allocating, which a global capture would forbid."""


class Driver(Cuda):
    """The driver API by ctypes. Handles and addresses are int."""

    name = "libcuda"

    def __init__(self, device: int) -> None:
        super().__init__(device)
        self._context: Any = None
        self.start()
        self._ordinal = self.call("cuDeviceGet", device)

    def start(self) -> None:
        """Load what makes the calls, and start CUDA."""
        self._libcuda = libcuda.load()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function by cuda.h's name, and return what it writes.

        Raises:
            CudaError: It did not succeed.
        """
        return self._libcuda.call(name, *arguments)

    @contextmanager
    def active(self) -> Iterator[None]:
        if self._context is None:  # two threads that come here at once retain it twice, which does no harm
            self._context = self.call("cuDevicePrimaryCtxRetain", self._ordinal)
        self.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    def _had(self, kind: str, nbytes: int, name: str, *arguments: Any) -> int:
        """Return the address of new memory."""
        try:
            return int(self.call(name, nbytes, *arguments))
        except CudaError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            raise self.shortage(nbytes, kind) from error

    def allocate(self, nbytes: int) -> int:
        return self._had("GPU memory", nbytes, "cuMemAlloc")

    def free(self, memory: int) -> None:
        self.call("cuMemFree", memory)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        address = self._had("page-locked host memory", nbytes, "cuMemHostAlloc", DEVICE_MAPPED)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def mapped(self, array: NDArray[np.uint8]) -> int:
        return int(self.call("cuMemHostGetDevicePointer", array.ctypes.data, 0))

    def unpin(self, array: NDArray[np.uint8]) -> None:
        self.call("cuMemFreeHost", array.ctypes.data)

    def stream(self) -> Any:
        return self.call("cuStreamCreate", NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream)

    def synchronize(self, stream: Any) -> None:
        self.call("cuStreamSynchronize", stream)

    def event(self) -> Any:
        return self.call("cuEventCreate", 0)

    def record(self, event: Any, stream: Any) -> None:
        self.call("cuEventRecord", event, stream)

    def seconds_between(self, start: Any, end: Any) -> float:
        return float(self.call("cuEventElapsedTime", start, end)) / 1e3

    def to_device(self, memory: int, source: NDArray[np.uint8], stream: Any) -> None:
        self.call("cuMemcpyHtoDAsync", memory, source.ctypes.data, source.nbytes, stream)

    def to_host(self, target: NDArray[np.uint8], memory: int, stream: Any) -> None:
        self.call("cuMemcpyDtoHAsync", target.ctypes.data, memory, target.nbytes, stream)

    def capture_mode(self) -> Any:
        """Return the mode in which streams are captured, as `call` takes it."""
        return CAPTURE_THREAD_LOCAL

    def capture(self, stream: Any, queue: Callable[[], None]) -> Any:
        self.call("cuStreamBeginCapture", stream, self.capture_mode())
        try:
            queue()
        except BaseException:
            # Until its capture is ended, a stream that broke one refuses everything. The driver keeps nothing else of
            # the error; ending it says once more that it was broken, or gives the half of a graph.
            with suppress(BackendError):
                self.call("cuGraphDestroy", self.call("cuStreamEndCapture", stream))
            raise
        graph = self.call("cuStreamEndCapture", stream)
        try:
            return self.call("cuGraphInstantiate", graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self.call("cuGraphLaunch", graph, stream)

    def release_stream(self, stream: Any) -> None:
        self.call("cuStreamDestroy", stream)

    def release_event(self, event: Any) -> None:
        self.call("cuEventDestroy", event)

    def release_graph(self, graph: Any) -> None:
        self.call("cuGraphExecDestroy", graph)
