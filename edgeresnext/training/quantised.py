"""Train a network as its INT8 file will run it: levels in the forward pass, straight-through gradients in the backward.

What is trained are the network's own parameters and one threshold a quantised tensor. In every pass each BatchNorm, its
statistics frozen, is folded into its convolution, weights and activations are rounded to levels, and the levels are
multiplied and scaled as the file says: sums of integers are exact, so that training sees the file's logits (up to 2^24;
above it sums are float32's here, and integers there).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, fx, nn

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.execute import Executor
from edgeresnext.compiler.graph import Graph, Layer, fold, gain_and_shift, trace
from edgeresnext.compiler.plan import INT8_CPU, calibrated_tensors, candidates, plan_for, threshold_source
from edgeresnext.compiler.quantise import INT8_MAX, quantise
from edgeresnext.compiler.saturation import with_pixel_step
from edgeresnext.errors import RequestError
from edgeresnext.model.ensemble import Ensemble
from edgeresnext.spec import TRAINED, Activations, ModelSpec, Ranges

_FILES: dict[Activations, str] = {"signed": "int8", "unsigned": INT8_CPU}
_ROUNDING = 0.5
"""The most, in steps, that rounding adds to a value; clipping adds more."""
_BELOW = 1 - 2**-40
"""A threshold that must be the smaller of two is at most this share of the other: the same step in float32."""


class _Round(torch.autograd.Function):
    """Levels of a tensor: x / step, half to even, clipped to low..high.

    Whoever reads them multiplies by the step as by a constant: the gradient of the step is all in here. Inside the
    range it is what rounding adds, outside the bound itself (Esser et al. 2020, arXiv:1902.08153, equation 3); the
    gradient of x passes inside the range and stops outside.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, low: int, high: int) -> Tensor:  # noqa: ANN401 - PyTorch's
        """Return the levels, integers in float32."""
        levels = (values / step).round_().clamp_(low, high)
        ctx.save_for_backward(values, levels, step)
        return levels

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # noqa: ANN401
        """Return the gradients of values and step, from that of the levels."""
        values, levels, step = ctx.saved_tensors
        gradient = gradients[0] / step
        added = (values / step).neg_().add_(levels)
        outside = added.abs() > _ROUNDING
        by_step = None
        if ctx.needs_input_grad[1]:
            by_step = torch.where(outside, levels, added).mul_(gradient).sum()
        return gradient.masked_fill_(outside, 0) if ctx.needs_input_grad[0] else None, by_step, None, None


def _round(values: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    levels: Tensor = _Round.apply(values, step, low, high)  # type: ignore[no-untyped-call]
    return levels


class _RoundWeight(torch.autograd.Function):
    """Levels of weights, whose largest in each row is the largest level: the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, steps: Tensor) -> Tensor:  # noqa: ANN401 - PyTorch's
        """Return the levels, integers in float32."""
        ctx.save_for_backward(weight, steps)
        levels = (weight / steps.double()).round_().clamp_(-INT8_MAX, INT8_MAX).to(weight)
        return levels.contiguous(memory_format=torch.channels_last) if weight.ndim > 2 else levels  # noqa: PLR2004 - images

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - PyTorch's
        """Return the gradient of the weights, from that of the levels."""
        weight, steps = ctx.saved_tensors
        laid_out = torch.empty_like(weight)  # as the parameter is: processes exchange gradients in that order
        return torch.div(gradients[0], steps, out=laid_out), None


def _weight_levels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the levels of weights and the step of each row, as `quantise_weight` has them, to the bit."""
    with torch.no_grad():
        largest = weight.abs().flatten(1).amax(1).double()
        steps = (torch.where(largest > 0, largest, 1.0) / INT8_MAX).float()
        steps = steps.view(-1, *[1] * (weight.ndim - 1))
    levels: Tensor = _RoundWeight.apply(weight, steps)  # type: ignore[no-untyped-call]
    return levels, steps


def traced(network: nn.Module, spec: ModelSpec) -> Graph:
    """Return the graph of a network.

    Raises:
        RequestError: It has a layer that the compiler does not know.
    """
    try:
        return trace(network, spec.preprocess.size)
    except (NotImplementedError, fx.proxy.TraceError) as error:
        raise RequestError(
            f"the network cannot be trained in INT8: {error}",
            "Build it of Conv2d, BatchNorm2d, ReLU, MaxPool2d, AdaptiveAvgPool2d(1), Linear, torch.add, torch.flatten.",
        ) from None


class QuantisedNetwork(nn.Module):
    """A network as one of its INT8 files will run it.

    Takes normalised images `(N, channels, H, W)` and returns logits `(N, classes)`, as the network does.

    Args:
        network: What is trained: its parameters are the ones of this module. BatchNorm statistics stay as they are.
        spec: What it is.
        start: Ranges of its tensors, taken without equalisation: thresholds start there, and which input of each Add is
            quantised is decided by them.
        activations: Which of the files is trained for, by how it stores what cannot be negative.
        images: Normalised images by which the step of unsigned pixels is chosen; None for 255 even ones.
        learned: Whether thresholds are trained too; else they stay where they start.

    Attributes:
        network: What was given.
        tensors: Those whose thresholds are trained.
        log_thresholds: Logarithms to the base 2 of their thresholds. A step of training is then a share of a threshold,
            whatever its size, and none becomes negative (Jain et al. 2020, arXiv:1903.08066).

    Raises:
        RequestError: The network is an ensemble or has a layer that is not known; the ranges are of an equalised one.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        start: Ranges,
        *,
        activations: Activations = "signed",
        images: Tensor | None = None,
        learned: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(network, Ensemble):
            raise RequestError("an ensemble cannot be trained in INT8", "Train its members, one by one.")
        if start.exponents:
            raise RequestError("the ranges are those of an equalised network", "Take them without equalisation.")
        graph = traced(network, spec)
        limits = start.limits(activations)
        plan = plan_for(graph, _FILES[activations], limits)
        numbers = quantise(graph, plan, limits, pixels=spec.preprocess.range)
        numbers = numbers if images is None else with_pixel_step(numbers, images)
        self.network = network
        self.start = start
        self.activations = activations
        self._numbers = dataclasses.replace(numbers, weights={})
        self._layers = tuple(dataclasses.replace(layer, weight=None, bias=None) for layer in graph.layers)
        self._last_reader = {name: layer.name for layer in graph.layers for name in layer.inputs}
        self._sources = {tensor: threshold_source(graph, tensor) for tensor in calibrated_tensors(graph)}
        self._rivals = tuple(
            (self._sources[read], self._sources[other])
            for layer in graph.layers
            if (read := plan.inputs.get(layer.name)) is not None
            for other in candidates(graph, layer)
            if other != read
        )
        self.tensors = tuple(
            dict.fromkeys(self._sources[name] for name in plan.inputs.values() if name not in numbers.zero_points)
        )
        logarithms = self._logarithms(limits).to(next(network.parameters()).device)
        self.log_thresholds = nn.Parameter(logarithms, requires_grad=learned)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits that the file returns, in whatever precision others around it may run."""
        with torch.autocast(images.device.type, enabled=False):
            return self._logits(images.float())

    def _logits(self, images: Tensor) -> Tensor:
        values = {INPUT: images.contiguous(memory_format=torch.channels_last)}
        levels: dict[str, Tensor] = {}
        steps = self._steps()
        for layer in self._layers:
            read = self._numbers.plan.inputs.get(layer.name)
            if read is not None and read not in levels:
                levels[read] = _round(values[read], steps[read], *self._numbers.bounds(read))
            values[layer.name] = self._run(layer, values, levels, steps)
            for name in layer.inputs:
                if self._last_reader[name] == layer.name:
                    values.pop(name, None)
                    levels.pop(name, None)
        return values[self._layers[-1].name]

    def _run(
        self, layer: Layer, values: Mapping[str, Tensor], levels: Mapping[str, Tensor], steps: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the output of one layer."""
        read = self._numbers.plan.inputs.get(layer.name)
        inputs = [values[name] for name in layer.inputs]
        if layer.op == "Affine":
            gain, shift = (one.float().view(-1, 1, 1) for one in gain_and_shift(self._norm(layer)))
            return torch.addcmul(shift, inputs[0], gain)
        if not layer.computes:
            if read is not None:
                inputs[layer.inputs.index(read)] = levels[read] * steps[read].detach()
            return Executor.compute(layer, inputs, None, None)
        weight, bias = self._weight_and_bias(layer)
        if read is None:
            return Executor.compute(layer, inputs, weight, bias)
        weight_levels, weight_steps = _weight_levels(weight)
        shape = (1, -1, *[1] * (len(layer.shape) - 1))
        scale = weight_steps.view(shape) * steps[read].detach()
        found = Executor.compute(layer, [levels[read]], weight_levels, None) * scale
        return found if bias is None else found + bias.view(shape)

    def _weight_and_bias(self, layer: Layer) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of a convolution or Gemm as the graph has them."""
        module = self.network.get_submodule(layer.name)
        if isinstance(module, nn.Linear):
            return module.weight, module.bias
        assert isinstance(module, nn.Conv2d)
        return fold(module, self._norm(layer)) if layer.norm else (module.weight, module.bias)

    def _norm(self, layer: Layer) -> nn.BatchNorm2d:
        norm = self.network.get_submodule(layer.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def _thresholds(self) -> dict[str, Tensor]:
        """Return the threshold of each trained tensor, float64.

        Of the inputs of an Add the file quantises the one with the smaller threshold: that stays the smaller one.
        """
        found = dict(zip(self.tensors, torch.exp2(self.log_thresholds.double()).unbind(), strict=True))
        for tensor, rival in self._rivals:
            if rival in found:
                found[tensor] = torch.minimum(found[tensor], found[rival] * _BELOW)
        return found

    def _steps(self) -> dict[str, Tensor]:
        """Return the step of each tensor that is quantised, float32."""
        thresholds = self._thresholds()
        found = {}
        for tensor in dict.fromkeys(self._numbers.plan.inputs.values()):
            if tensor in self._numbers.zero_points:
                found[tensor] = torch.as_tensor(self._numbers.scales[tensor], device=self.log_thresholds.device)
            else:
                threshold = thresholds[self._sources[tensor]]
                found[tensor] = (threshold / self._numbers.bounds(tensor)[1]).float()
        return found

    def _logarithms(self, limits: Mapping[str, float]) -> Tensor:
        by_source = {source: limits[tensor] for tensor, source in self._sources.items()}
        return torch.tensor([math.log2(by_source[name]) for name in self.tensors])

    def take(self, ranges: Ranges) -> None:
        """Set the thresholds to those that `ranges` returned."""
        with torch.no_grad():
            self.log_thresholds.copy_(self._logarithms(ranges.limits(self.activations)))

    def ranges(self, weights_digest: str) -> Ranges:
        """Return what the files are to be emitted with: trained thresholds, and calibrated ones of all other tensors.

        Args:
            weights_digest: SHA-256 of the network by `to_safetensors`, as a bundle has it.
        """
        with torch.no_grad():
            trained = {name: float(threshold) for name, threshold in self._thresholds().items()}
        calibrated = self.start.limits(self.activations)
        limits = {tensor: trained.get(source, calibrated[tensor]) for tensor, source in self._sources.items()}
        for tensor, rival in self._rivals:
            if rival not in trained:
                limits[rival] = max(limits[rival], limits[tensor] / _BELOW)
        return msgspec.structs.replace(
            self.start,
            method=TRAINED,
            thresholds={TRAINED: limits},
            chosen={kind: dict.fromkeys(limits, TRAINED) for kind in _FILES},
            digests=self.start.digests | {"weights": weights_digest},
        )
