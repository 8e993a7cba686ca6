"""Decide a precision for every layer, and which tensors that quantises.

Placement (the rules of TensorRT and OpenVINO agree): the input of every INT8 convolution, of MaxPool and of
GlobalAveragePool is quantised, and of a residual Add the shortcut alone, so that convolution, Add and ReLU fuse. One
Q/DQ pair serves all readers of a tensor; the graph's output stays floating point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeresnext.spec import Plan

if TYPE_CHECKING:
    from edgeresnext.compiler.graph import Graph, Layer
    from edgeresnext.spec import Precision

_QUANTISABLE = ("Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool")
_INT8_GROUP_MULTIPLE = 4
"""TensorRT runs a grouped INT8 convolution only with a multiple of four channels a group."""

SHORTCUT = 1
"""Which input of a residual Add is the shortcut."""

INT8_CPU = "int8-cpu"

ONNX_FILES: dict[str, frozenset[Precision]] = {
    "fp32": frozenset({"fp32"}),
    "fp16": frozenset({"fp16"}),
    "int8": frozenset({"int8"}),
    "int8-fp16": frozenset({"int8", "fp16"}),
    INT8_CPU: frozenset({"int8"}),
}
"""The ONNX files, and the precisions that must all be asked for to emit each."""


def plan_for(graph: Graph, name: str) -> Plan:
    """Return the plan of the ONNX file called `name`: fp32, fp16, int8, int8-fp16 or int8-cpu."""
    floating: Precision = "fp16" if "fp16" in ONNX_FILES[name] else "fp32"
    layers: dict[str, Precision] = {}
    reasons: dict[str, str] = {}
    for layer in graph.layers:
        if layer.op not in _QUANTISABLE:
            continue
        layers[layer.name] = floating
        if "int8" in ONNX_FILES[name]:
            reason = _unfit_for_int8(layer)
            if reason:
                reasons[layer.name] = reason
            else:
                layers[layer.name] = "int8"
    return Plan(
        name=name,
        floating=floating,
        layers=layers,
        activations="unsigned" if name == INT8_CPU else "signed",
        reasons=reasons,
    )


def _unfit_for_int8(layer: Layer) -> str:
    """Return why a layer cannot be INT8, or nothing."""
    groups = layer.attributes.get("group", 1)
    if groups > 1 and layer.weight is not None:
        channels = layer.weight.shape[1]
        if channels % _INT8_GROUP_MULTIPLE:
            return f"{channels} channels a group; INT8 needs a multiple of {_INT8_GROUP_MULTIPLE}"
    return ""


def quantised_input(layer: Layer, plan: Plan) -> str | None:
    """Return the name of the tensor that `layer` reads quantised under `plan`, or None."""
    if plan.layers.get(layer.name) != "int8":
        return None
    return layer.inputs[SHORTCUT if layer.op == "Add" else 0]


def quantised_tensors(graph: Graph, plan: Plan) -> list[str]:
    """Return the names of all tensors that `plan` quantises, in execution order, each once."""
    found = (quantised_input(layer, plan) for layer in graph.layers)
    return list(dict.fromkeys(name for name in found if name))


def threshold_source(graph: Graph, tensor: str) -> str:
    """Return the tensor whose threshold `tensor` shares: a MaxPool only selects values, so it keeps its input's."""
    for layer in graph.layers:
        if layer.name == tensor and layer.op == "MaxPool":
            return layer.inputs[0]
    return tensor
