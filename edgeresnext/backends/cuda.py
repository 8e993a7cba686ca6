"""Device memory, copies and streams, by pycuda or by cuda-python: whichever is installed.

Both use the device's primary context, the one that PyTorch and TensorRT use too; `pycuda.autoinit`, which makes a
context of its own and breaks such programs, is never imported.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeresnext.errors import BackendError, NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_NON_BLOCKING = 1
"""cudaStreamNonBlocking and CU_STREAM_NON_BLOCKING: not ordered with the default stream of other libraries."""

_MIB = 2**20


class Buffer:
    """Memory on the device.

    Args:
        pointer: Its address.
        nbytes: Its size.
        owner: What keeps it alive, where that is an object.
    """

    def __init__(self, pointer: int, nbytes: int, owner: Any = None) -> None:  # noqa: ANN401 - the library's own type
        self.pointer = pointer
        self.nbytes = nbytes
        self.owner = owner


class Stream(ABC):
    """A queue of copies and kernels on the device."""

    handle: int

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything queued is done."""

    @abstractmethod
    def close(self) -> None:
        """Free the stream."""


class Graph(ABC):
    """Work that was captured from a stream and is launched as one."""

    @abstractmethod
    def launch(self, stream: Stream) -> None:
        """Queue the captured work."""

    @abstractmethod
    def close(self) -> None:
        """Free the graph."""


class Cuda(ABC):
    """What a session needs of CUDA. Every call is made inside `active`."""

    library: ClassVar[str]
    graphs: ClassVar[bool]
    """Whether the library can capture a stream."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device's primary context current in this thread."""
        yield

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Return free and total device memory in bytes."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Buffer:
        """Return device memory.

        Raises:
            BackendError: There is not enough; the message says how much was wanted and how much is free.
        """

    @abstractmethod
    def free(self, buffer: Buffer) -> None:
        """Free device memory."""

    @abstractmethod
    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory, from which copies run at full speed and without blocking."""

    @abstractmethod
    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory; no view of it may be used afterwards."""

    @abstractmethod
    def stream(self) -> Stream:
        """Return a new stream."""

    @abstractmethod
    def to_device(self, buffer: Buffer, source: NDArray[np.uint8], stream: Stream) -> None:
        """Queue a copy of page-locked memory to the device."""

    @abstractmethod
    def to_host(self, target: NDArray[np.uint8], buffer: Buffer, stream: Stream) -> None:
        """Queue a copy from the device into page-locked memory."""

    @contextmanager
    def capture(self, stream: Stream, found: list[Graph]) -> Iterator[None]:
        """Capture what the block queues on `stream` instead of running it; the graph is appended to `found`.

        Raises:
            BackendError: The library cannot capture.
        """
        del stream, found
        raise BackendError(f"{self.library} cannot capture CUDA graphs", "pip install cuda-python")
        yield  # a context manager even so

    def close(self) -> None:  # noqa: B027 - only pycuda holds something
        """Let go of the device's context; nothing of it may be used afterwards."""

    def _shortage(self, nbytes: int, kind: str) -> BackendError:
        """Return the error for memory that could not be had."""
        free, total = self.memory()
        return BackendError(
            f"no {nbytes / _MIB:,.1f} MiB of {kind} left: {free / _MIB:,.0f} of {total / _MIB:,.0f} MiB are free "
            "on the GPU",
            "Close other programs on the GPU, or build with a smaller --batch.",
        )


class CudaPython(Cuda):
    """CUDA's runtime API through cuda-python (`cuda.bindings`)."""

    library = "cuda-python"
    graphs = True

    def __init__(self) -> None:
        self._runtime = importlib.import_module("cuda.bindings.runtime")
        if not self.call("cudaGetDeviceCount"):
            raise BackendError("CUDA finds no GPU", "edgeresnext doctor shows what is missing.")

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
            raise self._shortage(nbytes, "GPU memory") from error

    def free(self, buffer: Buffer) -> None:
        """Free device memory."""
        self.call("cudaFree", buffer.pointer)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory."""
        try:
            address = int(self.call("cudaHostAlloc", nbytes, 0))
        except BackendError as error:
            raise self._shortage(nbytes, "page-locked host memory") from error
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory."""
        self.call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> Stream:
        """Return a new stream."""
        return _RuntimeStream(self, self.call("cudaStreamCreateWithFlags", _NON_BLOCKING))

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
        finally:
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


class _RuntimeGraph(Graph):
    """An instantiated graph of the runtime API."""

    def __init__(self, cuda: CudaPython, executable: Any) -> None:  # noqa: ANN401 - cudaGraphExec_t
        self._cuda = cuda
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        self._cuda.call("cudaGraphLaunch", self._executable, stream.handle)

    def close(self) -> None:
        self._cuda.call("cudaGraphExecDestroy", self._executable)


class PyCuda(Cuda):
    """CUDA's driver API through pycuda, on the primary context of the first device."""

    library = "pycuda"
    graphs = False

    def __init__(self) -> None:
        self._driver = importlib.import_module("pycuda.driver")
        try:
            self._driver.init()
            self._context = self._driver.Device(0).retain_primary_context()
        except self._driver.Error as error:
            raise BackendError(f"pycuda finds no GPU: {error}", "edgeresnext doctor shows what is missing.") from None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Push the primary context for the block, and turn pycuda's errors into ours."""
        self._context.push()
        try:
            yield
        except self._driver.Error as error:
            raise BackendError(f"CUDA failed: {error}") from error
        finally:
            self._context.pop()

    def memory(self) -> tuple[int, int]:
        """Return free and total device memory in bytes."""
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Buffer:
        """Return device memory."""
        try:
            allocation = self._driver.mem_alloc(nbytes)
        except self._driver.MemoryError as error:
            raise self._shortage(nbytes, "GPU memory") from error
        return Buffer(int(allocation), nbytes, allocation)

    def free(self, buffer: Buffer) -> None:
        """Free device memory."""
        buffer.owner.free()

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory."""
        try:
            array: NDArray[np.uint8] = self._driver.pagelocked_empty(nbytes, np.uint8)
        except self._driver.MemoryError as error:
            raise self._shortage(nbytes, "page-locked host memory") from error
        return array

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory, which pycuda does when its last view goes."""
        del array

    def stream(self) -> Stream:
        """Return a new stream."""
        return _DriverStream(self._driver.Stream(_NON_BLOCKING))

    def close(self) -> None:
        """Release the primary context, of which pycuda counts the users."""
        self._context.detach()

    def to_device(self, buffer: Buffer, source: NDArray[np.uint8], stream: Stream) -> None:
        """Queue a copy to the device."""
        assert isinstance(stream, _DriverStream)
        self._driver.memcpy_htod_async(buffer.pointer, source, stream.stream)

    def to_host(self, target: NDArray[np.uint8], buffer: Buffer, stream: Stream) -> None:
        """Queue a copy to the host."""
        assert isinstance(stream, _DriverStream)
        self._driver.memcpy_dtoh_async(target, buffer.pointer, stream.stream)


class _DriverStream(Stream):
    """A stream of pycuda, which frees itself."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - pycuda has no types
        self.stream = stream
        self.handle = int(stream.handle)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def close(self) -> None:
        self.stream = None


LIBRARIES: dict[str, type[Cuda]] = {"cuda.bindings": CudaPython, "pycuda": PyCuda}
"""The package that each implementation needs, the preferred one first: only it captures CUDA graphs."""

HOW_TO_INSTALL = "pip install cuda-python (or pycuda, which compiles against the CUDA headers)"


def installed() -> type[Cuda] | None:
    """Return the implementation whose package is installed, cuda-python first."""
    return next((library for package, library in LIBRARIES.items() if _found(package)), None)


def _found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # its parent package is missing; or a module without a spec
        return False


def connect() -> Cuda:
    """Return CUDA by the library that is installed.

    Raises:
        NotInstalledError: None is.
        BackendError: It finds no GPU.
    """
    library = installed()
    if library is None:
        raise NotInstalledError("TensorRT needs a Python library for CUDA memory", HOW_TO_INSTALL)
    return library()
