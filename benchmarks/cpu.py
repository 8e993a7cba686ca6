"""ResNeXt-50 32x4d at 224 px, batch 1, on a CPU: our artefacts, PyTorch, and NNCF's quantisation, in turn."""

from __future__ import annotations

import importlib.metadata
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from common import make_photos, save, scratch
from peers import open_model, with_nncf, write_fp32

import edgeresnext
from edgeresnext.backends import base
from edgeresnext.bundle import WEIGHTS
from edgeresnext.data.images import batches
from edgeresnext.measure.latency import interleave, speedup, summarise
from edgeresnext.model.checkpoints import load_network
from edgeresnext.runtime.classifier import open_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from edgeresnext.backends.base import Session
    from edgeresnext.bundle import Bundle

MODEL = "resnext50_32x4d"
CALIBRATION_IMAGES = 64
ROUNDS = 130
BASELINE = "torch-fp32"
NNCF = {
    "NNCF int8, rest fp32": "f32",
    "NNCF int8, rest as OpenVINO chooses": "",  # bfloat16 on CPUs that have it
}


def quantise_with_nncf(bundle: Bundle, photos: Path, folder: Path) -> dict[str, Session]:
    """Return the bundle's network quantised by NNCF's defaults on the same images, compiled in two ways."""
    model = bundle.manifest.model
    write_fp32(load_network(model, bundle.file(WEIGHTS)), model, folder / "plain.onnx")
    images = (image for batch, _ in batches(sorted(photos.iterdir()), model.preprocess, 1) for image in batch)
    file = with_nncf(images, folder / "plain.onnx", folder / "nncf")
    return {name: open_model(file, model, precision) for name, precision in NNCF.items()}


def main() -> None:
    """Measure and save."""
    with scratch() as folder:
        photos = make_photos(folder / "photos", CALIBRATION_IMAGES)
        bundle = edgeresnext.build(
            MODEL, random_weights=True, calibration=photos, precisions=["fp32", "int8"], output=folder / "bundle"
        )
        golden = bundle.golden()
        sessions: dict[str, Session] = {
            artifact.name: open_artifact(bundle, artifact)
            for artifact in bundle.artifacts()
            if base.unavailable(artifact) is None
        }
        sessions |= quantise_with_nncf(bundle, photos, folder)
        samples, failures = interleave(
            sessions, golden.images, 1, min_rounds=ROUNDS, max_rounds=ROUNDS, budget_s=0, progress=print
        )
        if failures:
            raise SystemExit(str(failures))
        rows: list[dict[str, Any]] = []
        for name, times in samples.items():
            latency, _ = summarise(times)
            ratio, error = speedup(samples[BASELINE], times)
            logits = np.concatenate([sessions[name].run(image[None]) for image in golden.images])
            fidelity = golden.compare(logits)
            rows.append({
                "variant": name,
                "detail": sessions[name].detail,
                "p50_s": latency.p50,
                "p90_s": latency.p90,
                "speedup": ratio,
                "speedup_error": error,
                "snr_db": fidelity.snr_db,
                "samples_s": times,
            })  # fmt: skip
            print(f"{name:36} {latency.p50 or 0:.4f} s  x {ratio:.2f} ± {error:.2f}  {fidelity.snr_db}")
        fastest = min(NNCF, key=lambda name: median(samples[name]))
        ratio, error = speedup(samples[fastest], samples["openvino-int8"])
        print(f"latency of {fastest} over ours: {ratio:.3f} ± {error:.3f}")
        save(
            "cpu",
            {
                "model": MODEL, "rounds": ROUNDS, "calibration_images": CALIBRATION_IMAGES, "rows": rows,
                "nncf_fastest": fastest, "nncf_over_ours": ratio, "nncf_over_ours_error": error,
            },
            **{name: importlib.metadata.version(name) for name in ("torch", "openvino", "onnxruntime", "nncf")},
        )  # fmt: skip


if __name__ == "__main__":
    main()
