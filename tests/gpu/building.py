"""Bundles and engines that several stages work with: each is built by the first stage that needs it."""

from __future__ import annotations

import time

from gpu.check import Skipped

SMALL, LARGE = "resnext20_8x4d", "resnext50_32x4d"
BACKENDS = ("tensorrt_rtx", "tensorrt")
LARGEST = 8
PRECISIONS = ("fp32", "fp16", "int8")


def bundle(work, name):
    """Build a bundle of random weights; accuracy means nothing, distance from PyTorch and speed do."""
    import edgeresnext

    if (work.folder / name / "manifest.json").exists():
        return {"built before": True}
    start = time.perf_counter()
    built = edgeresnext.build(name, random_weights=True, output=work.folder / name, targets=["cpu"])
    return {"seconds": time.perf_counter() - start, "files": [one.file for one in built.manifest.onnx]}


def engines(work, request):
    """Build engines in every precision that the backend has, for the GPU of this machine."""
    import edgeresnext
    from edgeresnext.backends import registry

    name, backend = request
    if (work.folder / f"{name}-{backend}" / "manifest.json").exists():
        return {"built before": True}
    if (missing := registry.get_engine_backend(backend).missing()) is not None:
        raise Skipped(missing)
    built = edgeresnext.build_engines(
        work.bundle(name),
        output=work.folder / f"{name}-{backend}",
        precisions=PRECISIONS if name == SMALL else ("fp16", "int8"),
        engine_options=edgeresnext.EngineOptions(batch=(1, 1, LARGEST), int8_grouped="on", backend=backend),
    )
    found = [one for one in built.manifest.artifacts if one.engine]
    return {
        "release": found[0].engine.release,
        "built_s": {one.precision: one.engine.built_s for one in found},
        "latency_s": {timing.artifact: timing.latency_s for timing in built.manifest.selection.timings},
    }


def open_engine(path, precision):
    """Return (session, bundle, artefact) of an engine."""
    from edgeresnext import bundle as bundles
    from edgeresnext.runtime.classifier import open_artifact

    found = bundles.read(path)
    artifact = next((one for one in found.manifest.artifacts if one.engine and one.precision == precision), None)
    if artifact is None:
        raise Skipped(f"there is no {precision} engine: its build stands above")
    return open_artifact(found, artifact), found, artifact


def images_for(found, count, seed=0):
    """Return random images for a bundle's network, uint8 `(count, H, W, 3)`."""
    import numpy as np

    size = found.manifest.model.preprocess.size
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
