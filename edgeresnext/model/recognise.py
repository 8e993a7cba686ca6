"""Tell a network by its weights: blocks, depths, cardinality, width, stem, shortcuts, classes by names and shapes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from edgeresnext.errors import CheckpointError
from edgeresnext.model.catalogue import name_of
from edgeresnext.model.states import State
from edgeresnext.spec import CHANNELS, EXPANSION, ModelSpec, Preprocess

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_STEMS = {7: "imagenet", 3: "cifar"}
_FILTER_DIMENSIONS = 4


def recognise(state: State, preprocess: Preprocess, path: Path, *, cadene_se: bool = False) -> ModelSpec:
    """Return the specification of the network that weights belong to; its name says what it is.

    Args:
        state: Weights by torchvision's names.
        preprocess: How images become its input.
        path: The file, for messages.
        cadene_se: As `layouts.Canonical` has it.

    Raises:
        CheckpointError: The weights lack what tells the network, or its stages do not double their channels.
    """
    blocks = {(int(found[1]), int(found[2])) for name in state if (found := _BLOCK.match(name))}
    per_stage = Counter(stage for stage, _ in blocks)
    depths = tuple(per_stage[stage] for stage in range(1, len(per_stage) + 1))
    if blocks != {(stage, block) for stage, depth in enumerate(depths, 1) for block in range(depth)}:
        raise CheckpointError(
            f"'{path}' is no whole ResNet or ResNeXt: blocks are missing between those that it has",
            "Give the checkpoint of a whole classifier.",
        )
    first = state.get("conv1.0.weight", state.get("conv1.weight"))
    if first is not None and first.ndim == _FILTER_DIMENSIONS and first.shape[1] not in CHANNELS:
        raise CheckpointError(
            f"'{path}' takes images of {first.shape[1]} channels; images here are grey, RGB or RGBA",
            "Train with such images.",
        )
    try:
        return _recognise(state, depths, preprocess, cadene_se=cadene_se)
    except (IndexError, ValueError, ZeroDivisionError):
        raise CheckpointError(
            f"'{path}' is no ResNet or ResNeXt: its first layers have shapes that none has",
            "Give the checkpoint of a whole classifier.",
        ) from None
    except KeyError as error:
        raise CheckpointError(
            f"'{path}' is no whole ResNet or ResNeXt: it has no {error}", "Give the checkpoint of a whole classifier."
        ) from None


def _recognise(state: State, depths: tuple[int, ...], preprocess: Preprocess, *, cadene_se: bool) -> ModelSpec:
    bottleneck = "layer1.0.conv3.weight" in state
    first = state["layer1.0.conv1.weight"]
    deep = "conv1.0.weight" in state
    stem = state["conv1.6.weight" if deep else "conv1.weight"]
    inputs = state["conv1.0.weight" if deep else "conv1.weight"].shape[1]
    pre = "bn1.weight" not in state
    grouped = state["layer1.0.conv2.weight"]
    last = state["layer1.0.conv3.weight" if bottleneck else "layer1.0.conv2.weight"]
    base = len(last) // (EXPANSION if bottleneck else 1)
    width = first.shape[0]
    cardinality = grouped.shape[0] // grouped.shape[1] if bottleneck else 1
    changes: dict[str, Any] = {
        "depths": depths,
        "block": "bottleneck" if bottleneck else "basic",
        "cardinality": cardinality,
        "width_per_group": width // cardinality,
        "base_channels": base,
        "stem": "deep" if deep else _STEMS.get(stem.shape[-1], "imagenet"),
        "stem_channels": 0 if len(stem) == base else len(stem),
        "stem_pool": "ceil" if cadene_se else "centred",
        "stride_at": "1x1" if cadene_se and cardinality == 1 else "3x3",
        "order": "pre" if pre else "post",
        "final_norm": "norm.weight" in state,
        "shortcut": _shortcut(state, len(depths)),
        "classes": len(state["fc.weight"]),
    }
    if "layer1.0.se.fc1.weight" in state:
        squeezed = state["layer1.0.se.fc1.weight"]
        changes["se_reduction"] = squeezed.shape[1] // squeezed.shape[0]
    spec = ModelSpec(name="", preprocess=preprocess.for_channels(inputs), **changes)
    return msgspec.structs.replace(spec, name=name_of(spec))


def _shortcut(state: State, stages: int) -> str:
    """Return how blocks whose channels grow take their input along."""
    for stage in range(1, stages + 1):
        names = {name for name in state if name.startswith(f"layer{stage}.0.downsample.")}
        if f"layer{stage}.0.downsample.0.weight" in names:
            return "projection"
        if f"layer{stage}.0.downsample.1.weight" in names:
            return "pooled"
    return "padded-centred"  # as the usual ports have it; zeros behind the channels have the same names and shapes
