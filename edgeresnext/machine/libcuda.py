"""NVIDIA's driver, libcuda, called by ctypes: its functions by name, its errors as ours. No package is needed.

Source: CUDA Driver API (cuda.h, CUDA 11.4 to 13). Symbols with an ending are what cuda.h maps the plain names to.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import Any

from edgeresnext.errors import BackendError, NotInstalledError

FILE = "libcuda.so.1"
OUT_OF_MEMORY, NO_DEVICE, NOT_READY = 2, 100, 600
"""CUDA_ERROR_OUT_OF_MEMORY, _NO_DEVICE and _NOT_READY."""

_Uuid = c_ubyte * 16
_OUT = "out"


def _out(kind: Any) -> tuple[str, Any]:  # noqa: ANN401 - a type of ctypes
    """Mark an argument that the function writes, and `call` returns."""
    return _OUT, kind


_FUNCTIONS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "cuInit": ("", (c_uint,)),
    "cuGetErrorName": ("", (c_int, _out(c_char_p))),
    "cuDriverGetVersion": ("", (_out(c_int),)),
    "cuDeviceGetCount": ("", (_out(c_int),)),
    "cuDeviceGet": ("", (_out(c_int), c_int)),
    "cuDeviceGetName": ("", (c_char_p, c_int, c_int)),
    "cuDeviceGetUuid": ("_v2", (_out(_Uuid), c_int)),
    "cuDeviceGetPCIBusId": ("", (c_char_p, c_int, c_int)),
    "cuDeviceTotalMem": ("_v2", (_out(c_size_t), c_int)),
    "cuDeviceGetAttribute": ("", (_out(c_int), c_int, c_int)),
    "cuDevicePrimaryCtxRetain": ("", (_out(c_void_p), c_int)),
    "cuCtxPushCurrent": ("_v2", (c_void_p,)),
    "cuCtxPopCurrent": ("_v2", (_out(c_void_p),)),
    "cuMemGetInfo": ("_v2", (_out(c_size_t), _out(c_size_t))),
    "cuMemAlloc": ("_v2", (_out(c_uint64), c_size_t)),
    "cuMemFree": ("_v2", (c_uint64,)),
    "cuMemHostAlloc": ("", (_out(c_void_p), c_size_t, c_uint)),
    "cuMemHostGetDevicePointer": ("_v2", (_out(c_uint64), c_void_p, c_uint)),
    "cuMemFreeHost": ("", (c_void_p,)),
    "cuMemcpyHtoDAsync": ("_v2", (c_uint64, c_void_p, c_size_t, c_void_p)),
    "cuMemcpyDtoHAsync": ("_v2", (c_void_p, c_uint64, c_size_t, c_void_p)),
    "cuMemcpyDtoDAsync": ("_v2", (c_uint64, c_uint64, c_size_t, c_void_p)),
    "cuPointerGetAttribute": ("", (_out(c_int), c_int, c_uint64)),
    "cuStreamCreate": ("", (_out(c_void_p), c_uint)),
    "cuStreamGetCtx": ("", (c_void_p, _out(c_void_p))),
    "cuStreamIsCapturing": ("", (c_void_p, _out(c_int))),
    "cuStreamSynchronize": ("", (c_void_p,)),
    "cuStreamWaitEvent": ("", (c_void_p, c_void_p, c_uint)),
    "cuStreamBeginCapture": ("_v2", (c_void_p, c_int)),
    "cuStreamEndCapture": ("", (c_void_p, _out(c_void_p))),
    "cuStreamDestroy": ("_v2", (c_void_p,)),
    "cuEventCreate": ("", (_out(c_void_p), c_uint)),
    "cuEventSynchronize": ("", (c_void_p,)),
    "cuEventRecord": ("", (c_void_p, c_void_p)),
    "cuEventQuery": ("", (c_void_p,)),
    "cuEventElapsedTime": ("", (_out(c_float), c_void_p, c_void_p)),
    "cuEventDestroy": ("_v2", (c_void_p,)),
    "cuGraphInstantiate": ("WithFlags", (_out(c_void_p), c_void_p, c_ulonglong)),
    "cuGraphLaunch": ("", (c_void_p, c_void_p)),
    "cuGraphDestroy": ("", (c_void_p,)),
    "cuGraphExecDestroy": ("", (c_void_p,)),
}
"""What a function's symbol ends with, and its arguments in order."""


class CudaError(BackendError):
    """A call of the driver that did not succeed.

    Args:
        function: By cuda.h's name.
        code: A CUresult.
        name: Its name, such as "CUDA_ERROR_OUT_OF_MEMORY".
    """

    def __init__(self, function: str, code: int, name: str) -> None:
        lost = code in _STICKY
        hint = "Its work on the GPU is lost: start the program again; dmesg may say why." if lost else ""
        super().__init__(f"CUDA's {function} failed: {name or f'error {code}'}", hint)
        self.code = code


_STICKY = frozenset({214, 700, 702, 710, 714, 715, 716, 717, 718, 719})
"""ECC_UNCORRECTABLE, ILLEGAL_ADDRESS, LAUNCH_TIMEOUT, ASSERT, HARDWARE_STACK_ERROR to LAUNCH_FAILED: by cuda.h the
process must end. Every other error is of its call alone: the driver API, unlike the runtime, keeps no last error."""


class Libcuda:
    """The driver's functions.

    Args:
        library: libcuda, loaded by ctypes.
    """

    def __init__(self, library: Any) -> None:  # noqa: ANN401 - ctypes.CDLL, whose attributes are the functions
        self._library = library
        self._functions: dict[str, tuple[Callable[..., int], tuple[Any, ...]]] = {}

    def _function(self, name: str) -> tuple[Callable[..., int], tuple[Any, ...]]:
        """Return a function that knows its arguments, and the types that it writes."""
        if name not in self._functions:
            ending, kinds = _FUNCTIONS[name]
            try:
                function = self._library[name + ending]
            except AttributeError:
                raise BackendError(f"this NVIDIA driver has no {name}{ending}", "Install a newer driver.") from None
            function.argtypes = [POINTER(kind[1]) if isinstance(kind, tuple) else kind for kind in kinds]
            function.restype = c_int
            self._functions[name] = function, kinds
        return self._functions[name]

    def call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - what the function writes
        """Call a function by cuda.h's name with the arguments that it reads.

        Returns:
            What it writes: nothing, a value or several, handles as int.

        Raises:
            CudaError: It did not succeed.
            BackendError: The driver is too old to have it.
        """
        function, kinds = self._function(name)
        given = iter(arguments)
        written: list[Any] = []
        passed = []
        for kind in kinds:
            if isinstance(kind, tuple):
                written.append(kind[1]())
                passed.append(ctypes.byref(written[-1]))
            else:
                passed.append(next(given))
        code = function(*passed)
        if code:
            raise CudaError(name, code, "" if name == "cuGetErrorName" else self.error_name(code))
        values = [one if isinstance(one, _Uuid) else one.value or 0 for one in written]
        return values[0] if len(values) == 1 else tuple(values) or None

    def error_name(self, code: int) -> str:
        """Return the name of a CUresult; empty where the driver does not know it."""
        try:
            name: bytes = self.call("cuGetErrorName", code)
        except BackendError:
            return ""
        return name.decode()


_started = threading.Event()


def started() -> bool:
    """Return whether this process has started CUDA here: `CUDA_VISIBLE_DEVICES` is read then, and never again."""
    return _started.is_set()


@functools.cache
def load() -> Libcuda:
    """Return the driver, started.

    Raises:
        NotInstalledError: There is no driver.
        CudaError: It does not start; without any GPU that is CUDA_ERROR_NO_DEVICE.
    """
    try:
        library = Libcuda(ctypes.CDLL(FILE))
    except OSError as error:
        raise NotInstalledError(f"no NVIDIA driver: {error}", "Install NVIDIA's driver, if there is a GPU.") from None
    library.call("cuInit", 0)
    _started.set()
    return library
