"""DLPack: memory of another library, read where it lies, and memory of ours, lent to another.

Source: dlpack.h of DLPack 0.8, whose capsules every release still gives and takes where nothing newer is asked for; and
"Data interchange mechanisms" of the Python array API standard.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint64,
    c_void_p,
    py_object,
)
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.errors import DataError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""DLDeviceType: kDLCPU, kDLCUDA, kDLCUDAHost (page-locked) and kDLCUDAManaged."""

_NAME, _USED = b"dltensor", b"used_dltensor"
_VERSIONED, _FLAGS_AT, _READ_ONLY = b"dltensor_versioned", 24, 1
"""Of DLManagedTensorVersioned: before its flags stand two numbers of the version and two pointers."""
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


class _Device(ctypes.Structure):
    _fields_ = (("type", c_int32), ("id", c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p), ("device", _Device), ("ndim", c_int32), ("dtype", _DataType),
        ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)), ("byte_offset", c_uint64),
    )  # fmt: skip


_Deleter = CFUNCTYPE(None, c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", _Deleter))


def _python(name: str, returns: Any, *takes: Any) -> Any:  # noqa: ANN401 - types of ctypes
    """Return a function of Python's C API with declared arguments."""
    return ctypes.PYFUNCTYPE(returns, *takes)((name, ctypes.pythonapi))


_is_valid = _python("PyCapsule_IsValid", c_int, py_object, c_char_p)
_pointer = _python("PyCapsule_GetPointer", c_void_p, py_object, c_char_p)
_rename = _python("PyCapsule_SetName", c_int, py_object, c_char_p)


class Lent:
    """Memory of another library, from a capsule, which is used up; given back when this goes.

    Args:
        capsule: From `__dlpack__`.

    Attributes:
        address: Of the first element.
        shape: Elements in each dimension.
        strides: Elements between two neighbours in each dimension.
        dtype: Such as "uint8".
        device: Type and number, as DLPack counts them.

    Raises:
        DataError: It is no such capsule, or was used before.
    """

    def __init__(self, capsule: object) -> None:
        self._managed: _Managed | None = None
        if not _is_valid(capsule, _NAME):
            used = bool(_is_valid(capsule, _USED))
            raise DataError(
                "this DLPack capsule was used already" if used else f"no DLPack capsule: {type(capsule).__name__}",
                "A capsule can be read once: give the array itself, or a new capsule.",
            )
        managed = _Managed.from_address(_pointer(capsule, _NAME))
        _rename(capsule, _USED)
        self._managed = managed
        tensor = managed.tensor
        self.address = (tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(tensor.shape[: tensor.ndim])
        self.strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else compact(self.shape)
        kind = _KINDS.get(tensor.dtype.code, f"code {tensor.dtype.code} ")
        self.dtype = f"{kind}{tensor.dtype.bits}" + (f"x{tensor.dtype.lanes}" if tensor.dtype.lanes > 1 else "")
        self.device = (tensor.device.type, tensor.device.id)

    def __del__(self) -> None:
        managed, self._managed = self._managed, None
        if managed is not None and managed.deleter:
            managed.deleter(ctypes.addressof(managed))


def is_capsule(value: object) -> bool:
    """Whether a value is a DLPack capsule, used or not."""
    return type(value).__name__ == "PyCapsule"


def peek(capsule: object) -> int:
    """Return the type of device of a capsule, which is not used up by that; 0 where it cannot be read."""
    if not _is_valid(capsule, _NAME):
        return 0
    found: int = _Managed.from_address(_pointer(capsule, _NAME)).tensor.device.type
    return found


def is_read_only(capsule: object) -> bool:
    """Whether a capsule says that its memory may not be written to; those of releases before DLPack 1 cannot."""
    if not _is_valid(capsule, _VERSIONED):
        return False
    flags = c_uint64.from_address(_pointer(capsule, _VERSIONED) + _FLAGS_AT).value
    return bool(flags & _READ_ONLY)


def compact(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array without gaps whose last dimension is the fastest."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.append(strides[-1] * size)
    return tuple(reversed(strides))[: len(shape)]


def lend(address: int, shape: tuple[int, ...], device: tuple[int, int], owner: object) -> object:
    """Return a capsule of compact float32 memory.

    NumPy makes it, for an array that nobody here looks into, and it is told where that lies: capsules are freed while
    errors of their takers pass by, where no Python code may run.

    Args:
        address: Of the first element.
        shape: Elements in each dimension.
        device: Type and number.
        owner: Kept until the taker is done.
    """
    capsule: object = view(address, shape, np.float32, owner).__dlpack__()
    _Managed.from_address(_pointer(capsule, _NAME)).tensor.device = _Device(*device)
    return capsule


def view(address: int, shape: tuple[int, ...], dtype: Any, owner: object) -> NDArray[Any]:  # noqa: ANN401 - NumPy's
    """Return compact memory as a NumPy array, which keeps its owner."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if not nbytes:
        return np.empty(shape, dtype)
    memory: Any = (c_uint8 * nbytes).from_address(address)
    memory.owner = owner  # the array keeps `memory`, and that keeps its attributes
    return np.frombuffer(memory, dtype).reshape(shape)
