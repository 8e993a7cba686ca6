"""Draw a calibration set from any folder of images, evenly over its class folders if it has them.

python calibration/folder/prepare.py SOURCE OUTPUT [--samples 512] [--seed 0]
python calibration/folder/prepare.py SOURCE OUTPUT --like OTHER/manifest.json     the very same images again
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import scripts

if __name__ == "__main__":
    scripts.draw(__doc__)
