"""Draw a calibration set from a local ImageNet: 512 training images, evenly over the classes.

    python calibration/imagenet/prepare.py .../ILSVRC/Data/CLS-LOC/train OUTPUT
    python calibration/imagenet/prepare.py .../train OUTPUT --like OTHER/manifest.json

The folder has one folder a class, named after its WordNet identifier (n01440764). Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from edgeresnext import EdgeResNeXtError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import subset

SAMPLES, SEED, CLASSES = 512, 0, 1000
WORDNET = re.compile(r"n\d{8}")


def main() -> None:
    """Check that the folder is ImageNet's training set, draw, and say what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("output")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--like", metavar="MANIFEST", help="draw the images that this manifest names")
    given = parser.parse_args()
    train = Path(given.train)
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
    try:
        if given.like:
            drawn = subset.draw_again(train, given.output, given.like)
        else:
            drawn = subset.draw(train, given.output, samples=given.samples, seed=given.seed)
    except EdgeResNeXtError as error:
        sys.exit(f"error: {error}")
    print(
        f"{len(drawn.images)} images of {len({i.file.split('/')[0] for i in drawn.images})} classes in {given.output}"
    )


if __name__ == "__main__":
    main()
