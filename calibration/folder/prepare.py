"""Draw a calibration set from any folder of images, evenly over its class folders if it has them.

python calibration/folder/prepare.py SOURCE OUTPUT [--samples 512] [--seed 0]
python calibration/folder/prepare.py SOURCE OUTPUT --like OTHER/manifest.json     the very same images again
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeresnext import EdgeResNeXtError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import subset


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--samples", type=int, help="images to draw; 512 if left out")
    parser.add_argument("--seed", type=int, help="of the sample; 0 if left out")
    parser.add_argument("--like", metavar="MANIFEST", help="draw the images that this manifest names")
    given = parser.parse_args()
    if given.like and (given.samples is not None or given.seed is not None):
        parser.error("--like names the images: leave --samples and --seed out")
    return given


def main() -> None:
    """Draw the images and say what was drawn."""
    given = parse()
    try:
        if given.like:
            drawn = subset.draw_again(given.source, given.output, given.like)
        else:
            drawn = subset.draw(
                given.source,
                given.output,
                samples=512 if given.samples is None else given.samples,
                seed=given.seed or 0,
            )
    except EdgeResNeXtError as error:
        sys.exit(f"error: {error}")
    classes = {image.file.rpartition("/")[0] for image in drawn.images} - {""}
    of = f" of {len(classes)} classes" if classes else ""
    print(f"{len(drawn.images)} images{of} in {given.output}, and their manifest")


if __name__ == "__main__":
    main()
