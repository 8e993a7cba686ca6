"""Train ResNeXt-50 32x4d on the drawn shapes: python calibration/shapes/train.py DIR [OUTPUT.safetensors]."""

from __future__ import annotations

import sys
from pathlib import Path

import edgeresnext
from edgeresnext.data.shapes import SIZE_PX, prepare
from edgeresnext.spec import Preprocess

MODEL = "resnext50_32x4d"
PREPROCESS = Preprocess(resize_px=SIZE_PX, crop_px=SIZE_PX)
EPOCHS, BATCH, LEARNING_RATE, SEED = 6, 32, 0.05, 0

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folders = prepare(sys.argv[1])
    output = Path(sys.argv[2] if len(sys.argv) > 2 else Path(sys.argv[1]) / "shapes.safetensors")  # noqa: PLR2004
    top1 = edgeresnext.train(
        MODEL,
        data=folders["train"],
        validation=folders["validation"],
        output=output,
        preprocess=PREPROCESS,
        epochs=EPOCHS,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
        seed=SEED,
        progress=lambda _stage, done, total: print(f"epoch {done} of {total}", flush=True),
    )
    print(f"{output}: top-1 {top1:.2%} on {folders['validation']}")
