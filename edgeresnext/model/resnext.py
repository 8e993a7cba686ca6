"""The ResNet and ResNeXt family as one module: blocks, stems and shortcuts are values of a `ModelSpec`.

Parameter names and the place of the stride (on the 3x3 convolution) are torchvision's, so its checkpoints load as they
are. `resnet50` is the case of one group of 64 channels.

Sources: ResNet, He et al. 2015 (arXiv:1512.03385); pre-activation, He et al. 2016 (arXiv:1603.05027); ResNeXt, Xie et
al. 2017 (arXiv:1611.05431); squeeze and excitation, Hu et al. 2018 (arXiv:1709.01507); deep stem and pooled shortcuts,
He et al. 2019 (arXiv:1812.01187, models C and D).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeresnext.spec import ModelSpec


class SqueezeExcite(nn.Module):
    """Multiply each channel by a number in 0..1 that all channels' means decide together."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Return x, NCHW, with its channels rescaled."""
        return torch.mul(x, self.sigmoid(self.fc2(self.relu(self.fc1(self.squeeze(x))))))


def padded_shortcut(in_channels: int, out_channels: int, stride: int, *, centred: bool) -> nn.Conv2d:
    """Return a 1x1 convolution that keeps every second pixel, with zeros for the channels that its input lacks.

    Its kernel of zeros and ones is no parameter, and in no checkpoint (arXiv:1512.03385, option A).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Pixels to the next one that is kept.
        centred: Whether the zeros lie around the channels instead of behind them.
    """
    before = (out_channels - in_channels) // 2 if centred else 0
    kernel = torch.zeros(out_channels, in_channels, 1, 1, device="cpu")
    kernel[before : before + in_channels, :, 0, 0] = torch.eye(in_channels, device="cpu")
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False, device="meta")
    del conv.weight
    conv.register_buffer("weight", kernel, persistent=False)
    return conv


class Block(nn.Module):
    """A residual block: convolutions around a shortcut that is the identity wherever shapes allow.

    Args:
        spec: Basic or bottleneck, cardinality, order of activation, squeeze and excitation.
        in_channels: Channels of the input.
        width: Channels of the 3x3 convolution.
        out_channels: Channels of the output.
        stride: Stride of the 3x3 convolution (the first of a basic block) and of the shortcut.
    """

    def __init__(self, spec: ModelSpec, in_channels: int, width: int, out_channels: int, stride: int) -> None:
        super().__init__()
        basic = spec.block == "basic"
        self.pre = spec.order == "pre"
        reduce, stride_in_the_middle = (stride, 1) if spec.stride_at == "1x1" else (1, stride)
        shapes = (  # in, out, kernel, stride, groups
            [(in_channels, width, 3, stride, 1), (width, out_channels, 3, 1, 1)]
            if basic
            else [
                (in_channels, width, 1, reduce, 1),
                (width, width, 3, stride_in_the_middle, spec.cardinality),
                (width, out_channels, 1, 1, 1),
            ]
        )
        self.count = len(shapes)
        for index, (inputs, outputs, kernel, step, groups) in enumerate(shapes, 1):
            conv = nn.Conv2d(inputs, outputs, kernel, step, padding=kernel // 2, groups=groups, bias=False)
            self.add_module(f"conv{index}", conv)
            self.add_module(f"bn{index}", nn.BatchNorm2d(inputs if self.pre else outputs, eps=spec.bn_eps))
            self.add_module(f"relu{index}", nn.ReLU())
        self.se = SqueezeExcite(out_channels, spec.se_reduction) if spec.se_reduction else None
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = _shortcut(spec, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, NCHW: activated, but before the next block's activation where that comes first."""
        return self._pre(x) if self.pre else self._post(x)

    def _post(self, x: Tensor) -> Tensor:
        """Return relu(branch(x) + shortcut(x)); each convolution is followed by its normalisation and activation."""
        branch = x
        for index in range(1, self.count + 1):
            branch = self._module("bn", index)(self._module("conv", index)(branch))
            if index < self.count:
                branch = self._module("relu", index)(branch)
        if self.se is not None:
            branch = self.se(branch)
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self._module("relu", self.count)(torch.add(branch, shortcut))
        return out

    def _pre(self, x: Tensor) -> Tensor:
        """Return branch(x) + shortcut(x); each convolution follows its normalisation and activation."""
        first = branch = self._module("relu", 1)(self._module("bn", 1)(x))
        for index in range(1, self.count + 1):
            if index > 1:
                branch = self._module("relu", index)(self._module("bn", index)(branch))
            branch = self._module("conv", index)(branch)
        if self.se is not None:
            branch = self.se(branch)
        return torch.add(branch, x if self.downsample is None else self.downsample(first))

    def _module(self, kind: str, index: int) -> nn.Module:
        return self.get_submodule(f"{kind}{index}")


def _shortcut(spec: ModelSpec, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return what takes a block's input to the shape of its output."""
    if spec.shortcut in ("padded", "padded-centred"):
        return padded_shortcut(in_channels, out_channels, stride, centred=spec.shortcut == "padded-centred")
    norm: list[nn.Module] = [] if spec.order == "pre" else [nn.BatchNorm2d(out_channels, eps=spec.bn_eps)]
    if spec.shortcut == "pooled":  # every value of the input counts, not one of four
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity()
        return nn.Sequential(pool, nn.Conv2d(in_channels, out_channels, 1, bias=False), *norm)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), *norm)


class ResNeXt(nn.Module):
    """A ResNet or ResNeXt classifier.

    Takes normalised float32 images `(N, channels, H, W)` and returns logits `(N, classes)`.

    Args:
        spec: Blocks, depths, cardinality, width per group, stem, shortcuts and class count.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = spec.stem_channels or spec.base_channels
        self.conv1 = _stem(spec, channels)
        # Where activation comes first, the first block's own follows the stem; torchvision's stem has them itself.
        before_pool = spec.order == "post"
        self.bn1 = nn.BatchNorm2d(channels, eps=spec.bn_eps) if before_pool else None
        self.relu = nn.ReLU() if before_pool else None
        self.maxpool: nn.Module | None = None
        if spec.stem != "cifar":
            ceil = spec.stem_pool == "ceil"
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil)
        self.stages: list[str] = []
        for stage, depth in enumerate(spec.depths):
            width, out_channels = spec.stage_channels(stage)
            blocks = []
            for block in range(depth):
                blocks.append(Block(spec, channels, width, out_channels, 2 if block == 0 and stage > 0 else 1))
                channels = out_channels
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels, eps=spec.bn_eps) if spec.final_norm else None
        self.last_relu = nn.ReLU() if spec.final_norm else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of normalised images."""
        x = self.conv1(x)
        if self.bn1 is not None and self.relu is not None:
            x = self.relu(self.bn1(x))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        if self.norm is not None and self.last_relu is not None:
            x = self.last_relu(self.norm(x))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stem(spec: ModelSpec, channels: int) -> nn.Module:
    """Return the first convolution, or the three of a deep stem."""
    if spec.stem == "cifar":
        return nn.Conv2d(spec.in_channels, channels, 3, padding=1, bias=False)
    if spec.stem == "imagenet":
        return nn.Conv2d(spec.in_channels, channels, 7, stride=2, padding=3, bias=False)
    half = channels // 2
    return nn.Sequential(
        nn.Conv2d(spec.in_channels, half, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(half, eps=spec.bn_eps),
        nn.ReLU(),
        nn.Conv2d(half, half, 3, padding=1, bias=False),
        nn.BatchNorm2d(half, eps=spec.bn_eps),
        nn.ReLU(),
        nn.Conv2d(half, channels, 3, padding=1, bias=False),
    )


def normalise(images: Tensor, spec: ModelSpec) -> Tensor:
    """Return uint8 `(N, H, W, channels)` as normalised float32 `(N, channels, H, W)`, as the exported graphs do it."""
    mean = torch.tensor(spec.preprocess.mean, device=images.device).view(-1, 1, 1) * 255
    std = torch.tensor(spec.preprocess.std, device=images.device).view(-1, 1, 1) * 255
    return (images.permute(0, 3, 1, 2).float() - mean) / std
