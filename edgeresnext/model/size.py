"""Parameters and multiply-accumulates of a network, counted from its specification without making it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from edgeresnext.spec import ModelSpec


@dataclass(frozen=True)
class _Kernel:
    """A convolution: channels in and out, edge, pixels of the output, groups, and the normalisation that is its own."""

    inputs: int
    outputs: int
    edge: int
    pixels: int
    groups: int = 1
    norm: int = 0
    """Channels of the BatchNorm beside it."""
    bias: bool = False

    @property
    def weights(self) -> int:
        return self.inputs // self.groups * self.outputs * self.edge**2


def parameters(spec: ModelSpec) -> int:
    """Return the number of trained numbers: weights, biases, and two for each channel of a BatchNorm."""
    found = sum(one.weights + 2 * one.norm + one.bias * one.outputs for one in _kernels(spec))
    final = 2 * _last(spec) if spec.final_norm else 0
    return found + final + (_last(spec) + 1) * spec.classes


def macs(spec: ModelSpec) -> int:
    """Return the multiply-accumulates of convolutions and the classifier for one image."""
    return sum(one.weights * one.pixels for one in _kernels(spec)) + _last(spec) * spec.classes


def _last(spec: ModelSpec) -> int:
    return spec.stage_channels(len(spec.depths) - 1)[1]


def _kernels(spec: ModelSpec) -> Iterator[_Kernel]:
    """Yield every convolution."""
    size = spec.preprocess.size
    channels = spec.stem_channels or spec.base_channels
    post = spec.order == "post"
    stem_norm = channels if post else 0
    if spec.stem == "cifar":
        yield _Kernel(spec.in_channels, channels, 3, prod(size), norm=stem_norm)
    else:
        size = _strided(size, 2)
        if spec.stem == "imagenet":
            yield _Kernel(spec.in_channels, channels, 7, prod(size), norm=stem_norm)
        else:
            half = channels // 2
            yield _Kernel(spec.in_channels, half, 3, prod(size), norm=half)
            yield _Kernel(half, half, 3, prod(size), norm=half)
            yield _Kernel(half, channels, 3, prod(size), norm=stem_norm)
        size = _strided(size, 2)
    for stage, depth in enumerate(spec.depths):
        width, out_channels = spec.stage_channels(stage)
        for block in range(depth):
            stride = 2 if block == 0 and stage > 0 else 1
            yield from _block(spec, (channels, width, out_channels), size, stride)
            size, channels = _strided(size, stride), out_channels


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the height and width after a padded convolution or pooling with a stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _block(spec: ModelSpec, channels: tuple[int, int, int], size: tuple[int, int], stride: int) -> Iterator[_Kernel]:
    """Yield the convolutions of a block whose input has this height and width."""
    inputs, width, outputs = channels
    small = prod(_strided(size, stride))
    pre = spec.order == "pre"
    if spec.block == "basic":
        shapes = [(inputs, width, 3, small, 1), (width, outputs, 3, small, 1)]
    else:
        reduced = small if spec.stride_at == "1x1" else prod(size)
        shapes = [
            (inputs, width, 1, reduced, 1), (width, width, 3, small, spec.cardinality), (width, outputs, 1, small, 1),
        ]  # fmt: skip
    for one, made, kernel, pixels, groups in shapes:
        yield _Kernel(one, made, kernel, pixels, groups, norm=one if pre else made)
    if spec.se_reduction:
        squeezed = outputs // spec.se_reduction
        yield _Kernel(outputs, squeezed, 1, 1, bias=True)
        yield _Kernel(squeezed, outputs, 1, 1, bias=True)
    if (stride != 1 or inputs != outputs) and not spec.shortcut.startswith("padded"):
        yield _Kernel(inputs, outputs, 1, small, norm=0 if pre else outputs)
