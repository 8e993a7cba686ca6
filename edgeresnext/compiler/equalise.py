"""Rescale channels so that one step suits all of a tensor: the network computes the same and quantises better.

A ReLU, an Add, a pooling pass a positive factor on unchanged. So the channels of a tensor can be multiplied where
convolutions write them and divided where convolutions read them (cross-layer equalisation: Nagel et al. 2019,
arXiv:1906.04721; with activations: Xiao et al. 2023, SmoothQuant, arXiv:2211.10438). Factors are powers of two, which
float32 multiplies by exactly: the logits stay the same to the bit. Where they may differ in the last bits, eighths of
powers of two give every channel nearly the step that it would have by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.calibrate import ChannelStatistics
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import Graph, Layer
from edgeresnext.compiler.plan import INT8_CPU, calibrated_tensors, plan_for, threshold_source
from edgeresnext.compiler.quantise import INT8_MAX, quantise
from edgeresnext.compiler.saturation import row_steps, with_row_steps
from edgeresnext.compiler.simulate import Simulation

_PASSES_FACTORS = ("Relu", "Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")
"""Of a Mul the first input's: the second is a gate, which a sigmoid has made."""
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the difference between activations is moved into the weights; 0 looks at the weights alone."""
IMAGES = 16
"""Images that the outcomes are compared on."""
SATURATION_IMAGES = 4
"""Of these, images that the outcomes on a CPU without VNNI are compared on."""
STATISTICS_IMAGES = 64
"""Images that show what the channels are like."""
_LARGEST_EXPONENT = 24


@dataclass(frozen=True, kw_only=True)
class Fineness:
    """How finely channels are rescaled.

    Args:
        parts: Exponents are multiples of 1 / parts.
        worthwhile: Shares of a group's expected noise: what is expected to leave more behind is not rescaled.
        weights: Share of the noise of rounded weights that will remain.
    """

    parts: int
    worthwhile: tuple[float, float]
    weights: float


WHOLE = Fineness(parts=1, worthwhile=(0.5, 0.8), weights=1.0)
EIGHTHS = Fineness(parts=8, worthwhile=(0.8, 1.0), weights=0.2)
"""For weights that are rounded with feedback, whose biases are then corrected: little of their noise remains."""


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Tensors that share their channels, so that each channel has one factor in all of them.

    Args:
        name: The first of the tensors.
        tensors: All of them.
        writers: Convolutions that write one of them.
        readers: Convolutions and Gemms that read one of them.
    """

    name: str
    tensors: tuple[str, ...]
    writers: tuple[Layer, ...]
    readers: tuple[Layer, ...]


def channel_groups(graph: Graph) -> tuple[ChannelGroup, ...]:
    """Return the groups whose channels may be rescaled: neither the image's nor the logits'."""
    group_of: dict[str, str] = {INPUT: INPUT}
    for layer in graph.layers:
        group_of[layer.name] = layer.name
        if layer.op not in _PASSES_FACTORS:
            continue
        read = layer.inputs[:1] if layer.op == "Mul" else layer.inputs
        joined = {group_of[name] for name in (*read, layer.name)}
        first = next(name for name in group_of.values() if name in joined)
        group_of = {tensor: first if name in joined else name for tensor, name in group_of.items()}
    fixed = {group_of[INPUT], group_of[graph.layers[-1].name]}
    for layer in graph.layers:
        if not layer.computes and layer.op not in _PASSES_FACTORS:  # an Affine or a Sigmoid, on both sides
            fixed |= {group_of[layer.inputs[0]], group_of[layer.name]}
    found = []
    for group in dict.fromkeys(group_of.values()):
        if group in fixed:
            continue
        tensors = tuple(tensor for tensor, name in group_of.items() if name == group)
        computing = [layer for layer in graph.layers if layer.computes]
        found.append(
            ChannelGroup(
                name=group,
                tensors=tensors,
                writers=tuple(layer for layer in computing if layer.name in tensors),
                readers=tuple(layer for layer in computing if layer.inputs[0] in tensors),
            )
        )
    return tuple(found)


def find_exponents(
    graph: Graph, observed: Mapping[str, ChannelStatistics], batches: Sequence[Tensor], fineness: Fineness = WHOLE
) -> dict[str, tuple[float, ...]]:
    """Return the power of two for each channel of every group that gains by it, by the group's name.

    What is expected of each group decides which are candidates; what the logits of an INT8 simulation say, whether the
    network gains by none, the most promising or all of them.

    Args:
        graph: The folded graph.
        observed: What was seen of its tensors' channels.
        batches: Some of the same images, normalised float32 `(N, 3, H, W)`.
        fineness: `WHOLE`, or `EIGHTHS`, after which FP32 differs in its last bits.
    """
    best: dict[str, tuple[float, ...]] = {}
    candidates = _candidates(graph, observed, fineness)
    promising, all_of_them = (
        {name: exponents for name, (exponents, remaining) in candidates.items() if remaining < share}
        for share in fineness.worthwhile
    )
    if not all_of_them:
        return best
    executor = Executor(graph)
    exact = [executor.logits(batch) for batch in batches]
    least = _simulated_noise(graph, observed, best, batches, exact)
    for exponents in (promising, all_of_them) if promising and promising != all_of_them else (all_of_them,):
        noise = _simulated_noise(rescaled(graph, exponents), observed, exponents, batches, exact)
        if noise < least:
            best, least = exponents, noise
    return best


def _simulated_noise(
    graph: Graph,
    observed: Mapping[str, ChannelStatistics],
    exponents: Mapping[str, tuple[float, ...]],
    batches: Sequence[Tensor],
    exact: Sequence[Tensor],
) -> float:
    """Return the squared error of the logits of a rescaled graph in INT8, each tensor up to its maximum.

    That of signed INT8, and that of a CPU without VNNI: channels made even leave more large levels beside each other,
    and more of their products saturate.
    """
    group_of = {tensor: group.name for group in channel_groups(graph) for tensor in group.tensors}
    limits = {}
    for tensor in calibrated_tensors(graph):
        largest = observed[threshold_source(graph, tensor)].maximum.numpy()
        factors = powers(exponents.get(group_of.get(tensor, ""), (0,) * len(largest)))
        limits[tensor] = float((largest * factors).max()) or 1.0
    signed = Simulation(graph, quantise(graph, plan_for(graph, "int8", limits), limits))
    noise = sum(_squared_error(signed, batch, logits) for batch, logits in zip(batches, exact, strict=True))
    numbers = quantise(graph, plan_for(graph, INT8_CPU, limits), limits)
    few = batches[0][:SATURATION_IMAGES]
    numbers = with_row_steps(graph, numbers, row_steps(graph, numbers, few))
    on_cpu = _squared_error(Simulation(graph, numbers, saturating=True), few, exact[0][:SATURATION_IMAGES])
    return noise + on_cpu * sum(len(batch) for batch in batches) / len(few)


def _squared_error(simulation: Simulation, images: Tensor, exact: Tensor) -> float:
    return float((simulation.logits(images) - exact).double().square().sum())


def _candidates(
    graph: Graph, observed: Mapping[str, ChannelStatistics], fineness: Fineness
) -> dict[str, tuple[tuple[float, ...], float]]:
    """Return the best exponents of each group, and the share of its expected noise that would remain."""
    found = {}
    for group in channel_groups(graph):
        readers = [(layer, observed[threshold_source(graph, layer.inputs[0])]) for layer in group.readers]
        none = np.zeros(len(readers[0][1].maximum))
        candidates = [none, *(_exponents(readers, strength, fineness.parts) for strength in _STRENGTHS)]
        noise = [sum(_noise(layer, seen, one, fineness.weights) for layer, seen in readers) for one in candidates]
        best = int(np.argmin(noise))
        remaining = noise[best] / noise[0] if noise[0] else 1.0
        found[group.name] = tuple(float(exponent) for exponent in candidates[best]), remaining
    return found


def powers(exponents: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 2 to the power of each exponent, exact where that is an integer."""
    whole = np.floor(exponents)
    found: NDArray[np.float64] = np.ldexp(np.exp2(np.asarray(exponents) - whole), whole.astype(np.int64))
    return found


def rescaled(graph: Graph, exponents: Mapping[str, tuple[float, ...]]) -> Graph:
    """Return the graph with channel c of each group multiplied by 2 to the power of `exponents[group][c]`."""
    layers = {layer.name: layer for layer in graph.layers}
    for group in channel_groups(graph):
        if group.name not in exponents:
            continue
        factors = powers(exponents[group.name]).astype(np.float32)
        for writer in group.writers:
            layer = layers[writer.name]
            assert layer.weight is not None
            layers[layer.name] = dataclasses.replace(
                layer,
                weight=layer.weight * factors.reshape(-1, *[1] * (layer.weight.ndim - 1)),
                bias=None if layer.bias is None else layer.bias * factors,
            )
        for reader in group.readers:
            layer = layers[reader.name]
            assert layer.weight is not None
            layers[layer.name] = dataclasses.replace(layer, weight=layer.weight / per_input(layer, factors))
    return dataclasses.replace(graph, layers=tuple(layers.values()))


def per_input(layer: Layer, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return values of a layer's input channels so that they multiply its weights `(out, in / groups, ...)`."""
    assert layer.weight is not None
    outputs, inputs = layer.weight.shape[:2]
    groups = len(values) // inputs
    by_row = np.repeat(values.reshape(groups, inputs), outputs // groups, axis=0)
    return by_row.reshape(outputs, inputs, *[1] * (layer.weight.ndim - 2))


def _exponents(readers: list[tuple[Layer, ChannelStatistics]], strength: float, parts: int) -> NDArray[np.float64]:
    """Return exponents that even out activations by `strength`, and weights by the rest."""
    logarithms = counted = np.zeros(len(readers[0][1].maximum))
    for layer, seen in readers:
        assert layer.weight is not None
        largest = seen.maximum.numpy()
        rows = np.abs(layer.weight).max(axis=tuple(range(1, layer.weight.ndim)), keepdims=True)
        column = _column_maximum(np.abs(layer.weight) / np.where(rows > 0, rows, 1), len(largest))
        used = (largest > 0) & (column > 0)  # a channel that is zero here says nothing about its scale
        wanted = (1 - strength) * np.log2(np.where(used, column, 1)) - strength * np.log2(np.where(used, largest, 1))
        logarithms, counted = logarithms + np.where(used, wanted, 0), counted + used
    used = counted > 0
    if not used.any():
        return np.zeros(len(used))
    mean = logarithms / np.maximum(counted, 1)
    exponents = np.where(used, np.rint((mean - np.median(mean[used])) * parts) / parts, 0)
    before = max(float(seen.maximum.max()) for _, seen in readers)
    after = max(float(np.max(seen.maximum.numpy() * powers(exponents))) for _, seen in readers)
    # Most channels stay as they are, and none may become larger than the largest was: float16 ends at 65504.
    shift = min(0.0, np.floor(np.log2(before / after) * parts) / parts) if after > 0 else 0.0
    limited: NDArray[np.float64] = np.clip(np.where(used, exponents + shift, 0), -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    return limited


def _column_maximum(values: NDArray[np.floating], channels: int) -> NDArray[np.floating]:
    """Return the largest value that belongs to each input channel, `(channels,)`."""
    outputs, inputs = values.shape[:2]
    groups = channels // inputs
    found: NDArray[np.floating] = values.reshape(groups, outputs // groups, inputs, -1).max(axis=(1, 3)).reshape(-1)
    return found


def _noise(layer: Layer, seen: ChannelStatistics, exponents: NDArray[np.float64], share: float) -> float:
    """Return the expected quantisation noise of a layer's outputs over their power, averaged over the outputs.

    Rounding to a step d leaves a variance of d squared over 12. With factors s, activations of largest value a and mean
    square m, weights w: the activations' step is max(a s) / 127 and reaches output o with the gain of w / s; the
    weights' step is max(w / s) / 127 of that row, and multiplies inputs of power m s squared; a `share` of it remains.
    """
    assert layer.weight is not None
    factors = powers(exponents)
    power = per_input(layer, seen.mean_square.numpy())
    weight = layer.weight.astype(np.float64)
    scaled = weight / per_input(layer, factors)
    rest = tuple(range(1, weight.ndim))
    signal = (weight**2 * power).sum(axis=rest)
    activation_step = float((seen.maximum.numpy() * factors).max()) / INT8_MAX
    weight_step = np.abs(scaled).max(axis=rest) / INT8_MAX
    kernel = float(np.prod(weight.shape[2:]))
    noise = activation_step**2 * (scaled**2).sum(axis=rest)
    noise += share * weight_step**2 * (power * per_input(layer, factors**2)).sum(axis=rest) * kernel
    useful = signal > signal.max() * np.finfo(np.float32).eps
    return float((noise[useful] / signal[useful]).mean() / 12) if useful.any() else 0.0
