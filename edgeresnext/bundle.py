"""The bundle: a directory whose manifest names every other file with its size and SHA-256.

A bundle appears whole or not at all (`files.replacing`). Nothing in it is executed or unpickled, and no file reaches
native code before its digest has been checked.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext import __version__, files
from edgeresnext.data.folder import read_labels
from edgeresnext.errors import BundleError, RequestError, shortened, unknown_name
from edgeresnext.spec import RANGES_SCHEMA, READABLE_SCHEMAS, Artifact, Fidelity, FileEntry, Manifest, Ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from edgeresnext.spec import Precision

MANIFEST = "manifest.json"
LABELS = "labels.txt"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.npz"
RANGES = "ranges.json"
CALIBRATION_CACHE = "calibration.cache"
RUNTIME_CACHE_SUFFIX = ".runtime-cache"
"""Of files that TensorRT-RTX leaves beside engines while they run; no part of the bundle, and no loss."""

RUNTIME_LOSS_DB = 6.0
"""What a runtime may lose of an INT8 file's signal-to-noise ratio, in dB: it fuses and rounds elsewhere, and is judged
on a few images. Saturating products cost 15 to 25 dB."""

_UNTIMED: tuple[Precision, ...] = ("fp16", "int8", "bf16", "fp32")
_READABLE = "Check the permissions of the bundle's directory."
_REBUILD = "Copy the bundle again, or rebuild it with `edgeresnext build`."
_OTHER_RELEASE = "Rebuild the bundle with this release, or install the one that wrote it."


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Images with PyTorch's float32 logits for them, by which an artefact proves itself anywhere.

    Args:
        images: uint8 `(N, crop_px, crop_px, 3)`.
        logits: float32 `(N, classes)`.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    def first(self, count: int) -> Golden:
        """Return the first so many of them."""
        return Golden(images=self.images[:count], logits=self.logits[:count])

    def compare(self, logits: NDArray[np.float32]) -> Fidelity:
        """Return how far an artefact's logits for the golden images, float32 `(N, classes)`, are from PyTorch's."""
        noise = logits.astype(np.float64) - self.logits
        signal = self.logits.astype(np.float64)
        if not np.isfinite(logits).all():
            return Fidelity(snr_db=None, max_error=None)
        power, error = float((noise**2).sum()), float(np.abs(noise).max())
        if not power:
            return Fidelity(snr_db=None, max_error=0.0)
        largest = float(np.abs(signal).max())
        if not largest:  # all-zero logits: any difference is infinitely larger
            return Fidelity(snr_db=-math.inf, max_error=math.inf)
        return Fidelity(snr_db=10 * math.log10(float((signal**2).sum()) / power), max_error=error / largest)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk whose manifest has been read and checked; its files are checked as they are used.

    Args:
        path: Its directory.
        manifest: What it holds.
        digest: SHA-256 of the manifest, by which bundles are told apart; empty where it is being written.
    """

    path: Path
    manifest: Manifest
    digest: str = ""

    def file(self, name: str) -> Path:
        """Return the path of a file after comparing it with the manifest.

        Raises:
            BundleError: It is missing or altered, or the manifest does not list it.
        """
        entry = self.manifest.files.get(name)
        path = self.path / name
        if entry is None:
            raise BundleError(f"the manifest of bundle '{self.path}' does not list '{name}'", _REBUILD)
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(f"file '{path}' has {size:,} bytes; the manifest says {entry.bytes:,}", _REBUILD)
            if files.digest(path) != entry.sha256:
                raise BundleError(f"file '{path}' was altered: its SHA-256 is not the manifest's", _REBUILD)
        except FileNotFoundError:
            raise BundleError(f"file '{path}' of the bundle is missing", _REBUILD) from None
        except OSError as error:
            raise BundleError(f"cannot read file '{path}' of the bundle: {error.strerror}", _READABLE) from None
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

    def ranges(self) -> Ranges | None:
        """Return what calibration found; None where the bundle has no INT8.

        Raises:
            BundleError: The file is missing or altered, or holds no ranges of this release.
        """
        return read_ranges(self.file(RANGES)) if RANGES in self.manifest.files else None

    def golden(self) -> Golden:
        """Return the golden images and PyTorch's logits for them.

        Raises:
            BundleError: The file is missing, altered, or does not hold what the model takes and returns.
        """
        path = self.file(REFERENCE)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                golden = Golden(images=arrays["images"], logits=arrays["logits"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"file '{path}' is damaged: {error}", _REBUILD) from None
        count = len(golden.images)
        shapes = (self.manifest.model.input.shape[1:], self.manifest.model.output.shape[1:])
        if (golden.images.shape[1:], golden.logits.shape[1:]) != shapes or len(golden.logits) != count or not count:
            raise BundleError(
                f"file '{path}' holds images {golden.images.shape} and logits {golden.logits.shape}, not the model's",
                _REBUILD,
            )
        return golden

    def shortfall(self, artifact: Artifact, fidelity: Fidelity) -> str:
        """Return by how much an artefact, as it ran, misses what it must reach, or nothing.

        INT8 must come near what its file says, not only near PyTorch: a runtime that saturates may halve the accuracy
        of a good file and still be over the limit of a poor one.
        """
        found = fidelity.shortfall(artifact.precision)
        if found or artifact.precision != "int8" or fidelity.snr_db is None:
            return found
        name = artifact.file if artifact.engine is None else artifact.engine.onnx
        # DLAs and TensorRT's own calibration quantise a file that is in floating point itself.
        said = next(
            (file.fidelity.snr_db for file in self.manifest.onnx if file.file == name and file.plan.inputs), None
        )
        if said is None or fidelity.snr_db >= said - RUNTIME_LOSS_DB:
            return ""
        return f"signal-to-noise of the logits is {fidelity.snr_db:.1f} dB, where {name} says {said:.1f} dB"

    def artifacts(self, backend: str | None = None, precision: str | None = None) -> tuple[Artifact, ...]:
        """Return the artefacts that match, the most promising first.

        Engines that nobody has timed yet (built ahead of time) come first, FP16 before INT8 and FP32; then everything
        by the measurement in the manifest.

        Raises:
            RequestError: None matches; those that exist are named.
        """
        timings = {timing.artifact: timing.latency_s for timing in self.manifest.selection.timings}

        def rank(artifact: Artifact) -> tuple[int, float]:
            latency = timings.get(artifact.name)
            if latency is None and artifact.engine is not None:
                return 0, _UNTIMED.index(artifact.precision)
            return 1, math.inf if latency is None else latency

        ranked = sorted(self.manifest.artifacts, key=rank)
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
    try:
        raw = manifest_path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        what = "is not a bundle: it has no manifest.json" if path.is_dir() else "does not exist"
        what = "is a file, not a bundle" if path.is_file() else what
        hint = "A bundle is the directory that `edgeresnext build --output` wrote."
        raise BundleError(f"'{path}' {what}", hint) from None
    except OSError as error:
        raise BundleError(f"cannot read '{manifest_path}': {error.strerror}", _READABLE) from None
    try:
        header = msgspec.json.decode(raw, type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"'{manifest_path}' is damaged: {error}", _REBUILD) from None
    if header.schema not in READABLE_SCHEMAS:
        raise BundleError(
            f"'{manifest_path}' has schema {header.schema}, which {header.writer} wrote; this release "
            f"({__version__}) reads {READABLE_SCHEMAS[0]} to {READABLE_SCHEMAS[-1]}",
            _OTHER_RELEASE,
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(
            f"'{manifest_path}', which {header.writer} wrote, is damaged or does not fit this release "
            f"({__version__}): {error}",
            _OTHER_RELEASE,
        ) from None
    unsafe = [name for name in manifest.files if not _is_plain(name)]
    if unsafe:
        raise BundleError(
            f"'{manifest_path}' names files outside the bundle: {shortened(unsafe)}", "Do not use this bundle."
        )
    named = [artifact.file for artifact in manifest.artifacts] + [file.file for file in manifest.onnx]
    unlisted = [name for name in [WEIGHTS, REFERENCE, LABELS, *named] if name not in manifest.files]
    if unlisted or not manifest.artifacts:
        what = f"does not list {shortened(unlisted)}" if unlisted else "has no artefact"
        raise BundleError(f"'{manifest_path}' {what}", _REBUILD)
    return Bundle(path=path, manifest=manifest, digest=hashlib.sha256(raw).hexdigest())


class _Header(msgspec.Struct):
    """What manifests of all releases have: the schema, and who wrote it."""

    schema: int
    created_with: dict[str, str] = {}

    @property
    def writer(self) -> str:
        """The release that wrote the manifest, in words."""
        release = self.created_with.get("edgeresnext")
        return f"edgeresnext {release}" if release else "an unnamed release"


def read_ranges(path: Path) -> Ranges:
    """Return the ranges of a `ranges.json`.

    Raises:
        BundleError: It cannot be read, or holds no ranges of this release; the release that wrote it is named where a
            manifest beside it tells.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Ranges)
        reason = "" if found.schema == RANGES_SCHEMA else f"schema {found.schema} instead of {RANGES_SCHEMA}"
    except OSError as error:
        raise BundleError(
            f"cannot read ranges from '{path}': {error.strerror}", "Give a ranges.json or a bundle."
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = str(error)
    if not reason:
        return found
    try:
        header = msgspec.json.decode(path.with_name(MANIFEST).read_bytes(), type=_Header)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        header = _Header(schema=0)
    raise BundleError(
        f"'{path}', which {header.writer} wrote, holds no ranges of this release ({__version__}): {reason}",
        "Calibrate anew: give calibration images, and no ranges.",
        values=("ranges", "calibration"),
    )


def _is_plain(name: str) -> bool:
    """Whether a file name is relative and stays inside the bundle."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and ":" not in name


def check_output(output: Path) -> None:
    """Refuse an output path that a bundle must not replace.

    Raises:
        BundleError: It is a file, or a directory that holds something other than a bundle.
    """
    if output.exists() and output.resolve() == Path.cwd():
        raise BundleError(
            "output is the current directory, which a bundle would replace", "Leave it first (cd ..), or give another."
        )
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise BundleError(f"output '{output}' is a file or a link", "Give a new directory, or that of a bundle.")
    if output.is_dir() and any(output.iterdir()):
        hint = "Give a new directory, or remove that one first."
        try:
            known = {MANIFEST, *read(output).manifest.files}
        except BundleError:
            raise BundleError(
                f"output '{output}' holds something other than a bundle; it is left alone", hint
            ) from None
        on_disk = {
            path.relative_to(output).as_posix()
            for path in output.rglob("*")
            if not path.is_dir() and not path.name.endswith(RUNTIME_CACHE_SUFFIX)
        }
        if on_disk - known:
            raise BundleError(
                f"output '{output}' holds a bundle and other files, which would be lost: "
                f"{shortened(sorted(on_disk - known))}",
                "Move them away, or give a new directory.",
            )
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BundleError(f"cannot write in '{parent}'", "Choose an output directory that you may write to.")


@contextmanager
def replacing(output: Path, waiting: Callable[[str], None]) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `output` when the block ends, as `files.replacing` does.

    Raises:
        BundleError: The output may not be replaced.
        InputError: The disk is full or not writable.
    """
    check_output(output)
    with files.replacing(output, waiting) as staging:
        yield staging


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Return size and digest of every file below `directory` but the manifest, by relative name."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(directory).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=files.digest(path))
        for path in paths
    }
