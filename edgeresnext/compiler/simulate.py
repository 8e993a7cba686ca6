"""Run a graph as its INT8 file says: the levels of each tensor, integer products, and the scales that take them back.

What one layer costs can be seen alone, without building anything, and the numbers are the file's to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from edgeresnext.compiler.arithmetic import MATRIX_PRODUCT, IntegerProduct, round_to_levels
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import Graph, Layer
from edgeresnext.compiler.quantise import Quantised

_VALUES_AT_ONCE = 2**22
"""Of a layer's input that are quantised together: 16 MiB."""


class Simulation(Executor):
    """A graph of which some layers are run as INT8.

    Args:
        graph: The folded graph.
        quantised: The numbers of a plan.
        layers: INT8 layers to run as such; None for all, the others stay in floating point.
        device: Where to run; None for the fastest that PyTorch has.
        saturating: Whether products saturate as on x86 CPUs without VNNI; only where tensors are unsigned.
    """

    def __init__(
        self,
        graph: Graph,
        quantised: Quantised,
        layers: Collection[str] | None = None,
        device: torch.device | None = None,
        *,
        saturating: bool = False,
    ) -> None:
        super().__init__(graph, device)
        self.quantised = quantised
        self.layers = frozenset(quantised.plan.inputs if layers is None else layers)
        self._steps = {tensor: float(step) for tensor, step in quantised.scales.items()}
        self._products: dict[str, tuple[IntegerProduct, Tensor, Tensor | None]] = {}
        for layer in graph.layers:
            weight = quantised.weights.get(layer.name)
            if weight is None:
                continue
            tensor = quantised.plan.inputs[layer.name]
            product = IntegerProduct(
                self.place(torch.from_numpy(weight.values).float()),
                layer.attributes if layer.op == "Conv" else MATRIX_PRODUCT,
                saturating=saturating and tensor in quantised.unsigned and tensor not in quantised.zero_points,
            )
            bias = quantised.biases.get(layer.name, layer.bias)
            scale = self.tensor(weight.scale.astype("float32")) * self._steps[tensor]
            shape = (1, -1, *[1] * (len(layer.shape) - 1))
            self._products[layer.name] = (
                product, scale.view(shape), None if bias is None else self.tensor(bias).view(shape),
            )  # fmt: skip

    def run_layer(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """Return the output of one layer."""
        if layer.name not in self.layers:
            return super().run_layer(layer, values)
        read = self.quantised.plan.inputs[layer.name]
        if layer.name in self._products:
            # Of many images a few at a time: what is done to each value is then done in the cache.
            whole = values[read]
            size = max(1, _VALUES_AT_ONCE // whole[0].numel())
            return torch.cat([self._product(layer, whole[i : i + size]) for i in range(0, len(whole), size)])
        levels = round_to_levels(values[read], self._steps[read], *self.quantised.bounds(read))
        inputs = [levels.mul_(self._steps[read]) if name == read else values[name] for name in layer.inputs]
        return self.compute(layer, inputs, None, None)

    def _product(self, layer: Layer, values: Tensor) -> Tensor:
        """Return the output of a convolution or Gemm for some images."""
        read = self.quantised.plan.inputs[layer.name]
        product, scale, bias = self._products[layer.name]
        found = product(round_to_levels(values, self._steps[read], *self.quantised.bounds(read))).mul_(scale)
        return found if bias is None else found.add_(bias)
