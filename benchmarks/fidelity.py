"""How far every file of every catalogue entry is from PyTorch, with the weights that `--random-weights` draws.

BatchNorm has the statistics of real activations, so that every layer matters: harder than PyTorch's own initialisation,
whose logits hardly depend on the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common import make_photos, save, scratch

import edgeresnext
from edgeresnext.machine.environment import package_versions

if TYPE_CHECKING:
    from edgeresnext.bundle import Bundle

CALIBRATION_IMAGES = 32
MODELS = (
    "resnet18", "resnet50", "resnext50_32x4d", "resnext101_32x4d", "resnext101_64x4d", "resnext101_32x8d", "seresnext50_32x4d",
    "resnext50d_32x4d", "resnext29_8x64d", "resnet20", "preact_resnet164", "resnext20_8x4d",
)  # fmt: skip
"""One of each kind of the catalogue."""


def rows(model: str, bundle: Bundle) -> list[dict[str, Any]]:
    """Return one row a file."""
    found = []
    for file in bundle.manifest.onnx:
        fidelity = file.fidelity
        name = file.file.removeprefix("onnx/").removesuffix(".onnx")
        found.append({
            "model": model, "file": name, "max_error": fidelity.max_error, "snr_db": fidelity.snr_db,
        })  # fmt: skip
        print(f"{model:18} {name:10} {fidelity.max_error:.1e} {fidelity.snr_db:.1f} dB", flush=True)
    return found


def main() -> None:
    """Build them and save how far its files are from PyTorch."""
    found = []
    for model in MODELS:
        with scratch() as folder:
            photos = make_photos(folder / "photos", CALIBRATION_IMAGES)
            bundle = edgeresnext.build(model, random_weights=True, calibration=photos, output=folder / "bundle")
            found += rows(model, bundle)
    figures = {"calibration_images": CALIBRATION_IMAGES, "rows": found}
    save("fidelity", figures, **package_versions("torch", "onnx", "onnxruntime"))


if __name__ == "__main__":
    main()
