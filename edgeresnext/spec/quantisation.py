"""How a network is calibrated and quantised, what was found, and what it must reach."""

from __future__ import annotations

from typing import Literal

from edgeresnext.spec.value import ClassOrder, Precision, Value

Repair = Literal["equalisation", "bias-correction", "weight-clipping", "rounding"]

REPAIRS: tuple[Repair, ...] = ("equalisation", "bias-correction", "weight-clipping", "rounding")
"""What makes a network quantise better without changing what it computes in floating point."""
STANDARD_REPAIRS = REPAIRS[:3]
"""Those that are made without being asked for: after them FP32 is the same to the bit."""

Activations = Literal["signed", "unsigned"]

AUTO = "auto"
"""The calibration method that takes, for each tensor, the method which leaves the smallest error behind."""

TRAINED = "trained"
"""The method of ranges that were trained together with the weights that they are for."""

RANGES_SCHEMA = 2


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
    repairs: tuple[Repair, ...] = STANDARD_REPAIRS
    keep: tuple[str, ...] = ()


class Ranges(Value, frozen=True, kw_only=True):
    """What calibration found: the |x| at which each method clips each tensor, and what that belongs to.

    `thresholds` are by method, then by tensor; `chosen` the method that leaves the smallest error in each tensor, by
    `signed` and `unsigned` activations. `exponents` are the powers of two by which channels were rescaled first, by the
    first tensor that has them, in multiples of 1 / `parts`. `method` is the one that was asked for. `images` counts the
    images seen, and `image_digests` are the first 64 bits of the SHA-256 of each one's decoded and cropped pixels.
    `digests` are those of weights, images and preprocessing, by which ranges of another build can be told.
    """

    method: str
    images: int
    thresholds: dict[str, dict[str, float]]
    chosen: dict[Activations, dict[str, str]]
    digests: dict[str, str]
    image_digests: tuple[str, ...] = ()
    equalised: bool = False
    exponents: dict[str, tuple[float, ...]] = {}
    parts: int = 1
    schema: int = RANGES_SCHEMA

    def __post_init__(self) -> None:
        """Refuse ranges that choose what they do not have."""
        if self.method not in (AUTO, *self.thresholds):
            message = f"it has no thresholds of {self.method}"
            raise ValueError(message)
        for kind, chosen in self.chosen.items():
            for tensor, method in chosen.items():
                if tensor not in self.thresholds.get(method, {}):
                    message = f"{kind} '{tensor}' has no threshold of {method}"
                    raise ValueError(message)

    def limits(self, activations: Activations) -> dict[str, float]:
        """Return the |x| at which each tensor is clipped, by the method that was asked for."""
        if self.method != AUTO:
            return self.thresholds[self.method]
        return {tensor: self.thresholds[method][tensor] for tensor, method in self.chosen[activations].items()}

    def source(self, images: str) -> str:
        """Say where they are from; `images` says which were looked at."""
        return "trained with the weights" if self.method == TRAINED else f"{self.method}, {images}"


class Plan(Value, frozen=True, kw_only=True):
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

    def __post_init__(self) -> None:
        """Refuse a plan that says something of layers that it does not have."""
        unknown = (self.inputs.keys() | self.reasons.keys()) - self.layers.keys()
        if unknown:
            message = f"plan '{self.name}' has no layer '{min(unknown)}'"
            raise ValueError(message)


class Gate(Value, frozen=True, kw_only=True):
    """What an INT8 file must reach on validation images before it may be published.

    `validation` is a folder of images that were used neither for training nor for calibration. `max_drop` is how many
    points of top-1 may be lost against PyTorch on the same images, for which there must be a folder a class;
    `min_agreement` the least share of images of which PyTorch and the file name the same class, which needs no labels.
    `min_int8` is the share of the convolutions that must stay INT8 while sensitive layers go back to floating point.
    `class_order` says what class folders that are numbers mean, where the network has no labels.
    """

    validation: str
    max_drop: float | None = None
    min_agreement: float | None = None
    min_int8: float = 0.5
    class_order: ClassOrder | None = None


class Verdict(Value, frozen=True, kw_only=True):
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


class LayerCost(Value, frozen=True, kw_only=True):
    """What the quantisation of one layer costs alone.

    `snr_db` is the signal-to-noise ratio of the logits, None where they do not change; `share` the noise over that of
    all layers together; `agreement` and `top1` are shares of the images, `top1` None without labels.
    """

    layer: str
    snr_db: float | None
    share: float
    agreement: float
    top1: float | None = None


class Sensitivity(Value, frozen=True, kw_only=True):
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
