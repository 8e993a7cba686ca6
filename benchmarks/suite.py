"""Models x backends x precisions x batches on a CPU, and ResNeXt-50 and the digits beside other quantisers.

    python benchmarks/suite.py [--only SECTION ...]

Sections: models, peers. The models' figures are reports of `edgeresnext.bench`; peers and our artefacts are timed with
its `measure.latency`, all in one process and in turn.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from common import make_photos, save_section, scratch
from peers import open_all, peers

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.backends import registry
from edgeresnext.cli.demo import weights as digits_weights
from edgeresnext.data import digits, folder
from edgeresnext.data.images import batches
from edgeresnext.machine.environment import package_versions
from edgeresnext.machine.watch import MachineWatch
from edgeresnext.measure.accuracy import classify
from edgeresnext.measure.latency import interleave
from edgeresnext.measure.statistics import speedup, summarise
from edgeresnext.measure.variants import pytorch_ways
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from edgeresnext.backends.base import Session
    from edgeresnext.bundle import Bundle

MODELS = ("resnet50", "resnext50_32x4d", "resnext101_32x4d")
PEERS_OF = "resnext50_32x4d"
BATCHES = (1, 8)
CALIBRATION_IMAGES = 64
SECONDS = 25.0
ROUNDS = 130
BASELINE, OURS = "torch-fp32", "openvino-int8"
PACKAGES = ("torch", "torchao", "openvino", "onnxruntime", "nncf")


def build(model: str, root: Path) -> Bundle:
    """Return a bundle with random weights: for figures about speed and numerical distance."""
    return edgeresnext.build(
        model, random_weights=True, calibration=root / "photos", precisions=["fp32", "int8"], output=root / model
    )


def measure_models(root: Path) -> list[dict[str, Any]]:
    """Return every row of every model's report: batch 1 with everything, batch 8 without what compiles."""
    rows = []
    for model in MODELS:
        bundle = build(model, root)
        for batch in BATCHES:
            first = batch == 1
            report = edgeresnext.bench(
                bundle.path, scenario="single-stream" if first else "offline",
                options=edgeresnext.BenchOptions(
                    batch=batch, seconds=SECONDS,
                    skip=("layers", "energy") if first else ("compile", "scopes", "layers", "energy", "memory"),
                ),
            )  # fmt: skip
            print(model, batch, *report.warnings, sep="\n  ", flush=True)
            rows += [{"model": model, "warnings": report.warnings, **msgspec.to_builtins(row)} for row in report.rows]
    return rows


def tasks(root: Path) -> list[dict[str, Any]]:
    """Return the networks that peers are compared on: one large, one trained."""
    folders = digits.prepare(root / "digits")
    with digits_weights() as path:
        trained = edgeresnext.build(
            "resnext20_8x4d", weights=path, calibration=folders["calibration"], precisions=["fp32", "int8"],
            recipe=Recipe(samples=CALIBRATION_IMAGES), output=root / "digits-bundle",
        )  # fmt: skip
    large = root / PEERS_OF
    return [
        {
            "name": "ResNeXt-50 32x4d, 224 px, random weights", "calibration": root / "photos", "validation": None,
            "bundle": bundles.read(large) if large.exists() else build(PEERS_OF, root),
        },
        {
            "name": "resnext20_8x4d, handwritten digits", "calibration": folders["calibration"],
            "validation": folders["validation"], "bundle": trained,
        },
    ]  # fmt: skip


def measure_peers(task: dict[str, Any], root: Path) -> list[dict[str, Any]]:
    """Return one row a peer and one of ours, timed in turn; what fails says why."""
    bundle: Bundle = task["bundle"]
    preprocess, golden = bundle.manifest.model.preprocess, bundle.golden()
    drawn = folder.scan(task["calibration"]).sample(CALIBRATION_IMAGES, seed=0).images
    images = np.concatenate([part for part, _ in batches(drawn, preprocess, 16)])
    files = root / f"peers-{bundle.manifest.model.name}"
    files.mkdir()
    found = {peer.name: peer for peer in peers(bundle, images, files)}
    ways = [*bundle.artifacts(), *pytorch_ways()]
    sessions: dict[str, Session] = {
        way.name: open_artifact(bundle, way) for way in ways if registry.unavailable(way) is None
    }
    opened, failures = open_all(found.values())
    sessions |= opened
    samples, broken = interleave(sessions, golden.images, 1, min_rounds=ROUNDS, max_rounds=ROUNDS, budget_s=0)
    failures |= broken
    alive = {name: session for name, session in sessions.items() if name not in failures}
    top1 = accuracy(task, alive)
    rows = []
    for name in sessions | failures:
        peer = found.get(name)
        row: dict[str, Any] = {
            "task": task["name"], "variant": name, "detail": peer.detail if peer else sessions[name].detail,
            "ours": peer is None and not name.startswith("torch"), "quantising_s": peer.seconds if peer else None,
            "reason": failures.get(name, ""), "top1": top1.get(name),
        }  # fmt: skip
        rows.append(row)
        if name in alive:
            latency, _ = summarise(samples[name])
            ratio, error = speedup(samples[BASELINE], samples[name])
            over_ours, over_error = speedup(samples[name], samples[OURS])
            logits = np.concatenate([alive[name].run(image[None]) for image in golden.images])
            row |= {
                "latency_s": msgspec.to_builtins(latency), "samples_s": samples[name], "speedup": ratio,
                "speedup_error": error, "over_ours": over_ours, "over_ours_error": over_error,
                "snr_db": golden.compare(logits).snr_db,
            }  # fmt: skip
        print(name, {key: row.get(key) for key in ("speedup", "over_ours", "snr_db", "top1", "reason")}, flush=True)
    return rows


def accuracy(task: dict[str, Any], sessions: dict[str, Session]) -> dict[str, float | None]:
    """Return top-1 of every session, where there are labelled images and trained weights."""
    if task["validation"] is None:
        return {}
    bundle: Bundle = task["bundle"]
    photos = folder.scan(task["validation"])
    right = folder.match_classes(photos.classes, bundle.labels(), photos.root)
    targets = [right[target] for target in photos.targets]
    found = classify(sessions, photos.images, targets, bundle.manifest.model.preprocess, lambda *_: None)
    return {name: found.top(name, 1) for name in found.best}


def main() -> None:
    """Measure what was asked for, keep the rest of an earlier run, and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["models", "peers"], default=["models", "peers"])
    only = parser.parse_args().only
    with scratch() as root, MachineWatch() as watch:
        make_photos(root / "photos", CALIBRATION_IMAGES)
        found: dict[str, Any] = {}
        if "models" in only:
            found["models"] = measure_models(root)
        if "peers" in only:
            found["peers"] = [row for task in tasks(root) for row in measure_peers(task, root)]
    found |= {"rounds": ROUNDS, "calibration_images": CALIBRATION_IMAGES, "warnings": watch.warnings()}
    for section, figures in found.items():
        save_section("suite", section, figures, **watch.facts(), **package_versions(*PACKAGES))


if __name__ == "__main__":
    main()
