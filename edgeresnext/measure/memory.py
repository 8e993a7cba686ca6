"""Peak memory of one artefact: a fresh process that loads it and runs it.

    python -m edgeresnext.measure.memory BUNDLE BATCH [THREADS] < ARTEFACT.json

prints the process's peak resident memory in bytes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import msgspec

from edgeresnext.errors import BackendError
from edgeresnext.machine import child, gpu
from edgeresnext.spec import Artifact

_RUNS = 3
_TIMEOUT_S = 120


def peak_memory(bundle: Path, artifact: Artifact, batch: int, threads: int | None) -> int:
    """Return the peak resident memory in bytes of a process that runs the artefact.

    Raises:
        BackendError: It cannot be measured, or the process failed.
    """
    if sys.platform == "win32":
        raise BackendError("it is not measured on Windows")
    if artifact.mode:
        raise BackendError(f"not measured of mode {artifact.mode}, whose compiler would count")
    command = child.command(__name__, str(bundle), str(batch), *([str(threads)] if threads else []))
    try:
        done = subprocess.run(  # noqa: S603
            command,
            input=msgspec.json.encode(artifact),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
            env=gpu.environment(),
        )
        return int(done.stdout)
    except subprocess.TimeoutExpired:
        raise BackendError(f"no answer within {_TIMEOUT_S} s") from None
    except (subprocess.CalledProcessError, ValueError, OSError) as error:
        stderr = getattr(error, "stderr", None)
        text = stderr.decode(errors="replace") if stderr else str(error)
        raise BackendError(f"{text.strip().rpartition(chr(10))[2] or error}") from None


def own_peak() -> int:
    """Return this process's peak resident memory in bytes.

    Linux: VmHWM, because `getrusage` counts what the parent had resident when it started the process.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _main(path: str, batch: str, threads: str = "") -> None:
    """Load and run the artefact in this process and print its peak memory."""
    import numpy as np

    from edgeresnext.bundle import read
    from edgeresnext.runtime.classifier import open_artifact
    from edgeresnext.spec import Artifact

    bundle = read(path)
    artifact = msgspec.json.decode(sys.stdin.buffer.read(), type=Artifact)
    session = open_artifact(bundle, artifact, int(threads) if threads else None)
    model = bundle.manifest.model
    shape = (*model.preprocess.size, model.in_channels)
    for _ in range(_RUNS):
        session.run(np.zeros((int(batch), *shape), np.uint8))
    sys.stdout.write(f"{own_peak()}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
