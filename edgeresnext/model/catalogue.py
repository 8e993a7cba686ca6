"""The networks known by name, with their preprocessing and what was published of them.

Any other depth, cardinality and width is a `ModelSpec` too; `name_of` gives it a name. Parameters and GMACs follow from
the specification (`model.size`); tests compare them with the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgeresnext.errors import unknown_name
from edgeresnext.model import size
from edgeresnext.spec import ModelSpec, Preprocess


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network of the catalogue.

    Args:
        spec: The network.
        about: What it is, in a few words.
        top1: Published accuracy on ImageNet or CIFAR-10 in percent, by where it was published.
    """

    spec: ModelSpec
    about: str
    top1: Mapping[str, float] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Its trained numbers."""
        return size.parameters(self.spec)

    @property
    def gmacs(self) -> float:
        """Billions of multiply-accumulates for one image."""
        return size.macs(self.spec) / 1e9

    def described(self) -> dict[str, Any]:
        """Return all of it as values that JSON can carry."""
        fields = ("spec", "parameters", "gmacs", "about", "top1", "int8_legal")
        return {name: getattr(self, name) for name in fields}

    @property
    def int8_legal(self) -> tuple[bool, ...]:
        """Whether each stage's groups have channels that TensorRT's INT8 kernels take: a multiple of 4."""
        groups = (self.spec.stage_channels(stage)[0] // self.spec.cardinality for stage in range(len(self.spec.depths)))
        return tuple(self.spec.cardinality == 1 or channels % _INT8_CHANNELS == 0 for channels in groups)


_INT8_CHANNELS = 4

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

_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_TORCHVISION_V1, _TORCHVISION_V2, _WSL = "torchvision V1", "torchvision V2", "WSL (CC-BY-NC 4.0)"


def _imagenet(name: str, depths: tuple[int, ...], preprocess: str = "torchvision-v1", **changes: Any) -> ModelSpec:  # noqa: ANN401 - fields of ModelSpec
    settings = {"cardinality": 1, "width_per_group": 64, **changes}
    spec = ModelSpec(
        name=name,
        depths=depths,
        preprocess=PREPROCESS[preprocess],
        source=preprocess,
        cardinality=1,
        width_per_group=64,
    )
    return msgspec.structs.replace(spec, **settings)


def _cifar(name: str, depths: tuple[int, ...], preprocess: str = "cifar", **changes: Any) -> ModelSpec:  # noqa: ANN401 - as above
    return _imagenet(name, depths, preprocess, stem="cifar", classes=10, **changes)


_PUBLISHED: dict[str, dict[str, float]] = {
    "resnext50_32x4d": {"paper": 77.8, _TORCHVISION_V1: 77.618, _TORCHVISION_V2: 81.198},
    "resnext101_32x4d": {"paper": 78.8, "Cadene": 78.188},
    "resnext101_64x4d": {"paper": 79.6, "Cadene": 78.956, _TORCHVISION_V1: 83.246},
    "resnext101_32x8d": {_TORCHVISION_V1: 79.312, _TORCHVISION_V2: 82.834, _WSL: 82.2},
    "resnext101_32x16d": {_WSL: 84.2},
    "resnext101_32x32d": {_WSL: 85.1},
    "resnext101_32x48d": {_WSL: 85.4},
}


def _resnexts() -> tuple[Entry, ...]:
    """Return ResNeXt of every depth and size."""
    sizes = ((32, 4), (64, 4), (32, 8), (32, 16), (32, 32), (32, 48))
    abouts = {
        "resnext50_32x4d": "the usual choice for edge devices",
        "resnext101_32x4d": "twice the depth at the same width",
        "resnext101_64x4d": "twice the cardinality",
        "resnext101_32x8d": "twice the width per group",
    }
    found = []
    for depth, depths in _DEPTHS.items():
        for cardinality, width in sizes:
            name = f"resnext{depth}_{cardinality}x{width}d"
            source = "torchvision-v2" if name == "resnext101_64x4d" else "torchvision-v1"
            spec = _imagenet(name, depths, source, cardinality=cardinality, width_per_group=width)
            found.append(Entry(spec=spec, about=abouts.get(name, ""), top1=_PUBLISHED.get(name, {})))
    return tuple(found)


_RESNEXT_50: dict[str, Any] = {"cardinality": 32, "width_per_group": 4}
_PADDED: dict[str, Any] = {"block": "basic", "base_channels": 16, "shortcut": "padded-centred"}
_PRE: dict[str, Any] = {"order": "pre", "final_norm": True, "base_channels": 16}

_ENTRIES = (
    Entry(
        spec=_imagenet("resnet18", (2, 2, 2, 2), block="basic"),
        about="basic blocks",
        top1={_TORCHVISION_V1: 69.758},
    ),
    Entry(
        spec=_imagenet("resnet34", (3, 4, 6, 3), block="basic"),
        about="basic blocks",
        top1={_TORCHVISION_V1: 73.314},
    ),
    Entry(
        spec=_imagenet("resnet50", _DEPTHS[50]),
        about="plain ResNet-50, for comparison",
        top1={_TORCHVISION_V1: 76.13, _TORCHVISION_V2: 80.858},
    ),
    Entry(spec=_imagenet("resnet101", _DEPTHS[101]), about="", top1={_TORCHVISION_V1: 77.374, _TORCHVISION_V2: 81.886}),
    Entry(spec=_imagenet("resnet152", _DEPTHS[152]), about="", top1={_TORCHVISION_V1: 78.312, _TORCHVISION_V2: 82.284}),
    *_resnexts(),
    Entry(
        spec=_imagenet("wide_resnet50_2", _DEPTHS[50], width_per_group=128),
        about="twice as wide inside its blocks",
        top1={_TORCHVISION_V1: 78.468, _TORCHVISION_V2: 81.602},
    ),
    Entry(
        spec=_imagenet("wide_resnet101_2", _DEPTHS[101], width_per_group=128),
        about="twice as wide inside its blocks",
        top1={_TORCHVISION_V1: 78.848, _TORCHVISION_V2: 82.51},
    ),
    Entry(
        spec=_imagenet("seresnext50_32x4d", _DEPTHS[50], **_RESNEXT_50, se_reduction=16),
        about="squeeze and excitation",
        top1={"Cadene": 79.076},
    ),
    Entry(
        spec=_imagenet("seresnext101_32x4d", _DEPTHS[101], **_RESNEXT_50, se_reduction=16),
        about="squeeze and excitation",
        top1={"Cadene": 80.236},
    ),
    Entry(
        spec=_imagenet("resnet50d", _DEPTHS[50], "timm-ra", stem="deep", shortcut="pooled"),
        about="deep stem, pooled shortcuts (timm)",
    ),
    Entry(
        spec=_imagenet("resnext50d_32x4d", _DEPTHS[50], "timm-ra", **_RESNEXT_50, stem="deep", shortcut="pooled"),
        about="deep stem, pooled shortcuts (timm)",
    ),
    Entry(
        spec=_cifar("resnext29_8x64d", (3, 3, 3), cardinality=8),
        about="the paper's CIFAR network, 32 px",
        top1={"paper, CIFAR-10": 96.35},
    ),
    Entry(
        spec=_cifar("resnext29_16x64d", (3, 3, 3), cardinality=16),
        about="the paper's larger CIFAR network, 32 px",
        top1={"paper, CIFAR-10": 96.42},
    ),
    Entry(
        spec=_cifar("resnet20", (3, 3, 3), **_PADDED),
        about="CIFAR, shortcuts without weights",
        top1={"paper, CIFAR-10": 91.25},
    ),
    Entry(
        spec=_cifar("resnet56", (9, 9, 9), **_PADDED),
        about="CIFAR, shortcuts without weights",
        top1={"paper, CIFAR-10": 93.03},
    ),
    Entry(
        spec=_cifar("resnet110", (18, 18, 18), **_PADDED),
        about="CIFAR, shortcuts without weights",
        top1={"paper, CIFAR-10": 93.57},
    ),
    Entry(
        spec=_cifar("preact_resnet110", (18, 18, 18), **_PRE, block="basic"),
        about="identity mappings, CIFAR",
        top1={"paper, CIFAR-10": 93.63},
    ),
    Entry(
        spec=_cifar("preact_resnet164", (18, 18, 18), **_PRE, width_per_group=16),
        about="identity mappings, CIFAR",
        top1={"paper, CIFAR-10": 94.54},
    ),
    Entry(
        spec=_cifar("preact_resnet1001", (111, 111, 111), **_PRE, width_per_group=16),
        about="identity mappings, CIFAR",
        top1={"paper, CIFAR-10": 95.08},
    ),
    Entry(
        spec=_cifar("resnext20_8x4d", (2, 2, 2), "digits", cardinality=8, width_per_group=4, base_channels=16),
        about="a small 32 px network; the demo's weights belong to it",
    ),
)

CATALOGUE: dict[str, Entry] = {entry.spec.name: entry for entry in _ENTRIES}

_ARCHITECTURE = tuple(
    name for name in ModelSpec.__struct_fields__ if name not in {"name", "preprocess", "source", "classes"}
)


_USUAL_SOURCES = {"imagenet": "torchvision-v1", "deep": "timm-ra", "cifar": "cifar"}
"""Of networks without a name, by their stem."""


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


def usually_preprocessed(spec: ModelSpec) -> ModelSpec:
    """Return a network that weights have told with the preprocessing of its usual source, which it then names."""
    known = CATALOGUE.get(spec.name)
    source = known.spec.source if known else _USUAL_SOURCES[spec.stem]
    return msgspec.structs.replace(spec, preprocess=PREPROCESS[source].for_channels(spec.in_channels), source=source)


def name_of(spec: ModelSpec) -> str:
    """Return the catalogue's name of a network, or one made of what it consists of."""
    for entry in _ENTRIES:
        if all(getattr(entry.spec, field) == getattr(spec, field) for field in _ARCHITECTURE):
            return entry.spec.name
    kind = "preact_" if spec.order == "pre" else ""
    kind += "se" if spec.se_reduction else ""
    kind += "resnext" if spec.cardinality > 1 else "resnet"
    layers = {"basic": 2, "bottleneck": 3}[spec.block] * sum(spec.depths) + 2
    stem = "" if spec.stem != "deep" else "d" if spec.shortcut == "pooled" else "c"
    size_of = f"_{spec.cardinality}x{spec.width_per_group}d" if spec.cardinality > 1 else ""
    return f"{kind}{layers}{stem}{size_of}"
