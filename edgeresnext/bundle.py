"""The bundle: a directory whose manifest names every other file with its size and SHA-256.

A bundle appears whole or not at all: it is written beside its place, synced, and exchanged with what was there.
Nothing in it is executed or unpickled, and no file reaches native code before its digest has been checked.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext.data.folder import file_digest, read_labels
from edgeresnext.errors import BundleError, EdgeResNeXtError, RequestError, shortened, unknown_name
from edgeresnext.spec import MANIFEST_SCHEMA, Artifact, Fidelity, FileEntry, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

MANIFEST = "manifest.json"
LABELS = "labels.txt"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.npz"
RANGES = "ranges.json"

_REBUILD = "Copy the bundle again, or rebuild it with `edgeresnext build`."


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Images with PyTorch's float32 logits for them, by which an artefact proves itself anywhere.

    Args:
        images: uint8 `(N, crop_px, crop_px, 3)`.
        logits: float32 `(N, classes)`.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    def compare(self, logits: NDArray[np.float32]) -> Fidelity:
        """Return how far an artefact's logits for the golden images are from PyTorch's."""
        noise = logits.astype(np.float64) - self.logits
        signal = self.logits.astype(np.float64)
        if not np.isfinite(logits).all():
            return Fidelity(snr_db=None, max_error=None)
        power = float((noise**2).sum())
        snr_db = 10 * math.log10(float((signal**2).sum()) / power) if power else None
        return Fidelity(snr_db=snr_db, max_error=float(np.abs(noise).max() / np.abs(signal).max()))


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk whose manifest has been read and checked; its files are checked as they are used."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Return the path of a file after comparing it with the manifest.

        Raises:
            BundleError: It is missing or altered, or the manifest does not list it.
        """
        entry = self.manifest.files.get(name)
        path = self.path / name
        if entry is None:
            raise BundleError(f"the manifest of bundle '{self.path}' does not list '{name}'", _REBUILD)
        if not path.is_file():
            raise BundleError(f"file '{path}' of the bundle is missing", _REBUILD)
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(f"file '{path}' has {size:,} bytes; the manifest says {entry.bytes:,}", _REBUILD)
        if file_digest(path) != entry.sha256:
            raise BundleError(f"file '{path}' was altered: its SHA-256 is not the manifest's", _REBUILD)
        return path

    def labels(self) -> tuple[str, ...]:
        """Return the label of each logit.

        Raises:
            BundleError: There are more or fewer labels than classes.
        """
        labels = read_labels(self.file(LABELS))
        if len(labels) != self.manifest.model.classes:
            raise BundleError(
                f"'{self.path / LABELS}' has {len(labels)} labels for {self.manifest.model.classes} classes", _REBUILD
            )
        return labels

    def golden(self) -> Golden:
        """Return the golden images and PyTorch's logits for them."""
        path = self.file(REFERENCE)
        with np.load(path, allow_pickle=False) as arrays:
            return Golden(images=arrays["images"], logits=arrays["logits"])

    def artifacts(self, backend: str | None = None, precision: str | None = None) -> tuple[Artifact, ...]:
        """Return the artefacts that match, fastest first by the measurement in the manifest.

        Raises:
            RequestError: None matches; those that exist are named.
        """
        timings = {timing.artifact: timing.latency_s for timing in self.manifest.selection.timings}
        ranked = sorted(self.manifest.artifacts, key=lambda artifact: timings.get(artifact.name, float("inf")))
        known_backends = list(dict.fromkeys(artifact.backend for artifact in ranked))
        known_precisions = list(dict.fromkeys(artifact.precision for artifact in ranked))
        if backend is not None and backend not in known_backends:
            raise unknown_name("backend of this bundle", backend, known_backends)
        if precision is not None and precision not in known_precisions:
            raise unknown_name("precision of this bundle", precision, known_precisions)
        found = tuple(a for a in ranked if backend in (None, a.backend) and precision in (None, a.precision))
        if not found:
            raise RequestError(
                f"bundle '{self.path}' has no {precision} artefact for {backend}",
                f"It has {', '.join(artifact.name for artifact in ranked)}.",
            )
        return found


def read(path: str | Path) -> Bundle:
    """Read the manifest of a bundle.

    Raises:
        BundleError: The path is no bundle, or its manifest is damaged or of another schema.
    """
    path = Path(path)
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        what = "is not a bundle: it has no manifest.json" if path.is_dir() else "does not exist"
        what = "is a file, not a bundle" if path.is_file() else what
        raise BundleError(f"'{path}' {what}", "A bundle is the directory that `edgeresnext build --output` wrote.")
    raw = manifest_path.read_bytes()
    try:
        schema = msgspec.json.decode(raw, type=_Schema).schema
        if schema != MANIFEST_SCHEMA:
            raise BundleError(
                f"'{manifest_path}' has schema {schema}; this release reads schema {MANIFEST_SCHEMA}",
                "Rebuild the bundle, or install the release that wrote it.",
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"'{manifest_path}' is damaged: {error}", _REBUILD) from None
    unsafe = [name for name in manifest.files if not _is_plain(name)]
    if unsafe:
        raise BundleError(
            f"'{manifest_path}' names files outside the bundle: {shortened(unsafe)}", "Do not use this bundle."
        )
    return Bundle(path=path, manifest=manifest)


class _Schema(msgspec.Struct):
    """The one field by which manifests of all releases are told apart."""

    schema: int


def _is_plain(name: str) -> bool:
    """Whether a file name is relative and stays inside the bundle."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and ":" not in name


def check_output(output: Path) -> None:
    """Refuse an output path that a bundle must not replace.

    Raises:
        BundleError: It is a file, or a directory that holds something other than a bundle.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise BundleError(f"output '{output}' is a file or a link", "Give a new directory, or that of a bundle.")
    if output.is_dir() and any(output.iterdir()):
        try:
            msgspec.json.decode((output / MANIFEST).read_bytes(), type=_Schema)
        except (OSError, msgspec.MsgspecError):
            raise BundleError(
                f"output '{output}' holds something other than a bundle; it is left alone",
                "Give a new directory, or remove that one first.",
            ) from None
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BundleError(f"cannot write in '{parent}'", "Choose an output directory that you may write to.")


@contextmanager
def replacing(output: Path, waiting: Callable[[str], None]) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `output` when the block ends, or vanishes when it fails.

    Builds of one output take turns.

    Args:
        output: Where the bundle will be.
        waiting: Called with a message if another build holds the output.

    Raises:
        BundleError: The output may not be replaced, or the disk is full or not writable.
    """
    from filelock import FileLock, Timeout

    check_output(output)
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output.parent / f".{output.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(f"another build is writing '{output}'; waiting for it to end (Ctrl-C to give up)")
            lock.acquire()
        try:
            for abandoned in output.parent.glob(f".{output.name}.partial-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
            try:
                yield staging
                staging.chmod(0o777 & ~_umask())
                _sync(staging)
                _exchange(staging, output)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        finally:
            lock.release()  # the empty lock file stays: removing it would race with a build that waits on it
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(output.parent).free
            raise BundleError(
                f"the disk is full: '{output}' could not be written ({free / 1e6:,.0f} MB are free)",
                "Free some space; what was there before is untouched.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BundleError(f"cannot write '{output}': {error.strerror}", "Choose another directory.") from error
        raise EdgeResNeXtError(f"cannot write '{output}': {error}") from error


def _umask() -> int:
    """Return the process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(directory: Path) -> None:
    """Flush every file and directory below `directory` to the disk."""
    for path in [*directory.rglob("*"), directory, directory.parent]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(staging: Path, output: Path) -> None:
    """Put `staging` in the place of `output`; what was there, if anything, ends up in `staging`.

    One system call on Linux (renameat2). Elsewhere two renames: between them the bundle is missing, never half.
    """
    if not output.exists():
        staging.rename(output)
        return
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        names = os.fsencode(staging), os.fsencode(output)
        if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    previous = staging.with_name(staging.name + ".previous")
    output.rename(previous)
    staging.rename(output)
    previous.rename(staging)


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Return size and digest of every file below `directory` but the manifest, by relative name."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(directory).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=file_digest(path))
        for path in paths
    }


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Write a value as indented JSON with a final newline."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
