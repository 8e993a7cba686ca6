"""What a network is, and what it takes and returns."""

from __future__ import annotations

from typing import Literal

from edgeresnext.spec.value import Value

Interpolation = Literal["bilinear", "bicubic"]


class TensorSpec(Value, frozen=True, kw_only=True):
    """A tensor at the edge of a graph; None in `shape` is the free batch dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Preprocess(Value, frozen=True, kw_only=True):
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


class ModelSpec(Value, frozen=True, kw_only=True):
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
