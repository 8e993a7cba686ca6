"""CUDA by cuda-python: the runtime API, which works in the device's primary context by itself."""

from __future__ import annotations

import ctypes
import importlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeresnext.backends.cuda.api import NON_BLOCKING, Buffer, Cuda, Event, Graph, Stream
from edgeresnext.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


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

    def call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the function returns
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
        """Return free and total device memory in bytes."""
        free, total = self.call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Buffer:
        """Return device memory."""
        try:
            return Buffer(int(self.call("cudaMalloc", nbytes)), nbytes)
        except BackendError as error:
            raise self.shortage(nbytes, "GPU memory") from error

    def free(self, buffer: Buffer) -> None:
        """Free device memory."""
        self.call("cudaFree", buffer.pointer)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory."""
        try:
            address = int(self.call("cudaHostAlloc", nbytes, 0))
        except BackendError as error:
            raise self.shortage(nbytes, "page-locked host memory") from error
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory."""
        self.call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> Stream:
        """Return a new stream."""
        return _RuntimeStream(self, self.call("cudaStreamCreateWithFlags", NON_BLOCKING))

    def event(self) -> Event:
        """Return a new event."""
        return _RuntimeEvent(self, self.call("cudaEventCreate"))

    def to_device(self, buffer: Buffer, source: NDArray[np.uint8], stream: Stream) -> None:
        """Queue a copy to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", buffer.pointer, source.ctypes.data, source.nbytes, kind, stream.handle)

    def to_host(self, target: NDArray[np.uint8], buffer: Buffer, stream: Stream) -> None:
        """Queue a copy to the host."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target.ctypes.data, buffer.pointer, target.nbytes, kind, stream.handle)

    @contextmanager
    def capture(self, stream: Stream, found: list[Graph]) -> Iterator[None]:
        """Capture what the block queues on `stream`."""
        # Thread-local: other threads go on allocating memory, which a global capture would forbid.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            yield
        except BaseException:
            with suppress(BackendError):  # it ends the capture, and says only that it was broken
                self.call("cudaGraphDestroy", self.call("cudaStreamEndCapture", stream.handle))
            raise
        graph = self.call("cudaStreamEndCapture", stream.handle)
        try:
            found.append(_RuntimeGraph(self, self.call("cudaGraphInstantiate", graph, 0)))
        finally:
            self.call("cudaGraphDestroy", graph)


class _RuntimeStream(Stream):
    """A stream of the runtime API."""

    def __init__(self, cuda: CudaPython, stream: Any) -> None:  # noqa: ANN401 - cudaStream_t
        self._cuda = cuda
        self._stream = stream
        self.handle = int(stream)

    def synchronize(self) -> None:
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        self._cuda.call("cudaStreamDestroy", self._stream)


class _RuntimeEvent(Event):
    """An event of the runtime API."""

    def __init__(self, cuda: CudaPython, event: Any) -> None:  # noqa: ANN401 - cudaEvent_t
        self._cuda = cuda
        self._event = event

    def record(self, stream: Stream) -> None:
        self._cuda.call("cudaEventRecord", self._event, stream.handle)

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, _RuntimeEvent)
        return float(self._cuda.call("cudaEventElapsedTime", earlier._event, self._event)) / 1e3  # noqa: SLF001

    def close(self) -> None:
        self._cuda.call("cudaEventDestroy", self._event)


class _RuntimeGraph(Graph):
    """An instantiated graph of the runtime API."""

    def __init__(self, cuda: CudaPython, executable: Any) -> None:  # noqa: ANN401 - cudaGraphExec_t
        self._cuda = cuda
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        self._cuda.call("cudaGraphLaunch", self._executable, stream.handle)

    def close(self) -> None:
        self._cuda.call("cudaGraphExecDestroy", self._executable)
