"""Stands in for `cuda.bindings.driver`: the functions, argument names and types of cuda-python 12.9 and 13.

Every function returns a tuple whose first item is a CUresult.
"""

# ruff: noqa: N801 - CUDA's names

import functools
import inspect
from enum import IntEnum

from standins import simulated_driver
from standins.simulated_gpu import gpu

CUresult = IntEnum("CUresult", simulated_driver.RESULTS)


class CUstreamCaptureMode(IntEnum):
    """Which calls a capture forbids."""

    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUpointer_attribute(IntEnum):
    """What may be asked of an address."""

    CU_POINTER_ATTRIBUTE_CONTEXT = 1
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9


class Handle:
    """Wraps a number, as cuda-python's handles do."""

    def __init__(self, init_value=0):
        self._value = int(init_value)

    def __int__(self):
        return self._value

    __index__ = __int__

    def __eq__(self, other):
        return isinstance(other, type(self)) and int(self) == int(other)

    def __hash__(self):
        return hash(self._value)


class CUdevice(Handle):
    """A device."""


class CUcontext(Handle):
    """A context."""


class CUdeviceptr(Handle):
    """An address of the device."""


class CUstream(Handle):
    """A stream."""


class CUevent(Handle):
    """An event."""


class CUgraph(Handle):
    """A graph."""


class CUgraphExec(Handle):
    """An executable graph."""


TAKES = {
    "dev": CUdevice, "ctx": CUcontext, "dptr": CUdeviceptr, "dstDevice": CUdeviceptr, "srcDevice": CUdeviceptr,
    "hStream": CUstream, "hEvent": CUevent, "hStart": CUevent, "hEnd": CUevent, "hGraph": CUgraph,
    "hGraphExec": CUgraphExec,
}  # fmt: skip
"""Arguments that are handles: ints are taken too, other handles are not."""
ENUMS = {"mode": CUstreamCaptureMode, "attribute": CUpointer_attribute, "error": CUresult}
"""Arguments that must be members: an int is refused."""
GIVES = {
    "cuDeviceGet": CUdevice, "cuDevicePrimaryCtxRetain": CUcontext, "cuCtxPopCurrent": CUcontext,
    "cuMemAlloc": CUdeviceptr, "cuMemHostGetDevicePointer": CUdeviceptr, "cuStreamCreate": CUstream,
    "cuStreamGetCtx": CUcontext, "cuStreamEndCapture": CUgraph, "cuEventCreate": CUevent,
    "cuGraphInstantiate": CUgraphExec,
}  # fmt: skip


def taken(name, value):
    """An argument as a number; TypeError as from Cython where it is none."""
    if name in ENUMS:
        if not isinstance(value, ENUMS[name]):
            raise TypeError(f"Argument '{name}' has incorrect type (expected {ENUMS[name].__name__})")
        return int(value)
    if isinstance(value, Handle) and not isinstance(value, TAKES.get(name, ())):
        raise TypeError(f"Argument '{name}' has incorrect type (got {type(value).__name__})")
    if isinstance(value, (str, bytes, float)) or not (hasattr(value, "__int__") or hasattr(value, "__index__")):
        raise TypeError("an integer is required")
    return int(value)


def as_python(name):
    """The function with cuda-python's face."""
    function = getattr(simulated_driver, name)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        given = [taken(argument, value) for argument, value in bound.arguments.items()]
        failure = gpu.failures.pop(name, None)
        if failure is not None:
            return CUresult(failure if failure in list(CUresult) else 999), None
        try:
            result = function(*given)
        except simulated_driver.Refused as refused:
            return CUresult(refused.code), None
        if result is None:
            return (CUresult.CUDA_SUCCESS,)
        if name in GIVES:
            result = GIVES[name](result)
        return (CUresult.CUDA_SUCCESS, *(result if isinstance(result, tuple) else (result,)))

    return called


OTHERWISE = ("cuDeviceGetName", "cuDeviceGetUuid", "cuDeviceGetPCIBusId", "cuDeviceGetAttribute")
"""Functions whose arguments are others in Python than in C, and which nobody here calls from there."""

for _name, _function in list(vars(simulated_driver).items()):
    if inspect.isfunction(_function) and _name.startswith("cu") and _name not in OTHERWISE:
        globals()[_name] = as_python(_name)
