"""Build an engine in a child process, which ends with its parent, on Ctrl-C, and alone when it crashes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from edgeresnext.backends._trt.events import Built, Event, Failed, Logged, Progressed
from edgeresnext.backends.engine_header import platform_name
from edgeresnext.backends.request import EngineRequest
from edgeresnext.errors import BackendError, EdgeResNeXtError, InputError, NotInstalledError, RequestError
from edgeresnext.files import digest
from edgeresnext.machine import child
from edgeresnext.machine.gpu import Gpu, environment
from edgeresnext.progress import Progress
from edgeresnext.spec import Engine

_TAIL = 5
_ERRORS: dict[str, type[EdgeResNeXtError]] = {
    error.__name__: error for error in (BackendError, InputError, NotInstalledError, RequestError)
}
"""What a build may end with, by the name that crosses the pipe."""
_log = logging.getLogger("edgeresnext")


def build_engine(request: EngineRequest, gpu: Gpu | None, progress: Progress) -> Engine:
    """Build one engine file, removed where the build fails, and return what it is.

    Args:
        request: What for, from what, and how.
        gpu: Of this machine, where the engine is built for it.
        progress: Told how far the build is, in percent.

    Raises:
        NotInstalledError: The package or a GPU is missing.
        BackendError: The build failed or crashed.
    """
    start = time.perf_counter()
    try:
        built = run_in_child(request, progress)
    except BaseException:
        request.file.unlink(missing_ok=True)
        raise
    onnx = Path(built.onnx)
    calibration = request.calibration_cache if onnx == request.plain_onnx else None
    # The manifest keeps the name of the timing cache, not this machine's path, and not the number of its GPU.
    options = msgspec.structs.replace(
        request.options, timing_cache=Path(request.options.timing_cache).name, device=None
    )
    return Engine(
        release=built.release,
        compute_capabilities=request.compute_capabilities or ((gpu.compute_capability,) if gpu else ()),
        onnx=f"onnx/{onnx.name}",
        onnx_sha256=digest(onnx),
        options=options,
        platform=platform_name(),
        calibration_sha256=digest(calibration) if calibration else "",
        built_s=time.perf_counter() - start,
        device=gpu.name if gpu else "",
        multiprocessors=gpu.multiprocessors if gpu else 0,
        driver=gpu.driver if gpu else "",
        notes=built.notes,
        layers=built.layers,
    )


def run_in_child(request: EngineRequest, progress: Progress) -> Built:
    """Run the child and pass on what it says until it has built or failed.

    Raises:
        BackendError: The child cannot be started, or crashed; or what it says that it failed with.
    """
    with tempfile.TemporaryFile() as output:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as events:
            try:
                process = _child(request.name, writing, output)
            finally:
                os.close(writing)
            built = _heard(process, request, events, progress)
        if built is not None and process.returncode == 0:
            return built
        output.seek(0)
        tail = output.read().decode(errors="replace").strip().splitlines()[-_TAIL:]
    raise _crash(request.name, process.returncode, tail)


def _child(name: str, writing: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the child, which writes events to a pipe.

    In a session of its own: Ctrl-C reaches this process alone, which then ends the child at once. Left to itself the
    child would go on until native code returns.

    Raises:
        BackendError: It cannot be started.
    """
    try:
        return subprocess.Popen(  # noqa: S603 - our own module
            child.command("edgeresnext.backends._trt.child", str(writing)),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            env=environment(),  # TensorRT builds on the first GPU that it sees
            start_new_session=True,
        )
    except OSError as error:
        raise BackendError(
            f"{name}: no process can be started for the build: {error.strerror}",
            "Free memory, or raise the limit of processes (ulimit -u).",
        ) from error


def _heard(
    process: subprocess.Popen[bytes], request: EngineRequest, events: IO[bytes], progress: Progress
) -> Built | None:
    """Tell the child what to build, and return what it has built once it has ended."""
    try:
        assert process.stdin is not None
        # A child that dies before it reads is reported by how it ended, not by the broken pipe.
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(msgspec.json.encode(request, enc_hook=str))
        built = hear(events, request.name, progress)
        process.wait()
        return built
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def hear(lines: Iterable[bytes], name: str, progress: Progress) -> Built | None:
    """Pass on what the worker writes, and return what it has built; None where it ends without having said so.

    Raises:
        EdgeResNeXtError: The build failed.
    """
    for line in lines:
        event: Event = msgspec.json.decode(line, type=Event)
        if isinstance(event, Progressed):
            progress(f"engine {name}", event.percent, 100)
        elif isinstance(event, Logged):
            _log.warning("%s: %s", name, event.text)
        elif isinstance(event, Failed):
            raise _ERRORS.get(event.error, BackendError)(f"{name}: {event.what}", event.hint, values=event.values)
        else:
            progress(f"engine {name}", 100, 100)
            return event
    return None


def _crash(name: str, code: int, tail: list[str]) -> BackendError:
    """Return the error for a child that said nothing before it ended."""
    if code == -signal.SIGKILL:
        return BackendError(
            f"{name}: the build was killed, most likely because memory ran out",
            "Give it less workspace or a smaller batch, or free memory; on a Jetson add swap.",
            values=("workspace_bytes", "batch"),
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    said = f": {' | '.join(tail)}" if tail else ""
    return BackendError(f"{name}: the build crashed with {how}{said}", "Report it, with the ONNX file.")
