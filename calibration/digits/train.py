"""Train the demo's weights on the digits: python calibration/digits/train.py FOLDER [OUTPUT.safetensors]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import scripts

from edgeresnext.data.digits import prepare

if __name__ == "__main__":
    scripts.train(__doc__, prepare, "digits.safetensors", epochs=30, seed=0)
