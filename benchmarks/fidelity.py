"""How far every file of every catalogue entry is from PyTorch, for two kinds of random weights.

`normalised` is what `--random-weights` draws: BatchNorm statistics of real activations, so that every layer matters.
`plain` is PyTorch's own initialisation: its logits hardly depend on the image, which flatters every quantiser.
"""

from __future__ import annotations

import importlib.metadata
import math
from typing import TYPE_CHECKING, Any

import torch
from common import make_photos, save, scratch
from safetensors.torch import load_file, save_file

import edgeresnext
from edgeresnext.model.catalogue import CATALOGUE

if TYPE_CHECKING:
    from pathlib import Path

    from edgeresnext.bundle import Bundle

CALIBRATION_IMAGES = 32


def plain_weights(normalised: Path, output: Path) -> Path:
    """Write weights with the names and shapes of `normalised`, drawn as PyTorch initialises convolutions and Linear."""
    torch.manual_seed(0)
    state = {}
    for name, tensor in load_file(normalised).items():
        if tensor.ndim > 1:
            bound = 1 / math.sqrt(tensor[0].numel())  # kaiming_uniform with a = sqrt(5)
            state[name] = torch.empty_like(tensor).uniform_(-bound, bound)
        elif name == "fc.bias":
            bound = 1 / math.sqrt(state["fc.weight"].shape[1]) if "fc.weight" in state else 0.02
            state[name] = torch.empty_like(tensor).uniform_(-bound, bound)
        else:
            state[name] = torch.ones_like(tensor) if name.endswith(("weight", "var")) else torch.zeros_like(tensor)
    save_file(state, output)
    return output


def rows(model: str, kind: str, bundle: Bundle) -> list[dict[str, Any]]:
    """Return one row a file."""
    found = []
    for file in bundle.manifest.onnx:
        fidelity = file.fidelity
        name = file.file.removeprefix("onnx/").removesuffix(".onnx")
        found.append({
            "model": model, "weights": kind, "file": name, "max_error": fidelity.max_error, "snr_db": fidelity.snr_db,
        })  # fmt: skip
        print(f"{model:18} {kind:10} {name:10} {fidelity.max_error:.1e} {fidelity.snr_db:.1f} dB", flush=True)
    return found


def main() -> None:
    """Build every entry twice and save how far its files are from PyTorch."""
    found = []
    for model in CATALOGUE:
        with scratch() as folder:
            photos = make_photos(folder / "photos", CALIBRATION_IMAGES)
            bundle = edgeresnext.build(model, random_weights=True, calibration=photos, output=folder / "normalised")
            found += rows(model, "normalised", bundle)
            weights = plain_weights(bundle.file("weights.safetensors"), folder / "plain.safetensors")
            bundle = edgeresnext.build(model, weights=weights, calibration=photos, output=folder / "plain")
            found += rows(model, "plain", bundle)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime")}
    save("fidelity", {"calibration_images": CALIBRATION_IMAGES, "rows": found}, **versions)


if __name__ == "__main__":
    main()
