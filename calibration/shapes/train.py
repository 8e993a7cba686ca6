"""Train a small ResNeXt on the drawn shapes: python calibration/shapes/train.py FOLDER [OUTPUT.safetensors]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what the folders beside this one share

import scripts
from drawing import prepare

from edgeresnext import Preprocess, TrainingRecipe

PREPROCESS = Preprocess(resize_px=32, crop_px=32)

if __name__ == "__main__":
    scripts.train(
        __doc__, prepare, "shapes.safetensors",
        preprocess=PREPROCESS, recipe=TrainingRecipe(epochs=12),
    )  # fmt: skip
