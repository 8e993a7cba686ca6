"""Tell what a serialized engine is without handing it to native code."""

from __future__ import annotations

import io
import platform
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeresnext import files
from edgeresnext.errors import BundleError

_TAGS = {0x74727466: "tensorrt", 0x74727476: "tensorrt_rtx"}
"""The first four bytes of a plan: "ftrt" and "vtrt" (NVIDIA/TensorRT's plan header; plans of TensorRT-RTX 1.7)."""

_LAYOUT = struct.Struct("<I20x4B")
"""Tag, twenty bytes that do not matter here, then major, minor, patch and build of the release."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the first 28 bytes of a plan tell.

    Args:
        backend: The backend that runs it.
        release: The TensorRT release that built it, such as "10.3.0.30"; the build number is kept modulo 256 there.
    """

    backend: str
    release: str


def read_header(path: Path, content: bytes | None = None) -> Header:
    """Return what the header of a plan tells; `content` is what lies there, where that has been read.

    Raises:
        BundleError: The file is no plan, or is cut off.
    """
    try:
        with files.open_regular(path) if content is None else io.BytesIO(content) as file:
            raw = file.read(_LAYOUT.size)
    except OSError as error:
        raise BundleError(f"cannot read engine '{path}': {error.strerror}", "Check its permissions.") from None
    if len(raw) < _LAYOUT.size:
        raise BundleError(f"'{path}' is not an engine: it has {len(raw)} bytes", "Build it again.")
    tag, *release = _LAYOUT.unpack(raw)
    if tag not in _TAGS:
        raise BundleError(f"'{path}' is not a TensorRT engine: its first bytes are {raw[:4]!r}", "Build it again.")
    return Header(backend=_TAGS[tag], release=".".join(map(str, release)))


def platform_name() -> str:
    """Return operating system and architecture, which an engine is tied to, such as "linux-x86_64"."""
    return f"{sys.platform}-{platform.machine().lower()}"


def release_key(release: str) -> tuple[int, ...]:
    """Return the numbers of a release, for comparison."""
    return tuple(int(part) for part in release.split(".") if part.isdecimal())


_NEXT_MAJOR = {8: 10, 10: 11}
"""The one later major release that runs version-compatible engines of an earlier one: "No other combination across
major versions is supported" (support matrix of TensorRT 11.4.1)."""


def runs_later(built: str, installed: str) -> bool:
    """Whether a release runs version-compatible engines that another has built, which came before it."""
    before, after = release_key(built)[:3], release_key(installed)[:3]
    if before[0] == after[0]:
        return after >= before
    return _NEXT_MAJOR.get(before[0]) == after[0]


def same_release(one: str, other: str) -> bool:
    """Whether two releases are the same up to the build number, in which headers and packages differ."""
    return one.split(".")[:3] == other.split(".")[:3]
