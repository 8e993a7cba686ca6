"""How the C library treats memory that PyTorch frees: kept while a build runs, returned where others need it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (glibc's malloc.h)."""
_KEEP = 2**31 - 1, 2**31 - 1
_USUAL = 2**26, 2**25
"""What glibc's own adjustment comes to in a process that frees large blocks (mallopt(3)), which setting them ends."""


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let freed memory be used again meanwhile, instead of being returned to the system and asked for anew.

    Every tensor of a layer is allocated and freed again. glibc hands large ones back at once, and the system clears
    each page that it gives out: a third of the time of the accuracy gate on the digits, a twentieth of a build of
    ResNeXt-50, at the same peak memory. Other C libraries are left alone.
    """
    _set(*_KEEP)
    try:
        yield
    finally:
        _set(*_USUAL)
        return_freed_memory()


def return_freed_memory() -> None:
    """Let the system have what this process has freed, for a child process that builds an engine.

    glibc keeps it otherwise: 630 MB after ResNeXt-101 64x4d has been emitted (1.66 against 1.08 GiB for both processes
    while engines are built).
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        _library().malloc_trim(0)


def _set(trim_bytes: int, mmap_bytes: int) -> None:
    with suppress(OSError, AttributeError):
        _library().mallopt(_TRIM_THRESHOLD, trim_bytes)
        _library().mallopt(_MMAP_THRESHOLD, mmap_bytes)


def _library() -> Any:  # noqa: ANN401 - ctypes finds its functions when they are called
    return ctypes.CDLL(None)
