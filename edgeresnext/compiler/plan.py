"""Decide a precision for every layer, and which tensors that quantises.

Placement (the rules of TensorRT and OpenVINO agree): the input of every INT8 convolution, of MaxPool and of
GlobalAveragePool is quantised, and of a residual Add one input alone, so that the other's convolution, the Add and the
ReLU fuse. One Q/DQ pair serves all readers of a tensor; the graph's output stays floating point.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeresnext.compiler import INPUT
from edgeresnext.errors import RequestError, shortened
from edgeresnext.spec import Activations, Plan, Precision

if TYPE_CHECKING:
    from edgeresnext.compiler.graph import Graph, Layer

_QUANTISABLE = ("Conv", "Gemm", "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
_INT8_GROUP_MULTIPLE = 4
"""TensorRT runs a grouped INT8 convolution only with a multiple of four channels a group."""

INT8_CPU = "int8-cpu"


def _may_be_int8(layer: Layer) -> bool:
    """Whether a layer has an INT8 form; logits of an ensemble's members are added as they are."""
    return layer.op in _QUANTISABLE and (layer.op == "Gemm" or len(layer.shape) > 1)


_GROUPED_FLOAT = "-grouped-float"

ONNX_FILES: dict[str, frozenset[Precision]] = {
    "fp32": frozenset({"fp32"}),
    "fp16": frozenset({"fp16"}),
    "int8": frozenset({"int8"}),
    "int8-fp16": frozenset({"int8", "fp16"}),
    INT8_CPU: frozenset({"int8"}),
}
"""The ONNX files, and the precisions that must all be asked for to emit each."""

GROUPED_FLOAT_FILES: dict[str, frozenset[Precision]] = {
    name + _GROUPED_FLOAT: ONNX_FILES[name] for name in ("int8", "int8-fp16")
}
"""The same for TensorRT with grouped convolutions in floating point, which may be faster there: the 3x3s hold 5.5 % of
ResNeXt-50's multiply-accumulates (NVIDIA/TensorRT issues 1198, 1409 and 4529 report slow INT8 kernels for them)."""


def grouped_float(name: str) -> str:
    """Return the name of the INT8 file that is like `name` but for grouped convolutions in floating point."""
    return name + _GROUPED_FLOAT


def activations_of(name: str) -> Activations:
    """Return how the ONNX file called `name` stores quantised tensors that cannot be negative."""
    return "unsigned" if name == INT8_CPU else "signed"


@dataclass(frozen=True, kw_only=True)
class Keep:
    """A layer that is not to be INT8.

    Args:
        precision: `fp16`, or whatever is wider in the file; or `fp32` in every file.
        reason: Why, for people.
    """

    precision: Precision
    reason: str


def parse_keep(graph: Graph, patterns: Iterable[str]) -> dict[str, Keep]:
    """Return the layers that match `PRECISION:PATTERN`, such as `fp16:layer1.*`; the last pattern that matches decides.

    Raises:
        RequestError: A pattern cannot be read, or matches no layer.
    """
    patterns = tuple(patterns)
    names = [layer.name for layer in graph.layers if _may_be_int8(layer)]
    found: dict[str, Keep] = {}
    for text in patterns:
        kind, _, pattern = text.partition(":")
        precision: Precision = "fp32" if kind == "fp32" else "fp16"
        if kind not in ("fp16", "fp32") or not pattern:
            raise RequestError(
                f"cannot read '{text}' as layers to keep", "Write it as fp16:layer1.* or fp32:fc.", values=("keep",)
            )
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            near = get_close_matches(pattern, [*names, *_prefixes(names)], n=3, cutoff=0.5)
            suggestion = f"Did you mean {' or '.join(near)}? " if near else ""
            raise RequestError(
                f"'{text}' matches no layer",
                f"{suggestion}Layers are named {shortened(names, 4)}; `edgeresnext inspect BUNDLE --layers` lists all.",
                values=("keep",),
            )
        fallback = " (FP32 where the file has no FP16)" if precision == "fp16" else ""
        reason = f"kept by hand: {text}{fallback}"
        found |= {name: Keep(precision=precision, reason=reason) for name in matching}
    if found and int8_share(graph, found) == 0:
        raise RequestError(
            f"keeping {', '.join(patterns)} leaves no convolution in INT8",
            "Keep fewer layers, or leave INT8 out.",
            values=("keep", "precisions"),
        )
    return found


def int8_share(graph: Graph, floating: Collection[str], *, grouped: bool = True) -> float:
    """Return the share of the convolutions, with grouped ones or without, that are not among the layers `floating`."""
    convolutions = [
        layer.name
        for layer in graph.layers
        if layer.op == "Conv" and (grouped or layer.attributes.get("group", 1) == 1)
    ]
    return sum(name not in floating for name in convolutions) / len(convolutions)


def _prefixes(names: list[str]) -> list[str]:
    """Return patterns that match several layers, such as `layer1.*`."""
    return list(dict.fromkeys(f"{name.rpartition('.')[0]}.*" for name in names if "." in name)) + list(
        dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names if "." in name)
    )


def plan_for(
    graph: Graph, name: str, thresholds: Mapping[str, float], keep: Mapping[str, Keep] = MappingProxyType({})
) -> Plan:
    """Return the plan of the ONNX file called `name`.

    Args:
        graph: The folded graph.
        name: One of `ONNX_FILES` or `GROUPED_FLOAT_FILES`.
        thresholds: Calibrated |x| limit of every tensor in `calibrated_tensors`; read for INT8 files only.
        keep: Layers that are not to be INT8.
    """
    precisions = (ONNX_FILES | GROUPED_FLOAT_FILES)[name]
    int8 = "int8" in precisions
    floating: Precision = "fp16" if "fp16" in precisions else "fp32"
    layers: dict[str, Precision] = {}
    inputs: dict[str, str] = {}
    reasons: dict[str, str] = {}
    non_negative = graph.non_negative
    activated = frozenset(layer.inputs[0] for layer in graph.layers if layer.op == "Relu")
    for layer in graph.layers:
        if not _may_be_int8(layer):
            continue
        kept = keep.get(layer.name)
        layers[layer.name] = "fp32" if kept is not None and kept.precision == "fp32" else floating
        if not int8:
            if layers[layer.name] != floating and kept is not None:
                reasons[layer.name] = kept.reason
            continue
        reason = kept.reason if kept else _unfit_for_int8(layer, name, non_negative, activated)
        if reason:
            reasons[layer.name] = reason
        else:
            layers[layer.name] = "int8"
            inputs[layer.name] = min(candidates(graph, layer), key=thresholds.__getitem__)
    return Plan(
        name=name,
        floating=floating,
        layers=layers,
        inputs=inputs,
        activations=activations_of(name),
        reasons=reasons,
    )


def _unfit_for_int8(  # noqa: PLR0911 - a reason each
    layer: Layer, name: str, non_negative: Collection[str], activated: Collection[str]
) -> str:
    """Return why a layer is not to be INT8 in the file called `name`, or nothing.

    Args:
        layer: The layer.
        name: The file.
        non_negative: Tensors that cannot be negative.
        activated: Tensors that a ReLU reads.
    """
    if layer.op == "Conv" and layer.shape[1:] == (1, 1) and layer.attributes["kernel_shape"] == [1, 1]:
        return "computes one pixel: as fast in floating point, and exact"
    if layer.op == "GlobalAveragePool" and layer.inputs[0] not in non_negative:
        return "averages values of both signs, which nothing else reads as INT8"
    if layer.op == "Add" and layer.name not in activated:
        return "its sum goes on to the next block unchanged, and rounding would add up"
    groups = layer.attributes.get("group", 1)
    if groups > 1 and layer.weight is not None:
        if name.endswith(_GROUPED_FLOAT):
            return "grouped convolutions are kept in floating point in this file"
        channels = layer.weight.shape[1]
        if channels % _INT8_GROUP_MULTIPLE:
            return f"{channels} channels a group; INT8 needs a multiple of {_INT8_GROUP_MULTIPLE}"
    if activations_of(name) == "unsigned":
        if layer.op == "Gemm":
            return "as fast on a CPU, and exact"  # ResNeXt-50: 0.6 dB at the same latency, with VNNI and without
        if layer.op == "Conv" and layer.inputs[0] not in (*non_negative, INPUT):
            return "reads values of both signs: its products would saturate on CPUs without VNNI"
    return ""


def candidates(graph: Graph, layer: Layer) -> tuple[str, ...]:
    """Return the inputs of a layer of which one is quantised in INT8.

    Of an Add of two convolutions either may be the one, and the smaller of the two takes the finer step: in ResNeXt-50
    with random weights that gains 0.7 dB over always taking the projection, at the same latency.
    """
    if layer.op != "Add":
        return layer.inputs[:1]
    convolutions = {other.name for other in graph.layers if other.op == "Conv"}
    others = tuple(name for name in layer.inputs if name not in convolutions)
    return others or layer.inputs


def calibrated_tensors(graph: Graph) -> list[str]:
    """Return the names of all tensors whose range is taken, each once: what an INT8 plan may quantise, then all others.

    The others are the second inputs of Adds. Plain graphs need them: a DLA stores the result of a convolution before it
    adds.
    """
    layers = [layer for layer in graph.layers if _may_be_int8(layer)]
    quantised = (name for layer in layers for name in candidates(graph, layer))
    added = (name for layer in layers if layer.op == "Add" for name in layer.inputs)
    return list(dict.fromkeys([*quantised, *added]))


def threshold_source(graph: Graph, tensor: str) -> str:
    """Return the tensor whose threshold `tensor` shares: a MaxPool only selects values, so it keeps its input's."""
    for layer in graph.layers:
        if layer.name == tensor and layer.op == "MaxPool":
            return layer.inputs[0]
    return tensor
