"""Golden images: what an artefact proves itself by, anywhere."""

from __future__ import annotations

import io
import math
import zipfile
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


def read_golden(content: bytes) -> Golden:
    """Return the golden images that a `reference.npz` holds; of which shape and type they are is still to be looked at.

    Raises:
        ValueError: It is none, or damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        packed = unpacked > len(content)  # ours are not; what is could fill the memory
        found = {} if packed else dict(np.load(io.BytesIO(content), allow_pickle=False))
    except Exception as error:  # noqa: BLE001 - its archive, headers and arrays have readers that raise each their own
        raise ValueError(str(error) or type(error).__name__) from None
    if packed:
        message = f"it is compressed: its {len(content):,} bytes would become {unpacked:,}"
        raise ValueError(message)
    images, logits = found.get("images"), found.get("logits")
    if not isinstance(images, np.ndarray) or not isinstance(logits, np.ndarray):  # what is no array stays bytes
        raise ValueError("it has no images or no logits")  # noqa: TRY004 - damage, not a mistake of the caller
    return Golden(images=images, logits=logits)
