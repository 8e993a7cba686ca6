"""What a session needs of CUDA: device memory, page-locked memory, copies, streams, events and graphs of one GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeresnext.errors import BackendError

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: not ordered with the default stream of other libraries."""

DEVICE_MAPPED = 2
"""CU_MEMHOSTALLOC_DEVICEMAP: the GPU can read and write page-locked memory where it lies."""

_MIB = 2**20


class Cuda(ABC):
    """What a session needs of CUDA, on one GPU and in its primary context. Every call is made inside `active`.

    The primary context is the one that PyTorch and TensorRT use too. It is retained once a process, and never released:
    others may hold what lives in it.

    Device memory, streams, events and graphs are the library's own objects, here of type Any. `int` of device memory is
    its address.

    Args:
        device: The GPU's place among those that CUDA offers.
    """

    name: ClassVar[str]
    graphs: ClassVar[bool] = True
    """Whether the library can capture a stream."""

    def __init__(self, device: int) -> None:
        self.device = device

    @contextmanager
    @abstractmethod
    def active(self) -> Iterator[None]:
        """Make the GPU's primary context current in this thread for the block."""
        yield

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Return free and total device memory in bytes."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Any:
        """Return device memory.

        Raises:
            BackendError: There is not enough; the message says how much was wanted and how much is free.
        """

    @abstractmethod
    def free(self, memory: Any) -> None:
        """Free device memory."""

    @abstractmethod
    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory: copies of it run at full speed and without blocking, and the GPU sees it.

        Raises:
            BackendError: There is not enough.
        """

    @abstractmethod
    def mapped(self, array: NDArray[np.uint8]) -> int:
        """Return the address at which the GPU sees page-locked memory."""

    @abstractmethod
    def unpin(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked memory; no view of it may be used afterwards."""

    @abstractmethod
    def stream(self) -> Any:
        """Return a new stream, a queue of copies and kernels on the device."""

    @abstractmethod
    def handle(self, stream: Any) -> int:
        """Return a stream's number, as TensorRT takes it."""

    @abstractmethod
    def synchronize(self, stream: Any) -> None:
        """Wait until everything queued is done."""

    @abstractmethod
    def event(self) -> Any:
        """Return a new event: a point in a stream, and when the device came to it."""

    @abstractmethod
    def record(self, event: Any, stream: Any) -> None:
        """Put the point at the end of what is queued on `stream`."""

    @abstractmethod
    def seconds_between(self, start: Any, end: Any) -> float:
        """Return the device's seconds between two points that it has passed."""

    @abstractmethod
    def to_device(self, memory: Any, source: NDArray[np.uint8], stream: Any) -> None:
        """Queue a copy of page-locked memory to the device."""

    @abstractmethod
    def to_host(self, target: NDArray[np.uint8], memory: Any, stream: Any) -> None:
        """Queue a copy from the device into page-locked memory."""

    @abstractmethod
    def capture(self, stream: Any, queue: Callable[[], None]) -> Any:
        """Return what `queue` queues on `stream` as a graph, instead of running it; the stream is usable after errors.

        Raises:
            BackendError: The library cannot capture (`graphs`), or the capture failed.
        """

    @abstractmethod
    def launch(self, graph: Any, stream: Any) -> None:
        """Queue the work of a graph."""

    @abstractmethod
    def release_stream(self, stream: Any) -> None:
        """Free a stream, where the library does not do so when the last reference goes."""

    @abstractmethod
    def release_event(self, event: Any) -> None:
        """Free an event, likewise."""

    @abstractmethod
    def release_graph(self, graph: Any) -> None:
        """Free a graph, likewise."""

    def shortage(self, nbytes: int, kind: str) -> BackendError:
        """Return the error for memory that could not be had."""
        free, total = self.memory()
        return BackendError(
            f"no {nbytes / _MIB:,.1f} MiB of {kind} left: {free / _MIB:,.0f} of {total / _MIB:,.0f} MiB are free "
            "on the GPU",
            "Close other programs on the GPU, or build with a smaller batch.",
            values=("batch",),
        )
