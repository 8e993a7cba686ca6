"""Thresholds for a graph without Q/DQ, in which TensorRT wants one for every tensor that it is to store in INT8."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeresnext.compiler.graph import Graph
    from edgeresnext.spec import Preprocess

_LARGEST_PIXEL = 255.0


def plain_thresholds(graph: Graph, thresholds: Mapping[str, float], preprocess: Preprocess) -> dict[str, float]:
    """Return the |x| limit of the tensors of a plain ONNX file, by name.

    The calibrated tensors are those that Q/DQ graphs quantise. What a ReLU reads takes that ReLU's limit, for nothing
    beyond it passes; what only moves values keeps its reader's; the tensors of the preprocessing follow from its
    constants. The logits have none: they stay in floating point.
    """
    found = dict(thresholds)
    for layer in reversed(graph.layers):
        if layer.op in ("Relu", "Flatten") and layer.name in found:
            for tensor in layer.inputs:
                found.setdefault(tensor, found[layer.name])
    pixels = [_LARGEST_PIXEL * max(mean, 1 - mean) for mean in preprocess.mean]
    found |= {"images.float": _LARGEST_PIXEL, "images.nchw": _LARGEST_PIXEL, "images.centred": max(pixels)}
    return found
