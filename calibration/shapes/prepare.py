"""Draw the shapes as image folders: python calibration/shapes/prepare.py DIR."""

from __future__ import annotations

import sys

from edgeresnext.data.shapes import prepare

if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit(__doc__)
    for split, folder in prepare(sys.argv[1]).items():
        print(f"{split:12} {len(list(folder.glob('*/*.png'))):5} images in {folder}")
