"""The manifest of a bundle, and the ranges beside it: read, checked, and refused by the name of who wrote them."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import msgspec

from edgeresnext import __version__, files
from edgeresnext.errors import BundleError, shortened
from edgeresnext.spec import RANGES_SCHEMA, READABLE_SCHEMAS, Manifest, Ranges

MANIFEST = "manifest.json"
LABELS = "labels.txt"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.npz"
RANGES = "ranges.json"
CALIBRATION_CACHE = "calibration.cache"
RUNTIME_CACHE_SUFFIX = ".runtime-cache"
"""Of files that TensorRT-RTX leaves beside engines while they run; no part of the bundle, and no loss."""

READABLE = "Check the permissions of the bundle's directory."
REBUILD = "Copy the bundle again, or rebuild it with `edgeresnext build`."
OTHER_RELEASE = "Rebuild the bundle with this release, or install the one that wrote it."


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Return the manifest of a bundle, and its SHA-256.

    Raises:
        BundleError: The path is no bundle, or its manifest is damaged or of another schema.
    """
    manifest_path = path / MANIFEST
    try:
        raw = files.read(manifest_path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        what = "is not a bundle: it has no manifest.json" if path.is_dir() else "does not exist"
        what = "is a file, not a bundle" if path.is_file() else what
        hint = "A bundle is the directory that `edgeresnext build --output` wrote."
        raise BundleError(f"'{path}' {what}", hint) from None
    except OSError as error:
        raise BundleError(f"cannot read '{manifest_path}': {error.strerror}", READABLE) from None
    try:
        header = files.from_json(raw, _Header)
    except msgspec.MsgspecError as error:
        raise BundleError(f"'{manifest_path}' is damaged: {error}", REBUILD) from None
    if header.schema not in READABLE_SCHEMAS:
        raise BundleError(
            f"'{manifest_path}' has schema {header.schema}, which {header.writer} wrote; this release "
            f"({__version__}) reads {READABLE_SCHEMAS[0]} to {READABLE_SCHEMAS[-1]}",
            OTHER_RELEASE,
        )
    try:
        manifest = files.from_json(raw, Manifest)
    except msgspec.MsgspecError as error:
        raise BundleError(
            f"'{manifest_path}', which {header.writer} wrote, is damaged or does not fit this release "
            f"({__version__}): {error}",
            OTHER_RELEASE,
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
        raise BundleError(f"'{manifest_path}' {what}", REBUILD)
    return manifest, hashlib.sha256(raw).hexdigest()


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
        found = files.from_json(files.read(path), Ranges)
        reason = "" if found.schema == RANGES_SCHEMA else f"schema {found.schema} instead of {RANGES_SCHEMA}"
    except OSError as error:
        raise BundleError(
            f"cannot read ranges from '{path}': {error.strerror}", "Give a ranges.json or a bundle."
        ) from None
    except msgspec.MsgspecError as error:
        reason = str(error)
    if not reason:
        return found
    try:
        header = files.from_json(files.read(path.with_name(MANIFEST)), _Header)
    except (OSError, msgspec.MsgspecError):
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
