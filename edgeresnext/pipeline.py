"""From a checkpoint to a bundle: the stages in order. Read this first.

checkpoint -> network -> graph -> ranges -> plans -> ONNX files, checked -> engines -> bundle, measured
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext import engines
from edgeresnext.acceptance import accept, replay
from edgeresnext.backends import base
from edgeresnext.backends._trt.calibrator import write_cache
from edgeresnext.backends.targets import CPU_ARTIFACTS, HERE, JETSON
from edgeresnext.backends.targets import parse as parse_targets
from edgeresnext.bundle import Bundle, Golden
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, ONNX_FILES
from edgeresnext.data import calibration_set, folder
from edgeresnext.device_pipeline import PRECISIONS, add_engines, check_precisions
from edgeresnext.errors import BackendError, DataError, NotInstalledError, RequestError
from edgeresnext.measure.environment import machine, package_versions
from edgeresnext.progress import silent
from edgeresnext.spec import CPU, Artifact, EngineOptions, Manifest, OnnxFile, Ranges, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeresnext.backends.targets import Target
    from edgeresnext.compiler.graph import Graph
    from edgeresnext.compiler.thresholds import Method
    from edgeresnext.data.calibration_set import CalibrationSet
    from edgeresnext.model.resnext import ResNeXt
    from edgeresnext.progress import Progress
    from edgeresnext.spec import ModelSpec, Precision, Preprocess

DEFAULT_METHOD = "percentile"
DEFAULT_SAMPLES = 512
_DEFAULT_OPTIONS = EngineOptions()
_PACKAGES = ("edgeresnext", "torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "numpy", "pillow")
_NO_RANGES = Ranges(method="", images=0, thresholds={}, digests={})
_MAX_SEED = 2**32
_log = logging.getLogger("edgeresnext")


def build(
    model: str,
    *,
    output: str | Path,
    weights: str | Path | None = None,
    random_weights: bool = False,
    labels: str | Path | None = None,
    calibration: str | Path | None = None,
    targets: Iterable[str] = (CPU,),
    precisions: Iterable[str] | None = None,
    preprocess: Preprocess | None = None,
    method: str = DEFAULT_METHOD,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    engine_options: EngineOptions = _DEFAULT_OPTIONS,
    engine_backend: str | None = None,
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
        targets: Where the bundle will run, any of `backends.targets.KNOWN`; CPUs always can, in FP32 and INT8.
        precisions: Any of fp32, fp16 and int8; None for all three as ONNX files, and those engines that pay.
        preprocess: Resize, crop and normalisation of the weights, where they differ from the catalogue's.
        method: Calibration method: max, percentile (99.999), percentile:P, mse or entropy.
        samples: Calibration images to draw, at most.
        seed: Of the sample and of random weights.
        engine_options: Batch profile, workspace and the like, for targets that get engines.
        engine_backend: tensorrt or tensorrt_rtx, for the target `here` where both are installed.
        progress: Told how far each stage is.

    Raises:
        RequestError: A name does not exist, or options contradict each other.
        InputError: Weights, labels, images or the output directory cannot be used.
        NotInstalledError: A package of the `build` extra is missing.
        AccuracyError: A file is too far from PyTorch to be published.
    """
    # Whatever can be wrong with the request is found before anything slow is done.
    chosen = PRECISIONS if precisions is None else check_precisions(precisions)
    asked = parse_targets(targets)
    wanted = engines.wanted(asked, None if precisions is None else chosen, engine_options, engine_backend)
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
    artifacts = _artifacts(asked, chosen)
    onnx_names = _onnx_names(asked, chosen, engine_options)
    output = Path(output)
    bundles.check_output(output)
    _check_installed()

    from edgeresnext.compiler.graph import trace
    from edgeresnext.compiler.plain import plain_thresholds
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
            cache = write_cache(plain_thresholds(graph, ranges.thresholds, spec.preprocess))
            (staging / bundles.CALIBRATION_CACHE).write_text(cache, encoding="ascii")
        onnx_files = _emit(graph, spec, ranges, names=onnx_names, golden=golden, staging=staging, progress=progress)
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
            targets=tuple(target.name for target in asked),
            layer_macs={layer.name: layer.macs for layer in graph.layers if layer.macs},
        )
        del graph, network  # engines are built beside this process: leave them the memory
        add_engines(Bundle(path=staging, manifest=manifest), wanted, engine_options, progress, all_new=True)
    return bundles.read(output)


def _check_installed() -> None:
    """Refuse to start without the packages of the `build` extra."""
    needed = ("torch", "onnx", "onnxruntime", "safetensors")
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
    from edgeresnext.compiler.plan import calibrated_tensors
    from edgeresnext.model.resnext import normalise

    thresholds = calibrate(
        graph,
        (normalise(torch.from_numpy(batch), spec) for batch in images.batches()),
        calibrated_tensors(graph),
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
    names: tuple[str, ...],
    golden: Golden,
    staging: Path,
    progress: Progress,
) -> tuple[OnnxFile, ...]:
    """Write the ONNX files, each checked by ONNX and against PyTorch before the next."""
    import onnx

    from edgeresnext.backends.onnxruntime import open_reference
    from edgeresnext.compiler.emit import emit
    from edgeresnext.compiler.plan import plan_for

    (staging / "onnx").mkdir()
    files = []
    for done, name in enumerate(names):
        progress("emit and check", done, len(names))
        plan = plan_for(graph, name, ranges.thresholds)
        proto = emit(graph, plan, spec, ranges.thresholds)
        path = staging / "onnx" / f"{name}.onnx"
        onnx.save(proto, path)
        try:
            onnx.checker.check_model(path, full_check=True)
        except onnx.checker.ValidationError as error:
            raise BackendError(f"the ONNX checker refuses {path.name}: {error}", "This is a bug; report it.") from error
        session = open_reference(path, spec)
        fidelity = replay(session, golden)
        session.close()
        precision: Precision = "int8" if "int8" in plan.layers.values() else plan.floating
        accept(f"onnx/{path.name}", precision, fidelity.shortfall(precision))
        opset = proto.opset_import[0].version
        files.append(OnnxFile(file=f"onnx/{path.name}", opset=opset, plan=plan, fidelity=fidelity))
    progress("emit and check", len(names), len(names))
    return tuple(files)


def _onnx_names(
    asked: tuple[Target, ...], precisions: tuple[Precision, ...], options: EngineOptions
) -> tuple[str, ...]:
    """Return the ONNX files to emit: those of the precisions, and what TensorRT on a device may prefer."""
    names = {**ONNX_FILES}
    on_device = any(target.name == HERE or target.name in JETSON for target in asked)
    if on_device and options.int8_grouped != "on":
        names |= GROUPED_FLOAT_FILES
    return tuple(name for name, needed in names.items() if needed <= set(precisions))


def _artifacts(asked: tuple[Target, ...], precisions: tuple[Precision, ...]) -> tuple[Artifact, ...]:
    """Return what the bundle offers to CPUs, the PyTorch baseline last.

    Raises:
        RequestError: CPUs were asked for and would get nothing.
    """
    found: list[Artifact] = []
    for backend, files in CPU_ARTIFACTS.items():
        for precision, name in files.items():
            needed: Precision = "fp32" if precision == "bf16" else precision
            if needed in precisions:
                found.append(Artifact(backend=backend, precision=precision, target=CPU, file=f"onnx/{name}.onnx"))
    if not found and any(target.name == CPU for target in asked):
        raise RequestError(
            f"target '{CPU}' runs nothing in {', '.join(precisions)}",
            "Add one that it runs: --precision fp32 --precision int8.",
        )
    found.append(Artifact(backend=base.BASELINE, precision="fp32", target=CPU, file=bundles.WEIGHTS))
    return tuple(found)
