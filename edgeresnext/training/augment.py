"""What is done to an image before it is learned from. Every function takes all its chance from a generator.

Ours and Pillow's: torchvision's transforms are no dependency, as it is not to be had beside every PyTorch for CPUs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from edgeresnext.data.images import as_picture, crop, resample

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from numpy.typing import NDArray

    from edgeresnext.spec import Preprocess, TrainingRecipe

    _Operation: TypeAlias = Callable[[Image.Image, float, int], Image.Image]
    """An image, a strength in 0..1 and a sign to an image."""

_AREA = (0.35, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_ERASED = (0.02, 0.25)
_SHIFT = 16
"""An image is moved by up to this fraction of its size."""


def as_source(image: Image.Image, preprocess: Preprocess, recipe: TrainingRecipe) -> NDArray[np.uint8]:
    """Return what is remembered of an image, uint8 `(height, width, channels)`: no more than `augmented` can use.

    Its shorter edge has at most 1.5 times the pixels of `resize_px`; where nothing but shifts is done, it is the crop.
    """
    if not _from_whole(recipe):
        return crop(image, preprocess)
    edge = round(1.5 * preprocess.resize_px)
    if min(image.size) > edge:
        share = edge / min(image.size)
        image = image.resize((round(image.width * share), round(image.height * share)), resample(preprocess))
    return np.atleast_3d(np.asarray(image))


def augmented(
    source: NDArray[np.uint8], preprocess: Preprocess, recipe: TrainingRecipe, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return an image as the network learns it: uint8 `(height, width, channels)`.

    Args:
        source: What `as_source` returned.
        preprocess: Size of the result.
        recipe: What is done; its `geometry` and `flip` are decided.
        generator: Of this image in this epoch.
    """
    found = source
    if _from_whole(recipe):
        image = as_picture(source)
        image = trivial(image, generator) if recipe.trivial else image
        found = random_crop(image, preprocess, generator) if recipe.geometry == "crop" else crop(image, preprocess)
    if recipe.geometry == "shift":
        found = shifted(found, generator)
    if recipe.flip and generator.random() < 0.5:  # noqa: PLR2004 - a coin
        found = found[:, ::-1]
    if recipe.erase and generator.random() < recipe.erase:
        found = erased(found, generator)
    return np.ascontiguousarray(found)


def _from_whole(recipe: TrainingRecipe) -> bool:
    """Whether more than the middle of an image is needed."""
    return recipe.geometry == "crop" or recipe.trivial


def random_crop(image: Image.Image, preprocess: Preprocess, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a random part, 35 to 100 % of the area and three to four quarters as wide as high, resized."""
    width, height = image.size
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*_AREA)
        ratio = math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = generator.integers(0, width - across + 1), generator.integers(0, height - down + 1)
            rows, columns = preprocess.size
            box = (int(left), int(top), int(left) + across, int(top) + down)
            return np.atleast_3d(np.asarray(image.resize((columns, rows), resample(preprocess), box=box)))
    return crop(image, preprocess)


def shifted(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image moved by up to a sixteenth of its size, its edge repeated."""
    down, across = (edge // _SHIFT for edge in image.shape[:2])
    padded = np.pad(image, ((down, down), (across, across), (0, 0)), mode="edge")
    top, left = generator.integers(0, 2 * down + 1), generator.integers(0, 2 * across + 1)
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


def erased(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image of which a random box, 2 to 25 % of the area, is noise."""
    height, width, channels = image.shape
    area, ratio = height * width * generator.uniform(*_ERASED), math.exp(generator.uniform(-1, 1))
    down = min(height, max(1, round(math.sqrt(area * ratio))))
    across = min(width, max(1, round(math.sqrt(area / ratio))))
    top, left = generator.integers(0, height - down + 1), generator.integers(0, width - across + 1)
    found: NDArray[np.uint8] = image.copy()
    found[top : top + down, left : left + across] = generator.integers(0, 256, (down, across, channels), np.uint8)
    return found


def trivial(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return an image after one operation of TrivialAugment, "wide", of random strength (arXiv:2103.10158, table 1)."""
    operation = _OPERATIONS[int(generator.integers(len(_OPERATIONS)))]
    sign = 1 if generator.random() < 0.5 else -1  # noqa: PLR2004 - a coin
    colours = image.mode if image.mode != "RGBA" else "RGB"
    changed = operation(image.convert(colours), float(generator.uniform(0, 1)), sign)
    if image.mode == "RGBA":
        changed.putalpha(image.getchannel("A"))
    return changed


def _moved(image: Image.Image, *matrix: float) -> Image.Image:
    """Return an image under an affine map, grey where nothing was."""
    grey = 128 if image.mode == "L" else (128,) * 3
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=grey)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> _Operation:
    return lambda image, strength, sign: kind(image).enhance(1 + sign * 0.99 * strength)


_OPERATIONS: tuple[_Operation, ...] = (
    lambda image, _strength, _sign: image,
    lambda image, _strength, _sign: ImageOps.autocontrast(image),
    lambda image, _strength, _sign: ImageOps.equalize(image),
    lambda image, strength, sign: image.rotate(135 * strength * sign, Image.Resampling.BILINEAR),
    lambda image, strength, _sign: ImageOps.solarize(image, round(255 * (1 - strength))),
    lambda image, strength, _sign: ImageOps.posterize(image, round(8 - 6 * strength)),
    lambda image, strength, sign: _moved(image, 1, 0.99 * strength * sign, 0, 0, 1, 0),
    lambda image, strength, sign: _moved(image, 1, 0, 0, 0.99 * strength * sign, 1, 0),
    lambda image, strength, sign: _moved(image, 1, 0, image.width * strength * sign / 7, 0, 1, 0),
    lambda image, strength, sign: _moved(image, 1, 0, 0, 0, 1, image.height * strength * sign / 7),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Sharpness),
)
