"""From a checkpoint to a bundle: the stages in order. Read this first.

checkpoint -> network -> graph -> ranges -> plans -> ONNX files, checked -> bundle, measured
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext.backends import base
from edgeresnext.bundle import Bundle, Golden
from edgeresnext.data import calibration_set, folder
from edgeresnext.errors import AccuracyError, BackendError, DataError, NotInstalledError, RequestError, unknown_name
from edgeresnext.measure.environment import machine, package_versions
from edgeresnext.measure.latency import interleave
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import Artifact, Manifest, OnnxFile, Ranges, Selection, Timing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeresnext.backends.base import Session
    from edgeresnext.compiler.graph import Graph
    from edgeresnext.compiler.thresholds import Method
    from edgeresnext.data.calibration_set import CalibrationSet
    from edgeresnext.model.resnext import ResNeXt
    from edgeresnext.spec import Fidelity, ModelSpec, Precision, Preprocess

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
DEFAULT_METHOD = "percentile"
DEFAULT_SAMPLES = 512
_PACKAGES = ("edgeresnext", "torch", "onnx", "onnxruntime", "openvino", "numpy", "pillow")
_NO_RANGES = Ranges(method="", images=0, thresholds={}, digests={})
_MAX_SEED = 2**32
_TIMED_ROUNDS = 15
_CHECK_BATCH = 4
_TIMED_BUDGET_S = 5.0
_log = logging.getLogger("edgeresnext")


class Progress(Protocol):
    """Told how far a stage is; `total` may change while it runs."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` steps of `stage` are over."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress."""
    del stage, done, total


def build(
    model: str,
    *,
    output: str | Path,
    weights: str | Path | None = None,
    random_weights: bool = False,
    labels: str | Path | None = None,
    calibration: str | Path | None = None,
    targets: Iterable[str] = ("cpu",),
    precisions: Iterable[str] = PRECISIONS,
    preprocess: Preprocess | None = None,
    method: str = DEFAULT_METHOD,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    progress: Progress = silent,
) -> Bundle:
    """Build a bundle: emit, check and measure every requested precision of a network.

    Args:
        model: A name from the catalogue, such as `resnext50_32x4d`.
        output: Directory of the bundle. An existing bundle is replaced when the build succeeds, and only then.
        weights: Checkpoint, `.safetensors`, `.pth` or `.pt`; the class count is read from its `fc`.
        random_weights: Use seeded random weights instead, for latency work; accuracy is then never reported.
        labels: Text file, one label a line in the order of the logits; without it the labels are 0, 1, 2, ...
        calibration: Folder of images (or one folder a class) like those that the network was trained on.
        targets: Where the bundle will run: any of `backends.base.TARGETS`.
        precisions: Any of fp32, fp16 and int8.
        preprocess: Resize, crop and normalisation of the weights, where they differ from the catalogue's.
        method: Calibration method: max, percentile (99.999), percentile:P, mse or entropy.
        samples: Calibration images to draw, at most.
        seed: Of the sample and of random weights.
        progress: Told how far each stage is.

    Raises:
        RequestError: A name does not exist, or options contradict each other.
        InputError: Weights, labels, images or the output directory cannot be used.
        NotInstalledError: A package of the `build` extra is missing.
        AccuracyError: A file is too far from PyTorch to be published.
    """
    # Whatever can be wrong with the request is found before anything slow is done.
    chosen = _check_precisions(precisions)
    targets = base.check_targets(targets)
    if (weights is None) is not random_weights:
        raise RequestError(
            "give either weights or random weights" + (", not both" if random_weights else ""),
            "--weights FILE for a trained network, --random-weights for latency work.",
        )
    if weights is not None and calibration is None and "int8" in chosen:
        raise RequestError(
            "INT8 needs calibration images",
            "Give --calibration DIR with 100 or more training images, or leave INT8 out: "
            "--precision fp32 --precision fp16.",
        )
    if samples < calibration_set.MINIMUM:
        raise RequestError(f"{samples} calibration samples are too few", f"Use {calibration_set.MINIMUM} or more.")
    if not 0 <= seed < _MAX_SEED:
        raise RequestError(f"seed is {seed}", f"Give a number from 0 to {_MAX_SEED - 1}.")
    artifacts = _artifacts(targets, chosen)
    output = Path(output)
    bundles.check_output(output)
    _check_installed()

    from edgeresnext.compiler.graph import trace
    from edgeresnext.compiler.thresholds import Method
    from edgeresnext.model import checkpoints
    from edgeresnext.model.catalogue import specify

    threshold_method = Method.parse(method)
    spec = specify(model, preprocess=preprocess)
    names = folder.read_labels(labels) if labels is not None else None
    photos = folder.scan(calibration) if calibration is not None else None
    network, spec = _network(spec, weights, names, seed)
    if photos is None:
        images = calibration_set.generated(spec.preprocess, seed)
    else:
        images = calibration_set.from_folder(
            photos, spec.preprocess, samples, seed, lambda done, total: progress("read images", done, total)
        )

    with bundles.replacing(output, _log.warning) as staging:
        checkpoints.save_state(network, staging / bundles.WEIGHTS)
        graph = trace(network, spec.preprocess.crop_px)
        golden = _golden(network, spec, images)
        np.savez(staging / bundles.REFERENCE, images=golden.images, logits=golden.logits)
        names = names or tuple(str(index) for index in range(spec.classes))
        (staging / bundles.LABELS).write_text("\n".join(names) + "\n", encoding="utf-8")
        ranges = _NO_RANGES
        if "int8" in chosen:
            weights_digest = folder.file_digest(staging / bundles.WEIGHTS)
            ranges = _calibrate(graph, spec, images, threshold_method, weights_digest=weights_digest, progress=progress)
            bundles.write_json(staging / bundles.RANGES, ranges)
        onnx_files = _emit(graph, spec, ranges, precisions=chosen, golden=golden, staging=staging, progress=progress)
        manifest = Manifest(
            model=spec,
            trained=not random_weights,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            macs=graph.macs,
            calibration=f"{ranges.method}, {images.about}" if ranges is not _NO_RANGES else "",
            golden=f"{len(golden.images)} of {images.about}",
            artifacts=artifacts,
            onnx=onnx_files,
            selection=Selection(machine=machine(), timings=()),
            files=bundles.list_files(staging),
            created_with=package_versions(*_PACKAGES),
        )
        manifest = _measure(Bundle(path=staging, manifest=manifest), golden, progress)
        bundles.write_json(staging / bundles.MANIFEST, manifest)
    return bundles.read(output)


def _check_precisions(precisions: Iterable[str]) -> tuple[Precision, ...]:
    """Return the precisions, each once, in the catalogue's order."""
    asked = list(precisions)
    for name in asked:
        if name == "bf16":
            raise RequestError("bf16 has no file of its own", "It is run from fp32: ask for --precision fp32.")
        if name not in PRECISIONS:
            raise unknown_name("precision", name, PRECISIONS)
    if not asked:
        raise RequestError("no precision given", f"Known: {', '.join(PRECISIONS)}.")
    return tuple(name for name in PRECISIONS if name in asked)


def _check_installed() -> None:
    """Refuse to start without the packages of the `build` extra."""
    needed = ("torch", "onnx", "onnxruntime", "safetensors", "filelock")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise NotInstalledError(
            f"building needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            "pip install 'edgeresnext[build]'",
        )


def _network(
    spec: ModelSpec, weights: str | Path | None, labels: tuple[str, ...] | None, seed: int
) -> tuple[ResNeXt, ModelSpec]:
    """Return the network, and its specification with the class count of its weights."""
    from edgeresnext.model import checkpoints

    if weights is None:
        spec = msgspec.structs.replace(spec, classes=len(labels) if labels else spec.classes)
        return checkpoints.random_network(spec, seed), spec
    state = checkpoints.read_state(weights)
    classes = checkpoints.count_classes(state, weights)
    if labels is not None and len(labels) != classes:
        raise DataError(
            f"{len(labels)} labels for a checkpoint of {classes} classes ('{weights}')",
            "Give one label a line, in the order of the logits.",
        )
    spec = msgspec.structs.replace(spec, classes=classes)
    return checkpoints.load_network(spec, weights, state), spec


def _golden(network: ResNeXt, spec: ModelSpec, images: CalibrationSet) -> Golden:
    """Return the golden images with PyTorch's logits, one image at a time: batches round differently."""
    import torch

    from edgeresnext.model.resnext import normalise

    with torch.inference_mode():
        logits = [network(normalise(torch.from_numpy(image[None]), spec)).numpy() for image in images.golden]
    return Golden(images=images.golden, logits=np.concatenate(logits))


def _calibrate(
    graph: Graph, spec: ModelSpec, images: CalibrationSet, method: Method, *, weights_digest: str, progress: Progress
) -> Ranges:
    """Find the threshold of every tensor that an INT8 file quantises."""
    import torch

    from edgeresnext.compiler.calibrate import calibrate
    from edgeresnext.compiler.plan import quantisable_tensors
    from edgeresnext.model.resnext import normalise

    thresholds = calibrate(
        graph,
        (normalise(torch.from_numpy(batch), spec) for batch in images.batches()),
        quantisable_tensors(graph),
        method,
        lambda done: progress("calibrate", done, images.count),
    )
    digests = {
        "weights": weights_digest,
        "images": images.digest,
        "preprocess": hashlib.sha256(msgspec.json.encode(spec.preprocess)).hexdigest(),
    }
    return Ranges(method=str(method), images=images.count, thresholds=thresholds, digests=digests)


def _emit(
    graph: Graph,
    spec: ModelSpec,
    ranges: Ranges,
    *,
    precisions: tuple[Precision, ...],
    golden: Golden,
    staging: Path,
    progress: Progress,
) -> tuple[OnnxFile, ...]:
    """Write the ONNX files, each checked by ONNX and against PyTorch before the next."""
    import onnx

    from edgeresnext.backends.onnxruntime import open_reference
    from edgeresnext.compiler.emit import emit
    from edgeresnext.compiler.plan import ONNX_FILES, plan_for

    (staging / "onnx").mkdir()
    wanted = [name for name, needed in ONNX_FILES.items() if needed <= set(precisions)]
    files = []
    for done, name in enumerate(wanted):
        progress("emit and check", done, len(wanted))
        plan = plan_for(graph, name, ranges.thresholds)
        proto = emit(graph, plan, spec, ranges.thresholds)
        path = staging / "onnx" / f"{name}.onnx"
        onnx.save(proto, path)
        try:
            onnx.checker.check_model(path, full_check=True)
        except onnx.checker.ValidationError as error:
            raise BackendError(f"the ONNX checker refuses {path.name}: {error}", "This is a bug; report it.") from error
        session = open_reference(path, spec)
        fidelity = _replay(session, golden)
        session.close()
        precision: Precision = "int8" if "int8" in ONNX_FILES[name] else plan.floating
        _accept(f"onnx/{path.name}", precision, fidelity.shortfall(precision))
        opset = proto.opset_import[0].version
        files.append(OnnxFile(file=f"onnx/{path.name}", opset=opset, plan=plan, fidelity=fidelity))
    progress("emit and check", len(wanted), len(wanted))
    return tuple(files)


def _replay(session: Session, golden: Golden) -> Fidelity:
    """Return how far a session is from PyTorch, in small batches, for the runtimes keep the memory of the largest."""
    starts = range(0, len(golden.images), _CHECK_BATCH)
    return golden.compare(np.concatenate([session.run(golden.images[i : i + _CHECK_BATCH]) for i in starts]))


def _accept(name: str, precision: Precision, shortfall: str) -> None:
    """Refuse to publish what is too far from PyTorch."""
    if not shortfall:
        return
    hints = {
        "fp32": "This is a bug; report it with the checkpoint.",
        "fp16": "The network does not fit float16: leave it out with --precision fp32 --precision int8.",
        "int8": "Try another --method (max, percentile:99.9, mse, entropy), or more calibration images; "
        "or leave INT8 out: --precision fp32 --precision fp16.",
    }
    raise AccuracyError(
        f"{name} is too far from PyTorch on the golden images: {shortfall}. Nothing was published.",
        hints.get(precision, ""),
    )


def _artifacts(targets: tuple[str, ...], precisions: tuple[Precision, ...]) -> tuple[Artifact, ...]:
    """Return everything that the bundle offers, the PyTorch baseline last.

    Raises:
        RequestError: A target would get nothing that it can run.
    """
    found: list[Artifact] = []
    for target in targets:
        before = len(found)
        for backend, files in base.TARGETS[target].items():
            for precision, name in files.items():
                needed: Precision = "fp32" if precision == "bf16" else precision
                if needed in precisions:
                    file = f"onnx/{name}.onnx"
                    found.append(Artifact(backend=backend, precision=precision, target=target, file=file))
        if len(found) == before:
            able = sorted({precision for files in base.TARGETS[target].values() for precision in files} - {"bf16"})
            raise RequestError(
                f"target '{target}' runs nothing in {', '.join(precisions)}",
                f"Add one that it runs: {' '.join(f'--precision {name}' for name in able)}.",
            )
    found.append(Artifact(backend=base.BASELINE, precision="fp32", target="cpu", file=bundles.WEIGHTS))
    return tuple(found)


def _measure(bundle: Bundle, golden: Golden, progress: Progress) -> Manifest:
    """Return the manifest with the artefacts timed in turn at batch 1, after each has passed its check here.

    bf16 comes for nothing where the CPU has it: a network that it does not suit loses bf16 and is built all the same.
    """
    sessions = {}
    offered = list(bundle.manifest.artifacts)
    try:
        for artifact in bundle.manifest.artifacts:
            reason = base.unavailable(artifact)
            if reason is not None:
                _log.info("not measured: %s: %s", artifact.name, reason)
                continue
            session = sessions[artifact.name] = open_artifact(bundle, artifact)
            shortfall = _replay(session, golden).shortfall(artifact.precision)
            if shortfall and artifact.precision == "bf16":
                _log.warning("%s is left out: %s", artifact.name, shortfall)
                offered.remove(artifact)
                sessions.pop(artifact.name).close()
                continue
            _accept(artifact.name, artifact.precision, shortfall)
        samples, _ = interleave(
            sessions,
            golden.images,
            1,
            min_rounds=5,
            max_rounds=_TIMED_ROUNDS,
            budget_s=_TIMED_BUDGET_S,
            progress=lambda done, total: progress("measure", done, total),
        )
    finally:
        for session in sessions.values():
            session.close()
    timings = [Timing(artifact=name, latency_s=median(s), samples=len(s)) for name, s in samples.items() if s]
    ranked = tuple(sorted(timings, key=lambda timing: timing.latency_s))
    selection = Selection(machine=machine(), timings=ranked)
    return msgspec.structs.replace(bundle.manifest, artifacts=tuple(offered), selection=selection)
