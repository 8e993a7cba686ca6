"""What a network is, and what it takes and returns."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeresnext.spec.value import Value

Interpolation = Literal["bilinear", "bicubic"]
Fit = Literal["crop", "squash"]
CHANNELS = {1: "grey", 3: "RGB", 4: "RGBA"}
"""What images of so many channels are."""


class TensorSpec(Value, frozen=True, kw_only=True):
    """A tensor at the edge of a graph; None in `shape` is the free batch dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Preprocess(Value, frozen=True, kw_only=True):
    """How an image becomes the network's input; it belongs to the weights, not to the architecture.

    The shorter edge is resized to `resize_px` and the centre square of `crop_px` cut out on the host;
    scaling to [0, 1] and normalising with `mean` and `std` happen inside every graph.

    Where the input is not square, `crop_px` is its height and `width_px` its width; the image is then resized so that
    it covers a box of that shape whose shorter edge is `resize_px`, and the centre cut out. With the fit "squash" the
    whole image is resized to the input, whatever its shape.

    Images are grey, RGB or RGBA, as `mean` and `std` have one, three or four numbers.
    """

    resize_px: int
    crop_px: int
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    width_px: int = 0
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be cropped and deviations that cannot be divided by."""
        if self.width_px < 0:
            msg = f"width_px {self.width_px} must be 0, which means square, or more"
            raise ValueError(msg)
        if not 0 < min(self.size) <= self.resize_px:
            shorter = "width_px" if 0 < self.width_px < self.crop_px else "crop_px"
            msg = f"{shorter} {min(self.size)} must lie between 1 and resize_px {self.resize_px}"
            raise ValueError(msg)
        if len(self.mean) not in CHANNELS or len(self.std) != len(self.mean):
            msg = f"mean has {len(self.mean)} numbers and std {len(self.std)}: both must have 1, 3 or 4, one a channel"
            raise ValueError(msg)
        if min(self.std) <= 0:
            msg = f"std {self.std} must be positive"
            raise ValueError(msg)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return self.crop_px, self.width_px or self.crop_px

    @property
    def channels(self) -> int:
        """How many values a pixel has."""
        return len(self.mean)

    def for_channels(self, channels: int) -> Preprocess:
        """Return the same for images of 1, 3 or 4 channels: each then has the mean of what the colours have."""
        if channels == self.channels:
            return self
        mean, std = (tuple(round(sum(one) / len(one), 4) for _ in range(channels)) for one in (self.mean, self.std))
        return msgspec.structs.replace(self, mean=mean, std=std)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value of a normalised image."""
        pairs = list(zip(self.mean, self.std, strict=True))
        return min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)

    @property
    def in_words(self) -> str:
        """How an image becomes the network's input, on the host."""
        height, width = self.size
        if self.fit == "squash":
            return f"squashed to {width} x {height} px ({self.interpolation})"
        if height == width:
            return f"shorter edge to {self.resize_px} px ({self.interpolation}), centre {width} px"
        box = f"to cover a box whose shorter edge is {self.resize_px} px ({self.interpolation})"
        return f"{box}, centre {width} x {height} px"


Average = Literal["logits", "probability"]

EXPANSION = 4
"""Channels that a bottleneck returns over those of a basic block (arXiv:1512.03385, figure 5)."""


class CheckpointOptions(Value, frozen=True, kw_only=True):
    """How weights are read where they do not tell it themselves.

    `key` says where they lie in a file that holds several, with dots between the levels, such as "model_ema".
    `bn_eps` is what training added to the variances of BatchNorm, where it was not 1e-5. `trust_network` goes on
    where the weights' own statistics say that they belong to another network or to other images. `average` is what an
    ensemble averages. `input_px` is the width and height of the network's input, where they are not those of its
    usual preprocessing, and `fit` how images of another shape become that, where it is not as that says. `depths`,
    `cardinality` and `width_per_group` are those of a network that is like the named one in all else.
    """

    key: str | None = None
    bn_eps: float | None = None
    trust_network: bool = False
    average: Average = "logits"
    input_px: tuple[int, int] | None = None
    fit: Fit | None = None
    depths: tuple[int, ...] | None = None
    cardinality: int | None = None
    width_per_group: int | None = None


class ModelSpec(Value, frozen=True, kw_only=True):
    """A network of the ResNet/ResNeXt family (He et al. 2015, table 1; Xie et al. 2017, table 1).

    Stage s (from 0) has `depths[s]` blocks; its 3x3 convolutions have `cardinality` groups of
    `width_per_group * 2**s` channels, and its blocks return `base_channels * 4 * 2**s` channels. Basic blocks have one
    group of `base_channels * 2**s` channels, and return as many.

    `order` says whether activations follow ("post") or precede ("pre") the convolutions; `final_norm` whether one more
    follows the last block. `shortcut` is how a block's input takes the shape of its output: a strided projection, one
    behind an average pooling, or zeros ("padded": behind the channels, "padded-centred": around them). `stem_channels`
    are `base_channels` where 0. `stride_at` says which convolution of a bottleneck skips pixels. `se_reduction` divides
    the channels inside squeeze and excitation; 0 is none. An ensemble has `members`, whose `average` it is; all else is
    the first one's.
    """

    name: str
    depths: tuple[int, ...]
    cardinality: int
    width_per_group: int
    preprocess: Preprocess
    stem: Literal["imagenet", "cifar", "deep"] = "imagenet"
    base_channels: int = 64
    classes: int = 1000
    source: str = ""
    block: Literal["bottleneck", "basic"] = "bottleneck"
    order: Literal["post", "pre"] = "post"
    final_norm: bool = False
    shortcut: Literal["projection", "pooled", "padded", "padded-centred"] = "projection"
    stem_channels: int = 0
    stem_pool: Literal["centred", "ceil"] = "centred"
    stride_at: Literal["3x3", "1x1"] = "3x3"
    se_reduction: int = 0
    bn_eps: float = 1e-5
    members: tuple[ModelSpec, ...] = ()
    average: Average = "logits"

    def stage_channels(self, stage: int) -> tuple[int, int]:
        """Return the channels of a stage's 3x3 convolutions, and those that its blocks return."""
        if self.block == "basic":
            return self.base_channels * 2**stage, self.base_channels * 2**stage
        return self.cardinality * self.width_per_group * 2**stage, self.base_channels * EXPANSION * 2**stage

    @property
    def in_channels(self) -> int:
        """Channels that the first convolution reads: those of the images."""
        return self.preprocess.channels

    @property
    def input(self) -> TensorSpec:
        """The images that every artefact takes: uint8 grey, RGB or RGBA, NHWC."""
        return TensorSpec(name="images", dtype="uint8", shape=(None, *self.preprocess.size, self.in_channels))

    @property
    def output(self) -> TensorSpec:
        """The logits that every artefact returns: float32."""
        return TensorSpec(name="logits", dtype="float32", shape=(None, self.classes))
