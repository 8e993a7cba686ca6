"""The demo's real data: scikit-learn's handwritten digits as image folders.

1,797 grey images of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, test set),
split by class and seed into training, calibration and validation. Images of equal content go to the same split.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
from PIL import Image

from edgeresnext import directories
from edgeresnext.errors import DataError
from edgeresnext.extras import require

SPLITS = {"train": 1000, "calibration": 197, "validation": 600}
SEED = 0
_WHITE = 16
"""The brightest value in the data set."""
_log = logging.getLogger("edgeresnext")


def prepare(root: str | Path) -> dict[str, Path]:
    """Write the digits below `root` as `SPLIT/CLASS/NUMBER.png` and return the folder of each split.

    Folders that are there already, with the right number of images, are kept.

    Raises:
        NotInstalledError: scikit-learn is missing.
        DataError: `root` holds something else.
        InputError: `root` cannot be written.
    """
    require("demo", "sklearn", needed_by="the set of digits")
    root = Path(root)
    folders = {split: root / split for split in SPLITS}
    if all(len(list(folders[split].glob("*/*.png"))) == count for split, count in SPLITS.items()):
        return folders
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"'{root}' holds something other than the prepared digits", "Give a new or empty directory.")

    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / _WHITE)).astype(np.uint8)
    with directories.replacing(root, _log.warning) as prepared:
        for split, indices in split_indices(images, digits.target).items():
            for index in indices:
                folder = prepared / split / str(digits.target[index])
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[index]).save(folder / f"{index:04}.png")
    return folders


def split_indices(images: np.ndarray, targets: np.ndarray) -> dict[str, list[int]]:
    """Return the images of each split: `SPLITS` counts, shuffled by `SEED`, classes in equal shares.

    Copies of one image are kept together, so that no split shares an image with another.
    """
    generator = random.Random(SEED)  # noqa: S311 - reproducible splits, not security
    groups: dict[tuple[int, bytes], list[int]] = {}
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        groups.setdefault((int(target), image.tobytes()), []).append(index)
    by_class: dict[int, list[list[int]]] = {}
    for (target, _), group in sorted(groups.items()):
        by_class.setdefault(target, []).append(group)
    for queue in by_class.values():
        generator.shuffle(queue)
    # Dealing round-robin over the classes keeps every split balanced to within one image a class.
    dealt = [group for turn in range(len(images)) for queue in by_class.values() for group in queue[turn : turn + 1]]
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    for group in dealt:
        open_splits = [s for s, count in SPLITS.items() if len(splits[s]) + len(group) <= count]
        furthest = min(open_splits, key=lambda s: len(splits[s]) / SPLITS[s])
        splits[furthest] += group
    return splits
