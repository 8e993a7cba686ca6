"""A forked child whose n-th call that changes a file system is its last, or fails.

Counted are calls that Python makes: opening for writing, writes, fsync, renames (renameat2 too), links, folders, modes and
removals. A child that is killed at a write has written half of it; a write that fails has too.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CREATING = {"open", "write", "os.mkdir", "os.link", "os.symlink"}
"""Calls that need room."""
OTHERS = {"os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "ctypes.dlsym", "fsync", "sendfile"}
FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EXCHANGE = "renameat2"
_ELSEWHERE = ("/dev/", "/proc/", "/sys/")
_CALLS = b"\0calls\0"


@dataclass
class Points:
    """Counts calls, and does something at one of them.

    Args:
        at: The number of the call, from 1; 0 for none.
        number: The error that it fails with; 0 for SIGKILL. A full disk stays full, and one that became read-only so.
        exchange: Whether two folders can be exchanged here.
        ignored: Beginnings of paths that are not counted: scratch that a system sweeps itself.
        calls: What was counted.
    """

    at: int = 0
    number: int = 0
    exchange: bool = True
    ignored: tuple[str, ...] = ()
    calls: list[str] = field(default_factory=list)

    def reached(self, call: str, path: object, half: Callable[[], object] = lambda: None) -> None:
        """Count a call, which must not happen where this was the one.

        Raises:
            OSError: It fails.
        """
        self.calls.append(f"{call} {path}")
        count = len(self.calls)
        if not self.at or count < self.at:
            return
        if not self.number:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        lasting = (self.number in FULL and call in CREATING) or self.number == errno.EROFS
        if count == self.at or lasting:
            if self.number in FULL and call not in CREATING:
                self.at += 1
                return
            half()
            raise OSError(self.number, os.strerror(self.number), path)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take what Python tells of a call before it makes it."""
        if event == "ctypes.dlsym":
            if arguments[1] != _EXCHANGE:
                return
            if not self.exchange:
                raise AttributeError(_EXCHANGE)
        elif event not in CREATING | OTHERS or (event == "open" and not (arguments[2] or 0) & _WRITING):
            return
        path = arguments[0]
        path = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else path
        if isinstance(path, int) or str(path).startswith((*_ELSEWHERE, *self.ignored)):
            return
        self.reached(event, path)

    def install(self) -> None:
        """Count from now on, for the rest of this process."""
        points, opened, fsync, sendfile = self, io.open, os.fsync, os.sendfile

        class Counted(io.FileIO):
            def write(self, data: Any, /) -> int:
                half = memoryview(data).cast("B")[: memoryview(data).nbytes // 2]
                points.reached("write", self.name, lambda: super(Counted, self).write(half))
                return super().write(data)

        def open_(  # noqa: PLR0917, RUF100 - as `io.open`
            file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
            newline: Any = None, closefd: Any = 1, opener: Any = None,
        ) -> Any:  # fmt: skip
            if not set(mode) & set("wxa+") or str(file).startswith(_ELSEWHERE):
                return opened(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = Counted(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            if not buffering:
                return raw
            binary = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)

        def fsync_(descriptor: int) -> None:
            points.reached("fsync", descriptor)
            fsync(descriptor)

        def sendfile_(*arguments: Any, **options: Any) -> int:
            points.reached("sendfile", arguments[0])
            return sendfile(*arguments, **options)

        builtins.open = io.open = open_  # type: ignore[assignment]
        os.fsync, os.sendfile = fsync_, sendfile_  # type: ignore[assignment]
        sys.addaudithook(self.heard)


def forked(work: Callable[[], None], folder: Path, points: Points, output: Path, **variables: str) -> int:
    """Do work in a child whose current folder is `folder`; return its exit code, or the signal, negative.

    Args:
        work: What the child does.
        folder: Its current folder; its home and its scratch lie in it.
        points: What happens to it.
        output: Where what it says goes; what was counted goes beside it, in a file of suffix `.calls`.
        variables: Its environment, beside its own.
    """
    reading, writing = os.pipe()  # and not a file, which may not grow where that is tried
    child = os.fork()
    if not child:
        _be_child(work, folder, points, writing, variables)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        said, _, calls = pipe.read().partition(_CALLS)
    output.write_bytes(said)
    output.with_suffix(".calls").write_bytes(calls)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_child(
    work: Callable[[], None], folder: Path, points: Points, said: int, variables: Mapping[str, str]
) -> NoReturn:
    """Do the work, and leave as Python would."""
    code: object = 70
    try:
        os.setsid()
        for number in (1, 2):
            os.dup2(said, number)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        os.chdir(folder)
        scratch = folder / "tmp"
        scratch.mkdir(exist_ok=True)
        tempfile.tempdir = None
        os.environ.update({"HOME": str(folder / "home"), "TMPDIR": str(scratch), **variables})
        points.ignored = (str(scratch), str(folder / "home"))
        points.install()
        work()
        code = 0
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - said, and counted by whoever waits
        traceback.print_exc()
    finally:
        os.write(said, _CALLS + "\n".join(points.calls).encode(errors="replace"))
        os._exit(code if isinstance(code, int) else int(code is not None))


def snapshot(root: Path) -> dict[str, bytes]:
    """Return every file below a folder, or a file, by name."""
    if root.is_file():
        return {"": root.read_bytes()}
    return {
        path.relative_to(root).as_posix(): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if not path.is_symlink()
    }
