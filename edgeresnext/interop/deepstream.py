"""A classifier for DeepStream's nvinfer: ONNX file, labels, and a configuration for whole frames and one for objects.

Read in the sources of DeepStream 9.1 (github.com/NVIDIA/DeepStream): keys in gstnvinfer_property_parser.cpp, pixels in
nvdsinfer_conversion.cu, labels in nvdsinfer_context_impl.cpp, the classifier's parser in
nvdsinfer_context_impl_output_parsing.cpp, precisions in nvdsinfer_model_builder.cpp. Not yet run on hardware.

What nvinfer computes of a pixel is `net-scale-factor * (x - offset)` in float32, with an offset a channel and one
factor for all. Networks here have a deviation a channel; so the factor is 1, with which the multiplication is exact,
the offsets are the means of the bundle's own file, and the division by the deviations stays in the ONNX file.
"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeresnext.bundle import CALIBRATION_CACHE, LABELS, Bundle
from edgeresnext.bundle.float_weights import with_float_weights
from edgeresnext.errors import RequestError, unknown_name
from edgeresnext.extras import require
from edgeresnext.interop.exported import Job, as_comments, source_content
from edgeresnext.interop.replay import Replay, judge, run_as_written
from edgeresnext.pipeline.engines import onnx_for
from edgeresnext.spec import CHANNELS, Artifact, Precision, Preprocess

BATCH = 1
"""Images a run, where nothing else is asked for: one stream."""

MODEL = "model.onnx"
PRIMARY, SECONDARY = "config_infer_primary.txt", "config_infer_secondary.txt"
ENGINE_SUFFIX = ".engine"
"""Of files that nvinfer builds beside the ONNX file; with a new ONNX file they are stale, and go."""

_NETWORK_MODE: dict[Precision, int] = {"fp32": 0, "int8": 1, "fp16": 2}
"""`NvDsInferNetworkMode` of nvdsinfer_context.h."""
_FILTERS = {"bilinear": 1, "bicubic": 2}
"""`NvBufSurfTransform_Inter` of nvbufsurftransform.h; 2 is cubic on a GPU, and five taps on a Jetson's VIC."""
_COLOR_FORMAT = {3: 0, 1: 2}
"""`model-color-format` by channels: RGB, and grey. 1 is BGR, and nothing has four."""
_MAX_BATCH = 1024
"""`NVDSINFER_MAX_BATCH_SIZE` of nvdsinfer_context.h."""
_EXAMPLE_FRAME = 1920, 1080
_NOT_PLAIN = re.compile("[^A-Za-z0-9._-]")
"""What could end a value in a configuration: nvinfer loads the libraries that one names."""


def prepare(bundle: Bundle, output: Path, precision: Precision | None, batch: int | None) -> Job:
    """Return the export of a bundle as a classifier for nvinfer, checked.

    Args:
        bundle: The bundle.
        output: The directory to write.
        precision: fp32, fp16 or int8; None for FP16 where the bundle has it, else FP32.
        batch: Images a run; None for one.

    Raises:
        RequestError: The bundle has no such file, nvinfer has no such images, a label has a semicolon, or the batch is
            too large.
        NotInstalledError: `onnx` is missing.
    """
    require("build", "onnx", needed_by="an export for DeepStream")
    artifact = _choose(bundle, precision)
    channels = bundle.manifest.model.in_channels
    if channels not in _COLOR_FORMAT:
        raise RequestError(
            f"the network takes {CHANNELS[channels]} images, and nvinfer gives RGB or grey ones",
            "Serve it with Triton, or train it without the fourth channel.",
        )
    largest = BATCH if batch is None else batch
    if largest > _MAX_BATCH:
        raise RequestError(
            f"batch is {batch}, and nvinfer takes {_MAX_BATCH} at most", "Ask for less.", values=("batch",)
        )
    broken = next((label for label in bundle.labels() if ";" in label), None)
    if broken is not None:
        raise RequestError(
            f"label '{broken}' has a semicolon, which separates labels in DeepStream's labels file",
            "Build the bundle again with other labels.",
        )
    return Job(
        tool="DeepStream",
        output=output,
        artifact=artifact,
        batch=largest,
        write=lambda folder: _write(bundle, artifact, largest, folder),
        replay=lambda folder: _replay(bundle, artifact, folder),
        start=f"nvinfer config-file-path={shlex.quote(str(output / PRIMARY))}",
        notes=_notes(artifact, bundle.manifest.model.preprocess),
        by_products=ENGINE_SUFFIX,
    )


def _choose(bundle: Bundle, precision: Precision | None) -> Artifact:
    """Return what to export: the file of a precision, as an artefact that the bundle's limits can be asked about.

    Without a precision it is FP16 where the bundle has it, else FP32.

    Raises:
        RequestError: The bundle has no such file, or nvinfer has no such precision.
    """
    files = {file.file for file in bundle.manifest.onnx}
    if precision is None:
        precision = "fp16" if "onnx/fp16.onnx" in files else "fp32"
    if precision not in _NETWORK_MODE:
        raise unknown_name("precision of DeepStream", precision, _NETWORK_MODE, values=("precision",))
    # nvinfer's networks are weakly typed: what is not INT8 is FP32 there, as in the file for such releases.
    file = onnx_for(bundle.manifest, precision, typed=False)
    if precision == "int8" and CALIBRATION_CACHE not in bundle.manifest.files:
        raise RequestError(
            f"bundle '{bundle.path}' has no {CALIBRATION_CACHE}, without which nvinfer turns INT8 into FP16",
            "Build the bundle again from the checkpoint, with this release.",
            values=("precision",),
        )
    return Artifact(backend="onnxruntime", precision=precision, target="deepstream", file=file)


def _write(bundle: Bundle, artifact: Artifact, batch: int, folder: Path) -> None:
    """Write the ONNX file, the labels and the two configurations.

    Raises:
        BundleError: A file is missing or altered, or none of ours.
        BackendError: The ONNX file is none of this release.
    """
    from edgeresnext.compiler.float_input import with_float_input

    offsets = with_float_input(source_content(bundle, artifact), folder / MODEL, bundle.manifest.model)
    if artifact.precision == "int8":  # as every TensorRT takes it; DeepStream's is 8.6 up to 7.0
        (folder / MODEL).write_bytes(with_float_weights((folder / MODEL).read_bytes()))
    # One line an output layer, its labels between semicolons; a line a label would name the first class alone.
    (folder / LABELS).write_text(";".join(bundle.labels()) + "\n", encoding="utf-8")
    if artifact.precision == "int8":
        (folder / CALIBRATION_CACHE).write_bytes(bundle.content(CALIBRATION_CACHE))
    for name in (PRIMARY, SECONDARY):
        text = _config(bundle, artifact, batch, offsets, secondary=name == SECONDARY)
        (folder / name).write_text(text, encoding="utf-8")


def _replay(bundle: Bundle, artifact: Artifact, folder: Path) -> Replay:
    """Return what golden images make of the exported files, as nvinfer would send them, by the written configuration.

    Raises:
        AccuracyError: They do not reproduce them.
        NotInstalledError: ONNX Runtime is missing.
    """
    from edgeresnext.compiler.float_input import with_logits

    model, images = bundle.manifest.model, bundle.golden().images
    frames, objects = (preprocessed(images, read_config(folder / name)) for name in (PRIMARY, SECONDARY))
    exported = with_logits((folder / MODEL).read_bytes(), model)
    own = run_as_written(source_content(bundle, artifact), model, images)
    found = judge(bundle, artifact, run_as_written(exported, model, frames), own)
    if not np.array_equal(frames, objects):  # else the proof of one is that of the other
        judge(bundle, artifact, run_as_written(exported, model, objects), own)
    return found


def read_config(path: Path) -> Mapping[str, str]:
    """Return the properties of an nvinfer configuration."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser["property"]


def preprocessed(images: NDArray[np.uint8], config: Mapping[str, str]) -> NDArray[np.float32]:
    """Return what nvinfer makes of images of the network's size, uint8 `(N, H, W, channels)`, RGB or grey.

    It is float32 `(N, channels, H, W)`: the kernels with mean subtraction of nvdsinfer_conversion.cu.
    """
    assert config["model-color-format"] == str(_COLOR_FORMAT[images.shape[-1]])
    offsets = np.array([float(offset) for offset in config["offsets"].split(";")], np.float32)
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    found: NDArray[np.float32] = np.float32(config["net-scale-factor"]) * (planes - offsets[:, None, None])
    return found


def source_region(width: int, height: int, preprocess: Preprocess) -> tuple[int, int, int, int]:
    """Return the region of a frame that becomes the network's input, as nvvideoconvert's `src-crop` wants it.

    Args:
        width: Of the frame, in pixels.
        height: Likewise.
        preprocess: How the network's images are resized and cut out (`data.images.crop`).

    Returns:
        Left, top, width and height, in pixels of the frame.
    """
    if preprocess.fit == "squash":
        return 0, 0, width, height
    rows, columns = preprocess.size
    shorter = min(rows, columns) / preprocess.resize_px  # of the box that the image covers, this much is cut out
    scale = min(width / columns, height / rows) * shorter
    region_width, region_height = round(columns * scale), round(rows * scale)
    return (width - region_width) // 2, (height - region_height) // 2, region_width, region_height


def _notes(artifact: Artifact, preprocess: Preprocess) -> tuple[str, ...]:
    """Return what nvinfer does otherwise than the bundle."""
    height, width = preprocess.size
    found = []
    if preprocess.fit == "crop":
        region = ":".join(map(str, source_region(*_EXAMPLE_FRAME, preprocess)))
        frame = " x ".join(map(str, _EXAMPLE_FRAME))
        found.append(
            f"nvinfer cuts nothing out: it scales the whole frame or object to {width} x {height} px, and the network "
            f"was trained with {preprocess.in_words}. Cut frames before nvstreammux; those of {frame} px with "
            f"nvvideoconvert src-crop={region}"
        )
    found.append(
        "nvinfer's filter takes the nearest pixels, also where it shrinks a large frame; Pillow's, which the network "
        "was trained with, averages all of them. On a GPU scaling-filter=3 averages too"
    )
    if artifact.precision == "fp32":
        found.append("nvinfer lets TensorRT compute FP32 in TF32 from Ampere on; NVIDIA_TF32_OVERRIDE=0 forbids it")
    if artifact.precision == "int8":
        found.append(
            f"nvinfer wants {CALIBRATION_CACHE} named for INT8, else it builds FP16; thresholds are {MODEL}'s own"
        )
    return tuple(found)


def _config(bundle: Bundle, artifact: Artifact, batch: int, offsets: tuple[float, ...], *, secondary: bool) -> str:
    """Return a configuration. A comment of such a file has a line of its own."""
    manifest = bundle.manifest
    preprocess = manifest.model.preprocess
    height, width = preprocess.size
    channels = preprocess.channels
    mode = _NETWORK_MODE[artifact.precision]
    comments = [
        f"{artifact.precision} of bundle '{bundle.path.resolve().name}' ({artifact.file}), written by edgeresnext.",
        "Not yet run on hardware.",
        *_notes(artifact, preprocess),
    ]
    where = (
        """# Objects of the detector whose gie-unique-id is named here; operate-on-class-ids=0;2 takes some alone.
process-mode=2
gie-unique-id=2
operate-on-gie-id=1"""
        if secondary
        else "# Whole frames.\nprocess-mode=1\ngie-unique-id=1"
    )
    calibration = f"int8-calib-file={CALIBRATION_CACHE}\n" if artifact.precision == "int8" else ""
    engine = f"{MODEL}_b{batch}_gpu0_{artifact.precision}{ENGINE_SUFFIX}"
    return f"""{as_comments(comments)}
[property]
{where}
network-type=1
classifier-type={_NOT_PLAIN.sub("_", manifest.model.name)}
onnx-file={MODEL}
# nvinfer builds it when it first starts, and takes it from then on.
model-engine-file={engine}
network-mode={mode}
{calibration}# The number of streams, or of objects a frame: another number means another engine.
batch-size={batch}
infer-dims={channels};{height};{width}
# 0 is RGB, 2 grey. A pixel becomes net-scale-factor * (x - offset); the file divides by the deviations.
model-color-format={_COLOR_FORMAT[channels]}
net-scale-factor=1
offsets={";".join(str(np.float32(offset)) for offset in offsets)}
# Borders would be black, which the network has never seen.
maintain-aspect-ratio=0
scaling-filter={_FILTERS[preprocess.interpolation]}
output-blob-names=probabilities
labelfile-path={LABELS}
# The most probable class is reported where its probability is larger.
classifier-threshold=0
"""
