"""Preprocessing files: what becomes of an image before the network, as JSON."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeresnext import files
from edgeresnext.errors import DataError
from edgeresnext.spec import Preprocess

BESIDE = "preprocess.json"
"""What the preprocessing of weights is called beside them (`files.beside`)."""


def read_preprocess(path: str | Path) -> Preprocess:
    """Return the preprocessing of a JSON file.

    Raises:
        DataError: The file is missing, or is none.
    """
    try:
        return files.from_json(files.read(path), Preprocess)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot read preprocessing from '{path}': {reason}",
            'Write it as {"resize_px": 256, "crop_px": 224, "interpolation": "bilinear"}, with mean and std if needed.',
        ) from None


def beside(weights: str | Path) -> Preprocess | None:
    """Return the preprocessing that lies beside a weights file, as training writes it, or None.

    Raises:
        DataError: It cannot be read.
    """
    path = files.beside(weights, BESIDE)
    return read_preprocess(path) if path.is_file() else None
