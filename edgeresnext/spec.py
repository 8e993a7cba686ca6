"""The frozen values that pass between stages, and their JSON form.

Sizes end in `_px` or `_bytes`, times in `_s`; anything that was not measured is None.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Interpolation = Literal["bilinear", "bicubic"]

MANIFEST_SCHEMA = 2
READABLE_SCHEMAS = (1, 2)
"""Schema 1 is that of the releases before INT8 was made right on CPUs without VNNI."""
RANGES_SCHEMA = 2


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all stored values: immutable, keyword-only, strict when decoded."""


class TensorSpec(Value, frozen=True):
    """A tensor at the edge of a graph; None in `shape` is the free batch dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Preprocess(Value, frozen=True):
    """How an image becomes the network's input; it belongs to the weights, not to the architecture.

    The shorter edge is resized to `resize_px` and the centre square of `crop_px` cut out on the host;
    scaling to [0, 1] and normalising with `mean` and `std` (RGB) happen inside every graph.
    """

    resize_px: int
    crop_px: int
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be cropped and deviations that cannot be divided by."""
        if not 0 < self.crop_px <= self.resize_px:
            msg = f"crop_px {self.crop_px} must lie between 1 and resize_px {self.resize_px}"
            raise ValueError(msg)
        if min(self.std) <= 0:
            msg = f"std {self.std} must be positive"
            raise ValueError(msg)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value of a normalised image."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)


class ModelSpec(Value, frozen=True):
    """A network of the ResNet/ResNeXt bottleneck family (Xie et al. 2017, table 1).

    Stage s (from 0) has `depths[s]` blocks; its 3x3 convolutions have `cardinality` groups of
    `width_per_group * 2**s` channels, and its blocks return `base_channels * 4 * 2**s` channels.
    """

    name: str
    depths: tuple[int, ...]
    cardinality: int
    width_per_group: int
    preprocess: Preprocess
    stem: Literal["imagenet", "cifar"] = "imagenet"
    base_channels: int = 64
    classes: int = 1000
    source: str = ""

    @property
    def input(self) -> TensorSpec:
        """The images that every artefact takes: uint8 RGB, NHWC."""
        size = self.preprocess.crop_px
        return TensorSpec(name="images", dtype="uint8", shape=(None, size, size, 3))

    @property
    def output(self) -> TensorSpec:
        """The logits that every artefact returns: float32."""
        return TensorSpec(name="logits", dtype="float32", shape=(None, self.classes))


Repair = Literal["equalisation", "bias-correction", "weight-clipping"]
REPAIRS: tuple[Repair, ...] = ("equalisation", "bias-correction", "weight-clipping")
"""What makes a network quantise better without changing what it computes in floating point."""

Activations = Literal["signed", "unsigned"]

AUTO = "auto"
"""The calibration method that takes, for each tensor, the method which leaves the smallest error behind."""


class Recipe(Value, frozen=True, kw_only=True):
    """How a network is calibrated; the form of `calibration/recipes/*.toml`.

    `method` is auto, max, percentile (99.999), percentile:P, mse or entropy. `samples` images are drawn at most, with
    `seed`, which also draws random weights; `stratified` takes the same number from each class folder. `repairs` are
    made before and after, any of `REPAIRS`. `keep` names layers that are not to be INT8, such as "fp16:layer1.*" or
    "fp32:fc".
    """

    method: str = AUTO
    samples: int = 512
    seed: int = 0
    stratified: bool = True
    repairs: tuple[Repair, ...] = REPAIRS
    keep: tuple[str, ...] = ()


class Ranges(Value, frozen=True):
    """What calibration found: the |x| at which each method clips each tensor, and what that belongs to.

    `thresholds` are by method, then by tensor; `chosen` the method that leaves the smallest error in each tensor, by
    `signed` and `unsigned` activations. `exponents` are the powers of two by which channels were rescaled first, by the
    first tensor that has them. `method` is the one that was asked for. `images` counts the images seen, and
    `image_digests` are the first 64 bits of the SHA-256 of each one's decoded and cropped pixels. `digests` are those
    of weights, images and preprocessing, by which ranges of another build can be told.
    """

    method: str
    images: int
    thresholds: dict[str, dict[str, float]]
    chosen: dict[Activations, dict[str, str]]
    digests: dict[str, str]
    image_digests: tuple[str, ...] = ()
    equalised: bool = False
    exponents: dict[str, tuple[int, ...]] = {}
    schema: int = RANGES_SCHEMA

    def limits(self, activations: Activations) -> dict[str, float]:
        """Return the |x| at which each tensor is clipped, by the method that was asked for."""
        if self.method != AUTO:
            return self.thresholds[self.method]
        return {tensor: self.thresholds[method][tensor] for tensor, method in self.chosen[activations].items()}


class Plan(Value, frozen=True):
    """The precision of every layer of one ONNX file, decided before anything is emitted.

    `layers` maps each layer to its precision, and `inputs` each INT8 layer to the tensor that it reads quantised.
    `activations` says how such tensors are stored: "signed" (TensorRT) or "unsigned" (uint8 wherever a tensor cannot be
    negative, for CPUs). `floating` is the type of everything that is not INT8; `reasons` explains each layer that was
    left out of INT8.
    """

    name: str
    floating: Precision
    layers: dict[str, Precision]
    inputs: dict[str, str] = {}
    activations: Activations = "signed"
    reasons: dict[str, str] = {}


class FileEntry(Value, frozen=True):
    """A file of a bundle: its size and SHA-256."""

    bytes: int
    sha256: str


class EngineOptions(Value, frozen=True, kw_only=True):
    """How an engine is built; what is None is left to TensorRT.

    `batch` is the smallest, the most frequent and the largest number of images a run. `dla_core` builds for that deep
    learning accelerator of a Jetson. `int8_grouped` says whether grouped convolutions are INT8 in INT8 engines: "auto"
    builds both ways and keeps the faster. `implicit_calibration` names a folder of images on which TensorRT calibrates
    INT8 by itself, instead of taking our thresholds. `backend` is tensorrt or tensorrt_rtx, for the target `here` where
    both are installed.
    """

    batch: tuple[int, int, int] = (1, 1, 8)
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: str = ""
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    int8_grouped: Literal["auto", "on", "off"] = "auto"
    implicit_calibration: str = ""
    backend: str | None = None


class EngineLayer(Value, frozen=True):
    """One layer of an engine, as its builder lists it: what was fused, and what one image moves and computes.

    `modules` are the layers of the network that it holds, wholly or in part. Bytes are those of one image: activations
    read and written, and constants. `macs` are the multiply-accumulates of the convolutions and Gemms in it.
    """

    name: str
    kind: str
    modules: tuple[str, ...]
    types: str
    formats: str
    read_bytes: int
    written_bytes: int
    constant_bytes: int
    macs: int


class Engine(Value, frozen=True):
    """What a compiled engine is, and where it can run: only there, and only with the release that built it.

    `release` is the TensorRT release (four numbers), `compute_capabilities` such as ("8.9",), `platform` such as
    "linux-x86_64"; `device` and `driver` are those of the machine that built it, empty where it was built ahead of
    time. `onnx` is the file that was compiled; `calibration_sha256` the cache with the thresholds, where those stood
    beside it.
    """

    release: str
    compute_capabilities: tuple[str, ...]
    onnx: str
    onnx_sha256: str
    options: EngineOptions
    built_s: float
    platform: str
    calibration_sha256: str = ""
    device: str = ""
    driver: str = ""
    notes: tuple[str, ...] = ()
    layers: tuple[EngineLayer, ...] = ()


class Artifact(Value, frozen=True):
    """Something that a backend can run: one file of the bundle, in one precision, for one target.

    `mode` is a way to run it other than the usual one, which only benchmarks take: "compile" for PyTorch.
    """

    backend: str
    precision: Precision
    target: str
    file: str
    engine: Engine | None = None
    mode: str = ""

    @property
    def name(self) -> str:
        """The short name used in tables and messages, such as `openvino-int8` or `rtx40-fp16`."""
        return variant_name(self.backend, self.precision, self.target, self.mode)


def variant_name(backend: str, precision: Precision, target: str, mode: str = "") -> str:
    """Return the short name of a variant: by its backend on CPUs, by its target where that implies the backend."""
    return "-".join(filter(None, (backend if target == CPU else target, precision, mode)))


CPU = "cpu"
"""The target that every machine is."""


class Timing(Value, frozen=True):
    """A quick latency measurement of one artefact at build time: the median at batch 1."""

    artifact: str
    latency_s: float
    samples: int


class Fidelity(Value, frozen=True):
    """How far logits are from PyTorch's on the same images.

    `snr_db` is 10 log10(sum of squared reference / sum of squared difference), None where they are equal;
    `max_error` is the largest absolute difference over the largest absolute reference logit, None where a logit is not
    a finite number.
    """

    snr_db: float | None
    max_error: float | None

    def shortfall(self, precision: Precision) -> str:
        """Return by how much this misses what `precision` must reach, or nothing."""
        if self.max_error is None:
            return "its logits are NaN or infinite"
        if precision == "fp32":
            return "" if self.max_error <= FP32_MAX_ERROR else f"logits differ by {self.max_error:.1e} of the largest"
        floor = MIN_SNR_DB[precision]
        if self.snr_db is None or self.snr_db >= floor:
            return ""
        return f"signal-to-noise of the logits is {self.snr_db:.1f} dB, below {floor:g} dB"


FP32_MAX_ERROR = 1e-4
"""Largest logit difference of an FP32 artefact, over the largest logit: float32 rounding in another order."""

MIN_SNR_DB: dict[Precision, float] = {"fp16": 35.0, "bf16": 20.0, "int8": 15.0}
"""Signal-to-noise ratio under which an artefact is taken for broken rather than quantised."""


class Gate(Value, frozen=True, kw_only=True):
    """What an INT8 file must reach on validation images before it may be published.

    `validation` is a folder of images that were used neither for training nor for calibration. `max_drop` is how many
    points of top-1 may be lost against PyTorch on the same images, for which there must be a folder a class;
    `min_agreement` the least share of images of which PyTorch and the file name the same class, which needs no labels.
    `min_int8` is the share of the convolutions that must stay INT8 while sensitive layers go back to floating point.
    """

    validation: str
    max_drop: float | None = None
    min_agreement: float | None = None
    min_int8: float = 0.5


class Verdict(Value, frozen=True):
    """What the accuracy gate measured of an INT8 file, image by image against PyTorch in FP32.

    `drop` is in points of top-1, `agreement` the share of `images` with the same first class; `lost` and `gained` count
    the images that PyTorch alone and the file alone classify right, and `p_value` is McNemar's. `int8_convolutions` is
    the share of the convolutions that are INT8 (without grouped ones, where the file is to have none of these),
    `returned` the layers that went back to floating point for it, and `tries` the plans that were measured;
    `without_returning` says what all in INT8 misses. `overlap` counts the images that were calibrated on.
    """

    images: int
    runtime: str
    agreement: float
    top1_fp32: float | None = None
    top1: float | None = None
    drop: float | None = None
    lost: int = 0
    gained: int = 0
    p_value: float | None = None
    int8_convolutions: float = 1.0
    returned: tuple[str, ...] = ()
    tries: int = 1
    without_returning: str = ""
    overlap: int = 0


class OnnxFile(Value, frozen=True):
    """What one ONNX file is, how far it is from PyTorch on the golden images, and what the gate said of it.

    `fidelity` is what the file says, in exact integer arithmetic, which is the same on every machine; `saturated` what
    CPUs without VNNI make of a file that is for CPUs. Against that saturation it has `wider_rows`: in how many of each
    layer's rows weights have a wider step, and `pixel_layers`, which read the image as uint8 around a zero point with
    weights so small that no image saturates.
    """

    file: str
    opset: int
    plan: Plan
    fidelity: Fidelity
    saturated: Fidelity | None = None
    wider_rows: dict[str, int] = {}
    pixel_layers: tuple[str, ...] = ()
    verdict: Verdict | None = None


class Selection(Value, frozen=True):
    """The measurement by which `load` ranks artefacts: where it was taken, fastest first.

    `conditions` are what the order depends on: processor, instruction sets, runtimes and GPU. Where they are others,
    `load` measures anew.
    """

    machine: str
    timings: tuple[Timing, ...]
    conditions: dict[str, str] = {}


class Manifest(Value, frozen=True):
    """The table of contents of a bundle, and everything needed to trust it.

    `targets` are those that it was built for; `layer_macs` the multiply-accumulates of each convolution and Gemm.
    """

    model: ModelSpec
    trained: bool
    golden: str
    parameters: int
    macs: int
    artifacts: tuple[Artifact, ...]
    onnx: tuple[OnnxFile, ...]
    selection: Selection
    files: dict[str, FileEntry]
    created_with: dict[str, str]
    calibration: str = ""
    targets: tuple[str, ...] = (CPU,)
    layer_macs: dict[str, int] = {}
    recipe: Recipe = Recipe()
    gate: Gate | None = None
    schema: int = MANIFEST_SCHEMA


class LayerCost(Value, frozen=True):
    """What the quantisation of one layer costs alone.

    `snr_db` is the signal-to-noise ratio of the logits, None where they do not change; `share` the noise over that of
    all layers together; `agreement` and `top1` are shares of the images, `top1` None without labels.
    """

    layer: str
    snr_db: float | None
    share: float
    agreement: float
    top1: float | None = None


class Sensitivity(Value, frozen=True):
    """What the quantisation of each layer of one INT8 file costs, in execution order, and of all `together`.

    `floating` are the layers that the file keeps in floating point.
    """

    bundle: str
    file: str
    data: str
    images: int
    together: LayerCost
    layers: tuple[LayerCost, ...]
    floating: tuple[str, ...] = ()


class SubsetImage(Value, frozen=True):
    """One image of a drawn set: its path below the folder, and its SHA-256."""

    file: str
    sha256: str


class Subset(Value, frozen=True):
    """Images drawn from a folder, such that the same can be drawn again."""

    source: str
    seed: int
    stratified: bool
    images: tuple[SubsetImage, ...]


class Check(Value, frozen=True):
    """The result of replaying golden images on one artefact; `latency_s` the median at batch 1, where it was timed."""

    artifact: str
    status: Literal["ok", "skipped", "failed"]
    fidelity: Fidelity | None = None
    reason: str = ""
    latency_s: float | None = None
