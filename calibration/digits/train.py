"""Train a small ResNeXt on the digits: python calibration/digits/train.py FOLDER [OUTPUT.safetensors]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import scripts

from edgeresnext import TrainingRecipe
from edgeresnext.data.digits import prepare
from edgeresnext.model.catalogue import PREPROCESS

if __name__ == "__main__":
    scripts.train(
        __doc__, prepare, "digits.safetensors", preprocess=PREPROCESS["digits"], recipe=TrainingRecipe(epochs=30)
    )
