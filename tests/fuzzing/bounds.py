"""Bounds for each try: what waits or takes memory without end fails, and does not take the machine with it."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from fuzzing.targets import TARGETS

SECONDS, MIB = 30, 3000


def attempt(target: str, content: bytes) -> None:
    """Try a target within bounds."""
    with bounded(SECONDS, MIB):
        TARGETS[target](content)


@contextmanager
def bounded(seconds: int, mib: int) -> Iterator[None]:
    """Raise where what runs inside takes longer, or more memory than the process has now and so many MiB.

    Raises:
        TimeoutError: It takes longer.
        MemoryError: It wants more memory.
    """

    def late(_number: int, _frame: object) -> None:
        message = f"still running after {seconds} s"
        raise TimeoutError(message)

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (mib << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
