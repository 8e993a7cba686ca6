"""CUDA by pycuda: the driver API, on the device's primary context."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeresnext.backends.cuda.api import NON_BLOCKING, Buffer, Cuda, Event, Stream
from edgeresnext.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


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
            raise self.shortage(nbytes, "GPU memory") from error
        return Buffer(int(allocation), nbytes, allocation)

    def free(self, buffer: Buffer) -> None:
        """Free device memory."""
        buffer.owner.free()

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory."""
        try:
            array: NDArray[np.uint8] = self._driver.pagelocked_empty(nbytes, np.uint8)
        except self._driver.MemoryError as error:
            raise self.shortage(nbytes, "page-locked host memory") from error
        return array

    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory, which pycuda does when its last view goes."""
        del array

    def stream(self) -> Stream:
        """Return a new stream."""
        return _DriverStream(self._driver.Stream(NON_BLOCKING))

    def event(self) -> Event:
        """Return a new event."""
        return _DriverEvent(self._driver.Event())

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


class _DriverEvent(Event):
    """An event of pycuda, which frees itself."""

    def __init__(self, event: Any) -> None:  # noqa: ANN401 - pycuda has no types
        self.event = event

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, _DriverStream)
        self.event.record(stream.stream)

    def seconds_since(self, earlier: Event) -> float:
        assert isinstance(earlier, _DriverEvent)
        return float(earlier.event.time_till(self.event)) / 1e3

    def close(self) -> None:
        self.event = None
