"""Draw a calibration set from a local ImageNet: 512 training images, evenly over the classes.

    python calibration/imagenet/prepare.py .../ILSVRC/Data/CLS-LOC/train OUTPUT
    python calibration/imagenet/prepare.py .../train OUTPUT --like OTHER/manifest.json

The folder has one folder a class, named after its WordNet identifier (n01440764). Nothing is downloaded.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import scripts

CLASSES = 1000
WORDNET = re.compile(r"n\d{8}")


def check(train: Path) -> None:
    """End where the folder is not ImageNet's training set."""
    classes = [path.name for path in train.iterdir() if path.is_dir()] if train.is_dir() else []
    known = [name for name in classes if WORDNET.fullmatch(name)]
    if not classes:
        sys.exit(
            f"error: '{train}' has no class folders\n  Give ImageNet's training set: .../ILSVRC/Data/CLS-LOC/train."
        )
    if len(known) != CLASSES or len(classes) != CLASSES:
        sys.exit(
            f"error: '{train}' is not ImageNet's training set: {len(known)} of its {len(classes)} folders are named "
            f"like n01440764, and there should be {CLASSES}\n  calibration/folder/prepare.py takes any folder."
        )


if __name__ == "__main__":
    scripts.draw(__doc__, check)
