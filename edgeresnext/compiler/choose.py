"""Choose a calibration method for each tensor: the one whose threshold leaves the smallest error in what reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from edgeresnext.compiler.arithmetic import round_to_levels
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import Graph, Layer
from edgeresnext.compiler.plan import calibrated_tensors, threshold_source
from edgeresnext.compiler.quantise import INT8_MAX, INT8_MIN, UINT8_MAX
from edgeresnext.spec import Activations

IMAGES = 16
"""Images that the errors are taken from, at most."""
_SAME = 0.05
"""Thresholds that differ by less are tried once."""


def choose_methods(
    graph: Graph, thresholds: Mapping[str, Mapping[str, float]], batches: Iterable[Tensor]
) -> dict[Activations, dict[str, str]]:
    """Return the best method for each calibrated tensor, for signed and for unsigned activations.

    The error of a tensor is that of the outputs of its readers over their power, with the tensor quantised and all else
    as it is: a clipped peak counts as much as the weights that read it make of it.

    Args:
        graph: The folded graph.
        thresholds: Thresholds by method, then by tensor.
        batches: Normalised float32 `(N, 3, H, W)` tensors.
    """
    trial = _Trial(graph, thresholds)
    for batch in batches:
        trial.logits(batch)
    found: dict[Activations, dict[str, str]] = {"signed": {}, "unsigned": {}}
    for activations, by_tensor in found.items():
        for tensor in calibrated_tensors(graph):
            errors = trial.errors[activations][threshold_source(graph, tensor)]
            by_tensor[tensor] = min(errors, key=errors.__getitem__)
    return found


class _Trial(Executor):
    """Runs a graph, and each reader of a calibrated tensor once more for every threshold that the methods give."""

    def __init__(self, graph: Graph, thresholds: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__(graph)
        self.thresholds = thresholds
        self.tensors = frozenset(calibrated_tensors(graph))
        self.non_negative = graph.non_negative
        sources = {threshold_source(graph, name) for name in self.tensors}
        kinds: tuple[Activations, ...] = ("signed", "unsigned")
        self.errors = {kind: {name: dict.fromkeys(thresholds, 0.0) for name in sources} for kind in kinds}

    def run_layer(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """Return the output of one layer, after taking note of the errors that each threshold would leave in it."""
        exact = super().run_layer(layer, values)
        if layer.op in ("Relu", "Flatten"):
            return exact  # they read what is written, not what is quantised
        power = float(exact.square().sum()) or 1.0
        for name in self.tensors.intersection(layer.inputs):
            source = threshold_source(self.graph, name)
            kinds = {kind: kind == "unsigned" and name in self.non_negative for kind in self.errors}
            for unsigned in dict.fromkeys(kinds.values()):
                known: dict[float, float] = {}
                for method, limits in self.thresholds.items():
                    near = next((limit for limit in known if abs(limits[name] / limit - 1) < _SAME), None)
                    if near is None:
                        near = limits[name]
                        known[near] = self._error(layer, values, name, near, exact, unsigned=unsigned) / power
                    for kind, one in kinds.items():
                        if one == unsigned:
                            self.errors[kind][source][method] += known[near]
        return exact

    def _error(
        self, layer: Layer, values: Mapping[str, Tensor], name: str, limit: float, exact: Tensor, *, unsigned: bool
    ) -> float:
        """Return the squared error that the quantisation of one input leaves in a layer's outputs."""
        low, high = (0, UINT8_MAX) if unsigned else (INT8_MIN, INT8_MAX)
        step = limit / high
        rounded = round_to_levels(values[name], step, low, high).mul_(step)
        found = super().run_layer(layer, {**values, name: rounded})
        return float(found.sub_(exact).square_().sum())
