"""What a session needs of CUDA: device memory, page-locked memory, copies, streams, events and graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeresnext.errors import BackendError

NON_BLOCKING = 1
"""cudaStreamNonBlocking and CU_STREAM_NON_BLOCKING: not ordered with the default stream of other libraries."""

_MIB = 2**20


class Cuda(ABC):
    """What a session needs of CUDA. Every call is made inside `active`.

    Device memory, streams, events and graphs are the library's own objects, here of type Any. `int` of device memory is
    its address.
    """

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
        """Return page-locked host memory, from which copies run at full speed and without blocking."""

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
        """Return what `queue` queues on `stream` as a graph, instead of running it.

        Raises:
            BackendError: The library cannot capture (`graphs`).
        """

    @abstractmethod
    def launch(self, graph: Any, stream: Any) -> None:
        """Queue the work of a graph."""

    @abstractmethod
    def release(self, *things: Any) -> None:
        """Free streams, events and graphs, where the library does not do so when the last reference goes."""

    def close(self) -> None:  # noqa: B027 - only pycuda holds something
        """Let go of the device's context; nothing of it may be used afterwards."""

    def shortage(self, nbytes: int, kind: str) -> BackendError:
        """Return the error for memory that could not be had."""
        free, total = self.memory()
        return BackendError(
            f"no {nbytes / _MIB:,.1f} MiB of {kind} left: {free / _MIB:,.0f} of {total / _MIB:,.0f} MiB are free "
            "on the GPU",
            "Close other programs on the GPU, or build with a smaller batch.",
            values=("batch",),
        )
