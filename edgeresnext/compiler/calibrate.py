"""Watch a network run on calibration images and find the range of every tensor.

One pass, one histogram a tensor, no activation kept: memory does not grow with the number of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from edgeresnext.compiler.plan import threshold_source
from edgeresnext.errors import DataError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgeresnext.compiler.graph import Graph

BINS = 4096
"""Bins of a histogram. The range is a power of two, so between 2,048 and 4,096 of them lie under the maximum."""

DEFAULT_PERCENTILE = 99.999


@dataclass(frozen=True)
class Method:
    """How a histogram becomes a threshold: the maximum, or a percentile of the absolute values.

    Args:
        name: `max` or `percentile`.
        percentile: Share of the values, in percent, that lie below the threshold.
    """

    name: str
    percentile: float = 100.0

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read `max`, `percentile` (99.999) or `percentile:P` with 50 < P <= 100.

        Raises:
            RequestError: It is none of these.
        """
        name, _, value = text.partition(":")
        if text == "max":
            return cls("max")
        if name == "percentile":
            try:
                percentile = float(value or DEFAULT_PERCENTILE)
            except ValueError:
                percentile = math.nan
            if 50 < percentile <= 100:  # noqa: PLR2004 - stated in the docstring
                return cls("percentile", percentile)
        raise RequestError(
            f"unknown calibration method '{text}'",
            "Use max, percentile (99.999), or percentile:P with P above 50 and at most 100, such as percentile:99.9.",
        )

    def __str__(self) -> str:
        """Return the form that `parse` reads."""
        return self.name if self.name == "max" else f"{self.name}:{self.percentile:g}"

    def threshold(self, histogram: Histogram) -> float:
        """Return the threshold of one tensor, above zero even if the tensor is constant zero."""
        found = histogram.maximum
        if self.name == "percentile":
            found = min(found, histogram.percentile(self.percentile))
        return found if found > 0 else 1.0


class Histogram:
    """Counts of |x| in bins from 0 to a power of two that doubles when a larger value arrives.

    Doubling adds neighbouring bins, so no count is lost, and because the edges are always multiples of a power of two
    the counts are the same in whatever order and batches the values come.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0
        self.maximum = 0.0

    def add(self, values: Tensor) -> None:
        """Count a tensor of any shape.

        Raises:
            ValueError: It holds NaN or infinity.
        """
        magnitudes = values.abs()
        maximum = float(magnitudes.max())
        if not math.isfinite(maximum):
            raise ValueError(maximum)
        if maximum > 0:
            self._grow(maximum)
        self.maximum = max(self.maximum, maximum)
        if self.limit:
            self.counts += torch.histc(magnitudes, BINS, 0, self.limit).cpu()
        else:
            self.counts[0] += magnitudes.numel()  # zeros stay in the first bin, whatever the range becomes

    def _grow(self, maximum: float) -> None:
        """Double the range until `maximum` lies inside it."""
        needed = math.ldexp(1.0, math.frexp(maximum)[1])
        if not self.limit:
            self.limit = needed
        while self.limit < needed:
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([merged, torch.zeros_like(merged)])
            self.limit *= 2

    def percentile(self, percent: float) -> float:
        """Return the upper edge of the first bin below which `percent` of all values lie."""
        cumulative = self.counts.cumsum(0)
        wanted = cumulative[-1] * (percent / 100)
        index = int(torch.searchsorted(cumulative, wanted))
        return self.limit * (index + 1) / BINS


class _Watcher(fx.Interpreter):
    """Runs a graph and hands each watched tensor to its histogram as it appears."""

    def __init__(self, graph: Graph, histograms: dict[str, Histogram]) -> None:
        super().__init__(graph.module)
        self.watched = {node: histograms[name] for node, name in graph.names.items() if name in histograms}
        self.layer_names = graph.names

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - the base class's signature
        result = super().run_node(n)
        histogram = self.watched.get(n.name)
        if histogram is not None:
            try:
                histogram.add(result)
            except ValueError:
                raise DataError(
                    f"the output of layer '{self.layer_names[n.name]}' is NaN or infinite during calibration",
                    "The weights and the preprocessing do not fit each other, or the checkpoint is damaged; "
                    "compare mean, std and channel order with the training's.",
                ) from None
        return result


def calibrate(
    graph: Graph,
    batches: Iterable[Tensor],
    tensors: Iterable[str],
    method: Method,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Run normalised images through the graph and return the threshold of each tensor.

    Args:
        graph: The folded graph.
        batches: Normalised float32 `(N, 3, H, W)` tensors, one after another; none is kept.
        tensors: Names of the tensors to watch.
        method: How a histogram becomes a threshold.
        progress: Called with the number of images seen so far.

    Returns:
        |x| above which each tensor is clipped, by name.

    Raises:
        DataError: A tensor is NaN or infinite; the layer is named.
    """
    tensors = list(tensors)
    histograms = {threshold_source(graph, name): Histogram() for name in tensors}
    watcher = _Watcher(graph, histograms)
    seen = 0
    with torch.inference_mode():
        for batch in batches:
            watcher.run(batch.contiguous(memory_format=torch.channels_last))
            seen += len(batch)
            progress(seen)
    return {name: method.threshold(histograms[threshold_source(graph, name)]) for name in tensors}
