"""Run a graph as its INT8 file would compute it, with quantisation faked in floating point.

Every quantised tensor and weight is rounded to its levels and taken back at once (Jacob et al. 2018,
arXiv:1712.05877, section 3), so what one layer costs can be seen alone, without building anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgeresnext.compiler.execute import Executor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from edgeresnext.compiler.graph import Graph, Layer
    from edgeresnext.compiler.quantise import Quantised


class Simulation(Executor):
    """A graph of which some layers are run as INT8.

    Args:
        graph: The folded graph.
        quantised: The numbers of a plan.
        layers: INT8 layers to run as such; None for all, the others stay in floating point.
        device: Where to run; None for the fastest that PyTorch has.
    """

    def __init__(
        self,
        graph: Graph,
        quantised: Quantised,
        layers: Collection[str] | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(graph, device)
        self.quantised = quantised
        self.layers = frozenset(quantised.plan.inputs if layers is None else layers)
        self._int8 = {
            name: (self.tensor(weight.dequantised), self.parameters[name][1])
            for name, weight in quantised.weights.items()
        }
        for name, bias in quantised.biases.items():
            self._int8[name] = (self._int8[name][0], self.tensor(bias))

    def run_layer(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """Return the output of one layer."""
        if layer.name not in self.layers:
            return super().run_layer(layer, values)
        read = self.quantised.plan.inputs[layer.name]
        inputs = [self.levels(name, values[name]) if name == read else values[name] for name in layer.inputs]
        return self.compute(layer, inputs, *self._int8.get(layer.name, (None, None)))

    def levels(self, tensor: str, values: Tensor) -> Tensor:
        """Return the values of a tensor after its Q/DQ pair."""
        return rounded_to_levels(
            values, float(self.quantised.scales[tensor]), unsigned=tensor in self.quantised.unsigned
        )


def rounded_to_levels(values: Tensor, step: float, *, unsigned: bool) -> Tensor:
    """Return values rounded to multiples of `step` and clipped to what uint8 or int8 holds, zero point 0."""
    low, high = (0, 255) if unsigned else (-128, 127)
    return torch.fake_quantize_per_tensor_affine(values, step, 0, low, high)
