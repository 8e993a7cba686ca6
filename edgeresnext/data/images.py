"""Decode an image and cut it to the network's size, exactly as the weights were trained for.

Resize and crop follow torchvision's `Resize` and `CenterCrop` on PIL images (Pillow filters, antialiased).
Normalisation is not here: it is inside every graph.
"""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeresnext import files
from edgeresnext.data import effort
from edgeresnext.errors import DataError, shortened
from edgeresnext.spec import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from edgeresnext.spec import Preprocess

ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[np.uint8] | IO[bytes]"
"""A path, a PIL image, a uint8 array (H, W, C), or a binary file object."""

MAX_SKIPPED = 0.05
"""Share of unreadable images above which a folder is refused."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats of photos and drawings that are read. Pillow knows others: some of no photo, and EPS, for which it starts
Ghostscript, a program that runs what the file says."""

_MANY_PIXELS = 1 << 25
_FEWEST_BYTES_A_PIXEL = {"JPEG": 1 / 256, "MPO": 1 / 256}
"""Of an image of many pixels. JPEG has 1/85 where all is of one colour (6 bits a block of 64), photos 1/10 and more;
what has less was made to exhaust memory."""
_FEWEST_OF_OTHERS = 1 / 2048
"""A page of text at 600 dpi in black and white has 1/750 as PNG, one colour alone 1/300."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_UINT16_MAX = 65535
_log = logging.getLogger("edgeresnext")


def load_image(source: ImageSource, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return an image as the network takes it: uint8 `(height, width, channels)`.

    Raises:
        DataError: It cannot be decoded, is far too large, or is an array of another shape or type.
    """
    return crop(decode(source, preprocess.channels), preprocess)


def decode(source: ImageSource, channels: int = 3) -> Image.Image:
    """Return an image in grey, RGB or RGBA, upright, whatever mode and EXIF rotation it was stored with.

    Colours become grey by their luma (ITU-R 601-2); alpha is dropped, or opaque where there is none.
    16-bit grey (and 32-bit integers, which are taken for it) is scaled to 8 bits.

    Raises:
        DataError: It cannot be decoded, is far too large, or is an array of another shape or type.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, channels)
    if not isinstance(source, str | Path | Image.Image) and not hasattr(source, "read"):
        raise DataError(
            f"cannot take an image from a {type(source).__name__}",
            f"Give a path, a PIL image, a uint8 array (height, width, {channels}), or a binary file object.",
        )
    try:
        if isinstance(source, Image.Image):
            return _upright(source, channels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's name no image; what is too large or damaged is an error of ours
            with _file(source) as file:
                effort.check(file)
                with Image.open(file, formats=_readable()) as image:
                    _check_density(image, file)
                    return _upright(image, channels)
    except Exception as error:  # noqa: BLE001 - broken headers and EXIF make Pillow raise whatever they lead to
        name = str(source) if isinstance(source, str | Path) else getattr(source, "name", "") or type(source).__name__
        raise _refusal(str(name), error) from None


def _refusal(name: str, error: Exception) -> DataError:
    """Return the error for an image that cannot be decoded, by what came of trying."""
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"image '{name}' is too large to decode safely: {error}", "Scale it down first.")
    if isinstance(error, FileNotFoundError):
        return DataError(f"image '{name}' does not exist", "Check the path.")
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"'{name}' is not an image that can be read", "Use JPEG, PNG or another common format.")
    if isinstance(error, DataError):
        return DataError(f"image '{name}' {error.what}", error.hint)
    if isinstance(error, OSError) and error.strerror:  # of the system; Pillow's own have none
        return DataError(f"image '{name}' cannot be read: {error.strerror}", "Give a file that may be read.")
    return DataError(f"image '{name}' is damaged: {error}", "Replace it.")


@functools.cache
def _readable() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow decodes."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


@contextmanager
def _file(source: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield an open file, seekable; one that is given open stays open."""
    if isinstance(source, str | Path):
        with files.open_regular(source) as file:
            yield file
    else:
        yield (
            source if hasattr(source, "seekable") and source.seekable() else io.BytesIO(source.read(effort.LARGEST + 1))
        )


def _check_density(image: Image.Image, file: IO[bytes]) -> None:
    """Refuse an image of so many pixels from so few bytes that no camera and no drawing program has written it."""
    fewest = _FEWEST_BYTES_A_PIXEL.get(image.format or "", _FEWEST_OF_OTHERS)
    pixels = image.width * image.height
    if pixels < _MANY_PIXELS:
        return
    where = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(where)
    if size < pixels * fewest:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels from {size:,} bytes")


def _upright(image: Image.Image, channels: int) -> Image.Image:
    """Return an opened image as it is meant to be seen.

    Twice the size at which Pillow warns, 179 megapixels, is refused: no camera takes that, and it may have been made to
    exhaust memory.
    """
    if 0 in image.size:
        raise DataError("has no pixels", "Replace it.")
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return _converted(ImageOps.exif_transpose(image), _MODES[channels])


def _from_array(array: NDArray[np.uint8], channels: int) -> Image.Image:
    """Return an array as a PIL image; of a grey one the last axis may be missing."""
    shaped = array[:, :, None] if array.ndim == 2 and channels == 1 else array  # noqa: PLR2004
    if array.dtype != np.uint8 or shaped.ndim != 3 or shaped.shape[2] != channels or 0 in array.shape:  # noqa: PLR2004
        raise DataError(
            f"expected a uint8 {CHANNELS[channels]} array (height, width, {channels}), got {array.dtype} {array.shape}",
            "Scale float images to 0..255 and cast them; put the channels last.",
        )
    return as_picture(shaped)


def as_picture(image: NDArray[np.uint8]) -> Image.Image:
    """Return an array, uint8 `(height, width, channels)`, as a PIL image."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert any mode; Pillow clips 16-bit grey instead of scaling it, so that is done here."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > _UINT16_MAX:
            raise DataError("holds grey values outside 0..65535", "Save it with 8 or 16 bits a channel.")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise DataError("holds floating-point grey values of unknown scale", "Save it with 8 or 16 bits a channel.")
    if image.mode in ("P", "PA", "LA", "La"):
        image = image.convert("RGBA")
    return image.convert(mode)


def resample(preprocess: Preprocess) -> Image.Resampling:
    """Return Pillow's name of the filter that a preprocessing resizes with."""
    return _FILTERS[preprocess.interpolation]


def crop(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize an image so that it covers the preprocessing's box, and return the centre.

    It is uint8 `(height, width, channels)`.

    Of a square input the shorter edge is resized to `resize_px`, and the centre square of `crop_px` cut out.

    Raises:
        DataError: The image is so long that resizing it would exhaust memory.
    """
    width, height = image.size
    rows, columns = preprocess.size
    box_height, box_width = (round(edge * preprocess.resize_px / min(rows, columns)) for edge in (rows, columns))
    if preprocess.fit == "squash":
        size = columns, rows
    elif width * box_height <= height * box_width:
        size = box_width, int(box_width * height / width)
    else:
        size = int(box_height * width / height), box_height
    if Image.MAX_IMAGE_PIXELS and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise DataError(
            f"an image of {width} x {height} pixels would be {size[0]} x {size[1]} once it is resized",
            "Cut it to a usual shape first.",
        )
    if size != image.size:
        image = image.resize(size, resample(preprocess))
    left = round((image.width - columns) / 2)
    top = round((image.height - rows) / 2)
    return np.atleast_3d(np.asarray(image.crop((left, top, left + columns, top + rows))))


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return the first 64 bits of the SHA-256 of an image's pixels, by which the same image is known again."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


@dataclass
class Skipped:
    """The images of a folder that could not be decoded."""

    paths: list[Path] = field(default_factory=list)


def batches(
    paths: Sequence[Path], preprocess: Preprocess, size: int, skipped: Skipped | None = None
) -> Iterator[tuple[NDArray[np.uint8], list[int]]]:
    """Decode images in order, a batch at a time, two batches ahead.

    Args:
        paths: Image files.
        preprocess: Resize and crop.
        size: Images a batch.
        skipped: Collects unreadable images, each logged by name; without it the first one raises.

    Yields:
        uint8 `(n, height, width, channels)`, and the positions in `paths` of its images. Never empty.

    Raises:
        DataError: An image is unreadable and `skipped` is None, or more than 5 % are.
    """
    allowed = int(MAX_SKIPPED * len(paths))

    def attempt(path: Path) -> NDArray[np.uint8] | DataError:
        try:
            return load_image(path, preprocess)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max_workers=2) as pool:
        chunks = [range(start, min(start + size, len(paths))) for start in range(0, len(paths), size)]
        ahead = [[pool.submit(attempt, paths[i]) for i in chunk] for chunk in chunks[:2]]
        for number, chunk in enumerate(chunks):
            results = [future.result() for future in ahead.pop(0)]
            if number + 2 < len(chunks):
                ahead.append([pool.submit(attempt, paths[i]) for i in chunks[number + 2]])
            good: list[NDArray[np.uint8]] = []
            positions: list[int] = []
            for index, result in zip(chunk, results, strict=True):
                if not isinstance(result, DataError):
                    good.append(result)
                    positions.append(index)
                    continue
                if skipped is None:
                    raise result
                skipped.paths.append(paths[index])
                _log.warning("skipped: %s", result.what)
                if len(skipped.paths) > allowed:
                    raise DataError(
                        f"at least {len(skipped.paths)} of {len(paths)} images cannot be read, more than "
                        f"{MAX_SKIPPED:.0%}; the rest was not looked at: {shortened(str(p) for p in skipped.paths)}",
                        "Remove or replace them.",
                    )
            if good:
                yield np.stack(good), positions
