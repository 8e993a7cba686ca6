"""The networks known by name, each with its published size and preprocessing.

Parameters and GMACs: Xie et al. 2017 (arXiv:1611.05431) and torchvision's model pages; those of the 32-pixel
networks follow from the architecture. `tests/unit/test_catalogue.py` counts every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgeresnext.errors import unknown_name
from edgeresnext.spec import ModelSpec, Preprocess


@dataclass(frozen=True, kw_only=True)
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


def _imagenet(name: str, depths: tuple[int, ...], cardinality: int, width: int, preprocess: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        depths=depths,
        cardinality=cardinality,
        width_per_group=width,
        preprocess=PREPROCESS[preprocess],
        source=preprocess,
    )


_D50, _D101 = (3, 4, 6, 3), (3, 4, 23, 3)

_ENTRIES = (
    Entry(
        spec=_imagenet("resnet50", _D50, 1, 64, "torchvision-v1"),
        parameters=25_557_032,
        gmacs=4.09,
        about="plain ResNet-50, for comparison",
    ),
    Entry(
        spec=_imagenet("resnext50_32x4d", _D50, 32, 4, "torchvision-v1"),
        parameters=25_028_904,
        gmacs=4.23,
        about="the usual choice for edge devices",
    ),
    Entry(
        spec=_imagenet("resnext101_32x4d", _D101, 32, 4, "torchvision-v1"),
        parameters=44_177_704,
        gmacs=7.97,
        about="twice the depth at the same width",
    ),
    Entry(
        spec=_imagenet("resnext101_64x4d", _D101, 64, 4, "torchvision-v2"),
        parameters=83_455_272,
        gmacs=15.46,
        about="twice the cardinality",
    ),
    Entry(
        spec=_imagenet("resnext101_32x8d", _D101, 32, 8, "torchvision-v1"),
        parameters=88_791_336,
        gmacs=16.41,
        about="twice the width per group",
    ),
    Entry(
        spec=ModelSpec(
            name="resnext29_8x64d",
            depths=(3, 3, 3),
            cardinality=8,
            width_per_group=64,
            stem="cifar",
            classes=10,
            preprocess=PREPROCESS["cifar"],
            source="cifar",
        ),
        parameters=34_426_698,
        gmacs=5.39,
        about="the paper's CIFAR network, 32 px",
    ),
    Entry(
        spec=ModelSpec(
            name="resnext20_8x4d",
            depths=(2, 2, 2),
            cardinality=8,
            width_per_group=4,
            stem="cifar",
            base_channels=16,
            classes=10,
            preprocess=PREPROCESS["digits"],
            source="digits",
        ),
        parameters=247_898,
        gmacs=0.04,
        about="a small 32 px network; the demo's weights belong to it",
    ),
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
        raise unknown_name("model", name, CATALOGUE) from None


def specify(name: str, *, classes: int | None = None, preprocess: Preprocess | None = None) -> ModelSpec:
    """Return the catalogue's specification of `name`, with another class count or preprocessing where given.

    Raises:
        RequestError: There is no such model.
    """
    changes = {"classes": classes, "preprocess": preprocess}
    return msgspec.structs.replace(find(name).spec, **{k: v for k, v in changes.items() if v is not None})
