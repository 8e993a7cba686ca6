"""Trace a network and fold its BatchNorm: the one graph that every later stage reads.

A tensor has the name of the layer that produces it; the network's normalised input is called `input`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp

from edgeresnext.compiler import INPUT
from edgeresnext.errors import CheckpointError, shortened

_CONVOLUTIONS = ("Conv", "Gemm")
_TRACING = threading.Lock()
"""While it traces, torch.fx puts functions of its own in the place of PyTorch's: for all threads of the process."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation of the folded graph, named after the module that it came from.

    Args:
        name: The module's own name, such as `layer1.0.conv2`; also the name of the output tensor.
        op: The ONNX operator that the layer becomes; `Affine` becomes two: it multiplies each channel by its `gain` and
            then adds its `shift`.
        inputs: Names of the tensors that it reads.
        shape: Output shape without the batch.
        attributes: ONNX attributes.
        weight: Conv `(out, in / groups, h, w)` or Gemm `(out, in)`, float32; None for other operators.
        bias: `(out,)`, float32.
        norm: The BatchNorm whose numbers are in weight and bias, or in gain and shift; empty without one.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    norm: str = ""

    @property
    def computes(self) -> bool:
        """Whether the layer multiplies by weights."""
        return self.op in _CONVOLUTIONS

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        if self.weight is None:
            return 0
        return int(self.weight.size) * math.prod(self.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A traced network without BatchNorm.

    Args:
        layers: Every operation, producers before consumers; the last one returns the logits.
    """

    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def non_negative(self) -> frozenset[str]:
        """Names of the tensors that cannot be negative: a ReLU's output, pooled or not, and a sigmoid's."""
        found: set[str] = set()
        for layer in self.layers:
            passes = layer.op in ("MaxPool", "AveragePool", "GlobalAveragePool") and layer.inputs[0] in found
            if layer.op in ("Relu", "Sigmoid") or passes:
                found.add(layer.name)
        return frozenset(found)


def trace(model: nn.Module, size_px: tuple[int, int]) -> Graph:
    """Trace `model` in evaluation mode, fold each BatchNorm into the convolution before it, and read the layers.

    A BatchNorm that follows something else, or a convolution that has other readers (before an activation that comes
    first: He et al. 2016, arXiv:1603.05027), becomes an `Affine` layer.

    Args:
        model: The network; it is left as it was.
        size_px: Height and width of the input.

    Raises:
        CheckpointError: Folded weights are NaN or infinite.
    """
    with _TRACING:
        module = fx.symbolic_trace(model.eval())
    norms = _fold_batch_norm(module)
    device = next(module.parameters()).device
    channels = next(child.in_channels for child in module.modules() if isinstance(child, nn.Conv2d))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        image = torch.empty(1, channels, *size_px, device=device)
    ShapeProp(module, fake_mode=mode).propagate(image)
    names: dict[str, str] = {}
    layers: list[Layer] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            names[node.name] = INPUT
        elif node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), nn.Identity):
            names[node.name] = names[node.all_input_nodes[0].name]
        elif node.op != "output":
            layer = _layer(module, node, names, norms)
            names[node.name] = layer.name
            layers.append(layer)
    bad = [layer.name for layer in layers if not _finite(layer)]
    if bad:
        raise CheckpointError(
            f"weights become NaN or infinite when BatchNorm is folded, in {shortened(bad)}",
            "The checkpoint is damaged, or its training diverged; use an earlier one.",
        )
    return Graph(layers=tuple(layers))


def _fold_batch_norm(module: fx.GraphModule) -> dict[str, str]:
    """Merge each BatchNorm into the convolution before it; return those that were merged, by convolution."""
    modules = dict(module.named_modules())
    found: dict[str, str] = {}
    for node in list(module.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        source = node.args[0]
        conv = modules.get(str(source.target)) if source.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or len(source.users) > 1:
            continue
        folded = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            groups=conv.groups,
            device="meta",
        )
        with torch.no_grad():
            weight, bias = fold(conv, norm)
        folded.weight = nn.Parameter(weight, requires_grad=False)
        folded.bias = nn.Parameter(bias, requires_grad=False)
        module.set_submodule(source.target, folded)
        modules[source.target] = folded
        found[str(source.target)] = str(node.target)
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    return found


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias, float32, of a convolution and the BatchNorm after it as one.

    With g, b, m, v, e the BatchNorm's weight, bias, mean, variance and epsilon: w' = w g / sqrt(v + e) and
    b' = b - m g / sqrt(v + e) (Jacob et al. 2018, arXiv:1712.05877, equation 14). float64 keeps the folded network
    within float32 rounding of the original. Gradients pass.
    """
    gain, bias = gain_and_shift(norm)
    if conv.bias is not None:
        bias = bias + conv.bias.double() * gain
    return (conv.weight.double() * gain.view(-1, 1, 1, 1)).float(), bias.float()


def gain_and_shift(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a BatchNorm multiplies each channel by, and what it then adds, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return gain, norm.bias.double() - norm.running_mean.double() * gain


def _layer(module: fx.GraphModule, node: fx.Node, names: Mapping[str, str], norms: Mapping[str, str]) -> Layer:
    """Read one node of the folded graph."""
    inputs = tuple(names[source.name] for source in node.all_input_nodes)
    shape = tuple(node.meta["tensor_meta"].shape[1:])
    if node.op == "call_module":
        name = str(node.target)
        child = module.get_submodule(name)
    else:
        scope = list(node.meta.get("nn_module_stack", {}))
        name = ".".join([*scope[-1:], getattr(node.target, "__name__", str(node.target))])
        name = node.name if name in names.values() else name  # two functions of one module
        child = None
    op, attributes = _operator(name, child, node)
    weight = bias = None
    if isinstance(child, nn.Conv2d | nn.Linear):
        weight = child.weight.detach().cpu().numpy()
        bias = child.bias.detach().cpu().numpy() if child.bias is not None else None
    norm = name if op == "Affine" else norms.get(name, "")
    return Layer(
        name=name, op=op, inputs=inputs, shape=shape, attributes=attributes, weight=weight, bias=bias, norm=norm
    )


_FUNCTIONS = {torch.add: "Add", torch.mul: "Mul", torch.log: "Log"}


def _operator(name: str, child: nn.Module | None, node: fx.Node) -> tuple[str, dict[str, Any]]:  # noqa: C901, PLR0911 - a table
    """Return the ONNX operator of a node, with its attributes."""
    match child:
        case nn.Conv2d():
            pads = [*child.padding, *child.padding]
            return "Conv", {
                "kernel_shape": list(child.kernel_size),
                "strides": list(child.stride),
                "pads": pads,
                "group": child.groups,
            }
        case nn.Linear():
            return "Gemm", {"transB": 1}
        case nn.ReLU():
            return "Relu", {}
        case nn.MaxPool2d(kernel_size=int(k), stride=int(s), padding=int(p), ceil_mode=ceil):
            rounding = {"ceil_mode": 1} if ceil else {}
            return "MaxPool", {"kernel_shape": [k, k], "strides": [s, s], "pads": [p, p, p, p], **rounding}
        case nn.AvgPool2d(kernel_size=int(k), stride=int(s), padding=0, ceil_mode=True, count_include_pad=False):
            return "AveragePool", {"kernel_shape": [k, k], "strides": [s, s], "ceil_mode": 1}
        case nn.BatchNorm2d():
            gain, shift = (values.detach().float().cpu().numpy() for values in gain_and_shift(child))
            return "Affine", {"gain": gain, "shift": shift}
        case nn.Sigmoid():
            return "Sigmoid", {}
        case nn.AdaptiveAvgPool2d(output_size=1):
            return "GlobalAveragePool", {}
    if node.target in _FUNCTIONS:
        return _FUNCTIONS[node.target], {}
    if node.target is torch.softmax:
        return "Softmax", {"axis": 1}
    if node.target is torch.clamp:
        return "Clip", {"min": node.kwargs["min"]}
    if node.target is torch.flatten:
        return "Flatten", {"axis": 1}
    message = f"layer '{name}' ({type(child).__name__ if child else node.target}) has no ONNX form here"
    raise NotImplementedError(message)


def _finite(layer: Layer) -> bool:
    """Whether all parameters of a layer are finite numbers."""
    arrays = (layer.weight, layer.bias, layer.attributes.get("gain"), layer.attributes.get("shift"))
    return all(array is None or bool(np.isfinite(array).all()) for array in arrays)
