"""Generated images, for networks with random weights that no real image means anything to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def generate(count: int, size_px: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Return `count` smooth colour patterns, uint8 RGB `(count, *size_px, 3)`, the same for the same seed."""
    generator = np.random.default_rng(seed)
    images = np.empty((count, *size_px, 3), np.uint8)
    for image in images:
        cells = int(generator.integers(2, 12))
        coarse = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        image[:] = np.asarray(Image.fromarray(coarse).resize(size_px[::-1], Image.Resampling.BICUBIC))
    return images
