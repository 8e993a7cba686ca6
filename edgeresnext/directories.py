"""Directories that appear whole or not at all, in the place of what was there."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeresnext import files
from edgeresnext.errors import EdgeResNeXtError, InputError


@contextmanager
def replacing(output: Path, waiting: Callable[[str], None]) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `output` when the block ends, or vanishes when it fails.

    Builds of one output take turns.

    Args:
        output: Where the directory will be.
        waiting: Called with a message if another build holds the output.

    Raises:
        InputError: The disk is full or not writable, or the output is a link or has a name that cannot be.
        EdgeResNeXtError: The file system fails.
    """
    from filelock import FileLock, Timeout

    output = output.absolute()
    check_name(output)
    if output.is_symlink():
        raise InputError(f"output '{output}' is a link", "Give a directory, or remove the link first.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock_of(output))
        Path(lock.lock_file).touch()  # where no file can be made, say so instead of waiting for the lock
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(f"another build is writing '{output}'; waiting for it to end (Ctrl-C to give up)")
            lock.acquire()
        try:
            _recover(output)
            staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
            try:
                yield staging
                staging.chmod(0o777 & ~_umask())
                _sync(staging)
                _exchange(staging, output)
                files.sync_path(output.parent)  # makes the new name itself durable
            finally:
                _remove(staging)
        finally:
            lock.release()  # the empty lock file stays: removing it would race with a build that waits on it
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk is full: '{output}' could not be written ({_free(output) / 1e6:,.0f} MB are free)",
                "Free some space, or remove files where there are too many; what was there before is untouched.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"cannot write '{output}': {error.strerror}", "Choose another directory.") from error
        raise EdgeResNeXtError(f"cannot write '{output}': {error}") from error


def check_room(output: Path, least_bytes: int) -> None:
    """Refuse an output that its disk has no room for, before anything slow is done.

    Args:
        output: What will be written; it need not exist.
        least_bytes: What it will certainly have.

    Raises:
        InputError: There is less room.
    """
    if (free := _free(output)) < least_bytes:
        raise InputError(
            f"no room for '{output}', which takes {least_bytes / 1e6:,.1f} MB at least: {free / 1e6:,.1f} MB are free",
            "Free some space, or choose an output on another disk.",
        )


_LONGEST_NAME = 255 - len("..partial-12345678")
"""Bytes that most file systems take for a name, less what is added to it while it is written."""
_LONGEST_PATH = 4096 - 300
"""Bytes that Linux takes for a path, less the longest name below it."""


def check_name(output: Path) -> None:
    """Refuse a name that no file can have, or that cannot be said.

    Raises:
        InputError: It is such a name.
    """
    name, path = os.fsencode(output.name), os.fsencode(output.absolute())
    hint = "Choose a shorter one."
    if b"\0" in path:
        raise InputError(f"output '{output}' cannot be: {files.NO_NAME}", "Choose another name.")
    if len(name) > _LONGEST_NAME:
        raise InputError(f"the name of output '{output.name[:40]}...' has {len(name)} bytes, of {_LONGEST_NAME}", hint)
    if len(path) > _LONGEST_PATH:
        raise InputError(f"the path of output '{output.name}' has {len(path)} bytes, of {_LONGEST_PATH}", hint)
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise InputError(f"the path of output '{output}' is no UTF-8", "Choose another name.") from None


def _free(output: Path) -> int:
    """Return the bytes that are free where `output` is or will be."""
    return next(shutil.disk_usage(folder).free for folder in output.absolute().parents if folder.is_dir())


def _remove(directory: Path) -> None:
    """Remove a directory that is ours, even if what was exchanged into it was write-protected."""
    for root, _, _ in os.walk(directory):
        with suppress(OSError):
            Path(root).chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)


def _umask() -> int:
    """Return the process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


_SYNCED_ALONE = 100
"""Files that are flushed one by one: two thousand small ones took seven seconds, the whole disk at once a tenth."""


def _sync(directory: Path) -> None:
    """Flush every file and directory below `directory` to the disk."""
    paths = [*directory.rglob("*"), directory]
    if len(paths) > _SYNCED_ALONE and hasattr(os, "sync"):
        os.sync()
        return
    for path in paths:
        files.sync_path(path)


def previous(output: Path) -> Path:
    """Return where a replaced bundle waits while the new one takes its place, without renameat2."""
    output = output.absolute()
    return output.parent / f".{output.name}.previous"


def _recover(output: Path) -> None:
    """Undo what a build that was killed left: a half-written directory, or a bundle moved aside."""
    for abandoned in output.parent.glob(f".{glob.escape(output.name)}.partial-*"):
        _remove(abandoned)
    if output.exists():
        _remove(previous(output))
    elif previous(output).exists():
        previous(output).rename(output)


def put_back(output: Path) -> None:
    """Undo what a build that was killed between two renames has left; nothing while another one is at work.

    Raises:
        OSError: What is aside cannot be put back.
    """
    from filelock import FileLock, Timeout

    if output.exists() or not previous(output).exists():
        return
    with suppress(Timeout), FileLock(_lock_of(output.absolute()), timeout=0):
        _recover(output.absolute())


def _lock_of(output: Path) -> Path:
    """Return the file by which builds of one output take turns."""
    return output.parent / f".{output.name}.lock"


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(staging: Path, output: Path) -> None:
    """Put `staging` in the place of `output`; what was there, if anything, ends up in `staging`.

    One system call on Linux (renameat2). Elsewhere two renames: between them the bundle is missing, never half, and a
    build that is killed there leaves the old one aside, from where the next build puts it back.
    """
    if not output.exists():
        staging.rename(output)
        return
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        names = os.fsencode(staging), os.fsencode(output)
        if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    output.rename(previous(output))
    try:
        staging.rename(output)
    except BaseException:
        previous(output).rename(output)
        raise
    try:
        previous(output).rename(staging)
    except OSError:  # the new one is there all the same
        _remove(previous(output))
