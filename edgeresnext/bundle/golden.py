"""Golden images: what an artefact proves itself by, anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeresnext.spec import Fidelity


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Images with PyTorch's float32 logits for them, by which an artefact proves itself anywhere.

    Args:
        images: uint8 `(N, height, width, channels)`.
        logits: float32 `(N, classes)`.
    """

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]

    def first(self, count: int) -> Golden:
        """Return the first so many of them."""
        return Golden(images=self.images[:count], logits=self.logits[:count])

    def compare(self, logits: NDArray[np.float32]) -> Fidelity:
        """Return how far an artefact's logits for the golden images, float32 `(N, classes)`, are from PyTorch's."""
        noise = logits.astype(np.float64) - self.logits
        signal = self.logits.astype(np.float64)
        if not np.isfinite(logits).all():
            return Fidelity(snr_db=None, max_error=None)
        power, error = float((noise**2).sum()), float(np.abs(noise).max())
        if not power:
            return Fidelity(snr_db=None, max_error=0.0)
        largest = float(np.abs(signal).max())
        if not largest:  # all-zero logits: any difference is infinitely larger
            return Fidelity(snr_db=-math.inf, max_error=math.inf)
        return Fidelity(snr_db=10 * math.log10(float((signal**2).sum()) / power), max_error=error / largest)
