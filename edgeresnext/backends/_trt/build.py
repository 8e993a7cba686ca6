"""Build an engine in a child process, which ends with its parent, on Ctrl-C, and alone when it crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeresnext.backends._trt import anatomy
from edgeresnext.backends._trt.identity import platform_name
from edgeresnext.backends._trt.job import Built, Event, Failed, Job, Logged, Progressed
from edgeresnext.errors import BackendError, EdgeResNeXtError, InputError, NotInstalledError, RequestError
from edgeresnext.files import digest
from edgeresnext.spec import Engine

if TYPE_CHECKING:
    from typing import Literal

    from edgeresnext.backends.base import EngineRequest
    from edgeresnext.machine.gpu import Gpu
    from edgeresnext.spec import EngineOptions

_TAIL = 5
_ERRORS: dict[str, type[EdgeResNeXtError]] = {
    error.__name__: error for error in (BackendError, InputError, NotInstalledError, RequestError)
}
"""What a build may end with, by the name that crosses the pipe."""


def build_engine(
    module: Literal["tensorrt", "tensorrt_rtx"],
    engine: Path,
    request: EngineRequest,
    gpu: Gpu | None,
) -> Engine:
    """Build one engine file and return what it is.

    Args:
        module: The Python package to build with.
        engine: The file to write; removed where the build fails.
        request: What for, and how.
        gpu: Of this machine, where the engine is built for it.

    Raises:
        NotInstalledError: The package or a GPU is missing.
        BackendError: The build failed or crashed.
    """
    job = Job(
        module=module,
        onnx=str(request.onnx),
        weak_onnx=str(request.weak_onnx or request.onnx),
        plain_onnx=str(request.plain_onnx or ""),
        engine=str(engine),
        precision=request.precision,
        compute_capabilities=request.compute_capabilities,
        options=request.options,
        calibration_cache=str(request.calibration_cache or ""),
        implicit_images=str(request.implicit_images or ""),
        implicit_cache=str(request.implicit_cache or ""),
    )
    start = time.perf_counter()
    try:
        built = _run(job, request)
    except BaseException:
        engine.unlink(missing_ok=True)
        raise
    calibration = request.calibration_cache or request.implicit_cache
    if built.onnx != job.plain_onnx or (calibration and not calibration.exists()):
        calibration = None
    batch = request.options.batch
    described = batch[0] if built.anatomy_from == "inspector" or batch[0] == batch[2] else 1
    read = {"log": anatomy.from_build_log, "inspector": anatomy.from_inspector}[built.anatomy_from]
    return Engine(
        release=built.release,
        compute_capabilities=request.compute_capabilities or ((gpu.compute_capability,) if gpu else ()),
        onnx=f"onnx/{Path(built.onnx).name}",
        onnx_sha256=digest(Path(built.onnx)),
        options=_shippable(request.options),
        platform=platform_name(),
        calibration_sha256=digest(calibration) if calibration else "",
        built_s=time.perf_counter() - start,
        device=gpu.name if gpu else "",
        driver=gpu.driver if gpu else "",
        notes=built.notes,
        layers=read(built.anatomy, request.layer_macs, described),
    )


def _shippable(options: EngineOptions) -> EngineOptions:
    """Return options as the manifest keeps them: names instead of this machine's paths."""
    return msgspec.structs.replace(
        options,
        timing_cache=Path(options.timing_cache).name,
        implicit_calibration=Path(options.implicit_calibration).name,
    )


def _run(job: Job, request: EngineRequest) -> Built:
    """Run the child and pass on what it says until it has built or failed."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the child at once. Left to itself
        # the child would go on until native code returns.
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "edgeresnext.backends._trt.worker", str(writing)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
        )
        last: Built | Failed | None = None
        try:
            os.close(writing)
            assert process.stdin is not None
            # A child that dies before it reads is reported by how it ended, not by the broken pipe.
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(msgspec.json.encode(job))
            with os.fdopen(reading, "rb") as events:
                for line in events:
                    event: Event = msgspec.json.decode(line, type=Event)
                    if isinstance(event, Progressed):
                        request.progress(event.percent, 100)
                    elif isinstance(event, Logged):
                        request.warn(f"{request.name}: {event.text}")
                    else:
                        last = event
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if isinstance(last, Built) and process.returncode == 0:
            request.progress(100, 100)
            return last
        if isinstance(last, Failed):
            raise _ERRORS.get(last.error, BackendError)(f"{request.name}: {last.what}", last.hint)
        output.seek(0)
        tail = output.read().decode(errors="replace").strip().splitlines()[-_TAIL:]
    raise _crash(request.name, process.returncode, tail)


def _crash(name: str, code: int, tail: list[str]) -> BackendError:
    """Return the error for a child that said nothing before it ended."""
    if code == -signal.SIGKILL:
        return BackendError(
            f"{name}: the build was killed, most likely because memory ran out",
            "Give less --workspace or a smaller --batch, or free memory; on a Jetson add swap.",
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    said = f": {' | '.join(tail)}" if tail else ""
    return BackendError(f"{name}: the build crashed with {how}{said}", "Report it, with the ONNX file.")
