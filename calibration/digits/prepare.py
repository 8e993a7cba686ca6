"""Write the digits as image folders: python calibration/digits/prepare.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import scripts

from edgeresnext.data.digits import prepare

if __name__ == "__main__":
    scripts.prepare(__doc__, prepare)
