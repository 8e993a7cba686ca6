"""Generated images, for networks with random weights that no real image means anything to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def generate(count: int, size_px: tuple[int, int], seed: int, channels: int = 3) -> NDArray[np.uint8]:
    """Return `count` smooth patterns, uint8 `(count, *size_px, channels)`, the same for the same seed."""
    generator = np.random.default_rng(seed)
    images = np.empty((count, *size_px, channels), np.uint8)
    for image in images:
        cells = int(generator.integers(2, 12))
        coarse = generator.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
        for channel in range(channels):
            plane = Image.fromarray(coarse[:, :, channel])
            image[:, :, channel] = np.asarray(plane.resize(size_px[::-1], Image.Resampling.BICUBIC))
    return images
