"""Draw a calibration set from any folder of images, evenly over its class folders if it has them.

python calibration/folder/prepare.py SOURCE OUTPUT [--samples 512] [--seed 0]
python calibration/folder/prepare.py SOURCE OUTPUT --like OTHER/manifest.json     the very same images again
"""

from __future__ import annotations

import argparse
import sys

from edgeresnext import EdgeResNeXtError
from edgeresnext.data import subset


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--like", metavar="MANIFEST", help="draw the images that this manifest names")
    return parser.parse_args()


def main() -> None:
    """Draw the images and say what was drawn."""
    given = parse()
    try:
        if given.like:
            drawn = subset.draw_again(given.source, given.output, given.like)
        else:
            drawn = subset.draw(given.source, given.output, samples=given.samples, seed=given.seed)
    except EdgeResNeXtError as error:
        sys.exit(f"error: {error}")
    classes = {image.file.rpartition("/")[0] for image in drawn.images}
    print(f"{len(drawn.images)} images of {len(classes)} folders in {given.output}, and their manifest")


if __name__ == "__main__":
    main()
