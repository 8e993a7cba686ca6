"""Stands in for `pycuda.driver`. Memory and streams need a context that was pushed in this thread."""

import builtins
import ctypes
from functools import partial

import numpy as np
from standins.simulated_gpu import DEVICE_TO_DEVICE, DEVICE_TO_HOST, HOST_TO_DEVICE, Fault, gpu

initialised = []
NON_BLOCKING = 1


class host_alloc_flags:  # noqa: N801
    """What page-locked memory is for."""

    PORTABLE = 1
    DEVICEMAP = 2
    WRITECOMBINED = 4


class Error(Exception):
    """Base of pycuda's errors."""


class LogicError(Error):
    """The library was used wrongly."""


class LaunchError(Error):
    """A kernel failed."""


class RuntimeError(Error, builtins.RuntimeError):  # noqa: A001 - pycuda's names
    """Something failed at run time."""


class MemoryError(Error, builtins.MemoryError):  # noqa: A001
    """Memory is short."""


def require_context(function):
    """Raise as CUDA does where no context is current; then, where a test asked for it, the failure of this call."""
    if not gpu.stack:
        raise LogicError(f"{function} failed: invalid device context")
    if function in gpu.failures:
        gpu.failures.pop(function)
        raise LogicError(f"{function} failed: failure asked for by the test")


def init(flags=0):
    """Initialise CUDA."""
    if gpu.count == 0:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")
    initialised.append(flags)


class Device:
    """A device."""

    def __init__(self, number):
        if not initialised:
            raise LogicError("cuDeviceGet failed: initialization error")
        if not 0 <= number < len(gpu.devices):
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self._number = number

    def retain_primary_context(self):
        if gpu.failures.pop("retain_primary_context", None):
            raise MemoryError("cuDevicePrimaryCtxRetain failed: out of memory")
        return Context(self._number)

    def make_context(self, flags=0):
        raise AssertionError("a context of one's own breaks programs that use the primary one")


class Context:
    """The primary context, retained until detach or the end of the object."""

    def __init__(self, device):
        self._device = device
        gpu.retain(device)
        self._valid = True

    def push(self):
        if not self._valid:
            raise LogicError("cuCtxPushCurrent failed: invalid device context")
        gpu.stack.append(self._device)

    @staticmethod
    def pop():
        if not gpu.stack:
            raise LogicError("cannot pop: no context is current")
        gpu.stack.pop()

    def detach(self):
        """Give the context up; where it is not current, it is pushed first and stays there, as in cuda.hpp."""
        if not self._valid:
            raise LogicError("cannot detach from invalid context")
        self._valid = False
        if gpu.current != self._device:
            gpu.stack.append(self._device)
            gpu.faults.append("detach: left a context on the stack")
        gpu.release_context(self._device)


class DeviceAllocation:
    """Device memory, freed with the object."""

    def __init__(self, address):
        self._address = address

    def __int__(self):
        return self._address

    __index__ = __int__

    def free(self):
        gpu.free(self._address)

    def __del__(self):
        if self._address in gpu.allocations:
            gpu.free(self._address)


class PagelockedHostAllocation:
    """Page-locked memory: the base of the arrays that wrap it, and freed with the last of them."""

    def __init__(self, nbytes):
        self._owner = (ctypes.c_ubyte * max(nbytes, 1))()
        self._address = ctypes.addressof(self._owner)
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (self._address, False)}
        gpu.pin(self._address, nbytes, self._owner)

    def free(self):
        gpu.unpin(self._address)

    def get_device_pointer(self):
        require_context("cuMemHostGetDevicePointer")
        return self._address

    def __del__(self):
        if gpu.pinned.get(self._address, (0, None))[1] is self._owner:
            gpu.unpin(self._address, keep=False)


def mem_get_info():
    """Free and total bytes."""
    require_context("cuMemGetInfo")
    return gpu.memory_bytes - gpu.used_bytes, gpu.memory_bytes


def mem_alloc(nbytes):
    """Device memory."""
    if gpu.failures.pop("mem_alloc", None):
        raise MemoryError("cuMemAlloc failed: out of memory")
    require_context("cuMemAlloc")
    address = gpu.allocate(int(nbytes))
    if address is None:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(address)


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    """An array of page-locked host memory."""
    if gpu.failures.pop("pagelocked_empty", None):
        raise MemoryError("cuMemHostAlloc failed: out of memory")
    require_context("cuMemHostAlloc")
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (int(shape),)
    dtype = np.dtype(dtype)
    owner = PagelockedHostAllocation(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return np.asarray(owner).view(dtype).reshape(shape, order=order)


def host_range(array, *, writable):
    """The address and size of a contiguous host buffer."""
    view = memoryview(array)
    if not view.c_contiguous or (writable and view.readonly):
        raise ValueError("ndarray is not contiguous, or not writable")
    return np.asarray(array).ctypes.data, view.nbytes


def stream_handle(stream):
    """The handle of a stream; 0 for None."""
    if stream is not None and not isinstance(stream, Stream):
        raise TypeError(f"stream must be a Stream, not {type(stream).__name__}")
    return 0 if stream is None else stream.handle


def memcpy_htod_async(dest, src, stream=None):
    """Queue a copy to the device."""
    require_context("cuMemcpyHtoDAsync")
    address, nbytes = host_range(src, writable=False)
    gpu.copy(int(dest), address, nbytes, HOST_TO_DEVICE, stream_handle(stream))


def memcpy_dtoh_async(dest, src, stream=None):
    """Queue a copy from the device."""
    require_context("cuMemcpyDtoHAsync")
    address, nbytes = host_range(dest, writable=True)
    gpu.copy(address, int(src), nbytes, DEVICE_TO_HOST, stream_handle(stream))


def memcpy_dtod_async(dest, src, size, stream=None):
    """Queue a copy on the device."""
    require_context("cuMemcpyDtoDAsync")
    gpu.copy(int(dest), int(src), size, DEVICE_TO_DEVICE, stream_handle(stream))


def discard(destroy, alive, handle):
    """Destroy what an object that goes away held. A fault is recorded; a destructor cannot raise it."""
    if handle in alive():
        try:
            destroy(handle)
        except Fault:
            alive().pop(handle, None)


class Stream:
    """A stream, destroyed with the object."""

    def __init__(self, flags=0):
        require_context("cuStreamCreate")
        self.handle = gpu.create_stream()
        self._discard = partial(discard, gpu.destroy_stream, lambda: gpu.streams, self.handle)

    def synchronize(self):
        require_context("cuStreamSynchronize")
        if not gpu.synchronise(self.handle):
            raise LogicError("cuStreamSynchronize failed: operation not permitted when stream is capturing")

    def wait_for_event(self, event):
        require_context("cuStreamWaitEvent")
        gpu.wait(self.handle, event.handle)

    def __del__(self):
        if hasattr(self, "_discard"):
            self._discard()


class Event:
    """An event, destroyed with the object."""

    def __init__(self, flags=0):
        require_context("cuEventCreate")
        self.handle = gpu.create_event()
        self._discard = partial(discard, gpu.destroy_event, lambda: gpu.events, self.handle)

    def record(self, stream=None):
        require_context("cuEventRecord")
        gpu.record(self.handle, stream_handle(stream))
        return self

    def time_till(self, event):
        times = gpu.event(self.handle).last.time, gpu.event(event.handle).last.time
        if None in times:
            raise LogicError("cuEventElapsedTime failed: device not ready")
        return times[1] - times[0]

    def query(self):
        last = gpu.event(self.handle).last
        return last is None or last.time is not None

    def __del__(self):
        if hasattr(self, "_discard"):
            self._discard()
