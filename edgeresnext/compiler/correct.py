"""Correct biases: take the mean error that INT8 leaves in each output channel out again.

Rounding, clipping and saturation move the mean of what a layer returns, and the layers after it carry the shift on
(Nagel et al. 2019, arXiv:1906.04721, section 4.2). Here the shift is measured on calibration images, layer after
layer, each with all corrections before it in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeresnext.compiler.execute import Executor, in_cache
from edgeresnext.compiler.graph import Graph
from edgeresnext.compiler.quantise import Quantised
from edgeresnext.compiler.simulate import Simulation

IMAGES = 32
"""Images that the shift is measured on. The network runs on all of them at once: 0.5 GiB for ResNeXt-50 at 224 px."""


def channel_means(graph: Graph, images: Tensor) -> dict[str, Tensor]:
    """Return the mean of each channel of each image that every convolution and Gemm computes, `(N, channels)`.

    Args:
        graph: The folded graph.
        images: Normalised float32 `(N, 3, H, W)`.
    """
    executor = Executor(graph)
    found: dict[str, list[Tensor]] = {}
    for batch in in_cache(images):
        for layer, values in executor.steps(batch):
            if layer is not None and layer.computes:
                found.setdefault(layer.name, []).append(_by_image(values))
    return {name: torch.cat(means) for name, means in found.items()}


def corrected(
    graph: Graph, quantised: Quantised, images: Tensor, expected: Mapping[str, Tensor], *, saturating: bool = False
) -> Quantised:
    """Return the plan's numbers with the bias of every INT8 convolution and Gemm corrected.

    Args:
        graph: The folded graph.
        quantised: The plan's numbers.
        images: Normalised float32 `(N, 3, H, W)`; 16 or more.
        expected: `channel_means` of the same images.
        saturating: Whether products saturate as on x86 CPUs without VNNI.
    """
    simulation = Simulation(graph, dataclasses.replace(quantised, biases={}), saturating=saturating)
    biases: dict[str, NDArray[np.float32]] = {}
    with torch.inference_mode():
        for layer, found in simulation.steps(images):
            if layer is None or layer.name not in quantised.weights:
                continue
            shift = _significant(expected[layer.name] - _by_image(found))
            found.add_(shift.reshape(1, -1, *[1] * (found.ndim - 2)))  # later layers are to see this one corrected
            bias = simulation.parameters[layer.name][1]
            biases[layer.name] = (shift if bias is None else bias + shift).cpu().numpy()
    return dataclasses.replace(quantised, biases=biases)


def _by_image(values: Tensor) -> Tensor:
    """Return the mean of each channel of each image."""
    return values.mean((2, 3)) if values.ndim > 2 else values  # noqa: PLR2004 - (N, C) or (N, C, H, W)


def _significant(error: Tensor) -> Tensor:
    """Return the mean error of each channel `(N, C)`, shrunk by how uncertain it is.

    With m the mean over images and s its standard error, m (1 - s^2 / m^2), and 0 where that is negative: the positive
    part of James and Stein's estimator (1961), a channel at a time.
    """
    mean = error.mean(0)
    uncertainty = error.var(0) / len(error)
    found: Tensor = mean * torch.clamp(1 - uncertainty / mean.square().clamp_min(torch.finfo().tiny), min=0)
    return found
