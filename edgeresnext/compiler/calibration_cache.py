"""TensorRT's calibration cache: thresholds beside a graph without Q/DQ, for DLAs and weakly typed networks.

TensorRT wants a threshold for every tensor that it is to store in INT8. The cache has a first line
`TRT-<release>-EntropyCalibration2` and one line a tensor: `name: <hex>`, the big-endian float32 of threshold / 127
(format read from caches of TensorRT 8 and 10).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeresnext.errors import InputError
from edgeresnext.spec import Preprocess

if TYPE_CHECKING:
    from edgeresnext.compiler.graph import Graph

_LARGEST_PIXEL = 255.0
_LEVELS = 127
_NOMINAL_RELEASE = "8602"
"""JetPack 6.0's; the line is written anew for the release that reads it."""


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


def write_cache(thresholds: Mapping[str, float], release: str = _NOMINAL_RELEASE) -> str:
    """Return a calibration cache for |x| limits by tensor name."""
    lines = [f"TRT-{release}-EntropyCalibration2"]
    lines += [f"{name}: {struct.pack('>f', limit / _LEVELS).hex()}" for name, limit in thresholds.items()]
    return "\n".join(lines) + "\n"


def read_cache(content: bytes, file: str = "calibration cache") -> dict[str, float]:
    """Return the |x| limit of each tensor in a calibration cache.

    Raises:
        InputError: It is no such cache.
    """
    try:
        first, *lines = content.decode("utf-8").splitlines() or [""]
    except UnicodeDecodeError:
        raise InputError(f"{file} is damaged: it is not UTF-8", "Build the bundle again.") from None
    if not first.startswith("TRT-"):
        raise InputError(f"{file} does not begin with 'TRT-': {first[:40]!r}", "Build the bundle again.")
    found = {}
    for line in filter(None, lines):
        name, separator, digits = line.rpartition(": ")
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(digits))
        except (ValueError, struct.error):
            separator = ""
        if not separator or not 0 < scale < math.inf:
            raise InputError(f"{file} has a damaged line: {line[:60]!r}", "Build the bundle again.")
        found[name] = scale * _LEVELS
    return found
