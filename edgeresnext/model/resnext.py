"""The ResNet/ResNeXt bottleneck family as one module.

`resnet50` is the case of one group of 64 channels. Parameter names and the place of the stride (on `conv2`)
are torchvision's, so its checkpoints load as they are.

Sources: He et al. 2015 (arXiv:1512.03385), Xie et al. 2017 (arXiv:1611.05431).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeresnext.spec import ModelSpec

EXPANSION = 4
"""Output channels of a block over those of a plain ResNet stage (arXiv:1512.03385, figure 5)."""


class Bottleneck(nn.Module):
    """1x1 reduce, grouped 3x3, 1x1 expand, around a shortcut that is the identity wherever shapes allow.

    Args:
        in_channels: Channels of the block's input.
        width: Channels of the grouped 3x3 convolution.
        out_channels: Channels of the block's output.
        groups: Cardinality.
        stride: Stride of the 3x3 convolution and of the projection.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu3 = nn.ReLU()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(branch(x) + shortcut(x)): `(N, in, H, W)` becomes `(N, out, H / stride, W / stride)`."""
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.relu2(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu3(torch.add(branch, shortcut))
        return out


class ResNeXt(nn.Module):
    """A ResNet or ResNeXt classifier.

    Takes normalised float32 images `(N, 3, H, W)` and returns logits `(N, classes)`.

    Args:
        spec: Depths, cardinality, width per group, stem and class count.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = spec.base_channels
        if spec.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if spec.stem == "imagenet" else None
        self.stages: list[str] = []
        for stage, depth in enumerate(spec.depths):
            width = spec.cardinality * spec.width_per_group * 2**stage
            out_channels = spec.base_channels * EXPANSION * 2**stage
            blocks = []
            for block in range(depth):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(Bottleneck(channels, width, out_channels, spec.cardinality, stride))
                channels = out_channels
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, classes)` of normalised images `(N, 3, H, W)`, float32."""
        x = self.relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def normalise(images: Tensor, spec: ModelSpec) -> Tensor:
    """Return uint8 `(N, H, W, 3)` as normalised float32 `(N, 3, H, W)`, as the exported graphs do it."""
    mean = torch.tensor(spec.preprocess.mean, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(spec.preprocess.std, device=images.device).view(3, 1, 1) * 255
    return (images.permute(0, 3, 1, 2).float() - mean) / std
