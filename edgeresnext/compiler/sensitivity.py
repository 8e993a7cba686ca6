"""What the quantisation of each layer costs by itself: the rest of the network stays in floating point."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import Graph
from edgeresnext.compiler.quantise import Quantised
from edgeresnext.compiler.simulate import Simulation

ALL = "all of them"
"""Name of the row for all INT8 layers together."""


@dataclass(kw_only=True)
class Cost:
    """What one layer's quantisation does to the logits.

    Args:
        layer: The layer, or `ALL`.
        signal: Sum of the squared logits in floating point.
        noise: Sum of the squared differences.
        right: Images that are still classified right.
        agreeing: Images whose first class is still the same.
    """

    layer: str
    signal: float = 0.0
    noise: float = 0.0
    right: int = 0
    agreeing: int = 0

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio of the logits, 10 log10(signal / noise); infinite where nothing changes."""
        return 10 * math.log10(self.signal / self.noise) if self.noise and self.signal else math.inf

    def add(self, expected: Tensor, found: Tensor, targets: Tensor | None) -> None:
        """Take note of the logits of a batch, float32 `(N, classes)`, and of the right classes `(N,)` or None."""
        self.signal += float(expected.double().square().sum())
        self.noise += float((expected - found).double().square().sum())
        best = found.argmax(1)
        self.agreeing += int((best == expected.argmax(1)).sum())
        if targets is not None:
            self.right += int((best == targets).sum())


def layer_costs(
    graph: Graph,
    quantised: Quantised,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Cost]:
    """Return what each INT8 layer of a plan costs, in execution order, then all of them together.

    A batch runs once in floating point; then each layer is quantised alone and only what follows it runs again.

    Args:
        graph: The folded graph.
        quantised: The plan's numbers.
        batches: Normalised float32 `(N, 3, H, W)`, and the right classes `(N,)` or None. All activations of a batch are
            held at once: 45 MB an image for ResNeXt-50 at 224 px.
        progress: Called with the layers done in this batch, and their number.
    """
    exact = Executor(graph)
    everything = Simulation(graph, quantised, device=exact.device)
    # Corrected biases make up for the layers before them, which are exact here.
    alone = Simulation(graph, dataclasses.replace(quantised, biases={}), layers=(), device=exact.device)
    layers = [layer for layer in graph.layers if layer.name in quantised.plan.inputs]
    costs = {name: Cost(layer=name) for name in (*(layer.name for layer in layers), ALL)}
    for images, targets in batches:
        values = {}
        for layer, output in exact.steps(images):
            values[INPUT if layer is None else layer.name] = output
        expected = values[graph.layers[-1].name]
        right = None if targets is None else targets.to(exact.device)
        for done, layer in enumerate(layers):
            alone.layers = frozenset((layer.name,))
            rest = graph.layers[graph.layers.index(layer) :]
            costs[layer.name].add(expected, alone.resume(values, rest), right)
            progress(done + 1, len(layers))
        values.clear()
        costs[ALL].add(expected, everything.logits(images), right)
    return list(costs.values())
