"""Arrays on the GPU: those of other libraries, which are used where they lie, and ours, which others may use.

Streams are numbers here, whatever library made them, and calls go to the driver. All are made inside `Cuda.active`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from edgeresnext.backends import arrays, dlpack
from edgeresnext.backends.arrays import check_compact
from edgeresnext.backends.cuda.api import Cuda
from edgeresnext.backends.dlpack import Lent
from edgeresnext.errors import BackendError, DataError, RequestError
from edgeresnext.machine import libcuda
from edgeresnext.machine.libcuda import NOT_READY, CudaError

LEGACY = 1
"""CU_STREAM_LEGACY, the default stream, by a number that is not 0: DLPack and `__cuda_array_interface__` forbid 0."""
IMAGES, OUT = "the images", "out"
"""What arrays are for, in messages."""
_NO_TIMING = 2
"""CU_EVENT_DISABLE_TIMING: such events are faster."""
_DEVICE_ORDINAL = 9
"""CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL."""
_TYPES = {"|u1": "uint8", "<f4": "float32"}
"""Names of the types that matter, by `__cuda_array_interface__`."""


def number(stream: Any) -> int:
    """Return the number of a stream of the caller's, of any library.

    Args:
        stream: An int; or anything with `__cuda_stream__` (cuda.core, CuPy, Numba), `cuda_stream` (PyTorch), `handle`
            (pycuda), `ptr` (CuPy) or `__int__` (cuda.bindings).

    Raises:
        RequestError: It is none, is being captured, belongs to another GPU or context, or was destroyed, as far as CUDA
            tells that.
    """
    found = _number(stream)
    call = libcuda.load().call
    try:
        ours = call("cuStreamGetCtx", found) == call("cuStreamGetCtx", LEGACY)
        captured = call("cuStreamIsCapturing", found)
    except CudaError as error:
        raise RequestError(
            f"stream {stream!r} cannot be used: {error.what}", "Was it destroyed? Give one that is alive.",
            values=("stream",),
        ) from error  # fmt: skip
    if not ours:
        raise RequestError(
            f"stream {stream!r} is of another GPU or context than the engine",
            "Give a stream of the engine's GPU; device chooses that when the bundle is loaded.",
            values=("stream",),
        )
    if captured:
        raise RequestError(
            f"stream {stream!r} is being captured into a CUDA graph",
            "End the capture first: what is queued here is kept until it has run, and a graph may run it later.",
            values=("stream",),
        )
    return found


def _number(stream: Any) -> int:
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "handle", "ptr"):
        if hasattr(stream, name):
            stream = getattr(stream, name)
            break
    stream = getattr(stream, "value", stream)  # of ctypes, in Numba
    try:
        return 0 if stream is None else int(stream)
    except (TypeError, ValueError):
        raise RequestError(
            f"{type(stream).__name__} is no CUDA stream", "Give its number, or its object.", values=("stream",)
        ) from None


def follow(stream: int, other: int) -> None:
    """Let a stream wait for what is queued on another one now."""
    if stream != other:
        call = libcuda.load().call
        event = call("cuEventCreate", _NO_TIMING)
        call("cuEventRecord", event, other)
        call("cuStreamWaitEvent", stream, event, 0)
        call("cuEventDestroy", event)  # the driver keeps it until it is reached


class Borrowed:
    """An array of another library on the GPU of an engine, ready for work that is queued on `stream` from now on.

    Args:
        array: With `__dlpack__` or `__cuda_array_interface__`, or a DLPack capsule.
        stream: Where it will be used.
        cuda: The engine's GPU.
        what: `IMAGES` or `OUT`.

    Attributes:
        address: Of the first element.
        shape: Elements in each dimension.
        dtype: Such as "uint8".

    Raises:
        DataError: It lies elsewhere, has gaps, or cannot be had.
    """

    def __init__(self, array: Any, stream: int, cuda: Cuda, what: str) -> None:
        self._owner: Any
        if not arrays.on_gpu(array):
            raise DataError(f"{what}: {type(array).__name__} is not on a GPU", "Give images and out of the same kind.")
        if hasattr(array, "__dlpack_device__"):
            self._check_device(array.__dlpack_device__(), cuda, what)
        if dlpack.is_capsule(array) or hasattr(array, "__dlpack__"):
            if what == OUT and hasattr(array, "__dlpack__"):
                arrays.check_writable(array, stream=-1)
            self._lent(arrays.borrow(array, stream=stream or LEGACY), cuda, what)
            if dlpack.is_capsule(array):  # nobody could be told the stream
                follow(stream, LEGACY)
        else:
            self._described(array, stream, cuda, what)

    def _lent(self, lent: Lent, cuda: Cuda, what: str) -> None:
        self._check_device(lent.device, cuda, what)
        check_compact(lent.shape, lent.strides, what)
        self.address, self.shape, self.dtype, self._owner = lent.address, lent.shape, lent.dtype, lent

    def _described(self, array: Any, stream: int, cuda: Cuda, what: str) -> None:
        """Read `__cuda_array_interface__`, version 3, which tells no device, but may name a stream to wait for."""
        found = array.__cuda_array_interface__
        self.shape, typestr = tuple(found["shape"]), found["typestr"]
        self.dtype = _TYPES.get(typestr, typestr)
        self.address = int(found["data"][0] or 0)
        self._owner = array
        if found["data"][1] and what == OUT:
            raise DataError("out is read-only", "Give an array that can be written to.")
        strides = found.get("strides")
        if strides is not None:
            size = int(typestr[2:])
            check_compact(self.shape, tuple(stride // size for stride in strides), what)
        if math.prod(self.shape):
            try:
                device = libcuda.load().call("cuPointerGetAttribute", _DEVICE_ORDINAL, self.address)
            except CudaError:
                raise DataError(f"{what}: {self.address:#x} is no memory of a GPU", "Was it freed?") from None
            self._check_device((dlpack.CUDA, device), cuda, what)
        theirs = found.get("stream")
        if theirs is not None:
            follow(stream, int(theirs))

    @staticmethod
    def _check_device(place: tuple[int, int], cuda: Cuda, what: str) -> None:
        kind, device = place
        if kind == dlpack.CUDA and device != cuda.device:
            raise DataError(
                f"{what}: on GPU {device}, and the engine is on GPU {cuda.device}",
                f"Bring it there, by x.to('cuda:{cuda.device}') in PyTorch, or load the bundle with device={device}.",
            )


class DeviceArray:
    """Logits on a GPU: float32, compact. Other libraries use them by `__dlpack__` or `__cuda_array_interface__`.

    Args:
        shape: `(N, classes)`.
        cuda: The GPU.
        stream: The number of the stream on which it is written; None where that is done when the caller gets it.

    Attributes:
        shape: As above.

    Raises:
        BackendError: There is not enough memory.
    """

    dtype = "float32"

    def __init__(self, shape: tuple[int, ...], cuda: Cuda, stream: int | None) -> None:
        self.shape = shape
        self._cuda = cuda
        self._stream = stream
        self._memory = cuda.allocate(max(1, 4 * math.prod(shape)))
        self.address = int(self._memory)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._cuda.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Return a capsule; `stream`, the default stream where it is None, waits for the logits, but for -1."""
        del max_version  # those of 0.8 are taken by all
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            msg = "these logits are lent where they are, on the GPU"
            raise BufferError(msg)
        if self._stream is not None and stream != -1:
            with self._cuda.active():
                follow(LEGACY if stream is None else stream, self._stream)
        return dlpack.lend(self.address, self.shape, self.__dlpack_device__(), self)

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        stream = None if self._stream is None else self._stream or LEGACY
        return {
            "shape": self.shape, "typestr": "<f4", "data": (self.address, False), "strides": None, "version": 3,
            "stream": stream,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype} {self.shape} on GPU {self._cuda.device}>"

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            try:
                with self._cuda.active():
                    self._cuda.free(self._memory)
            except BackendError:  # a GPU that has failed frees nothing more
                pass


class Flights:
    """Work that is queued on streams of callers and not waited for, and what must live until it is done."""

    def __init__(self) -> None:
        self._queued: deque[tuple[int, object]] = deque()

    def add(self, stream: int, kept: object) -> None:
        """Note that what is queued on a stream by now needs `kept`."""
        call = libcuda.load().call
        event = call("cuEventCreate", _NO_TIMING)
        call("cuEventRecord", event, stream)
        self._queued.append((event, kept))

    def order(self, stream: int) -> None:
        """Let a stream wait for all of it, and let go of what is done."""
        call = libcuda.load().call
        while self._queued and _passed(self._queued[0][0]):
            call("cuEventDestroy", self._queued.popleft()[0])
        if self._queued:  # each waited for the one before
            call("cuStreamWaitEvent", stream, self._queued[-1][0], 0)

    def finish(self) -> None:
        """Wait for all of it."""
        call = libcuda.load().call
        while self._queued:
            event, _ = self._queued[0]
            call("cuEventSynchronize", event)
            call("cuEventDestroy", event)
            self._queued.popleft()


def _passed(event: int) -> bool:
    try:
        libcuda.load().call("cuEventQuery", event)
    except CudaError as error:
        if error.code == NOT_READY:
            return False
        raise
    return True
