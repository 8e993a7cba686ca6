"""What INT8 costs an ensemble of two, beside what it costs each member: python benchmarks/ensembles.py [FOLDER].

The demo's digits network and three more that are trained for this, one of them another network. FOLDER keeps their
weights, and is where they are looked for before they are trained.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save, scratch
from tasks import quality

import edgeresnext
from edgeresnext.cli.demo import weights as demo_weights
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.data import digits, folder
from edgeresnext.data.images import batches
from edgeresnext.machine.environment import package_versions
from edgeresnext.model.catalogue import PREPROCESS
from edgeresnext.model.checkpoints import load_saved
from edgeresnext.model.resnext import normalise

TRAINED = {"seed 1": ("resnext20_8x4d", 1), "seed 2": ("resnext20_8x4d", 2), "resnet20": ("resnet20", 3)}
EPOCHS = 30
FILES = ("int8", "int8-cpu")


class _Judged:
    """Named like a task, for what `quality` writes down."""

    def __init__(self, name: str) -> None:
        self.name = name


def members(kept: Path, images: dict[str, Path]) -> dict[str, Path]:
    """Return the weights of the members by name, trained where they are not there."""
    with demo_weights() as path:
        (kept / "demo.safetensors").write_bytes(path.read_bytes())
    found = {"demo": kept / "demo.safetensors"}
    for name, (model, seed) in TRAINED.items():
        found[name] = kept / f"{name.replace(' ', '-')}.safetensors"
        if not found[name].exists():
            run = edgeresnext.train(
                images["train"],
                model=model,
                validation=images["validation"],
                output=kept / name.replace(" ", "-"),
                preprocess=PREPROCESS["digits"],
                recipe=edgeresnext.TrainingRecipe(epochs=EPOCHS, seed=seed),
            )
            found[name].write_bytes(run.weights.read_bytes())
    return found


def judged(names: tuple[str, ...], files: dict[str, Path], images: dict[str, Path], output: Path) -> dict[str, Any]:
    """Build an ensemble, or one member, and return how far its INT8 files are from it on images of no calibration."""
    weights = [files[name] for name in names]
    bundle = edgeresnext.build(
        weights if len(weights) > 1 else weights[0], calibration=images["calibration"], output=output,
        preprocess=PREPROCESS["digits"],
    )  # fmt: skip
    drawn = folder.scan(images["validation"])
    pixels = np.concatenate([array for array, _ in batches(drawn.images, PREPROCESS["digits"], 64)])
    network = load_saved(bundle.manifest.model, bundle.file("weights.safetensors"))
    with torch.inference_mode():
        exact = network(normalise(torch.from_numpy(pixels), bundle.manifest.model)).numpy()
    found: dict[str, Any] = {"members": list(names), "files": {}}
    for name in FILES:
        logits = Evaluator.read(bundle.file(f"onnx/{name}.onnx")).logits(pixels)
        found["files"][name] = quality(_Judged(" + ".join(names)), logits, exact, np.array(drawn.targets))
    print(names, {name: round(one["snr_db"], 1) for name, one in found["files"].items()}, flush=True)
    return found


def main() -> None:
    """Judge the members alone, and every two of them."""
    with scratch() as root:
        kept = Path(sys.argv[1]) if len(sys.argv) > 1 else root
        kept.mkdir(exist_ok=True)
        images = digits.prepare(root / "digits")
        files = members(kept, images)
        pairs = [*((name,) for name in files), *itertools.combinations(files, 2)]
        rows = [judged(names, files, images, root / "-".join(names)) for names in pairs]
    save("ensembles", {"rows": rows}, **package_versions("torch"))


if __name__ == "__main__":
    main()
