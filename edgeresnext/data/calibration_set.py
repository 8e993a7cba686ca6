"""The images that a build sees: a readable sample of a folder, or generated ones."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeresnext.data.folder import ImageFolder
from edgeresnext.data.images import Skipped, batches, image_digest
from edgeresnext.data.synthetic import generate
from edgeresnext.errors import DataError, shortened
from edgeresnext.spec import Preprocess

GOLDEN = 16
"""Images that are kept with PyTorch's logits, to prove artefacts by."""
GENERATED = 64
MINIMUM = 8
"""Fewer images than this cannot show the range of an activation."""
RECOMMENDED = 100
BATCH = 8
_log = logging.getLogger("edgeresnext")


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Images whose range of activations is taken.

    Args:
        about: What they are, for people.
        count: How many.
        digest: SHA-256 of the decoded, cropped pixels, in order.
        image_digests: `images.image_digest` of each.
        golden: The first of them, uint8 `(n, height, width, channels)`.
        batches: Returns an iterator over the first so many of them, None for all, uint8 `(n, height, width, channels)`,
            anew at each call.
    """

    about: str
    count: int
    digest: str
    image_digests: tuple[str, ...]
    golden: NDArray[np.uint8]
    batches: Callable[[int | None], Iterator[NDArray[np.uint8]]]


def from_folder(
    photos: ImageFolder,
    preprocess: Preprocess,
    samples: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    stratified: bool = True,
) -> CalibrationSet:
    """Draw a seeded sample, even over the classes if `stratified`, and decode it once to find what cannot be used.

    Unreadable images are logged by name and left out; so is what makes a poor sample: few images, copies, one colour.

    Raises:
        DataError: The folder cannot be used, too many images are unreadable, or fewer than 8 different ones that show
            anything are left.
    """
    drawn = photos.sample(samples, seed, stratified=stratified)
    skipped = Skipped()
    digest = hashlib.sha256()
    golden: list[NDArray[np.uint8]] = []
    readable: list[Path] = []
    image_digests: list[str] = []
    constant: dict[Path, str] = {}
    for images, positions in batches(drawn.images, preprocess, BATCH, skipped):
        digest.update(images.tobytes())
        golden += list(images[: max(0, GOLDEN - len(golden))])
        readable += [drawn.images[i] for i in positions]
        found = [image_digest(image) for image in images]
        image_digests += found
        one_colour = (images == images[:, :1, :1]).all(axis=(1, 2, 3))
        constant |= {drawn.images[i]: key for i, key, one in zip(positions, found, one_colour, strict=True) if one}
        progress(len(readable) + len(skipped.paths), len(drawn.images))
    _check(photos.root, readable, constant, image_digests)
    return CalibrationSet(
        about=f"{len(readable)} images of '{_printable(drawn.root)}', seed {seed}",
        count=len(readable),
        digest=digest.hexdigest(),
        image_digests=tuple(image_digests),
        golden=np.stack(golden),
        batches=lambda count: (images for images, _ in batches(readable[:count], preprocess, BATCH)),
    )


def _check(root: Path, readable: list[Path], constant: dict[Path, str], digests: list[str]) -> None:
    """Refuse a sample that can show nothing, and warn of one that shows little.

    Args:
        root: The folder.
        readable: Its images.
        constant: Those of one colour, with their digests.
        digests: Of all of them.

    Raises:
        DataError: Fewer than 8 images are readable, different, and of more than one colour.
    """
    hint = "Use 100 or more, like those that the network was trained on."
    if len(readable) < MINIMUM:
        raise DataError(
            f"calibration folder '{root}' holds {len(readable)} readable images; at least {MINIMUM} are needed", hint
        )
    if len(readable) - len(constant) < MINIMUM:
        raise DataError(
            f"{len(constant)} of the {len(readable)} calibration images in '{root}' are of one colour, and show no "
            f"range: {shortened((path.name for path in constant), 3)}",
            f"At least {MINIMUM} others are needed. {hint}",
        )
    different = len(set(digests) - set(constant.values()))
    copies = len(readable) - len(set(digests))
    if different < MINIMUM:
        raise DataError(
            f"the {len(readable)} calibration images in '{root}' are {different} and copies of them",
            f"At least {MINIMUM} different ones are needed. {hint}",
        )
    if constant:
        names = shortened(sorted(path.name for path in constant))
        _log.warning("%d calibration images are of one colour: %s", len(constant), names)
    if copies:
        _log.warning("%d of the %d calibration images are copies of others", copies, len(readable))
    if different < RECOMMENDED:
        _log.warning("%d calibration images are few: %d or more make INT8 more certain", different, RECOMMENDED)


def _printable(root: Path) -> str:
    """Return a folder's name in UTF-8, whatever bytes the file system stores."""
    return root.absolute().name.encode("utf-8", "replace").decode("utf-8")


def generated(preprocess: Preprocess, seed: int) -> CalibrationSet:
    """Return generated images, for random weights and for files that need no calibration."""
    images = generate(GENERATED, preprocess.size, seed, preprocess.channels)
    return CalibrationSet(
        about=f"{GENERATED} generated images, seed {seed}",
        count=GENERATED,
        digest=hashlib.sha256(images.tobytes()).hexdigest(),
        image_digests=tuple(image_digest(image) for image in images),
        golden=images[:GOLDEN],
        batches=lambda count: (images[:count][start : start + BATCH] for start in range(0, count or GENERATED, BATCH)),
    )
