"""Watch a network run on calibration images and find the range of every tensor.

One pass, one histogram a tensor, no activation kept: memory does not grow with the number of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from edgeresnext.compiler.plan import threshold_source
from edgeresnext.compiler.thresholds import Histogram
from edgeresnext.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgeresnext.compiler.graph import Graph
    from edgeresnext.compiler.thresholds import Method


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
