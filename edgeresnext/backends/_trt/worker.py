"""The child process of a build.

    python -m edgeresnext.backends._trt.worker FD

reads a job from stdin and writes events, one JSON a line, to file descriptor FD: stdout belongs to native code.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

import msgspec

from edgeresnext.backends._trt import builder
from edgeresnext.backends._trt.job import Failed, Job
from edgeresnext.errors import BackendError, NotInstalledError

if TYPE_CHECKING:
    from edgeresnext.backends._trt.job import Event

_PR_SET_PDEATHSIG = 1


def _main(descriptor: str) -> None:
    """Build what stdin asks for."""
    if sys.platform == "linux":  # die with the parent, however that ends
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(int(descriptor), "wb", buffering=0) as events:

        def send(event: Event) -> None:
            events.write(msgspec.json.encode(event) + b"\n")

        job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
        try:
            builder.run(job, send)
        except (ImportError, OSError, MemoryError) as error:
            kind = NotInstalledError if isinstance(error, ImportError) else BackendError
            send(Failed(kind.__name__, f"{job.module} failed: {type(error).__name__}: {error}"))
    os._exit(0)  # all is said: what native destructors do on the way out must not undo it


if __name__ == "__main__":
    _main(sys.argv[1])
