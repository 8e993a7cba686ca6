"""Stands in for `cuda.bindings.runtime`: the functions, argument names and enum values of cuda-python 13.5.

Every function returns a tuple whose first item is a cudaError_t. Mistakes that would corrupt memory raise `Fault`.
"""

# ruff: noqa: N801, N802, N803, N815, N816 - CUDA's names

import ctypes
import functools
from enum import IntEnum

from standins.simulated_gpu import gpu

cudaStreamDefault = 0
cudaStreamNonBlocking = 1
cudaHostAllocDefault = 0
cudaHostAllocPortable = 1
cudaHostAllocMapped = 2
cudaHostAllocWriteCombined = 4
cudaEventDefault = 0
cudaEventBlockingSync = 1
cudaEventDisableTiming = 2


class cudaError_t(IntEnum):
    """Error codes."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorUnknown = 999


class cudaMemcpyKind(IntEnum):
    """Directions of a copy."""

    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class cudaStreamCaptureMode(IntEnum):
    """Which calls a capture forbids."""

    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class Handle:
    """An opaque handle: int() of it is its value."""

    def __init__(self, value=0):
        self._value = int(value)

    def __int__(self):
        return self._value

    def __eq__(self, other):
        return isinstance(other, type(self)) and int(self) == int(other)

    def __hash__(self):
        return hash(self._value)


class cudaStream_t(Handle):
    """A stream."""


class cudaEvent_t(Handle):
    """An event."""


class cudaGraph_t(Handle):
    """A graph."""


class cudaGraphExec_t(Handle):
    """An executable graph."""


class cudaDeviceProp:
    """What is known about a device."""

    def __init__(self):
        self.name = gpu.name.encode()
        self.major, self.minor = gpu.compute_capability
        self.totalGlobalMem = gpu.memory_bytes
        self.integrated = gpu.integrated
        self.multiProcessorCount = 16


MESSAGES = {
    cudaError_t.cudaSuccess: b"no error",
    cudaError_t.cudaErrorInvalidValue: b"invalid argument",
    cudaError_t.cudaErrorMemoryAllocation: b"out of memory",
    cudaError_t.cudaErrorInsufficientDriver: b"CUDA driver version is insufficient for CUDA runtime version",
    cudaError_t.cudaErrorNoDevice: b"no CUDA-capable device is detected",
    cudaError_t.cudaErrorInvalidDevice: b"invalid device ordinal",
    cudaError_t.cudaErrorInvalidResourceHandle: b"invalid resource handle",
    cudaError_t.cudaErrorNotReady: b"device not ready",
    cudaError_t.cudaErrorIllegalAddress: b"an illegal memory access was encountered",
    cudaError_t.cudaErrorStreamCaptureUnsupported: b"operation not permitted when stream is capturing",
    cudaError_t.cudaErrorStreamCaptureInvalidated: b"operation failed due to a previous error during capture",
}
SUCCESS = cudaError_t.cudaSuccess


def call(values):
    """Make a function give cuda-python's tuple.

    The function returns its values, or a cudaError_t where it fails. `gpu.failures` may hold the error of its next call.

    Args:
        values: how many values follow the error code; they are None where the call fails.
    """

    def decorate(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            failure = gpu.failures.pop(function.__name__, None)
            result = cudaError_t.cudaErrorNoDevice if gpu.count == 0 else failure
            if result is None:
                result = function(*args, **kwargs)
            elif not isinstance(result, int):
                result = cudaError_t.cudaErrorUnknown
            else:
                result = cudaError_t(result)
            if isinstance(result, cudaError_t):
                return (result, *[None] * values)
            if values == 0:
                return (SUCCESS,)
            return (SUCCESS, *result) if isinstance(result, tuple) else (SUCCESS, result)

        return wrapped

    return decorate


def integer(value):
    """The value as an integer; TypeError as from Cython where it is none."""
    if isinstance(value, (str, bytes, float)) or not (hasattr(value, "__int__") or hasattr(value, "__index__")):
        raise TypeError("an integer is required")
    return int(value)


def enum(value, kind):
    """The value, which must be a member of the enum."""
    if not isinstance(value, kind):
        raise TypeError(f"Argument has incorrect type (expected {kind.__name__}, got {type(value).__name__})")
    return value


def handle(value, kind):
    """The number of a handle of this kind, or of an integer."""
    if isinstance(value, Handle) and not isinstance(value, kind):
        raise TypeError(f"Argument has incorrect type (expected {kind.__name__}, got {type(value).__name__})")
    return integer(value)


@call(1)
def cudaGetDeviceCount():
    return gpu.count


@call(1)
def cudaGetDevice():
    return 0


@call(0)
def cudaSetDevice(device):
    if not 0 <= integer(device) < gpu.count:
        return cudaError_t.cudaErrorInvalidDevice
    return None


@call(1)
def cudaGetDeviceProperties(device):
    if not 0 <= integer(device) < gpu.count:
        return cudaError_t.cudaErrorInvalidDevice
    return cudaDeviceProp()


@call(2)
def cudaMemGetInfo():
    return gpu.memory_bytes - gpu.used_bytes, gpu.memory_bytes


@call(1)
def cudaMalloc(size):
    if gpu.capturing:
        return cudaError_t.cudaErrorStreamCaptureUnsupported
    address = gpu.allocate(integer(size))
    return cudaError_t.cudaErrorMemoryAllocation if address is None else address


@call(0)
def cudaFree(devPtr):
    if gpu.capturing:
        return cudaError_t.cudaErrorStreamCaptureUnsupported
    if integer(devPtr):
        gpu.free(integer(devPtr))
    return None


@call(1)
def cudaHostAlloc(size, flags):
    integer(flags)
    if gpu.capturing:
        return cudaError_t.cudaErrorStreamCaptureUnsupported
    owner = (ctypes.c_ubyte * max(integer(size), 1))()
    address = ctypes.addressof(owner)
    gpu.pin(address, integer(size), owner)
    return address


@call(0)
def cudaFreeHost(ptr):
    if integer(ptr):
        gpu.unpin(integer(ptr))


@call(0)
def cudaMemcpyAsync(dst, src, count, kind, stream):
    kind = enum(kind, cudaMemcpyKind)
    dst, src = integer(dst), integer(src)
    if kind == cudaMemcpyKind.cudaMemcpyDefault:
        kind = cudaMemcpyKind(gpu.is_device(dst) + 2 * gpu.is_device(src))
    if kind == cudaMemcpyKind.cudaMemcpyHostToHost:
        gpu.fault("a copy from host to host")
    gpu.copy(dst, src, integer(count), int(kind), handle(stream, cudaStream_t))


@call(1)
def cudaStreamCreateWithFlags(flags):
    integer(flags)
    return cudaStream_t(gpu.create_stream())


@call(0)
def cudaStreamDestroy(stream):
    gpu.destroy_stream(handle(stream, cudaStream_t))


@call(0)
def cudaStreamSynchronize(stream):
    return None if gpu.synchronise(handle(stream, cudaStream_t)) else cudaError_t.cudaErrorStreamCaptureUnsupported


@call(1)
def cudaEventCreate():
    return cudaEvent_t(gpu.create_event())


@call(0)
def cudaEventRecord(event, stream):
    gpu.record(handle(event, cudaEvent_t), handle(stream, cudaStream_t))


@call(1)
def cudaEventElapsedTime(start, end):
    events = [gpu.event(handle(event, cudaEvent_t)) for event in (start, end)]
    if not all(event.recorded and event.timed for event in events):
        return cudaError_t.cudaErrorInvalidResourceHandle
    if any(event.time is None for event in events):
        return cudaError_t.cudaErrorNotReady
    return events[1].time - events[0].time


@call(0)
def cudaEventDestroy(event):
    gpu.destroy_event(handle(event, cudaEvent_t))


@call(0)
def cudaStreamBeginCapture(stream, mode):
    gpu.begin_capture(handle(stream, cudaStream_t), int(enum(mode, cudaStreamCaptureMode)))


@call(1)
def cudaStreamEndCapture(stream):
    graph = gpu.end_capture(handle(stream, cudaStream_t))
    return cudaError_t.cudaErrorStreamCaptureInvalidated if graph is None else cudaGraph_t(graph)


@call(1)
def cudaGraphInstantiate(graph, flags):
    integer(flags)
    return cudaGraphExec_t(gpu.instantiate(handle(graph, cudaGraph_t)))


@call(0)
def cudaGraphLaunch(graphExec, stream):
    gpu.launch(handle(graphExec, cudaGraphExec_t), handle(stream, cudaStream_t))


@call(0)
def cudaGraphExecDestroy(graphExec):
    gpu.destroy_executable(handle(graphExec, cudaGraphExec_t))


@call(0)
def cudaGraphDestroy(graph):
    gpu.destroy_graph(handle(graph, cudaGraph_t))


def cudaGetErrorString(error):
    return SUCCESS, MESSAGES.get(cudaError_t(error), b"unknown error")
