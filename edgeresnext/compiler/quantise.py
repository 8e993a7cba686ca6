"""Turn a plan into numbers: the scale of every quantised tensor, INT8 weights, and biases.

What the emitter writes and what the simulation runs are the same values, taken from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeresnext.compiler import INPUT
from edgeresnext.spec import Plan

if TYPE_CHECKING:
    from edgeresnext.compiler.graph import Graph, Layer

INT8_MIN, INT8_MAX = -128, 127
UINT8_MAX = 255
_SHARES = (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.85, 0.8)


@dataclass(frozen=True, kw_only=True)
class QuantisedWeight:
    """Weights of one layer in INT8: `values * scale` along the first axis.

    Args:
        values: int8, of the weight's shape, in -127..127.
        scale: `(out,)`, in the file's floating type.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """Everything that a plan makes of a graph's numbers.

    Args:
        plan: The plan.
        scales: Step of each quantised tensor, a scalar in the file's floating type.
        unsigned: Tensors that are stored as uint8; the others are int8.
        weights: INT8 weights, by layer.
        biases: Corrected biases, by layer; others are the graph's.
        zero_points: Levels that stand for zero, by tensor; 0 for all others.
    """

    plan: Plan
    scales: Mapping[str, NDArray[np.floating]]
    unsigned: frozenset[str]
    weights: Mapping[str, QuantisedWeight]
    biases: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    zero_points: Mapping[str, int] = field(default_factory=dict)

    def bounds(self, tensor: str) -> tuple[int, int]:
        """Return the smallest and the largest level of a tensor, counted from its zero point."""
        zero = self.zero_points.get(tensor, 0)
        return (-zero, UINT8_MAX - zero) if tensor in self.unsigned else (INT8_MIN, INT8_MAX)


def quantise(
    graph: Graph,
    plan: Plan,
    thresholds: Mapping[str, float],
    limits: Mapping[str, NDArray[np.float64]] = MappingProxyType({}),
    pixels: tuple[float, float] | None = None,
) -> Quantised:
    """Return the numbers of `plan`.

    Args:
        graph: The folded graph.
        plan: A precision for every layer.
        thresholds: Calibrated |x| limit of every tensor that the plan quantises.
        limits: |w| at which each output channel is clipped, by layer; its largest where there is none.
        pixels: Smallest and largest value of a normalised image, for unsigned activations: the image then has 256
            levels between them, one of which is zero. None for levels on both sides of zero.
    """
    dtype: type[np.floating] = np.float16 if plan.floating == "fp16" else np.float32
    tensors = frozenset(plan.inputs.values())
    unsigned = tensors & graph.non_negative if plan.activations == "unsigned" else frozenset()
    scales = {
        tensor: _representable(np.array(thresholds[tensor] / (UINT8_MAX if tensor in unsigned else INT8_MAX)), dtype)
        for tensor in tensors
    }
    weights = {
        layer.name: quantise_weight(layer, dtype, limits.get(layer.name))
        for layer in graph.layers
        if layer.weight is not None and layer.name in plan.inputs
    }
    zero_points: dict[str, int] = {}
    if pixels is not None and plan.activations == "unsigned" and INPUT in tensors:
        low, high = min(pixels[0], 0.0), max(pixels[1], 0.0)
        scales[INPUT] = _representable(np.array((high - low) / UINT8_MAX), dtype)
        zero_points[INPUT] = round(-low / float(scales[INPUT]))
        unsigned |= {INPUT}
    return Quantised(plan=plan, scales=scales, unsigned=unsigned, weights=weights, zero_points=zero_points)


def quantise_weight(
    layer: Layer, dtype: type[np.floating], limit: NDArray[np.float64] | None = None
) -> QuantisedWeight:
    """Return the weights of a layer in INT8, with one scale an output channel.

    Symmetric, so that the level of zero is zero: scale = |w| max / 127 (Krishnamoorthi 2018, arXiv:1806.08342).

    Args:
        layer: A convolution or Gemm.
        dtype: Of the scales: float16 or float32.
        limit: |w| at which each output channel is clipped, float64 `(out,)`; None for its largest.
    """
    assert layer.weight is not None
    scale = _representable((_largest(layer.weight) if limit is None else limit) / INT8_MAX, dtype)
    return QuantisedWeight(values=weight_levels(layer.weight, scale.astype(np.float64)), scale=scale)


def weight_limits(graph: Graph) -> dict[str, NDArray[np.float64]]:
    """Return the |w| at which each output channel of each layer is best clipped: the least squared error in INT8.

    A share of the largest |w|, of `_SHARES`. At 8 bits few channels gain, those whose largest weight stands alone.
    """
    found = {}
    for layer in graph.layers:
        if layer.weight is None:
            continue
        axes = tuple(range(1, layer.weight.ndim))
        largest = _largest(layer.weight)
        best, limit = np.full(len(largest), np.inf), largest
        for share in _SHARES:
            steps = largest * share / INT8_MAX
            rounded = weight_levels(layer.weight, steps) * _by_row(layer.weight, steps).astype(np.float32)
            error = np.square(layer.weight - rounded).sum(axis=axes)
            limit = np.where(error < best, largest * share, limit)
            best = np.minimum(error, best)
        found[layer.name] = limit
    return found


def _largest(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest |w| of each output channel, 1 where all are zero."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim))).astype(np.float64)
    return np.where(largest > 0, largest, 1.0)


def _by_row(weight: NDArray[np.float32], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a value an output channel so that it multiplies the weights."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def weight_levels(weight: NDArray[np.float32], steps: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the level of each weight, int8 of the weight's shape, with one step `(out,)` an output channel."""
    return np.clip(np.rint(weight / _by_row(weight, steps)), -INT8_MAX, INT8_MAX).astype(np.int8)


def _representable(scale: NDArray[np.float64], dtype: type[np.floating]) -> NDArray[np.floating]:
    """Return a scale in the file's floating type, never rounded down to zero."""
    rounded: NDArray[np.floating] = np.maximum(scale, np.finfo(dtype).smallest_subnormal).astype(dtype)
    return rounded
