"""The NVIDIA GPU of this machine, asked of the driver itself: no Python package is needed."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

_NAME_BYTES = 256
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR and CU_DEVICE_ATTRIBUTE_INTEGRATED (CUDA driver API)."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Args:
        name: Marketing name.
        compute_capability: Such as "8.9".
        memory_bytes: All of it; on a Jetson that is the machine's memory.
        driver: The newest CUDA release that the driver supports, such as "12.8".
        integrated: Whether it shares the machine's memory, as on a Jetson.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str
    integrated: bool


@functools.cache
def detect() -> Gpu | None:
    """Return the first GPU that CUDA offers, or None: no driver, or no GPU (`CUDA_VISIBLE_DEVICES` may hide it)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if driver.cuInit(0) != 0:
        return None
    version, device, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    calls: tuple[tuple[Any, ...], ...] = (
        (driver.cuDriverGetVersion, ctypes.byref(version)),
        (driver.cuDeviceGet, ctypes.byref(device), 0),
        (driver.cuDeviceGetName, name, _NAME_BYTES, device),
        (driver.cuDeviceTotalMem_v2, ctypes.byref(memory), device),
    )
    if any(call(*arguments) != 0 for call, *arguments in calls):
        return None
    values = []
    for attribute in (_MAJOR, _MINOR, _INTEGRATED):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
        values.append(value.value)
    major, minor, integrated = values
    return Gpu(
        name=name.value.decode(),
        compute_capability=f"{major}.{minor}",
        memory_bytes=memory.value,
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
        integrated=bool(integrated),
    )
