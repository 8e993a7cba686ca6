"""From a checkpoint to a bundle: the stages in order. Read this first.

checkpoint -> network -> graph -> ranges -> plans -> ONNX files, checked -> the gate -> engines -> bundle, measured
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext import files
from edgeresnext.backends import base
from edgeresnext.backends.targets import CPU_ARTIFACTS, HERE, JETSON
from edgeresnext.backends.targets import parse as parse_targets
from edgeresnext.bundle import Bundle, Golden
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, ONNX_FILES
from edgeresnext.data import calibration_set, folder
from edgeresnext.errors import DataError, RequestError
from edgeresnext.extras import require
from edgeresnext.machine.allocator import keeping_freed_memory
from edgeresnext.machine.environment import machine, package_versions
from edgeresnext.pipeline import recipe as recipes
from edgeresnext.pipeline.accept import accept
from edgeresnext.pipeline.on_device import PRECISIONS, add_engines, check_precisions
from edgeresnext.pipeline.wanted import engines_wanted
from edgeresnext.progress import silent
from edgeresnext.spec import AUTO, CPU, Artifact, EngineOptions, Manifest, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgeresnext.backends.targets import Target
    from edgeresnext.compiler.graph import Graph
    from edgeresnext.compiler.plan import Keep
    from edgeresnext.data.calibration_set import CalibrationSet
    from edgeresnext.model.resnext import ResNeXt
    from edgeresnext.pipeline.gate import Validation
    from edgeresnext.pipeline.onnx_files import Writer
    from edgeresnext.progress import Progress
    from edgeresnext.spec import Gate, ModelSpec, OnnxFile, Precision, Preprocess, Ranges, Recipe, Repair

_DEFAULT_OPTIONS = EngineOptions()
_PACKAGES = ("edgeresnext", "torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "numpy", "pillow")
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
    recipe: Recipe | str | Path | None = None,
    method: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    repairs: Iterable[Repair] | None = None,
    keep: Iterable[str] = (),
    ranges: str | Path | None = None,
    gate: Gate | None = None,
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
        recipe: How to calibrate, or a TOML file that says so; None for the defaults of `Recipe`.
        method: Calibration method instead of the recipe's: auto, max, percentile (99.999), percentile:P, mse, entropy.
        samples: Calibration images to draw, at most, instead of the recipe's.
        seed: Of the sample and of random weights, instead of the recipe's.
        repairs: Any of `spec.REPAIRS`, instead of the recipe's.
        keep: Layers that are not to be INT8, such as `fp16:layer1.*` or `fp32:fc`.
        ranges: `ranges.json` of an earlier build, or its bundle, instead of calibrating; weights, images and
            preprocessing must be the same. Those of a bundle at `output` are used without being asked for.
        gate: What INT8 must reach on validation images; sensitive layers go back to floating point until it does.
        engine_options: Batch profile, workspace and the like, for targets that get engines.
        engine_backend: tensorrt or tensorrt_rtx, for the target `here` where both are installed.
        progress: Told how far each stage is.

    Raises:
        RequestError: A name does not exist, or options contradict each other.
        InputError: Weights, labels, images, ranges or the output directory cannot be used.
        NotInstalledError: A package of the `build` extra is missing.
        AccuracyError: A file is too far from PyTorch to be published, or does not pass the gate.
    """
    # Whatever can be wrong with the request is found before anything slow is done.
    chosen = PRECISIONS if precisions is None else check_precisions(precisions)
    asked = parse_targets(targets)
    wanted = engines_wanted(asked, None if precisions is None else chosen, engine_options, engine_backend)
    keep = tuple(keep)
    _check_request(chosen, weights, calibration, random_weights=random_weights, keep=keep, int8_only=(gate, ranges))
    settled = recipes.settle(recipe, {"method": method, "samples": samples, "seed": seed, "repairs": repairs})
    artifacts = _artifacts(asked, chosen)
    onnx_names = _onnx_names(asked, chosen, engine_options)
    output = Path(output)
    bundles.check_output(output)
    require("build", "torch", "onnx", "safetensors", needed_by="building")

    from edgeresnext.compiler.graph import trace
    from edgeresnext.compiler.plan import parse_keep
    from edgeresnext.compiler.thresholds import Method
    from edgeresnext.model import checkpoints
    from edgeresnext.model.catalogue import specify
    from edgeresnext.pipeline.gate import match, prepare
    from edgeresnext.pipeline.ranges import read as read_ranges

    if settled.method != AUTO:
        settled = msgspec.structs.replace(settled, method=str(Method.parse(settled.method)))
    validation = None if gate is None else prepare(gate, trained=not random_weights)
    given = None if ranges is None else read_ranges(ranges)
    spec = specify(model, preprocess=preprocess)
    names = folder.read_labels(labels) if labels is not None else None
    photos = folder.scan(calibration) if calibration is not None else None
    network, spec = _network(spec, weights, names, settled.seed)
    names = names or tuple(str(index) for index in range(spec.classes))
    graph = trace(network, spec.preprocess.crop_px)
    kept = parse_keep(graph, keep)
    validation = None if validation is None else match(validation, names, graph, kept)
    if photos is None:
        images = calibration_set.generated(spec.preprocess, settled.seed)
    else:
        images = calibration_set.from_folder(
            photos,
            spec.preprocess,
            settled.samples,
            settled.seed,
            lambda done, total: progress("read images", done, total),
            stratified=settled.stratified,
        )

    with keeping_freed_memory(), bundles.replacing(output, _log.warning) as staging:
        checkpoints.save_state(network, staging / bundles.WEIGHTS)
        golden = _golden(network, spec, images)
        np.savez(staging / bundles.REFERENCE, images=golden.images, logits=golden.logits)
        (staging / bundles.LABELS).write_text("\n".join(names) + "\n", encoding="utf-8")
        found = None
        if "int8" in chosen:
            found, graph = _calibrate(
                graph, spec, images, settled, given, staging=staging, output=output, progress=progress
            )
        onnx_files = _emit(
            _writer(graph, spec, settled, ranges=found, images=images, golden=golden, staging=staging),
            onnx_names,
            kept,
            validation,
            progress,
        )
        manifest = Manifest(
            model=spec,
            trained=not random_weights,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            macs=graph.macs,
            calibration="" if found is None else f"{found.method}, {images.about}",
            golden=f"{len(golden.images)} of {images.about}",
            artifacts=artifacts,
            onnx=onnx_files,
            selection=Selection(machine=machine(), timings=()),
            files=bundles.list_files(staging),
            created_with=package_versions(*_PACKAGES),
            targets=tuple(target.name for target in asked),
            layer_macs={layer.name: layer.macs for layer in graph.layers if layer.macs},
            recipe=settled,
            gate=None if validation is None else validation.gate,
        )
        del graph, network  # engines are built beside this process: leave them the memory
        add_engines(Bundle(path=staging, manifest=manifest), wanted, engine_options, progress)
    return bundles.read(output)


def _check_request(
    chosen: tuple[Precision, ...],
    weights: str | Path | None,
    calibration: str | Path | None,
    *,
    random_weights: bool,
    keep: tuple[str, ...],
    int8_only: tuple[object | None, ...],
) -> None:
    """Refuse what contradicts itself, or would change nothing."""
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
    if "int8" not in chosen and any(one is not None for one in int8_only):
        raise RequestError("validation and ranges are for INT8, which is not built", "Leave them out.")
    if keep and set(chosen) <= {"fp32"}:
        raise RequestError("--keep would change nothing: only FP32 is built", "Leave it out.")


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
    graph: Graph,
    spec: ModelSpec,
    images: CalibrationSet,
    recipe: Recipe,
    given: Ranges | None,
    *,
    staging: Path,
    output: Path,
    progress: Progress,
) -> tuple[Ranges, Graph]:
    """Write the ranges and the calibration cache; return the ranges, and the graph that they belong to."""
    from edgeresnext.compiler.calibration_cache import plain_thresholds, write_cache
    from edgeresnext.pipeline.ranges import calibrate

    found = calibrate(
        graph,
        spec,
        images,
        recipe,
        weights_digest=files.digest(staging / bundles.WEIGHTS),
        given=given,
        output=output,
        progress=progress,
    )
    (staging / bundles.RANGES).write_bytes(files.to_json(found.ranges))
    cache = write_cache(plain_thresholds(found.graph, found.ranges.limits("signed"), spec.preprocess))
    (staging / bundles.CALIBRATION_CACHE).write_text(cache, encoding="ascii")
    return found.ranges, found.graph


def _writer(
    graph: Graph,
    spec: ModelSpec,
    recipe: Recipe,
    *,
    ranges: Ranges | None,
    images: CalibrationSet,
    golden: Golden,
    staging: Path,
) -> Writer:
    """Return the writer of the ONNX files."""
    import torch

    from edgeresnext.compiler.correct import IMAGES
    from edgeresnext.model.resnext import normalise
    from edgeresnext.pipeline.onnx_files import Writer

    (staging / "onnx").mkdir()
    sample = None
    if ranges is not None:
        sample = normalise(torch.from_numpy(np.concatenate(list(images.batches(IMAGES)))), spec)
    return Writer(
        graph=graph,
        spec=spec,
        recipe=recipe,
        ranges=ranges,
        images=sample,
        golden=golden,
        folder=staging / "onnx",
    )


def _emit(
    writer: Writer,
    names: tuple[str, ...],
    kept: Mapping[str, Keep],
    validation: Validation | None,
    progress: Progress,
) -> tuple[OnnxFile, ...]:
    """Write the ONNX files, those in INT8 past the gate; each must be like PyTorch on the golden images."""
    files: dict[str, OnnxFile] = {}
    for done, name in enumerate(names):
        progress("emit and check", done, len(names))
        files[name] = writer.write(name, kept)
    progress("emit and check", len(names), len(names))
    if validation is not None:
        from edgeresnext.pipeline.gate import Jury

        calibrated = frozenset(writer.ranges.image_digests if writer.ranges else ())
        jury = Jury(writer=writer, validation=validation, calibrated=calibrated, progress=progress)
        files |= jury.judge({name: file for name, file in files.items() if _is_int8(name)}, kept)
    for name, file in files.items():
        precision: Precision = "int8" if _is_int8(name) else file.plan.floating
        accept(file.file, precision, file.fidelity.shortfall(precision))
        if file.saturated is not None and (reason := file.saturated.shortfall(precision)):
            _log.warning("%s is of no use on CPUs without VNNI, where `load` passes it over: %s", file.file, reason)
    return tuple(files.values())


def _is_int8(name: str) -> bool:
    """Whether the ONNX file called `name` holds INT8 layers."""
    return "int8" in (ONNX_FILES | GROUPED_FLOAT_FILES)[name]


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
    for backend, offered in CPU_ARTIFACTS.items():
        for precision, name in offered.items():
            needed: Precision = "fp32" if precision == "bf16" else precision
            if needed in precisions:
                found.append(Artifact(backend=backend, precision=precision, target=CPU, file=f"onnx/{name}.onnx"))
    if not found and any(target.name == CPU for target in asked):
        raise RequestError(
            f"target '{CPU}' runs nothing in {', '.join(precisions)}",
            "Add one that it runs: --precision fp32 --precision int8.",
        )
    found.append(base.BASELINE_ARTIFACT)
    return tuple(found)
