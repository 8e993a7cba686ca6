"""The images of a benchmark: those that are timed, and those that accuracy is measured on."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeresnext import files
from edgeresnext.bundle import Bundle
from edgeresnext.data import folder
from edgeresnext.data.folder import ImageFolder
from edgeresnext.data.images import as_picture, load_image
from edgeresnext.errors import DataError
from edgeresnext.spec import ClassOrder

_TIMED_IMAGES = 64
_JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Photos:
    """What a benchmark looks at.

    Args:
        timed: What latency is measured on, uint8 `(n, H, W, 3)`.
        files: The same, encoded.
        drawn: What accuracy is measured on; None for the bundle's golden images.
        targets: Right class of each drawn image; None where the folder has no classes.
        about: Which images these are, in words.
    """

    timed: NDArray[np.uint8]
    files: list[bytes]
    drawn: ImageFolder | None
    targets: list[int] | None
    about: str


def choose(bundle: Bundle, data: str | None, count: int | None, order: ClassOrder | None = None) -> Photos:
    """Return the images of a folder, or a bundle's golden images, which are kept decoded and encoded here.

    Args:
        bundle: The bundle.
        data: A folder; None for the golden images.
        count: Images to draw for accuracy, evenly over the classes; None for all.
        order: What class folders that are numbers mean.

    Raises:
        DataError: The folder cannot be used, or its classes are not the model's.
    """
    if data is None:
        golden = bundle.golden().images
        encoded = [_encoded(image) for image in golden]
        return Photos(timed=golden, files=encoded, drawn=None, targets=None, about="the bundle's golden images")
    given = folder.scan(data)
    drawn = given if count is None else given.sample(count, seed=0)
    targets = targets_of(bundle, drawn, order)
    timed, encoded = _timed(bundle, given)
    some = f"{len(drawn.images)} of " if len(drawn.images) < len(given.images) else ""
    about = f"{some}{len(given.images)} images of '{given.root}'"
    return Photos(timed=timed, files=encoded, drawn=drawn, targets=targets, about=about)


def targets_of(bundle: Bundle, drawn: ImageFolder, order: ClassOrder | None = None) -> list[int] | None:
    """Return the right class of each image, as the network counts them; None where the folder has no classes.

    Raises:
        DataError: A class is none of the network's labels.
    """
    if not drawn.classes:
        return None
    mapping = folder.match_classes(drawn.classes, bundle.labels(), drawn.root, order)
    return [mapping[target] for target in drawn.targets]


def _timed(bundle: Bundle, given: ImageFolder) -> tuple[NDArray[np.uint8], list[bytes]]:
    """Return some images of a folder, decoded and as files."""
    decoded, encoded = [], []
    for path in given.sample(_TIMED_IMAGES, seed=0).images:
        try:
            decoded.append(load_image(path, bundle.manifest.model.preprocess))
        except DataError:  # the accuracy pass reports it by name
            continue
        encoded.append(files.read(path))
    if not decoded:
        raise DataError(f"no image of '{given.root}' can be read", "Replace them, or give another folder.")
    return np.stack(decoded), encoded


def _encoded(image: NDArray[np.uint8]) -> bytes:
    """Return an image as JPEG, or as PNG where it has an alpha channel, which JPEG has not."""
    buffer = io.BytesIO()
    picture = as_picture(image)
    if picture.mode == "RGBA":
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
