"""Write a graph as ONNX in the precision that a plan gives to every layer.

The only place where precision becomes operators. Every file takes uint8 `(N, H, W, C)` and returns float32 logits;
a Cast follows the input at once, because TensorRT accepts uint8 nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.quantise import Quantised, QuantisedWeight
from edgeresnext.errors import AccuracyError, BackendError, shortened
from edgeresnext.spec import ModelSpec, Plan, Precision

if TYPE_CHECKING:
    from edgeresnext.compiler.graph import Graph, Layer

OPSET = 13
"""Readable by every TensorRT from 8.4 on."""
OPSET_FLOAT16_SCALES = 19
"""The first opset whose QuantizeLinear takes float16 scales."""

_TYPES: dict[Precision, tuple[type[np.floating], int]] = {
    "fp32": (np.float32, TensorProto.FLOAT),
    "fp16": (np.float16, TensorProto.FLOAT16),
}


def emit(graph: Graph, quantised: Quantised, model: ModelSpec) -> onnx.ModelProto:
    """Return the ONNX model of `graph` with the numbers of a plan.

    Layers of another floating type than the file's get a Cast before and after them.

    Args:
        graph: The folded graph.
        quantised: A precision for every layer, with scales, INT8 weights and biases.
        model: Names and shapes of input and output, and the preprocessing to put in front.

    Raises:
        AccuracyError: A weight does not fit into float16.
    """
    return _Emitter(graph, quantised, model).emit()


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a file and let ONNX's checker read it.

    Raises:
        BackendError: It is not valid ONNX.
    """
    onnx.save(model, path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise BackendError(f"the ONNX checker refuses {path.name}: {error}", "This is a bug; report it.") from error


def read_numbers(graph: Graph, path: Path, plan: Plan) -> Quantised:
    """Return the scales, INT8 weights and biases that a file was emitted with.

    Args:
        graph: The graph that it was emitted from.
        path: An ONNX file of a bundle.
        plan: Its plan.
    """
    file = onnx.load(path)
    constants = {tensor.name: tensor for tensor in file.graph.initializer}
    tensors = frozenset(plan.inputs.values())
    int8 = [layer for layer in graph.layers if layer.name in plan.inputs and layer.weight is not None]

    def array(name: str) -> NDArray[Any]:
        return np.array(numpy_helper.to_array(constants[name]))  # a copy: the original cannot be written to

    named = {node.output[0]: node.input[2] for node in file.graph.node if node.op_type == "QuantizeLinear"}
    zero_points = {tensor: array(named[f"{tensor}.quantised"]) for tensor in tensors}
    return Quantised(
        plan=plan,
        scales={name: array(f"{name}.scale") for name in tensors},
        unsigned=frozenset(tensor for tensor in tensors if zero_points[tensor].dtype == np.uint8),
        weights={
            layer.name: QuantisedWeight(
                values=array(f"{layer.name}.weight.quantised"), scale=array(f"{layer.name}.weight.scale")
            )
            for layer in int8
        },
        biases={layer.name: array(f"{layer.name}.bias").astype(np.float32) for layer in int8 if layer.bias is not None},
        zero_points={tensor: int(zero) for tensor, zero in zero_points.items() if zero},
    )


class _Emitter:
    """Collects the nodes and initializers of one file."""

    def __init__(self, graph: Graph, quantised: Quantised, model: ModelSpec) -> None:
        self.graph = graph
        self.quantised = quantised
        self.plan = quantised.plan
        self.model = model
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.types: dict[str, Precision] = {INPUT: "fp32"}
        self.cast: dict[tuple[str, Precision], str] = {}
        self.dequantised: dict[str, str] = {}

    def emit(self) -> onnx.ModelProto:
        """Return the finished model."""
        self._check_range()
        self._preprocess()
        for layer in self.graph.layers:
            self._layer(layer)
        logits = self.graph.layers[-1].name
        if self.types[logits] == "fp16":
            self._node("Cast", [logits], self.model.output.name, to=TensorProto.FLOAT)
        else:
            self.nodes[-1].output[0] = self.model.output.name
        images = self.model.input
        proto = helper.make_graph(
            self.nodes,
            f"{self.model.name} {self.plan.name}",
            [helper.make_tensor_value_info(images.name, TensorProto.UINT8, ["batch", *images.shape[1:]])],
            [helper.make_tensor_value_info(self.model.output.name, TensorProto.FLOAT, ["batch", self.model.classes])],
            list(self.initializers.values()),
        )
        quantised_half = self.plan.floating == "fp16" and "int8" in self.plan.layers.values()
        opset = helper.make_opsetid("", OPSET_FLOAT16_SCALES if quantised_half else OPSET)
        return helper.make_model(
            proto,
            opset_imports=[opset],
            ir_version=helper.find_min_ir_version_for([opset]),
            producer_name="edgeresnext",
        )

    def _check_range(self) -> None:
        """Refuse weights that float16 would turn into infinity."""
        limit = float(np.finfo(np.float16).max)
        half = [layer for layer in self.graph.layers if self._type(layer) == "fp16"]
        arrays = ((layer.name, array) for layer in half for array in (layer.weight, self._bias(layer)))
        large = [name for name, array in arrays if array is not None and float(np.abs(array).max()) > limit]
        if large:
            raise AccuracyError(
                f"weights of {shortened(dict.fromkeys(large))} exceed float16's {limit:g} once BatchNorm is folded",
                f"Keep them in FP32 ({', '.join(f'fp32:{name}' for name in dict.fromkeys(large))}), "
                "or build fp32 and int8 alone.",
                values=("keep", "precisions"),
            )

    def _type(self, layer: Layer) -> Precision:
        """Return the floating type that a layer reads and writes; what only moves values keeps its input's."""
        precision = self.plan.layers.get(layer.name)
        if layer.op in ("Softmax", "Clip", "Log"):
            return "fp32"  # the logarithm of a probability that float16 rounds to zero is none
        if precision is None:
            return self.types.get(layer.inputs[0], self.plan.floating)
        return self.plan.floating if precision == "int8" else precision

    def _bias(self, layer: Layer) -> NDArray[np.float32] | None:
        """Return a layer's bias, corrected where the plan corrects it."""
        return self.quantised.biases.get(layer.name, layer.bias)

    def _preprocess(self) -> None:
        """Put uint8 NHWC -> normalised NCHW in front, in float32 whatever follows: it is exact there."""
        preprocess = self.model.preprocess
        mean = np.array(preprocess.mean, np.float32).reshape(-1, 1, 1) * np.float32(255)
        gain = 1 / (np.array(preprocess.std, np.float64).reshape(-1, 1, 1) * 255)
        self._node("Cast", [self.model.input.name], "images.float", to=TensorProto.FLOAT)
        self._node("Transpose", ["images.float"], "images.nchw", perm=[0, 3, 1, 2])
        self._node("Sub", ["images.nchw", self._constant("preprocess.mean", mean)], "images.centred")
        gain_name = self._constant("preprocess.gain", gain.astype(np.float32))
        self._node("Mul", ["images.centred", gain_name], INPUT)

    def _layer(self, layer: Layer) -> None:
        """Write one layer, with Q/DQ on the input that the plan quantises."""
        kind = self._type(layer)
        dtype = _TYPES[kind][0]
        read = self.plan.inputs.get(layer.name)
        inputs = [self._dequantised(name) if name == read else self._as(name, kind) for name in layer.inputs]
        if layer.name in self.quantised.weights:
            inputs.append(self._int8_weight(layer.name, self.quantised.weights[layer.name]))
        elif layer.weight is not None:
            inputs.append(self._constant(f"{layer.name}.weight", layer.weight.astype(dtype)))
        if layer.op == "Affine":
            shape = (-1, 1, 1)
            gain = self._constant(f"{layer.name}.gain", layer.attributes["gain"].reshape(shape).astype(dtype))
            shift = self._constant(f"{layer.name}.shift", layer.attributes["shift"].reshape(shape).astype(dtype))
            self._node("Mul", [*inputs, gain], f"{layer.name}.scaled")
            self._node("Add", [f"{layer.name}.scaled", shift], layer.name)
            self.types[layer.name] = kind
            return
        if layer.op == "Clip":  # ONNX has the bound as an input
            least = self._constant(f"{layer.name}.min", np.array(layer.attributes["min"], dtype))
            self._node("Clip", [*inputs, least], layer.name)
            self.types[layer.name] = kind
            return
        bias = self._bias(layer)
        if bias is not None:
            inputs.append(self._constant(f"{layer.name}.bias", bias.astype(dtype)))
        self._node(layer.op, inputs, layer.name, **layer.attributes)
        self.types[layer.name] = kind

    def _as(self, tensor: str, kind: Precision) -> str:
        """Return the name of `tensor` in a floating type, after a Cast where it is written in another."""
        if self.types[tensor] == kind:
            return tensor
        if (tensor, kind) not in self.cast:
            self._node("Cast", [tensor], f"{tensor}.{kind}", to=_TYPES[kind][1])
            self.cast[tensor, kind] = f"{tensor}.{kind}"
        return self.cast[tensor, kind]

    def _dequantised(self, tensor: str) -> str:
        """Return the name of `tensor` after its Q/DQ pair, which all its readers share."""
        if tensor not in self.dequantised:
            dtype = np.uint8 if tensor in self.quantised.unsigned else np.int8
            zero = self.quantised.zero_points.get(tensor, 0)
            zero_name = f"{tensor}.zero_point" if zero else f"zero_point.{np.dtype(dtype).name}"
            constants = [
                self._constant(f"{tensor}.scale", self.quantised.scales[tensor]),
                self._constant(zero_name, np.array(zero, dtype)),
            ]
            self._node("QuantizeLinear", [self._as(tensor, self.plan.floating), *constants], f"{tensor}.quantised")
            self._node("DequantizeLinear", [f"{tensor}.quantised", *constants], f"{tensor}.dequantised")
            self.dequantised[tensor] = f"{tensor}.dequantised"
        return self.dequantised[tensor]

    def _int8_weight(self, layer: str, weight: QuantisedWeight) -> str:
        """Write a weight as INT8 with one scale an output channel, dequantised at once."""
        name = f"{layer}.weight"
        inputs = [
            self._constant(f"{name}.quantised", weight.values),
            self._constant(f"{name}.scale", weight.scale),
            self._constant(f"{name}.zero_point", np.zeros(len(weight.scale), np.int8)),
        ]
        self._node("DequantizeLinear", inputs, name, axis=0)
        return name

    def _constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initializer and return its name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:  # noqa: ANN401 - as ONNX
        """Add a node named after its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
