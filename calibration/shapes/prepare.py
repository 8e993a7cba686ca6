"""Draw the shapes as image folders: python calibration/shapes/prepare.py DIR."""

from __future__ import annotations

import sys

from drawing import prepare

from edgeresnext import EdgeResNeXtError


def main() -> None:
    """Do it, and say what was done."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit(__doc__)
    for split, folder in prepare(sys.argv[1]).items():
        print(f"{split:12} {len(list(folder.glob('*/*.png'))):5} images in {folder}")


if __name__ == "__main__":
    try:
        main()
    except EdgeResNeXtError as error:
        sys.exit(f"error: {error}")
