"""Weights whose products do not saturate: INT8 that is right on CPUs without VNNI, in the same file and as fast.

Such CPUs add two neighbouring products in 16 bits (`arithmetic.IntegerProduct`): 255 x 127 twice is more than fits. A
larger step for a row makes its weights' levels smaller; few rows need one, and of those each takes the step that leaves
the smallest error, rounding and saturation together. The first convolution reads pixels, which are large everywhere:
its rows take the step under which no pixels can saturate, and what coarser rounding loses is won back by rounding each
weight with regard to the errors of those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.arithmetic import INT16_MAX, IntegerProduct, Pairs, round_to_levels
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.feedback import rounded_with_feedback, second_moments
from edgeresnext.compiler.graph import Graph, Layer
from edgeresnext.compiler.quantise import UINT8_MAX, Quantised, QuantisedWeight, weight_levels

STEPS = (1.0, 1.15, 1.35, 1.6, 2.0)
"""What a row's step may be multiplied by. At twice the step two weights together have at most 127 levels: 255 x 127
fits, so that nothing is left to gain."""
IMAGES = 8
"""Images that errors are taken from. ResNeXt-50 and the digits gain 0.0 dB by 16."""
_PIXELS = 2**18
"""Pixels by which the image's step is chosen."""
_FEWEST_LEVELS = 224
_PAIR_LIMIT = INT16_MAX // UINT8_MAX
"""Two neighbouring weights of one sign that reach at most this never saturate."""


def row_steps(graph: Graph, quantised: Quantised, images: Tensor) -> dict[str, NDArray[np.float64]]:
    """Return what the step of each row is to be multiplied by, one of `STEPS`, by layer; none where all stay.

    The error of a row is that of its outputs, with the input as it is quantised and its own weights rounded, against
    unrounded weights.

    Args:
        graph: The folded graph.
        quantised: The numbers of a plan with unsigned activations.
        images: Normalised float32 `(N, 3, H, W)`.
    """
    trial = _RowTrial(graph, quantised)
    trial.logits(images[:IMAGES])
    return trial.chosen


class _RowTrial(Executor):
    """Runs a graph, and the rows of each convolution that saturate once more with every step."""

    def __init__(self, graph: Graph, quantised: Quantised) -> None:
        super().__init__(graph)
        self.quantised = quantised
        self.chosen: dict[str, NDArray[np.float64]] = {}

    def run_layer(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """Return the output of one layer, after choosing the steps of its rows."""
        read = self.quantised.plan.inputs.get(layer.name)
        unsigned = read in self.quantised.unsigned and read not in self.quantised.zero_points
        if layer.op == "Conv" and read is not None and unsigned:
            step = float(self.quantised.scales[read])
            levels = round_to_levels(values[read], step, *self.quantised.bounds(read))
            steps = self._best_steps(layer, levels)
            if (steps > 1).any():
                self.chosen[layer.name] = steps
        return super().run_layer(layer, values)

    def _best_steps(self, layer: Layer, levels: Tensor) -> NDArray[np.float64]:
        weight = self.quantised.weights[layer.name]
        scale = weight.scale.astype(np.float64)
        steps = np.ones(len(scale))
        pairs = Pairs(self.place(torch.from_numpy(weight.values).float()), layer.attributes["group"])
        taken = pairs.saturation(levels, layer.attributes)
        if taken is None:
            return steps
        rows = taken.ne(0).any(3).any(2).any(0).cpu().numpy().nonzero()[0]
        if not len(rows):
            return steps
        if layer.attributes["group"] > 1:  # rows of a group belong together
            rows = np.arange(len(scale))
        assert layer.weight is not None
        exact = layer.weight[rows]
        expected = IntegerProduct(self.place(torch.from_numpy(exact)), layer.attributes)(levels)
        errors = []
        for factor in STEPS:
            wider = scale[rows] * factor
            product = IntegerProduct(
                self.place(torch.from_numpy(weight_levels(exact, wider)).float()), layer.attributes, saturating=True
            )
            found = product(levels).mul_(self.tensor(wider.astype(np.float32)).view(1, -1, 1, 1))
            errors.append(found.sub_(expected).square_().sum((0, 2, 3)))
        steps[rows] = np.array(STEPS)[torch.stack(errors).argmin(0).cpu().numpy()]
        return steps


def with_row_steps(graph: Graph, quantised: Quantised, steps: Mapping[str, NDArray[np.float64]]) -> Quantised:
    """Return a plan's numbers with the weights of some rows rounded to wider steps: what `row_steps` returned."""
    weights = dict(quantised.weights)
    for layer in graph.layers:
        if layer.name in steps and layer.name in weights:
            assert layer.weight is not None
            scale = (weights[layer.name].scale * steps[layer.name]).astype(np.float32)
            weights[layer.name] = QuantisedWeight(
                values=weight_levels(layer.weight, scale.astype(np.float64)), scale=scale
            )
    return dataclasses.replace(quantised, weights=weights)


def with_pixel_step(quantised: Quantised, images: Tensor) -> Quantised:
    """Return a plan's numbers with the step of the image that leaves the smallest error in its pixels.

    Pixels are integers: a step of which black, white and zero are multiples is exact where most pixels are one of them.

    Args:
        quantised: The plan's numbers.
        images: Normalised float32 `(N, 3, H, W)`.
    """
    if INPUT not in quantised.zero_points:
        return quantised
    widest = float(quantised.scales[INPUT])
    pixels = images.flatten()[:: max(1, images.numel() // _PIXELS)]
    best, least = (quantised.scales[INPUT], quantised.zero_points[INPUT]), float("inf")
    low = -quantised.zero_points[INPUT] * widest
    for count in range(UINT8_MAX, _FEWEST_LEVELS, -1):
        step = np.float32(widest * UINT8_MAX / count)
        zero = round(-low / float(step))
        levels = round_to_levels(pixels, float(step), -zero, UINT8_MAX - zero)
        error = float((levels * float(step) - pixels).square().sum())
        if error < least:
            best, least = (np.array(step), zero), error
    return dataclasses.replace(
        quantised, scales={**quantised.scales, INPUT: best[0]}, zero_points={**quantised.zero_points, INPUT: best[1]}
    )


def pixel_layers(quantised: Quantised) -> tuple[str, ...]:
    """Return the convolutions that read the image itself as unsigned levels around a zero point."""
    return tuple(
        name
        for name, tensor in quantised.plan.inputs.items()
        if tensor == INPUT and tensor in quantised.zero_points and name in quantised.weights
    )


def safe_weight(layer: Layer, quantised: Quantised, batches: Iterable[Tensor]) -> QuantisedWeight:
    """Return weights of a convolution such that no inputs can saturate, rounded with regard to each other.

    Args:
        layer: A convolution without groups.
        quantised: The plan's numbers.
        batches: Normalised float32 `(N, 3, H, W)` tensors.
    """
    assert layer.weight is not None
    tensor = quantised.plan.inputs[layer.name]
    step, bounds = float(quantised.scales[tensor]), quantised.bounds(tensor)
    moments = torch.stack([second_moments(layer, round_to_levels(batch, step, *bounds)) for batch in batches]).sum(0)
    rows = torch.from_numpy(layer.weight).double().flatten(1)
    scale = torch.from_numpy(quantised.weights[layer.name].scale.astype(np.float64))
    scale = scale * (_largest_pair(rows / scale[:, None], layer.weight.shape) / (_PAIR_LIMIT - 1)).clamp_min(1)
    while True:
        single = scale.float()  # as the file stores it
        levels = rounded_with_feedback(rows[None], single.double()[None], moments)[0]
        excess = _largest_pair(levels, layer.weight.shape) > _PAIR_LIMIT
        if not excess.any():
            values = levels.view(layer.weight.shape).numpy().astype(np.int8)
            return QuantisedWeight(values=values, scale=single.numpy())
        scale = torch.where(excess, scale * (1 + 1 / _PAIR_LIMIT), scale)


def _largest_pair(levels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the largest sum of two neighbouring weights of one sign in each row.

    Neighbours are the channels 2j and 2j + 1 at one position, as in OpenVINO, and 2j and 2j + 1 of all weights of a row
    with their channels last, as in ONNX Runtime: with three channels these are others.
    """
    weight = levels.view(shape)
    by_channel = weight.permute(0, 2, 3, 1)
    pairs = [by_channel.flatten(1), functional.pad(by_channel, (0, shape[1] % 2)).flatten(1)]
    largest = []
    for row in pairs:
        both = functional.pad(row, (0, row.shape[1] % 2)).view(len(row), -1, 2)
        largest += [both.clamp_min(0).sum(2).amax(1), both.clamp_max(0).sum(2).amin(1).neg()]
    return torch.stack(largest).amax(0)
