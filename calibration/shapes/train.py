"""Train a small ResNeXt on the drawn shapes: python calibration/shapes/train.py DIR [OUTPUT.safetensors]."""

from __future__ import annotations

import sys
from pathlib import Path

from drawing import prepare

import edgeresnext
from edgeresnext import EdgeResNeXtError
from edgeresnext.spec import Preprocess

MODEL = "resnext20_8x4d"
PREPROCESS = Preprocess(resize_px=32, crop_px=32)
EPOCHS, BATCH, LEARNING_RATE, SEED = 12, 64, 0.1, 0


def main() -> None:
    """Do it, and say what was done."""
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


if __name__ == "__main__":
    try:
        main()
    except EdgeResNeXtError as error:
        sys.exit(f"error: {error}")
