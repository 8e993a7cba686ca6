"""The door for files: what is read is a regular file of a bounded size, what is written appears whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from edgeresnext.errors import EdgeResNeXtError, InputError

T = TypeVar("T")
ANY_SIZE = 1 << 62
LARGEST_TEXT = 1 << 30
"""Bytes of JSON, labels or recipes that are read; the reports of the longest runs have a tenth of it."""


def digest(source: Path | BinaryIO) -> str:
    """Return the SHA-256 of a file, or of what an open one still holds, read in pieces, in hexadecimal."""
    found = hashlib.sha256()
    with open_regular(source) if isinstance(source, Path) else nullcontext(source) as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading, whatever its name, and nothing that could make this process wait: no pipe, no device.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    # Opening a pipe that nobody writes to would wait for ever; what was opened is asked, not what has the name now.
    return _regular(os.open(path, _READING), path)


def open_inside(root: Path, name: str) -> BinaryIO:
    """Open a regular file below a directory for reading; no link leads from one to the other, or out again.

    Args:
        root: The directory, which may itself be a link.
        name: Plain names with `/` between them.

    Raises:
        OSError: It cannot be opened, is no regular file, or a link.
    """
    if os.open not in os.supports_dir_fd:  # Windows: looked at, and then opened by its name
        where = root / name
        if where.resolve() != root.resolve() / name:
            raise OSError(errno.ELOOP, _LINK, str(where))
        return open_regular(where)
    *folders, last = name.split("/")
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        return _regular(os.open(last, _READING | os.O_NOFOLLOW, dir_fd=directory), root / name)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and (root / name).exists():
            raise OSError(errno.ELOOP, _LINK, str(root / name)) from None
        raise
    finally:
        os.close(directory)


_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_LINK = "it is a link, or lies below one"


def _regular(descriptor: int, path: str | Path) -> BinaryIO:
    """Return an open descriptor as a file, and close that of anything but a regular file."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))


def read(path: str | Path, most: int = LARGEST_TEXT) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: It cannot be read, is no regular file, or larger.
    """
    with open_regular(path) as file:
        return content_of(file, most)


def content_of(file: BinaryIO, most: int = LARGEST_TEXT) -> bytes:
    """Return what an open file holds.

    Raises:
        OSError: It cannot be read, or has more than `most` bytes.
    """
    size = os.fstat(file.fileno()).st_size  # a larger one may be asked for, which Python would make room for at once
    content = file.read(min(size, most) + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MiB", file.name)
    return content


def from_json(content: bytes | str, kind: type[T]) -> T:
    """Return a value of a type from JSON.

    Raises:
        msgspec.DecodeError: It is no such JSON, or nested too deeply.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"it is not UTF-8: {error.reason}") from None


def to_json(value: msgspec.Struct) -> bytes:
    """Return a value as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write(path: Path, content: bytes) -> None:
    """Write beside, sync, rename: whoever reads sees the old file or the new one, also after a power cut.

    A link is followed.

    Raises:
        OSError: The file cannot be written; what was there is as it was.
    """
    path = Path(os.path.realpath(path))
    # Opened by us rather than by tempfile, whose files only their owner may read.
    staging = path.with_name(f".{secrets.token_hex(6)}.partial")
    try:
        with staging.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        with suppress(OSError):
            staging.unlink(missing_ok=True)


@contextmanager
def replacing_directory(output: Path, waiting: Callable[[str], None]) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `output` when the block ends, or vanishes when it fails.

    Builds of one output take turns.

    Args:
        output: Where the bundle will be.
        waiting: Called with a message if another build holds the output.

    Raises:
        InputError: The disk is full or not writable.
        EdgeResNeXtError: The file system fails.
    """
    from filelock import FileLock, Timeout

    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output.parent / f".{output.name}.lock")
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
                _sync_path(output.parent)  # makes the new name itself durable
            finally:
                _remove(staging)
        finally:
            lock.release()  # the empty lock file stays: removing it would race with a build that waits on it
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(output.parent).free
            raise InputError(
                f"the disk is full: '{output}' could not be written ({free / 1e6:,.0f} MB are free)",
                "Free some space; what was there before is untouched.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"cannot write '{output}': {error.strerror}", "Choose another directory.") from error
        raise EdgeResNeXtError(f"cannot write '{output}': {error}") from error


def _remove(directory: Path) -> None:
    """Remove a directory that is ours, even if what was exchanged into it was write-protected."""
    for root, _, _ in os.walk(directory):
        Path(root).chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)


def _umask() -> int:
    """Return the process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(directory: Path) -> None:
    """Flush every file and directory below `directory` to the disk."""
    for path in [*directory.rglob("*"), directory]:
        _sync_path(path)


def _sync_path(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def previous(output: Path) -> Path:
    """Return where a replaced bundle waits while the new one takes its place, without renameat2."""
    output = output.absolute()
    return output.parent / f".{output.name}.previous"


def _recover(output: Path) -> None:
    """Undo what a build that was killed left: a half-written directory, or a bundle moved aside."""
    for abandoned in output.parent.glob(f".{glob.escape(output.name)}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    if previous(output).exists():
        if output.exists():
            shutil.rmtree(previous(output))
        else:
            previous(output).rename(output)


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
    staging.rename(output)
    shutil.rmtree(previous(output))
