"""Runs command lines, each in a forked child of a process that has imported everything once.

Reads {"folder": ..., "lines": [[argument, ...], ...]} from stdin; writes [[exit code, seconds, stdout, stderr], ...].
What would measure, train or build for long ends with an error of ours instead, once everything has been checked.
"""

import contextlib
import gc
import io
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

PATIENCE_S = 60
"""For what takes a second on a machine that does nothing else."""
FAR_ENOUGH = "everything was checked"


def preload():
    """Import what commands use, and let the slow ones end where their work begins."""
    import torch
    import torch._dynamo

    import edgeresnext.bundle
    import edgeresnext.cli.demo
    import edgeresnext.cli.doctor
    import edgeresnext.interop.export
    import edgeresnext.interop.trtexec
    import edgeresnext.measure.variants
    import edgeresnext.pipeline.build
    import edgeresnext.pipeline.gate
    import edgeresnext.pipeline.source
    import edgeresnext.report.html
    import edgeresnext.report.sensitivity
    import edgeresnext.training.train
    from edgeresnext.backends import unreported
    from edgeresnext.errors import DataError

    def stop(*_arguments, **_options):
        raise DataError(FAR_ENOUGH)

    torch.set_num_threads(1)
    unreported.onnxruntime()
    unreported.openvino()
    edgeresnext.bundle.replacing = edgeresnext.measure.variants.open_all = stop
    edgeresnext.training.train.begin = edgeresnext.training.train.begin_again = stop
    gc.freeze()


def child(arguments, out, err):
    """Be a process that was started with these arguments."""
    code = 70
    os.setsid()
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdin = io.StringIO()
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True
    )
    try:
        from edgeresnext.__main__ import main
        from edgeresnext.cli import root

        if any("\0" in one for one in arguments):  # which is for callers in Python alone
            root.run(arguments)
        sys.argv = ["edgeresnext", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - as Python itself does
        traceback.print_exc()
    finally:
        os._exit(code)


def run(arguments):
    """Return what became of a command line: exit code, or None where it does not end, seconds, stdout, stderr."""
    out, err = Path("stdout.txt").absolute(), Path("stderr.txt").absolute()
    start = time.monotonic()
    number = os.fork()
    if not number:
        child(arguments, out, err)
    code = None
    while code is None and time.monotonic() < start + PATIENCE_S:
        ended, status = os.waitpid(number, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.002)
    if code is None:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    said = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    return [code, time.monotonic() - start, *said]


def main():
    asked = json.load(sys.stdin)
    os.chdir(asked["folder"])
    preload()
    with contextlib.suppress(KeyboardInterrupt):
        json.dump([run(line) for line in asked["lines"]], sys.stdout)


if __name__ == "__main__":
    main()
