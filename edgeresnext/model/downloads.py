"""Files by their address: fetched once, gone on with where an earlier download stopped, checked, and kept."""

from __future__ import annotations

import errno
import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgeresnext import files
from edgeresnext.errors import CheckpointError
from edgeresnext.progress import Progress

ELSEWHERE = "Fetch it on a machine that has a network, and give the file instead."
_TIMEOUT_S = 30.0
_PIECE_BYTES = 1 << 20
_OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}
"""Errors that a network does not have."""


def fetched(address: str, digest: str, cache: Path, progress: Progress) -> Path:
    """Return the file at an address, from the cache or from where an earlier download stopped."""
    place = cache / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:16]
    path = place / "weights"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / ".lock"):
            if not path.exists() or not files.digest(path).startswith(digest):
                _fetch(address, digest, path, progress)
    except OSError as error:
        raise CheckpointError(
            f"downloads cannot be kept in '{place}': {error.strerror or error}",
            "Free some space, or set EDGERESNEXT_CACHE to another folder.",
        ) from None
    return path


def _fetch(address: str, digest: str, path: Path, progress: Progress) -> None:
    """Put what an address sends in the place of a file, if it is what it should be.

    Raises:
        CheckpointError: The machine cannot be reached, refuses, or sends another file.
        OSError: The disk refuses.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        _receive(address, partial, progress, checked=bool(digest))
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"'{address}' answers {error.code} {error.reason}", "Check the address.") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in _OF_DISKS:
            raise
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise CheckpointError(f"cannot fetch '{address}': {reason}", ELSEWHERE) from None
    found = files.digest(partial)
    if not found.startswith(digest):
        partial.unlink()
        raise CheckpointError(
            f"'{address}' sent another file: its SHA-256 begins with {found[: max(len(digest), 8)]}, not {digest}",
            "Try again; if it stays so, do not use that file.",
        )
    files.sync_path(partial)
    partial.replace(path)


def _receive(address: str, partial: Path, progress: Progress, *, checked: bool) -> None:
    """Write what an address sends behind what is there already, where the whole is checked or known to be of one file.

    Raises:
        OSError: The connection failed, or ended early.
    """
    have = partial.stat().st_size if partial.exists() else 0
    etag = partial.with_name(f"{partial.name}.etag")
    known = etag.read_text(encoding="utf-8") if etag.exists() else ""
    headers = {"Range": f"bytes={have}-"} if have and (known or checked) else {}
    if headers and known:
        headers["If-Range"] = known  # where it is another file now, all of it comes
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - https, or a known digest
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 - as above
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # noqa: PLR2004 - "range not satisfiable": all of it is there, or it changed
            raise
        partial.unlink()
        return _receive(address, partial, progress, checked=checked)
    with answer:
        if address.lower().startswith("https:") and not answer.geturl().lower().startswith("https:"):
            message = f"it leads to {answer.geturl()}, which is not encrypted"
            raise OSError(message)
        goes_on = answer.status == 206 and str(answer.headers.get("Content-Range")).startswith(f"bytes {have}-")  # noqa: PLR2004 - "partial content"
        if goes_on or answer.status != 206:  # noqa: PLR2004 - as above
            return _append(answer, partial, etag, progress, goes_on=goes_on)
    partial.unlink()
    return _receive(address, partial, progress, checked=checked)


def _append(answer: Any, partial: Path, etag: Path, progress: Progress, *, goes_on: bool) -> None:  # noqa: ANN401 - as urlopen
    """Write an answer behind what is there, where it goes on with that, else in its place.

    Raises:
        OSError: It ended early, or cannot be written.
    """
    if not goes_on:  # what came of another file must not be taken for the beginning of this one
        partial.unlink(missing_ok=True)
        files.write(etag, answer.headers.get("ETag", "").encode())
    with partial.open("ab" if goes_on else "wb") as file:
        done = file.tell()
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else 0
        while piece := answer.read(_PIECE_BYTES):
            file.write(piece)
            done += len(piece)
            progress("download", done, max(total, done))
    if total and done < total:
        message = f"the connection ended after {done:,} of {total:,} bytes; the next try goes on from there"
        raise OSError(message)
