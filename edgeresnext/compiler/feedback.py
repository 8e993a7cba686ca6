"""Round weights with regard to each other: what one loses, those of its row that are still to come make up for.

They can as far as their inputs go together on the images: neighbouring pixels of a photograph nearly do (Hassibi and
Stork 1993, optimal brain surgeon; Frantar et al. 2022, GPTQ, arXiv:2210.17323). One pass and no gradients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeresnext.compiler.arithmetic import round_to_levels
from edgeresnext.compiler.graph import Graph, Layer
from edgeresnext.compiler.quantise import INT8_MAX, Quantised, QuantisedWeight
from edgeresnext.compiler.simulate import Simulation

_DAMPING = 0.01
"""Added to the diagonal of the inputs' second moments, as a share of its mean (Frantar et al. 2022, section 3.3)."""
_VALUES_AT_ONCE = 2**24
"""Of the inputs of outputs that are multiplied out together: 64 MiB."""
_BLOCK = 64
"""Columns whose errors are passed on to all later ones together."""


def with_feedback(graph: Graph, quantised: Quantised, images: Tensor, leave: Collection[str] = ()) -> Quantised:
    """Return a plan's numbers with the weights of every INT8 layer rounded with regard to each other.

    Rows keep their steps. A row's error is that of its outputs on the images, with the input as it is quantised; a row
    that nearest rounding leaves with less keeps that.

    Args:
        graph: The folded graph.
        quantised: The plan's numbers, their weights rounded to the nearest.
        images: Normalised float32 `(N, 3, H, W)`. The network runs on all of them at once, as in `correct`.
        leave: Layers whose weights stay as they are.
    """
    sweep = _Sweep(graph, quantised, frozenset(leave))
    sweep.logits(images)
    return dataclasses.replace(quantised, weights={**quantised.weights, **sweep.found})


class _Sweep(Simulation):
    """Runs a graph in INT8, and rounds the weights of each layer for what it reads."""

    def __init__(self, graph: Graph, quantised: Quantised, leave: frozenset[str]) -> None:
        super().__init__(graph, quantised)
        self.leave = leave
        self.found: dict[str, QuantisedWeight] = {}

    def run_layer(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """Return the output of one layer, after rounding its weights."""
        weight = self.quantised.weights.get(layer.name)
        if weight is not None and layer.name not in self.leave:
            read = self.quantised.plan.inputs[layer.name]
            step, bounds = float(self.quantised.scales[read]), self.quantised.bounds(read)
            moments = second_moments(layer, round_to_levels(values[read], step, *bounds))
            self.found[layer.name] = _rounded(layer, weight, moments)
        return super().run_layer(layer, values)


def second_moments(layer: Layer, levels: Tensor) -> Tensor:
    """Return the sums of products of any two inputs that one output reads, float64 `(groups, K, K)`, on the CPU.

    Args:
        layer: A convolution or Gemm.
        levels: Its input, integers in float32 `(N, C, H, W)` or `(N, C)`.
    """
    assert layer.weight is not None
    groups, size = layer.attributes.get("group", 1), layer.weight[0].size
    found = torch.zeros(groups, size, size, dtype=torch.float64)
    few = max(1, _VALUES_AT_ONCE // (groups * size * math.prod(layer.shape[1:])))
    for part in torch.split(levels, few):
        read = _patches(layer, part) if part.ndim > 2 else part[None]  # noqa: PLR2004 - (N, C)
        found += (read.transpose(1, 2) @ read).double().cpu()
    return found


def _patches(layer: Layer, levels: Tensor) -> Tensor:
    """Return what each output of a convolution reads, `(groups, N x positions, K)`."""
    assert layer.weight is not None
    attributes, kernel = layer.attributes, layer.weight.shape[2:]
    patches = functional.unfold(levels, kernel, padding=attributes["pads"][:2], stride=attributes["strides"])
    by_group = patches.view(len(levels), attributes["group"], layer.weight[0].size, -1)
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


def _rounded(layer: Layer, weight: QuantisedWeight, moments: Tensor) -> QuantisedWeight:
    """Return the weights of a layer, each row rounded with feedback or to the nearest, whichever errs less."""
    assert layer.weight is not None
    groups, size, _ = moments.shape
    rows = torch.from_numpy(layer.weight).double().view(groups, -1, size)
    steps = torch.from_numpy(weight.scale.astype(np.float64)).view(groups, -1)
    nearest = torch.from_numpy(weight.values).double().view(rows.shape)
    levels = rounded_with_feedback(rows, steps, moments)

    def error(found: Tensor) -> Tensor:
        lost = found * steps[:, :, None] - rows
        return ((lost @ moments) * lost).sum(2, keepdim=True)

    best = torch.where(error(levels) < error(nearest), levels, nearest)
    return QuantisedWeight(values=best.view(layer.weight.shape).numpy().astype(np.int8), scale=weight.scale)


def rounded_with_feedback(rows: Tensor, steps: Tensor, moments: Tensor) -> Tensor:
    """Return levels in -127..127, each weight rounded after the errors of those before it were passed on.

    Args:
        rows: Weights, float64 `(groups, rows, K)`.
        steps: Of each row, `(groups, rows)`.
        moments: `second_moments` of their inputs.
    """
    mean = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    damped = moments + torch.eye(rows.shape[2], dtype=moments.dtype) * (_DAMPING * mean + 1e-12)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    rest, levels = rows.clone(), torch.zeros_like(rows)
    for start in range(0, rows.shape[2], _BLOCK):
        block = slice(start, start + _BLOCK)
        errors = torch.zeros_like(rest[:, :, block])
        for offset in range(errors.shape[2]):
            column = start + offset
            levels[:, :, column] = (rest[:, :, column] / steps).round().clamp(-INT8_MAX, INT8_MAX)
            error = (rest[:, :, column] - levels[:, :, column] * steps) / inverse[:, column, column, None]
            rest[:, :, column : block.stop] -= error[:, :, None] * inverse[:, None, column, column : block.stop]
            errors[:, :, offset] = error
        rest[:, :, block.stop :] -= errors @ inverse[:, block, block.stop :]
    return levels
