"""The networks known by name, each with its published size and preprocessing.

Parameters and GMACs: Xie et al. 2017 (arXiv:1611.05431) and torchvision's model pages; those of the 32-pixel
networks follow from the architecture. `tests/unit/test_catalogue.py` counts every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from edgeresnext.errors import unknown_name
from edgeresnext.spec import ModelSpec, Preprocess


@dataclass(frozen=True)
class Entry:
    """One catalogue entry: the network, its parameters (BatchNorm included), and GMACs for one image."""

    spec: ModelSpec
    parameters: int
    gmacs: float
    about: str


PREPROCESS: dict[str, Preprocess] = {
    # name: resize -> crop, filter; the same table for all weights of one source.
    "torchvision-v1": Preprocess(resize_px=256, crop_px=224),
    "torchvision-v2": Preprocess(resize_px=232, crop_px=224),
    "timm-tv": Preprocess(resize_px=256, crop_px=224),
    "timm-gluon": Preprocess(resize_px=256, crop_px=224, interpolation="bicubic"),
    "timm-ra": Preprocess(resize_px=256, crop_px=224, interpolation="bicubic"),
    "timm-a1": Preprocess(resize_px=235, crop_px=224, interpolation="bicubic"),
    "timm-tv2": Preprocess(resize_px=232, crop_px=224),
    "cifar": Preprocess(resize_px=32, crop_px=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "digits": Preprocess(resize_px=32, crop_px=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}
"""Resize and crop by the source of the weights (timm resizes to floor(crop / crop fraction))."""


def _imagenet(name: str, depths: tuple[int, ...], cardinality: int, width: int, source: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        depths=depths,
        cardinality=cardinality,
        width_per_group=width,
        preprocess=PREPROCESS[source],
        source=source,
    )


def _cifar(source: str, **fields: Any) -> ModelSpec:  # noqa: ANN401 - those of ModelSpec
    return ModelSpec(stem="cifar", classes=10, preprocess=PREPROCESS[source], source=source, **fields)


_D50, _D101 = (3, 4, 6, 3), (3, 4, 23, 3)
_V1, _V2 = "torchvision-v1", "torchvision-v2"
_X29 = _cifar("cifar", name="resnext29_8x64d", depths=(3, 3, 3), cardinality=8, width_per_group=64)
_X20 = _cifar("digits", name="resnext20_8x4d", depths=(2, 2, 2), cardinality=8, width_per_group=4, base_channels=16)

_ENTRIES = (
    Entry(_imagenet("resnet50", _D50, 1, 64, _V1), 25_557_032, 4.09, "plain ResNet-50, for comparison"),
    Entry(_imagenet("resnext50_32x4d", _D50, 32, 4, _V1), 25_028_904, 4.23, "the usual choice for edge devices"),
    Entry(_imagenet("resnext101_32x4d", _D101, 32, 4, _V1), 44_177_704, 7.97, "twice the depth at the same width"),
    Entry(_imagenet("resnext101_64x4d", _D101, 64, 4, _V2), 83_455_272, 15.46, "twice the cardinality"),
    Entry(_imagenet("resnext101_32x8d", _D101, 32, 8, _V1), 88_791_336, 16.41, "twice the width per group"),
    Entry(_X29, 34_426_698, 5.39, "the paper's CIFAR network, 32 px"),
    Entry(_X20, 247_898, 0.04, "a small 32 px network; the demo's weights belong to it"),
)

CATALOGUE: dict[str, Entry] = {entry.spec.name: entry for entry in _ENTRIES}


def find(name: str) -> Entry:
    """Return the catalogue entry called `name`.

    Raises:
        RequestError: There is none; the nearest name is suggested.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise unknown_name("model", name, CATALOGUE, values=("model",)) from None


def specify(name: str, *, classes: int | None = None, preprocess: Preprocess | None = None) -> ModelSpec:
    """Return the catalogue's specification of `name`, with another class count or preprocessing where given.

    Raises:
        RequestError: There is no such model.
    """
    changes = {"classes": classes, "preprocess": preprocess}
    return msgspec.structs.replace(find(name).spec, **{k: v for k, v in changes.items() if v is not None})
