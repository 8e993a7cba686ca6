"""Copy a seeded sample of an image folder, with a manifest by which anyone can draw the same images again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext import directories, files
from edgeresnext.data import folder
from edgeresnext.errors import DataError, InputError, shortened
from edgeresnext.spec import Value

MANIFEST = "manifest.json"


class SubsetImage(Value, frozen=True, kw_only=True):
    """One image of a drawn set: its path below the folder, and its SHA-256."""

    file: str
    sha256: str


class Subset(Value, frozen=True, kw_only=True):
    """Images drawn from a folder, such that the same can be drawn again."""

    source: str
    seed: int
    stratified: bool
    images: tuple[SubsetImage, ...]


def draw(source: str | Path, output: str | Path, *, samples: int, seed: int, stratified: bool = True) -> Subset:
    """Copy `samples` images of `source`, evenly over its class folders, to `output`, and write their manifest there.

    Raises:
        DataError: The source cannot be used, holds too few images, or the output is not empty.
    """
    if samples < 1:
        raise DataError(f"{samples} images were asked for", "Ask for one or more.")
    photos = folder.scan(source)
    if len(photos.images) < samples:
        raise DataError(
            f"'{photos.root}' holds {len(photos.images)} images; {samples} were asked for",
            "Ask for fewer.",
        )
    drawn = photos.sample(samples, seed, stratified=stratified)
    names = sorted(path.relative_to(photos.root).as_posix() for path in drawn.images)
    unprintable = [name for name in names if not name.isprintable()]
    if unprintable:
        raise DataError(
            f"{len(unprintable)} file names in '{photos.root}' cannot be written down: "
            f"{shortened(map(ascii, unprintable), 3)}",
            "Rename them.",
        )
    try:
        images = tuple(SubsetImage(file=name, sha256=files.digest(photos.root / name)) for name in names)
    except OSError as error:
        raise DataError(f"cannot read '{error.filename}': {error.strerror}", "Check its permissions.") from None
    subset = Subset(source=photos.root.absolute().name, seed=seed, stratified=stratified, images=images)
    _copy(subset, photos.root, Path(output))
    return subset


def draw_again(source: str | Path, output: str | Path, manifest: str | Path) -> Subset:
    """Copy the very images that a manifest names, after comparing each with its digest.

    Raises:
        DataError: The manifest cannot be read, or an image is missing or another one.
    """
    try:
        subset = msgspec.json.decode(Path(manifest).read_bytes(), type=Subset)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(
            f"cannot read manifest '{manifest}': {error}", "Give the manifest.json of a drawn set."
        ) from None
    root = Path(source)
    if not subset.images:
        raise DataError(f"manifest '{manifest}' names no image", "Draw anew.")
    unsafe = [image.file for image in subset.images if ".." in Path(image.file).parts or Path(image.file).is_absolute()]
    if unsafe:
        raise DataError(f"manifest '{manifest}' names files outside its folder: {shortened(unsafe, 3)}", "Draw anew.")
    missing = [image.file for image in subset.images if not (root / image.file).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(subset.images)} images of '{manifest}' are not in '{root}': "
            f"{shortened(missing, 3)}",
            "Give the folder that they were drawn from.",
        )
    altered = [image.file for image in subset.images if files.digest(root / image.file) != image.sha256]
    if altered:
        raise DataError(
            f"{len(altered)} images in '{root}' are not those of '{manifest}': {shortened(altered, 3)}",
            "Their SHA-256 differs: give the same release of the data set.",
        )
    _copy(subset, root, Path(output))
    return subset


def _nothing() -> set[str]:
    """Return the files of a folder that may be replaced.

    Raises:
        InputError: There are none: a set that was drawn before may have been worked on.
    """
    raise InputError("it is not empty")


def _copy(subset: Subset, root: Path, output: Path) -> None:
    """Write the images and their manifest to `output`, whole or not at all."""
    if files.real(output).is_relative_to(files.real(root)):
        raise DataError(f"'{output}' lies in '{root}', which the images come from", "Give a directory elsewhere.")
    bundles.check_replaceable(output, "an empty folder", _nothing)
    with directories.replacing(output, logging.getLogger("edgeresnext").warning) as prepared:
        for image in subset.images:
            target = prepared / image.file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / image.file, target)
        (prepared / MANIFEST).write_bytes(files.to_json(subset))
