"""What a session needs of CUDA: device memory, page-locked memory, copies, streams, events and graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from edgeresnext.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

NON_BLOCKING = 1
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


class Event(ABC):
    """A point in a stream, and when the device came to it."""

    @abstractmethod
    def record(self, stream: Stream) -> None:
        """Put the point at the end of what is queued on `stream`."""

    @abstractmethod
    def seconds_since(self, earlier: Event) -> float:
        """Return the device's seconds between two points that it has passed."""

    @abstractmethod
    def close(self) -> None:
        """Free the event."""


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
    def event(self) -> Event:
        """Return a new event."""

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

    def shortage(self, nbytes: int, kind: str) -> BackendError:
        """Return the error for memory that could not be had."""
        free, total = self.memory()
        return BackendError(
            f"no {nbytes / _MIB:,.1f} MiB of {kind} left: {free / _MIB:,.0f} of {total / _MIB:,.0f} MiB are free "
            "on the GPU",
            "Close other programs on the GPU, or build with a smaller --batch.",
        )
