"""The images that a build sees: a readable sample of a folder, or generated ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeresnext.data.images import Skipped, batches
from edgeresnext.data.synthetic import generate
from edgeresnext.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeresnext.data.folder import ImageFolder
    from edgeresnext.spec import Preprocess

GOLDEN = 16
"""Images that are kept with PyTorch's logits, to prove artefacts by."""
GENERATED = 64
MINIMUM = 8
"""Fewer images than this cannot show the range of an activation."""
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Images whose range of activations is taken.

    Args:
        about: What they are, for people.
        count: How many.
        digest: SHA-256 of the decoded, cropped pixels, in order.
        golden: The first of them, uint8 `(n, crop_px, crop_px, 3)`.
        batches: Returns an iterator over all of them, uint8 `(n, crop_px, crop_px, 3)`, anew at each call.
    """

    about: str
    count: int
    digest: str
    golden: NDArray[np.uint8]
    batches: Callable[[], Iterator[NDArray[np.uint8]]]


def from_folder(
    photos: ImageFolder,
    preprocess: Preprocess,
    samples: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CalibrationSet:
    """Draw a seeded sample, even over the classes, and decode it once to find what cannot be read.

    Unreadable images are logged by name and left out.

    Raises:
        DataError: The folder cannot be used, too many images are unreadable, or fewer than 8 are left.
    """
    drawn = photos.sample(samples, seed)
    skipped = Skipped()
    digest = hashlib.sha256()
    golden: list[NDArray[np.uint8]] = []
    readable: list[Path] = []
    for images, positions in batches(drawn.images, preprocess, BATCH, skipped):
        digest.update(images.tobytes())
        golden += list(images[: max(0, GOLDEN - len(golden))])
        readable += [drawn.images[i] for i in positions]
        progress(len(readable) + len(skipped.paths), len(drawn.images))
    if len(readable) < MINIMUM:
        raise DataError(
            f"calibration folder '{photos.root}' holds {len(readable)} readable images; at least {MINIMUM} are needed",
            "Use 100 or more, like those that the network was trained on.",
        )
    return CalibrationSet(
        about=f"{len(readable)} images of '{_printable(drawn.root)}', seed {seed}",
        count=len(readable),
        digest=digest.hexdigest(),
        golden=np.stack(golden),
        batches=lambda: (images for images, _ in batches(readable, preprocess, BATCH)),
    )


def _printable(root: Path) -> str:
    """Return a folder's name in UTF-8, whatever bytes the file system stores."""
    return root.absolute().name.encode("utf-8", "replace").decode("utf-8")


def generated(preprocess: Preprocess, seed: int) -> CalibrationSet:
    """Return generated images, for random weights and for files that need no calibration."""
    images = generate(GENERATED, preprocess.crop_px, seed)
    return CalibrationSet(
        about=f"{GENERATED} generated images, seed {seed}",
        count=GENERATED,
        digest=hashlib.sha256(images.tobytes()).hexdigest(),
        golden=images[:GOLDEN],
        batches=lambda: (images[start : start + BATCH] for start in range(0, GENERATED, BATCH)),
    )
