"""CUDA by pycuda: the driver API, on the device's primary context."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.cuda.api import NON_BLOCKING, Cuda
from edgeresnext.errors import BackendError


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
        free, total = self._driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Any:
        try:
            return self._driver.mem_alloc(nbytes)
        except self._driver.MemoryError as error:
            raise self.shortage(nbytes, "GPU memory") from error

    def free(self, memory: Any) -> None:
        memory.free()

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        try:
            array: NDArray[np.uint8] = self._driver.pagelocked_empty(nbytes, np.uint8)
        except self._driver.MemoryError as error:
            raise self.shortage(nbytes, "page-locked host memory") from error
        return array

    def unpin(self, array: NDArray[np.uint8]) -> None:
        del array  # pycuda frees it when its last view goes

    def stream(self) -> Any:
        return self._driver.Stream(NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream.handle)

    def synchronize(self, stream: Any) -> None:
        stream.synchronize()

    def event(self) -> Any:
        return self._driver.Event()

    def record(self, event: Any, stream: Any) -> None:
        event.record(stream)

    def seconds_between(self, start: Any, end: Any) -> float:
        return float(start.time_till(end)) / 1e3

    def to_device(self, memory: Any, source: NDArray[np.uint8], stream: Any) -> None:
        self._driver.memcpy_htod_async(int(memory), source, stream)

    def to_host(self, target: NDArray[np.uint8], memory: Any, stream: Any) -> None:
        self._driver.memcpy_dtoh_async(target, int(memory), stream)

    def capture(self, stream: Any, queue: Callable[[], None]) -> Any:
        del stream, queue
        raise BackendError("pycuda cannot capture CUDA graphs", "pip install cuda-python")

    def launch(self, graph: Any, stream: Any) -> None:
        """Nothing: there are no graphs."""

    def release(self, *things: Any) -> None:
        """Nothing: what pycuda makes is freed with its last reference."""

    def close(self) -> None:
        """Release the primary context, of which pycuda counts the users."""
        self._context.detach()
