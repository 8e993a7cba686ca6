"""The manifest of a bundle, and the ranges beside it: read, checked, and refused by the name of who wrote them."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

import msgspec

from edgeresnext import __version__, directories, files
from edgeresnext.errors import BundleError, shortened
from edgeresnext.spec import RANGES_SCHEMA, READABLE_SCHEMAS, Manifest, Ranges

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
"""Beside the manifest, as `sha256sum --check` reads it: all other files have their digests there."""
SIGNATURE = "manifest.sig"
OWN_NAMES = (MANIFEST, MANIFEST_DIGEST, SIGNATURE)
"""Files of a bundle that the manifest does not list."""
LABELS = "labels.txt"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.npz"
RANGES = "ranges.json"
CALIBRATION_CACHE = "calibration.cache"

READABLE = "Check the permissions of the bundle's directory."
REBUILD = "Copy the bundle again, or rebuild it with `edgeresnext build`."
OTHER_RELEASE = "Rebuild the bundle with this release, or install the one that wrote it."


def read_manifest(path: Path) -> tuple[Manifest, bytes, bytes | None]:
    """Return the manifest of a bundle, the content of its file, and that of its signature, None without one.

    Raises:
        BundleError: The path is no bundle, or its manifest is damaged or of another schema.
    """
    manifest_path = path / MANIFEST
    try:
        raw, line, signature = _manifest_and_beside(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # the last of a zero byte in a name
        what = "is not a bundle: it has no manifest.json" if path.is_dir() else "does not exist"
        what = "is a file, not a bundle" if path.is_file() else what
        hint = "A bundle is the directory that `edgeresnext build --output` wrote."
        aside = directories.previous(path)
        if aside.exists():
            hint = f"A build was killed while it replaced the bundle; it waits in '{aside}': build again, or rename it."
        raise BundleError(f"'{path}' {what}", hint) from None
    except OSError as error:
        raise BundleError(f"cannot read '{error.filename or manifest_path}': {error.strerror}", READABLE) from None
    if line is not None and line[:64] != hashlib.sha256(raw).hexdigest().encode():
        raise BundleError(f"'{manifest_path}' was altered: its SHA-256 is not that in {MANIFEST_DIGEST}", REBUILD)
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
    return manifest, raw, signature


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle, and its digest beside it."""
    raw = files.to_json(manifest)
    (directory / MANIFEST).write_bytes(raw)
    line = f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n"
    (directory / MANIFEST_DIGEST).write_text(line, encoding="ascii")


def _manifest_and_beside(path: Path) -> tuple[bytes, bytes | None, bytes | None]:
    """Return a manifest, its digest and its signature, all of one bundle; None for what it does not have."""
    while True:
        try:
            found = _read(path, MANIFEST), _read_if_there(path, MANIFEST_DIGEST), _read_if_there(path, SIGNATURE)
            if _read(path, MANIFEST) == found[0]:  # else another bundle took its place meanwhile
                return found
        except FileNotFoundError:
            if not (path / MANIFEST).exists():  # else the directory that was opened is on its way out
                raise


def _read_if_there(path: Path, name: str) -> bytes | None:
    try:
        return _read(path, name)
    except FileNotFoundError:
        return None


def _read(path: Path, name: str) -> bytes:
    with files.open_inside(path, name) as file:
        return files.content_of(file)


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
        content = files.read(path)
    except OSError as error:
        raise BundleError(
            f"cannot read ranges from '{path}': {error.strerror}", "Give a ranges.json or a bundle."
        ) from None
    return parse_ranges(content, path)


def parse_ranges(content: bytes, path: Path) -> Ranges:
    """Return the ranges that the content of a `ranges.json` at a path holds.

    Raises:
        BundleError: As `read_ranges`.
    """
    try:
        found = files.from_json(content, Ranges)
        reason = "" if found.schema == RANGES_SCHEMA else f"schema {found.schema} instead of {RANGES_SCHEMA}"
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
    return bool(parts) and not name.startswith("/") and ".." not in parts and not set(name) & {"\\", ":", "\0"}
