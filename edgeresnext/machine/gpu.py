"""The NVIDIA GPUs of this machine, asked of the driver itself: no Python package is needed.

One call of the package is about one GPU: the first that CUDA offers, or the one that `using` chooses for a block.
"""

from __future__ import annotations

import ctypes
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from edgeresnext.errors import BackendError, NotInstalledError, RequestError
from edgeresnext.machine import libcuda
from edgeresnext.machine.libcuda import Libcuda

VISIBLE = "CUDA_VISIBLE_DEVICES"
MAKE_INSTANCE = "sudo nvidia-smi mig -lgip lists what there can be, sudo nvidia-smi mig -cgi PROFILE -C makes one."
_NAME_BYTES = 256
_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS = 75, 76, 18, 16
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR, _INTEGRATED and _MULTIPROCESSOR_COUNT (CUDA driver API)."""
_MIG = "MIG-"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, or an instance of one that MIG divides.

    Args:
        name: Marketing name.
        compute_capability: Such as "8.9".
        memory_bytes: All of it; on a Jetson that is the machine's memory.
        driver: The newest CUDA release that the driver supports, such as "12.8".
        integrated: Whether it shares the machine's memory, as on a Jetson.
        multiprocessors: How many it has; 0 where that is not known. Every Orin calls itself "Orin", with 8 to 16.
        index: Its place among those that CUDA offers this process; PyTorch counts in the same way.
        uuid: As `nvidia-smi -L` prints it, "GPU-..." or "MIG-..."; empty where the driver does not tell.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str
    integrated: bool
    multiprocessors: int = 0
    index: int = 0
    uuid: str = ""


def devices() -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA offers, in its order; none without a driver (`CUDA_VISIBLE_DEVICES` may hide some)."""
    try:
        cuda = libcuda.load()
        return tuple(_device(cuda, index) for index in range(cuda.call("cuDeviceGetCount")))
    except (NotInstalledError, BackendError):
        return ()


_chosen: ContextVar[Gpu | None] = ContextVar("chosen", default=None)


def detect() -> Gpu | None:
    """Return the GPU that `using` chose, else the first that CUDA offers; None: no driver, or no GPU."""
    chosen = _chosen.get()
    return chosen if chosen is not None else next(iter(devices()), None)


def environment() -> dict[str, str]:
    """Return the environment for a child process, which is to see the chosen GPU alone where one was chosen."""
    chosen = _chosen.get()
    return dict(os.environ) if chosen is None else {**os.environ, VISIBLE: chosen.uuid or str(chosen.index)}


@contextmanager
def using(device: int | str | None) -> Iterator[None]:
    """Make a GPU the one that `detect` returns, in this thread and for the block; None changes nothing.

    Args:
        device: Its index among those that CUDA offers, such as 1, or its UUID, or what that begins with.

    Raises:
        RequestError: There is no such GPU.
        NotInstalledError: There is none at all.
    """
    if device is None:
        yield
        return
    token = _chosen.set(find(device))
    try:
        yield
    finally:
        _chosen.reset(token)


def find(device: int | str) -> Gpu:
    """Return a GPU by index or UUID.

    Raises:
        RequestError: There is no such GPU, or several begin so.
        NotInstalledError: There is none at all.
    """
    text = str(device).strip()
    _show_instance(text)
    known = devices()
    if not known:
        raise NotInstalledError(
            f"no GPU '{text}': CUDA offers none",
            f"edgeresnext doctor shows what is missing; nvidia-smi -L lists GPUs. One in MIG mode needs an instance: "
            f"{MAKE_INSTANCE}",
            values=("device",),
        )
    if text.isascii() and text.isdecimal():
        fitting = [one for one in known if one.index == int(text)]
    else:
        fitting = [one for one in known if text and one.uuid.lower().startswith(text.lower())]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(f"{one.index}: {one.name} ({one.uuid or 'no UUID'})" for one in known)
    hidden = f" {VISIBLE} is '{os.environ[VISIBLE]}', which hides others." if os.environ.get(VISIBLE) else ""
    if text.startswith(_MIG) and not fitting:
        hidden = f" CUDA shows a process one MIG instance: start the program with {VISIBLE}={text}."
    what = f"several GPUs begin with '{text}'" if fitting else f"no GPU '{text}'"
    raise RequestError(what, f"Known: {listed}.{hidden}", values=("device",))


def _show_instance(text: str) -> None:
    """Let CUDA show a MIG instance, if it has not been started: by itself it shows the first one alone."""
    if text.startswith(_MIG) and not libcuda.started() and not os.environ.get(VISIBLE):
        os.environ[VISIBLE] = text
        if not any(one.uuid.lower().startswith(text.lower()) for one in devices()):
            del os.environ[VISIBLE]


def _device(cuda: Libcuda, index: int) -> Gpu:
    device = cuda.call("cuDeviceGet", index)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    cuda.call("cuDeviceGetName", name, _NAME_BYTES, device)
    version = cuda.call("cuDriverGetVersion")
    major, minor, integrated, multiprocessors = (
        cuda.call("cuDeviceGetAttribute", attribute, device)
        for attribute in (_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS)
    )
    text = name.value.decode()
    return Gpu(
        name=text,
        compute_capability=f"{major}.{minor}",
        memory_bytes=cuda.call("cuDeviceTotalMem", device),
        driver=f"{version // 1000}.{version % 1000 // 10}",
        integrated=bool(integrated),
        multiprocessors=multiprocessors,
        index=index,
        uuid=_uuid(cuda, device, _MIG if " MIG " in text else "GPU-"),
    )


def _uuid(cuda: Libcuda, device: int, prefix: str) -> str:
    try:
        raw: Any = cuda.call("cuDeviceGetUuid", device)
    except BackendError:  # a driver before CUDA 11.4
        return ""
    return f"{prefix}{uuid.UUID(bytes=bytes(raw))}"
