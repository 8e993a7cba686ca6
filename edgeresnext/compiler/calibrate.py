"""Watch a network run on calibration images: one histogram a tensor, from which every method follows.

No activation is kept: memory does not grow with the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import Graph
from edgeresnext.compiler.plan import calibrated_tensors, threshold_source
from edgeresnext.compiler.thresholds import Histogram, Method
from edgeresnext.errors import DataError


class ChannelStatistics:
    """What is remembered of the channels of one tensor.

    Args:
        channels: How many.

    Attributes:
        maximum: Largest |x| of each channel, float32 `(channels,)`.
    """

    def __init__(self, channels: int) -> None:
        self.maximum = torch.zeros(channels)
        self._squares = torch.zeros(channels, dtype=torch.float64)
        self._values = 0

    @property
    def mean_square(self) -> Tensor:
        """Mean of x squared in each channel, float64 `(channels,)`."""
        return self._squares / max(self._values, 1)

    def add(self, values: Tensor) -> None:
        """Take note of `(N, channels, ...)` values.

        Raises:
            ValueError: They hold NaN or infinity.
        """
        rest = [axis for axis in range(values.ndim) if axis != 1]
        squares = values.square()
        largest = squares.amax(rest).sqrt().cpu()
        if not math.isfinite(float(largest.max())):
            raise ValueError(largest)
        self.maximum = torch.maximum(self.maximum, largest)
        self._squares += squares.sum(rest).cpu().double()
        self._values += values[:, 0].numel()


def channel_statistics(
    graph: Graph, batches: Iterable[Tensor], progress: Callable[[int], None] = lambda _: None
) -> dict[str, ChannelStatistics]:
    """Run normalised images through the graph and return what was seen of the channels of every calibrated tensor.

    As `observe` otherwise.
    """
    found: dict[str, ChannelStatistics] = {}
    _watch(graph, batches, lambda name, x: found.setdefault(name, ChannelStatistics(x.shape[1])).add(x), progress)
    return found


def observe(
    graph: Graph, batches: Iterable[Tensor], progress: Callable[[int], None] = lambda _: None
) -> dict[str, Histogram]:
    """Run normalised images through the graph and return the |x| of every tensor that INT8 may quantise.

    Runs on PyTorch's GPU where there is one.

    Args:
        graph: The folded graph.
        batches: Normalised float32 `(N, 3, H, W)` tensors, one after another; none is kept.
        progress: Called with the number of images seen so far.

    Raises:
        DataError: A tensor is NaN or infinite; the layer is named.
    """
    found: dict[str, Histogram] = {}
    _watch(graph, batches, lambda name, values: found.setdefault(name, Histogram()).add(values), progress)
    return found


def _watch(
    graph: Graph,
    batches: Iterable[Tensor],
    note: Callable[[str, Tensor], Any],
    progress: Callable[[int], None],
) -> None:
    """Run images through the graph, and call `note` with the values of every tensor whose range is taken."""
    sources = {threshold_source(graph, name) for name in calibrated_tensors(graph)}
    executor = Executor(graph)
    seen = 0
    for batch in batches:
        for layer, values in executor.steps(batch):
            name = INPUT if layer is None else layer.name
            if name not in sources:
                continue
            try:
                with torch.inference_mode():
                    note(name, values)
            except ValueError:
                raise DataError(
                    f"the output of layer '{name}' is NaN or infinite during calibration",
                    "The weights and the preprocessing do not fit each other, or the checkpoint is damaged; "
                    "compare mean, std and channel order with the training's.",
                ) from None
        seen += len(batch)
        progress(seen)


def thresholds(graph: Graph, observed: Mapping[str, Histogram], method: Method) -> dict[str, float]:
    """Return |x| above which each tensor is clipped, by name."""
    limits = {name: method.threshold(histogram) for name, histogram in observed.items()}
    return {name: limits[threshold_source(graph, name)] for name in calibrated_tensors(graph)}
