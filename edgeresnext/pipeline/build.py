"""From a checkpoint to a bundle: the stages in order. Read this first.

checkpoint -> network -> graph -> ranges -> plans -> ONNX files, checked -> the gate -> engines -> bundle, measured
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext import directories, files
from edgeresnext.bundle import Bundle, Golden
from edgeresnext.compiler.plan import Keep
from edgeresnext.data import calibration_set, folder
from edgeresnext.data.calibration_set import CalibrationSet
from edgeresnext.data.folder import ImageFolder
from edgeresnext.extras import require
from edgeresnext.machine.allocator import keeping_freed_memory
from edgeresnext.machine.environment import machine, package_versions
from edgeresnext.pipeline.accept import accept
from edgeresnext.pipeline.on_device import add_engines
from edgeresnext.pipeline.request import (
    check_checkpoint_options,
    check_request,
    is_int8,
    least_bytes_a_weight,
    named,
)
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import (
    AUTO,
    CPU,
    TRAINED,
    CheckpointOptions,
    EngineOptions,
    Gate,
    Manifest,
    ModelSpec,
    OnnxFile,
    Precision,
    Preprocess,
    Ranges,
    Recipe,
    Selection,
)

if TYPE_CHECKING:
    from torch import nn

    from edgeresnext.compiler.graph import Graph
    from edgeresnext.pipeline.onnx_files import Writer
    from edgeresnext.pipeline.verdict import Validation

_DEFAULT_RECIPE = Recipe()
_DEFAULT_OPTIONS = EngineOptions()
_DEFAULT_READING = CheckpointOptions()
_PACKAGES = ("edgeresnext", "torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "numpy", "pillow")
_log = logging.getLogger("edgeresnext")


def build(
    model: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    weights: str | Path | None = None,
    random_weights: bool = False,
    labels: str | Path | None = None,
    calibration: str | Path | None = None,
    targets: Iterable[str] = (CPU,),
    precisions: Iterable[str] | None = None,
    preprocess: Preprocess | None = None,
    recipe: Recipe = _DEFAULT_RECIPE,
    ranges: str | Path | None = None,
    gate: Gate | None = None,
    engine_options: EngineOptions = _DEFAULT_OPTIONS,
    checkpoint_options: CheckpointOptions = _DEFAULT_READING,
    progress: Progress = silent,
) -> Bundle:
    """Build a bundle: emit, check and measure every requested precision of a network.

    Args:
        model: A name from the catalogue, such as `resnext50_32x4d`; or the weights, whose network is then recognised: a
            file, `hf:OWNER/NAME`, `torchvision:NAME` or an address; or several weights, for their ensemble.
        output: Directory of the bundle. An existing bundle is replaced when the build succeeds, and only then.
        weights: Where `model` is a name, its checkpoint, in any layout that is known: a file or a name as above.
        random_weights: Use seeded random weights instead, for latency work; accuracy is then never reported.
        labels: File of labels in the order of the logits, text or JSON; without it those of the weights' publisher, or
            0, 1, 2, ...
        calibration: Folder of images (or one folder a class) like those that the network was trained on.
        targets: Where the bundle will run, any of `backends.targets.KNOWN`; CPUs always can, in FP32 and INT8.
        precisions: Any of fp32, fp16 and int8; None for all three as ONNX files, and those engines that pay.
        preprocess: Resize, crop and normalisation of the weights, where they differ from the catalogue's.
        recipe: How to calibrate, which layers to keep out of INT8, and the seed of random weights.
        ranges: `ranges.json` of an earlier build, or its bundle, instead of calibrating; weights, images and
            preprocessing must be the same. Those that were trained with the weights (`NAME.ranges.json` beside
            `NAME.safetensors`), else those of a bundle at `output`, are used without being asked for.
        gate: What INT8 must reach on validation images; sensitive layers go back to floating point until it does.
        engine_options: Batch profile, workspace and the like, for targets that get engines.
        checkpoint_options: How weights are read where they do not tell it themselves.
        progress: Told how far each stage is.

    Raises:
        RequestError: A name does not exist, or options contradict each other.
        InputError: Weights, labels, images, ranges or the output directory cannot be used, or there is no room for it.
        NotInstalledError: A package of the `build` extra is missing.
        AccuracyError: A file is too far from PyTorch to be published, or does not pass the gate.
    """
    # Whatever can be wrong with the request is found before anything slow is done.
    name, given_weights = named(model, weights, checkpoint_options, random_weights=random_weights)
    check_checkpoint_options(name, checkpoint_options)
    request = check_request(
        weights=given_weights, calibration=calibration, targets=targets, precisions=precisions,
        recipe=recipe, ranges=ranges, gate=gate, engine_options=engine_options,
    )  # fmt: skip
    output = Path(output)
    bundles.check_output(output)
    require("build", "torch", "onnx", "safetensors", needed_by="building")

    from edgeresnext.compiler.graph import trace
    from edgeresnext.compiler.plan import parse_keep
    from edgeresnext.pipeline.gate import match, prepare
    from edgeresnext.pipeline.ranges import find as find_ranges
    from edgeresnext.pipeline.source import by_name, by_weights, check_statistics

    recipe = _with_method(request.recipe)
    validation = None if gate is None else prepare(gate, trained=not random_weights)
    given, beside = find_ranges(ranges, given_weights if "int8" in request.precisions else (), recipe)
    photos = folder.scan(calibration) if calibration is not None else None
    if given_weights:
        found = by_weights(
            name, given_weights, preprocess=preprocess, labels=labels, options=checkpoint_options, progress=progress
        )
    else:
        assert name is not None
        found = by_name(name, preprocess, labels, checkpoint_options, recipe.seed)
    network, spec, names = found.network, found.spec, found.labels
    parameters = sum(parameter.numel() for parameter in network.parameters())
    directories.check_room(output, parameters * least_bytes_a_weight(request.onnx))
    graph = trace(network, spec.preprocess.size)
    kept = parse_keep(graph, recipe.keep)
    validation = None if validation is None else match(validation, names, graph, kept)
    images = _images(photos, spec.preprocess, recipe, progress)
    if given_weights and photos is not None:
        check_statistics(found, images, trusted=checkpoint_options.trust_network)

    with keeping_freed_memory(), bundles.replacing(output, _log.warning) as staging:
        golden = _reference(network, spec, names, images, staging)
        calibrated = None
        if "int8" in request.precisions:
            calibrated, graph = _calibrate(
                graph, spec, images, recipe,
                given=given, beside=beside, staging=staging, output=output, progress=progress,
            )  # fmt: skip
            if calibrated.method == TRAINED:  # weights and ranges have seen INT8 as it is: nothing is repaired
                recipe = msgspec.structs.replace(recipe, method=TRAINED, repairs=())
        writer = _writer(graph, spec, recipe, ranges=calibrated, images=images, golden=golden, staging=staging)
        onnx_files = _emit(writer, request.onnx, kept, validation, progress)
        manifest = Manifest(
            model=spec,
            trained=not random_weights,
            parameters=parameters,
            macs=graph.macs,
            calibration="" if calibrated is None else calibrated.source(images.about),
            golden=f"{len(golden.images)} of {images.about}",
            artifacts=request.artifacts,
            onnx=onnx_files,
            selection=Selection(machine=machine(), timings=()),
            files=bundles.list_files(staging),
            created_with=package_versions(*_PACKAGES),
            targets=request.targets,
            layer_macs={layer.name: layer.macs for layer in graph.layers if layer.macs},
            recipe=recipe,
            gate=None if validation is None else validation.gate,
        )
        del graph, network, writer  # engines are built beside this process: leave them the memory
        add_engines(Bundle(path=staging, manifest=manifest), request.engines, engine_options, progress)
    return bundles.read(output)


def _with_method(recipe: Recipe) -> Recipe:
    """Return a recipe whose method is written as the thresholds are filed: percentile is percentile:99.999."""
    from edgeresnext.compiler.thresholds import Method

    if recipe.method == AUTO:
        return recipe
    return msgspec.structs.replace(recipe, method=str(Method.parse(recipe.method)))


def _images(photos: ImageFolder | None, preprocess: Preprocess, recipe: Recipe, progress: Progress) -> CalibrationSet:
    """Return the images to calibrate on: drawn from a folder, or generated for random weights."""
    if photos is None:
        return calibration_set.generated(preprocess, recipe.seed)
    return calibration_set.from_folder(
        photos,
        preprocess,
        recipe.samples,
        recipe.seed,
        lambda done, total: progress("read images", done, total),
        stratified=recipe.stratified,
    )


def _reference(
    network: nn.Module, spec: ModelSpec, labels: tuple[str, ...], images: CalibrationSet, staging: Path
) -> Golden:
    """Write the weights, the labels and the golden images with PyTorch's logits; return the latter."""
    import torch

    from edgeresnext.model import checkpoints
    from edgeresnext.model.resnext import normalise

    with torch.inference_mode():  # one image at a time: batches round differently
        logits = [network(normalise(torch.from_numpy(image[None]), spec)).numpy() for image in images.golden]
    golden = Golden(images=images.golden, logits=np.concatenate(logits))
    checkpoints.save_state(network, staging / bundles.WEIGHTS)
    np.savez(staging / bundles.REFERENCE, images=golden.images, logits=golden.logits)
    (staging / bundles.LABELS).write_text("\n".join(labels) + "\n", encoding="utf-8")
    return golden


def _calibrate(
    graph: Graph,
    spec: ModelSpec,
    images: CalibrationSet,
    recipe: Recipe,
    *,
    given: Ranges | None,
    beside: Path | None,
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
        beside=beside,
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
        graph=graph, spec=spec, recipe=recipe, ranges=ranges, images=sample, golden=golden, folder=staging / "onnx"
    )


def _emit(
    writer: Writer, names: tuple[str, ...], kept: Mapping[str, Keep], validation: Validation | None, progress: Progress
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
        files |= jury.judge({name: file for name, file in files.items() if is_int8(name)}, kept)
    for name, file in files.items():
        precision: Precision = "int8" if is_int8(name) else file.plan.floating
        method = writer.recipe.method
        trained = precision == "int8" and method == TRAINED
        accept(file.file, "trained" if trained else precision, file.fidelity.shortfall(precision, method))
        if trained and (reason := file.fidelity.shortfall(precision)):
            _log.warning("%s is far from its weights in floating point, by its training: %s", file.file, reason)
        if file.saturated is not None and (reason := file.saturated.shortfall(precision, method)):
            _log.warning("%s is of no use on CPUs without VNNI, where `load` passes it over: %s", file.file, reason)
    return tuple(files.values())
