"""CUDA by pycuda, for programs whose own objects are of that library."""

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
    """CUDA's driver API through pycuda. `pycuda.autoinit`, which makes a context of its own, is never imported."""

    name = "pycuda"
    graphs = False

    def __init__(self, device: int) -> None:
        super().__init__(device)
        self._driver = importlib.import_module("pycuda.driver")
        self._context: Any = None
        try:
            self._driver.init()
            self._device = self._driver.Device(device)
        except self._driver.Error as error:
            raise BackendError(f"pycuda finds no GPU: {error}", "edgeresnext doctor shows what is missing.") from None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Push the primary context for the block, and turn pycuda's errors into ours.

        It is kept as long as the process lives: pycuda's `detach` of a context that is not current pushes it and
        leaves it there (cuda.hpp).
        """
        try:
            if self._context is None:
                self._context = self._device.retain_primary_context()
            self._context.push()
        except self._driver.Error as error:
            raise BackendError(f"CUDA failed: {error}") from error
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
        mapped = self._driver.host_alloc_flags.DEVICEMAP
        try:
            array: NDArray[np.uint8] = self._driver.pagelocked_empty(nbytes, np.uint8, mem_flags=mapped)
        except self._driver.MemoryError as error:
            raise self.shortage(nbytes, "page-locked host memory") from error
        return array

    def mapped(self, array: NDArray[np.uint8]) -> int:
        owner: Any = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        return int(owner.get_device_pointer())

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
        raise BackendError("pycuda cannot capture CUDA graphs", "Leave EDGERESNEXT_CUDA out: CUDA by ctypes can.")

    def launch(self, graph: Any, stream: Any) -> None:
        """Nothing: there are no graphs."""

    def release_stream(self, stream: Any) -> None:
        """Nothing: what pycuda makes is freed with its last reference."""

    def release_event(self, event: Any) -> None:
        """Nothing, likewise."""

    def release_graph(self, graph: Any) -> None:
        """Nothing, likewise."""
