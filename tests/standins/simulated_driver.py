"""What functions of CUDA's driver API do, by cuda.h's names: they take and return numbers, and raise `Refused`.

The stand-ins for libcuda and for `cuda.bindings.driver` give them the face of C and of cuda-python. Mistakes that would
corrupt memory raise `Fault`.
"""

# ruff: noqa: N802, N803 - CUDA's names

import ctypes

from .simulated_gpu import (
    DEVICE_TO_DEVICE,
    DEVICE_TO_HOST,
    FIRST_CONTEXT,
    HOST_TO_DEVICE,
    LEGACY_STREAMS,
    gpu,
)

RESULTS = {
    "CUDA_SUCCESS": 0,
    "CUDA_ERROR_INVALID_VALUE": 1,
    "CUDA_ERROR_OUT_OF_MEMORY": 2,
    "CUDA_ERROR_NOT_INITIALIZED": 3,
    "CUDA_ERROR_NO_DEVICE": 100,
    "CUDA_ERROR_INVALID_DEVICE": 101,
    "CUDA_ERROR_INVALID_CONTEXT": 201,
    "CUDA_ERROR_INVALID_HANDLE": 400,
    "CUDA_ERROR_NOT_READY": 600,
    "CUDA_ERROR_ILLEGAL_ADDRESS": 700,
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": 900,
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": 901,
    "CUDA_ERROR_UNKNOWN": 999,
}
ATTRIBUTES = {75: "major", 76: "minor", 18: "integrated", 16: "multiprocessors"}
DEVICE_ORDINAL = 9


class Refused(Exception):  # noqa: N818 - it is no error of the stand-in
    """A call that the driver answers with an error."""

    def __init__(self, name):
        super().__init__(name)
        self.code = RESULTS[name]


def allowed(*, captured=False):
    """Refuse what needs a context where none is current, and, but for `captured`, what a capture forbids."""
    if gpu.current is None:
        raise Refused("CUDA_ERROR_INVALID_CONTEXT")
    if not captured and gpu.capturing:
        gpu.break_captures()
        raise Refused("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")


def device_of(number):
    if not 0 <= number < len(gpu.devices):
        raise Refused("CUDA_ERROR_INVALID_DEVICE")
    return gpu.devices[number]


def usable(hStream):
    """Refuse a stream that is destroyed, or whose capture is broken."""
    allowed(captured=True)
    if hStream not in gpu.streams:
        raise Refused("CUDA_ERROR_INVALID_HANDLE")
    if gpu.streams[hStream].broken:
        raise Refused("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
    if hStream not in LEGACY_STREAMS and gpu.streams[hStream].device != gpu.current:
        raise Refused("CUDA_ERROR_INVALID_HANDLE")
    return hStream


def cuInit(Flags):
    if not gpu.devices:
        raise Refused("CUDA_ERROR_NO_DEVICE")


def cuGetErrorName(error):
    for name, code in RESULTS.items():
        if code == error:
            return name.encode()
    raise Refused("CUDA_ERROR_INVALID_VALUE")


def cuDriverGetVersion():
    return gpu.driver_version


def cuDeviceGetCount():
    return len(gpu.devices)


def cuDeviceGet(ordinal):
    device_of(ordinal)
    return ordinal


def cuDeviceGetName(dev):
    return device_of(dev)["name"].encode()


def cuDeviceGetPCIBusId(dev):
    device_of(dev)
    return f"0000:{0x41 + dev:02x}:00.0".encode()


def cuDeviceGetUuid(dev):
    device_of(dev)
    return gpu.uuid(dev).bytes


def cuDeviceTotalMem(dev):
    device_of(dev)
    return gpu.memory_bytes


def cuDeviceGetAttribute(attrib, dev):
    major, minor = device_of(dev)["compute_capability"]
    return {"major": major, "minor": minor, "integrated": int(gpu.integrated), "multiprocessors": gpu.multiprocessors}[
        ATTRIBUTES[attrib]
    ]


def cuDevicePrimaryCtxRetain(dev):
    device_of(dev)
    return gpu.retain(dev)


def cuCtxPushCurrent(ctx):
    if ctx not in gpu.contexts:
        raise Refused("CUDA_ERROR_INVALID_CONTEXT")
    gpu.stack.append(ctx - FIRST_CONTEXT)


def cuCtxPopCurrent():
    if not gpu.stack:
        raise Refused("CUDA_ERROR_INVALID_CONTEXT")
    return FIRST_CONTEXT + gpu.stack.pop()


def cuMemGetInfo():
    allowed(captured=True)
    return gpu.memory_bytes - gpu.used_bytes, gpu.memory_bytes


def cuMemAlloc(bytesize):
    allowed()
    address = gpu.allocate(bytesize) if bytesize else None
    if address is None:
        raise Refused("CUDA_ERROR_OUT_OF_MEMORY" if bytesize else "CUDA_ERROR_INVALID_VALUE")
    return address


def cuMemFree(dptr):
    allowed()
    gpu.free(dptr)


def cuMemHostAlloc(bytesize, Flags):
    allowed()
    owner = (ctypes.c_ubyte * max(bytesize, 1))()
    gpu.pin(ctypes.addressof(owner), bytesize, owner)
    return ctypes.addressof(owner)


def cuMemHostGetDevicePointer(p, Flags):
    allowed(captured=True)
    if p not in gpu.pinned:
        raise Refused("CUDA_ERROR_INVALID_VALUE")
    return p


def cuMemFreeHost(p):
    allowed()
    gpu.unpin(p)


def cuPointerGetAttribute(attribute, ptr):
    device = gpu.owner(ptr)
    if device is None or attribute != DEVICE_ORDINAL:
        raise Refused("CUDA_ERROR_INVALID_VALUE")
    return device


def cuMemcpyHtoDAsync(dstDevice, srcHost, ByteCount, hStream):
    gpu.copy(dstDevice, srcHost, ByteCount, HOST_TO_DEVICE, usable(hStream))


def cuMemcpyDtoHAsync(dstHost, srcDevice, ByteCount, hStream):
    gpu.copy(dstHost, srcDevice, ByteCount, DEVICE_TO_HOST, usable(hStream))


def cuMemcpyDtoDAsync(dstDevice, srcDevice, ByteCount, hStream):
    gpu.copy(dstDevice, srcDevice, ByteCount, DEVICE_TO_DEVICE, usable(hStream))


def cuStreamCreate(Flags):
    allowed()
    return gpu.create_stream()


def cuStreamGetCtx(hStream):
    if hStream in LEGACY_STREAMS:
        allowed(captured=True)
        return FIRST_CONTEXT + gpu.current
    if hStream not in gpu.streams:
        raise Refused("CUDA_ERROR_INVALID_HANDLE")
    return FIRST_CONTEXT + gpu.streams[hStream].device


def cuStreamIsCapturing(hStream):
    stream = gpu.streams[hStream]
    return 2 if stream.broken else int(stream.captured is not None)


def cuStreamSynchronize(hStream):
    if not gpu.synchronise(usable(hStream)):
        raise Refused("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")


def cuStreamWaitEvent(hStream, hEvent, Flags):
    gpu.wait(usable(hStream), hEvent)


def cuStreamBeginCapture(hStream, mode):
    gpu.begin_capture(usable(hStream), mode)


def cuStreamEndCapture(hStream):
    allowed(captured=True)
    if gpu.failures.pop("break capture", None):
        gpu.stream(hStream).broken = True
    graph = gpu.end_capture(hStream)
    if graph is None:
        raise Refused("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
    return graph


def cuStreamDestroy(hStream):
    allowed(captured=True)
    gpu.destroy_stream(hStream)


def cuEventCreate(Flags):
    allowed()
    return gpu.create_event(timed=not Flags & 2)


def cuEventRecord(hEvent, hStream):
    gpu.record(hEvent, usable(hStream))


def cuEventQuery(hEvent):
    last = gpu.event(hEvent).last
    if last is not None and last.time is None:
        raise Refused("CUDA_ERROR_NOT_READY")


def cuEventSynchronize(hEvent):
    allowed(captured=True)
    gpu.reach(gpu.event(hEvent).last)


def cuEventElapsedTime(hStart, hEnd):
    events = [gpu.event(hStart), gpu.event(hEnd)]
    if not all(event.timed and event.last for event in events):
        raise Refused("CUDA_ERROR_INVALID_HANDLE")
    if any(event.last.time is None for event in events):
        raise Refused("CUDA_ERROR_NOT_READY")
    return events[1].last.time - events[0].last.time


def cuEventDestroy(hEvent):
    gpu.destroy_event(hEvent)


def cuGraphInstantiate(hGraph, flags):
    allowed(captured=True)
    return gpu.instantiate(hGraph)


def cuGraphLaunch(hGraphExec, hStream):
    gpu.launch(hGraphExec, usable(hStream))


def cuGraphExecDestroy(hGraphExec):
    gpu.destroy_executable(hGraphExec)


def cuGraphDestroy(hGraph):
    gpu.destroy_graph(hGraph)
