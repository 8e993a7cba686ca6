"""Stands in for `ctypes.CDLL("libcuda.so.1")`: real C functions, called through libffi, without declared arguments.

So a handle that was not declared as a pointer is cut to 32 bits here too. The signatures are cuda.h's, written here once
more. A mistake that would corrupt memory is kept in `gpu.faults`, and answered as a GPU does: CUDA_ERROR_ILLEGAL_ADDRESS.
"""

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_size_t,
    c_ubyte,
    c_uint,
    c_uint64,
    c_ulonglong,
    c_void_p,
)

from . import simulated_driver as driver
from .simulated_gpu import Fault, gpu

OUT = {kind: POINTER(kind) for kind in (c_int, c_uint64, c_size_t, c_void_p, c_float, c_char_p, c_ubyte)}
TEXT = (POINTER(c_char), c_int)
SIGNATURES = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, OUT[c_char_p]),
    "cuDriverGetVersion": (OUT[c_int],),
    "cuDeviceGetCount": (OUT[c_int],),
    "cuDeviceGet": (OUT[c_int], c_int),
    "cuDeviceGetName": (*TEXT, c_int),
    "cuDeviceGetUuid_v2": (OUT[c_ubyte], c_int),
    "cuDeviceGetPCIBusId": (*TEXT, c_int),
    "cuDeviceTotalMem_v2": (OUT[c_size_t], c_int),
    "cuDeviceGetAttribute": (OUT[c_int], c_int, c_int),
    "cuDevicePrimaryCtxRetain": (OUT[c_void_p], c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (OUT[c_void_p],),
    "cuMemGetInfo_v2": (OUT[c_size_t], OUT[c_size_t]),
    "cuMemAlloc_v2": (OUT[c_uint64], c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (OUT[c_void_p], c_size_t, c_uint),
    "cuMemHostGetDevicePointer_v2": (OUT[c_uint64], c_void_p, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuPointerGetAttribute": (OUT[c_int], c_int, c_uint64),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (OUT[c_void_p], c_uint),
    "cuStreamGetCtx": (c_void_p, OUT[c_void_p]),
    "cuStreamIsCapturing": (c_void_p, OUT[c_int]),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, OUT[c_void_p]),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuEventCreate": (OUT[c_void_p], c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventQuery": (c_void_p,),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (OUT[c_float], c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuGraphInstantiateWithFlags": (OUT[c_void_p], c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}
WRITTEN = set(OUT.values())
texts = {}


def plain(symbol):
    """cuda.h's name of a symbol."""
    return symbol.removesuffix("_v2").removesuffix("WithFlags")


def write(target, value):
    """Put what a function returns where its caller wants it."""
    if isinstance(target, OUT[c_ubyte]):
        ctypes.memmove(target, value, len(value))
    elif isinstance(target, OUT[c_char_p]):
        texts[value] = c_char_p(value)  # as long as the library lives, like the driver's own
        target[0] = texts[value]
    else:
        target[0] = value


def as_c(symbol):
    """A C function that does what the driver's function of this symbol does."""
    kinds = SIGNATURES[symbol]
    name = plain(symbol)
    function = getattr(driver, name)

    def answer(arguments):
        text = arguments[:2] if kinds[:2] == TEXT else None
        targets = [one for one, kind in zip(arguments, kinds, strict=True) if kind in WRITTEN]
        given = [one for one, kind in zip(arguments, kinds, strict=True) if kind not in WRITTEN][2 if text else 0 :]
        values = function(*(0 if one is None else one for one in given))
        if text:
            ctypes.memmove(text[0], (values + b"\0")[: text[1]], min(len(values) + 1, text[1]))
            return
        for target, value in zip(targets, values if isinstance(values, tuple) else (values,), strict=False):
            write(target, value)

    def called(*arguments):
        failure = gpu.failures.pop(name, None)
        if failure is not None:
            return failure if isinstance(failure, int) else 999
        try:
            answer(arguments)
        except driver.Refused as refused:
            return refused.code
        except Fault:
            return driver.RESULTS["CUDA_ERROR_ILLEGAL_ADDRESS"]
        except Exception as error:  # noqa: BLE001 - it cannot pass through C
            gpu.faults.append(f"{symbol}: {error!r}")
            return driver.RESULTS["CUDA_ERROR_UNKNOWN"]
        return 0

    return CFUNCTYPE(c_int, *kinds)(called)


FUNCTIONS = {symbol: as_c(symbol) for symbol in SIGNATURES}


class Libcuda:
    """The library, as ctypes has loaded it."""

    def __getitem__(self, symbol):
        if symbol not in FUNCTIONS:
            raise AttributeError(f"libcuda.so.1: undefined symbol: {symbol}")
        return CFUNCTYPE(c_int)(ctypes.cast(FUNCTIONS[symbol], c_void_p).value)


def loader(real):
    """A function that loads libraries, this one by its file name."""
    return lambda name, *rest, **more: Libcuda() if name == "libcuda.so.1" else real(name, *rest, **more)
