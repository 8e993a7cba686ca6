"""The door for files: what is read is a regular file of a bounded size, what is written appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
ANY_SIZE = 1 << 62
LARGEST_TEXT = 1 << 30
"""Bytes of JSON or labels that are read; the reports of the longest runs have a tenth of it."""
LARGEST_TOML = 1 << 14
"""Bytes of a recipe: Python's reader takes time and memory by the square of the longest dotted key."""


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
    return _regular(_opened(path, _READING), path)


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
    directory = _opened(root, os.O_RDONLY | os.O_DIRECTORY)
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


def _opened(path: str | Path, flags: int) -> int:
    """Open a path whatever its name.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        return os.open(path, flags)
    except ValueError:
        raise OSError(errno.EINVAL, NO_NAME, str(path)) from None


NO_NAME = "no file has a name with a null character"
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
        raise OSError(errno.EFBIG, f"it has more than {most >> 10:,} KiB", file.name)
    return content


def beside(weights: str | Path, what: str) -> Path:
    """Return the file that training writes beside weights, and a build looks for: NAME.WHAT for NAME.safetensors."""
    path = Path(weights)
    return path.with_name(f"{path.stem}.{what}")


def from_json(content: bytes | str, kind: type[T]) -> T:
    """Return a value of a type from JSON.

    Raises:
        msgspec.DecodeError: It is no such JSON, or nested too deeply, or has whole numbers of more than 64 bits.
    """
    try:
        found = msgspec.json.decode(content, type=kind)
        # Of a number with a hundred digits no figure can be made. Where there may be one, all are looked at.
        if _MANY_DIGITS.search(content if isinstance(content, bytes) else content.encode()):
            _check_whole_numbers(msgspec.json.decode(content))
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"it is not UTF-8: {error.reason}") from None
    return found


_MANY_DIGITS = re.compile(rb"(?<![.\d])\d{19}")


def _check_whole_numbers(value: object) -> None:
    """Refuse whole numbers of more than 64 bits.

    Raises:
        msgspec.DecodeError: One is there.
    """
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise msgspec.DecodeError("a whole number has more than 64 bits")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_whole_numbers(inner)


def to_json(value: msgspec.Struct) -> bytes:
    """Return a value as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write(path: Path, content: bytes) -> None:
    """Write beside, sync, rename: whoever reads sees the old file or the new one, also after a power cut.

    A link is followed. What a process that was killed has left of the same file is removed.

    Raises:
        OSError: The file cannot be written; what was there is as it was.
    """
    path = real(path)
    mark = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]  # a name of 255 bytes has no room for more
    for abandoned in path.parent.glob(f".{mark}-*.partial"):
        _remove_unlocked(abandoned)
    # Opened by us rather than by tempfile, whose files only their owner may read.
    staging = path.with_name(f".{mark}-{secrets.token_hex(4)}.partial")
    try:
        with _locked(staging):
            with staging.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staging.replace(path)
            with suppress(OSError):  # not every file system can: the content is safe, the new name soon
                sync_path(path.parent)
    finally:
        with suppress(OSError):
            staging.unlink(missing_ok=True)


def real(path: Path) -> Path:
    """Return where a path leads through links; one that leads to itself stays, and is refused by whoever opens it."""
    return Path(os.path.realpath(path))


def why_unwritable(path: Path) -> str:
    """Return why a file cannot be written, or nothing, as far as that is known before it is written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"folder '{folder}' does not exist"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"folder '{folder}' cannot be written"
    try:
        return f"'{path}' is a folder" if stat.S_ISDIR(path.stat().st_mode) else ""
    except FileNotFoundError:
        return ""
    except OSError as error:  # a name that is too long, a link to itself
        return f"'{path}' cannot be written: {error.strerror}"
    except ValueError:
        return f"'{path}' cannot be written: {NO_NAME}"


def is_partial(name: str) -> bool:
    """Whether a file of this name is what `write` leaves where its process is killed."""
    return re.fullmatch(r"\.[0-9a-f]{12}(-[0-9a-f]{8})?\.partial", name) is not None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Create a file and keep it locked, by which it is told from one whose writer was killed; not on Windows."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with suppress(OSError):  # a file system without locks: nothing on it is taken for abandoned
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove what writers of any file in a folder have left that were killed."""
    for path in folder.glob(".*.partial"):
        if is_partial(path.name):
            _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    """Remove what a writer that was killed has left; not what one is writing."""
    with suppress(OSError):
        file = open_regular(path)
        with file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def sync_path(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
