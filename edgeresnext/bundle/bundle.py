"""A bundle on disk: its files, checked as they are used, and its artefacts in order."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from edgeresnext import directories, files
from edgeresnext.bundle.golden import Golden, read_golden
from edgeresnext.bundle.manifest import (
    LABELS,
    OWN_NAMES,
    RANGES,
    READABLE,
    REBUILD,
    REFERENCE,
    parse_ranges,
    read_manifest,
)
from edgeresnext.bundle.signature import check_signature
from edgeresnext.errors import BundleError, RequestError, unknown_name
from edgeresnext.spec import Artifact, Fidelity, Manifest, Precision, Ranges

RUNTIME_LOSS_DB = 6.0
"""What a runtime may lose of an INT8 file's signal-to-noise ratio, in dB: it fuses and rounds elsewhere, and is judged
on a few images. Saturating products cost 15 to 25 dB."""

_UNTIMED: tuple[Precision, ...] = ("fp16", "int8", "bf16", "fp32")


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
        """Return the path of a file after comparing it with the manifest, for those that copy or look at it.

        What is given to native code is `content`: behind a path there may be something else a moment later.

        Raises:
            BundleError: As `content`.
        """
        with self._opened(name) as file:
            found = files.digest(file)
        self._compare(name, found)
        return self.path / name

    def content(self, name: str) -> bytes:
        """Return the content of a file after comparing it with the manifest: these very bytes have been checked.

        Raises:
            BundleError: It is missing, altered, a link or no file, or the manifest does not list it.
        """
        with self._opened(name) as file:
            content = file.read(self.manifest.files[name].bytes + 1)
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file of the size that the manifest says.

        Raises:
            BundleError: There is none, or it cannot be read.
        """
        entry = self.manifest.files.get(name)
        path = self.path / name
        if entry is None:
            raise BundleError(f"the manifest of bundle '{self.path}' does not list '{name}'", REBUILD)
        try:
            with files.open_inside(self.path, name) as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry.bytes:
                    raise BundleError(f"file '{path}' has {size:,} bytes; the manifest says {entry.bytes:,}", REBUILD)
                yield file
        except FileNotFoundError:
            raise BundleError(f"file '{path}' of the bundle is missing", REBUILD) from None
        except OSError as error:
            raise BundleError(f"cannot read file '{path}' of the bundle: {error.strerror}", READABLE) from None

    def _compare(self, name: str, digest: str) -> None:
        if digest != self.manifest.files[name].sha256:
            raise BundleError(f"file '{self.path / name}' was altered: its SHA-256 is not the manifest's", REBUILD)

    def unlisted(self) -> list[str]:
        """Return what lies in the directory and is neither the manifest's own nor listed there, by relative name.

        What a signing that was killed has left does not count: the next one removes it.
        """
        found = {
            path.relative_to(self.path).as_posix()
            for path in self.path.rglob("*")
            if (path.is_symlink() or not path.is_dir()) and not files.is_partial(path.name)
        }
        return sorted(found - {*OWN_NAMES, *self.manifest.files})

    def labels(self) -> tuple[str, ...]:
        """Return the label of each logit.

        Raises:
            BundleError: There are more or fewer labels than classes.
        """
        labels = tuple(self.content(LABELS).decode("utf-8", "replace").removesuffix("\n").split("\n"))
        if len(labels) != self.manifest.model.classes:
            raise BundleError(
                f"'{self.path / LABELS}' has {len(labels)} labels for {self.manifest.model.classes} classes", REBUILD
            )
        return labels

    def ranges(self) -> Ranges | None:
        """Return what calibration found; None where the bundle has no INT8.

        Raises:
            BundleError: The file is missing or altered, or holds no ranges of this release.
        """
        return parse_ranges(self.content(RANGES), self.path / RANGES) if RANGES in self.manifest.files else None

    def golden(self) -> Golden:
        """Return the golden images and PyTorch's logits for them.

        Raises:
            BundleError: The file is missing, altered, or does not hold what the model takes and returns.
        """
        path, model = self.path / REFERENCE, self.manifest.model
        try:
            golden = read_golden(self.content(REFERENCE))
        except ValueError as error:
            raise BundleError(f"file '{path}' is damaged: {error}", REBUILD) from None
        count = golden.images.shape[:1]
        for found, wanted in ((golden.images, model.input), (golden.logits, model.output)):
            fits = (str(found.dtype), found.shape) == (wanted.dtype, count + wanted.shape[1:]) and found.size
            if not fits or not np.isfinite(found).all():
                what = f"{wanted.name} {found.dtype} {found.shape}"
                raise BundleError(f"file '{path}' holds {what}, not the model's, or no finite numbers", REBUILD)
        return golden

    def shortfall(self, artifact: Artifact, fidelity: Fidelity) -> str:
        """Return by how much an artefact, as it ran, misses what it must reach, or nothing.

        INT8 must come near what its file says, not only near PyTorch: a runtime that saturates may halve the accuracy
        of a good file and still be over the limit of a poor one.
        """
        found = fidelity.shortfall(artifact.precision, self.manifest.recipe.method)
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
            raise unknown_name("backend of this bundle", backend, known_backends, values=("backend",))
        if precision is not None and precision not in known_precisions:
            raise unknown_name("precision of this bundle", precision, known_precisions, values=("precision",))
        found = tuple(a for a in ranked if backend in (None, a.backend) and precision in (None, a.precision))
        if not found:
            raise RequestError(
                f"bundle '{self.path}' has no {precision} artefact for {backend}",
                f"It has {', '.join(artifact.name for artifact in ranked)}.",
            )
        return found


def read(path: str | Path, trusted: Sequence[str | Path] = ()) -> Bundle:
    """Return the bundle in a directory; of its files only the manifest is read.

    Args:
        path: The directory.
        trusted: Public keys of whom it may come from, Ed25519 in PEM; with none it may come from anybody.

    Raises:
        BundleError: The path is no bundle, its manifest is damaged or of another schema, or nobody trusted signed it.
        InputError: A key cannot be read.
    """
    manifest, content, signature = read_manifest(Path(path))
    check_signature(Path(path), content, signature, trusted)
    return Bundle(path=Path(path), manifest=manifest, digest=hashlib.sha256(content).hexdigest())


_EXCHANGES = 8
"""Times that another bundle may take the place of the one that is being read before that is an error."""
_MISSING_S = 1.0
"""Seconds that a bundle may be away between two renames."""
T = TypeVar("T")


def reading(path: str | Path, use: Callable[[Bundle], T], trusted: Sequence[str | Path] = ()) -> T:
    """Return what `use` makes of the bundle in a directory; where another takes its place meanwhile, of that one.

    Raises:
        BundleError: As `read` and `use`.
    """
    for _ in range(_EXCHANGES):
        bundle = _read_in_exchange(Path(path), trusted)
        try:
            return use(bundle)
        except BundleError:
            if _read_in_exchange(Path(path), trusted).digest == bundle.digest:
                raise
    return use(read(path, trusted))


def _read_in_exchange(path: Path, trusted: Sequence[str | Path]) -> Bundle:
    """Return the bundle in a directory, or the one that is about to be there, where file systems cannot exchange."""
    end = time.monotonic() + _MISSING_S
    while True:
        try:
            return read(path, trusted)
        except BundleError:
            if path.exists() or not directories.previous(path).exists() or time.monotonic() > end:
                raise
        time.sleep(_MISSING_S / 100)
