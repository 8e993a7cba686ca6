"""The child process of a build.

    python -m edgeresnext.backends._trt.child FD

reads a request from stdin and writes events, one JSON a line, to file descriptor FD: stdout belongs to native code.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable

import msgspec

from edgeresnext.backends._trt import builder
from edgeresnext.backends._trt.events import Event, Failed
from edgeresnext.backends.request import EngineRequest
from edgeresnext.errors import BackendError, NotInstalledError

_PR_SET_PDEATHSIG = 1


def work(encoded: bytes, write: Callable[[bytes], object]) -> None:
    """Build what a request in JSON asks for, and write what happens, one event a line."""

    def send(event: Event) -> None:
        write(msgspec.json.encode(event) + b"\n")

    request = msgspec.json.decode(encoded, type=EngineRequest, dec_hook=lambda kind, text: kind(text))
    try:
        builder.run(request, send)
    except (ImportError, OSError, MemoryError) as error:
        kind = NotInstalledError if isinstance(error, ImportError) else BackendError
        send(Failed(kind.__name__, f"{request.backend} failed: {type(error).__name__}: {error}"))


def _main(descriptor: str) -> None:
    if sys.platform == "linux":  # die with the parent, however that ends
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(int(descriptor), "wb", buffering=0) as events:
        work(sys.stdin.buffer.read(), events.write)
    os._exit(0)  # all is said: what native destructors do on the way out must not undo it


if __name__ == "__main__":
    _main(sys.argv[1])
