"""Write a graph as ONNX in the precision that a plan gives to every layer.

The only place where precision becomes operators. Every file takes uint8 `(N, H, W, 3)` RGB and returns float32 logits;
a Cast follows the input at once, because TensorRT accepts uint8 nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeresnext.compiler.graph import INPUT
from edgeresnext.errors import AccuracyError, RequestError, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeresnext.compiler.graph import Graph, Layer
    from edgeresnext.spec import ModelSpec, Plan

OPSET = 13
"""Readable by every TensorRT from 8.4 on."""
OPSET_FLOAT16_SCALES = 19
"""The first opset whose QuantizeLinear takes float16 scales."""

_INT8_MAX = 127
_UINT8_MAX = 255


def emit(graph: Graph, plan: Plan, model: ModelSpec, thresholds: Mapping[str, float]) -> onnx.ModelProto:
    """Return the ONNX model of `graph` under `plan`.

    Args:
        graph: The folded graph.
        plan: A precision for every layer: INT8, or the one floating type of the file.
        model: Names and shapes of input and output, and the preprocessing to put in front.
        thresholds: Calibrated |x| limit of every tensor that the plan quantises.

    Raises:
        AccuracyError: A weight does not fit into float16.
        RequestError: The plan mixes floating types.
    """
    return _Emitter(graph, plan, model, thresholds).emit()


class _Emitter:
    """Collects the nodes and initializers of one file."""

    def __init__(self, graph: Graph, plan: Plan, model: ModelSpec, thresholds: Mapping[str, float]) -> None:
        self.graph = graph
        self.plan = plan
        self.model = model
        self.thresholds = thresholds
        self.half = plan.floating == "fp16"
        others = set(plan.layers.values()) - {"int8", plan.floating}
        if others:
            raise RequestError(
                f"plan '{plan.name}' mixes {plan.floating} with {', '.join(others)}", "One floating type a file."
            )
        self.float: type[np.floating] = np.float16 if self.half else np.float32
        self.unsigned = graph.non_negative if plan.activations == "unsigned" else frozenset()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.dequantised: dict[str, str] = {}

    def emit(self) -> onnx.ModelProto:
        """Return the finished model."""
        self._check_range()
        self._preprocess()
        for layer in self.graph.layers:
            self._layer(layer)
        logits = self.graph.layers[-1].name
        if self.half:
            self._node("Cast", [logits], self.model.output.name, to=TensorProto.FLOAT)
        else:
            self.nodes[-1].output[0] = self.model.output.name
        size = self.model.preprocess.crop_px
        proto = helper.make_graph(
            self.nodes,
            f"{self.model.name} {self.plan.name}",
            [helper.make_tensor_value_info(self.model.input.name, TensorProto.UINT8, ["batch", size, size, 3])],
            [helper.make_tensor_value_info(self.model.output.name, TensorProto.FLOAT, ["batch", self.model.classes])],
            list(self.initializers.values()),
        )
        quantised_half = self.half and "int8" in self.plan.layers.values()
        opset = helper.make_opsetid("", OPSET_FLOAT16_SCALES if quantised_half else OPSET)
        return helper.make_model(
            proto,
            opset_imports=[opset],
            ir_version=helper.find_min_ir_version_for([opset]),
            producer_name="edgeresnext",
        )

    def _check_range(self) -> None:
        """Refuse weights that float16 would turn into infinity."""
        if not self.half:
            return
        limit = float(np.finfo(np.float16).max)
        arrays = ((layer.name, array) for layer in self.graph.layers for array in (layer.weight, layer.bias))
        large = [name for name, array in arrays if array is not None and float(np.abs(array).max()) > limit]
        if large:
            raise AccuracyError(
                f"weights of {shortened(dict.fromkeys(large))} exceed float16's {limit:g} once BatchNorm is folded",
                "Leave FP16 out: --precision fp32.",
            )

    def _preprocess(self) -> None:
        """Put uint8 NHWC -> normalised NCHW in front, in float32 whatever follows: it is exact there."""
        preprocess = self.model.preprocess
        mean = np.array(preprocess.mean, np.float32).reshape(3, 1, 1) * np.float32(255)
        gain = 1 / (np.array(preprocess.std, np.float64).reshape(3, 1, 1) * 255)
        self._node("Cast", [self.model.input.name], "images.float", to=TensorProto.FLOAT)
        self._node("Transpose", ["images.float"], "images.nchw", perm=[0, 3, 1, 2])
        self._node("Sub", ["images.nchw", self._constant("preprocess.mean", mean)], "images.centred")
        output = "images.normalised" if self.half else INPUT
        gain_name = self._constant("preprocess.gain", gain.astype(np.float32))
        self._node("Mul", ["images.centred", gain_name], output)
        if self.half:
            self._node("Cast", [output], INPUT, to=TensorProto.FLOAT16)

    def _layer(self, layer: Layer) -> None:
        """Write one layer, with Q/DQ on the input that the plan quantises."""
        quantised = self.plan.inputs.get(layer.name)
        inputs = [self._dequantised(name) if name == quantised else name for name in layer.inputs]
        if layer.weight is not None:
            inputs.append(self._weight(layer, quantise=quantised is not None))
        if layer.bias is not None:
            inputs.append(self._constant(f"{layer.name}.bias", layer.bias.astype(self.float)))
        self._node(layer.op, inputs, layer.name, **layer.attributes)

    def _dequantised(self, tensor: str) -> str:
        """Return the name of `tensor` after its Q/DQ pair, which all its readers share."""
        if tensor not in self.dequantised:
            unsigned = tensor in self.unsigned
            levels = _UINT8_MAX if unsigned else _INT8_MAX
            scale = self._scale(np.array(self.thresholds[tensor] / levels))
            dtype = np.uint8 if unsigned else np.int8
            constants = [
                self._constant(f"{tensor}.scale", scale),
                self._constant(f"zero_point.{np.dtype(dtype).name}", np.array(0, dtype)),
            ]
            self._node("QuantizeLinear", [tensor, *constants], f"{tensor}.quantised")
            self._node("DequantizeLinear", [f"{tensor}.quantised", *constants], f"{tensor}.dequantised")
            self.dequantised[tensor] = f"{tensor}.dequantised"
        return self.dequantised[tensor]

    def _weight(self, layer: Layer, *, quantise: bool) -> str:
        """Write a weight; INT8 is stored as INT8 with one scale an output channel and dequantised at once."""
        assert layer.weight is not None
        name = f"{layer.name}.weight"
        if not quantise:
            return self._constant(name, layer.weight.astype(self.float))
        axes = tuple(range(1, layer.weight.ndim))
        largest = np.abs(layer.weight).max(axis=axes).astype(np.float64)
        scale = self._scale(np.where(largest > 0, largest, 1.0) / _INT8_MAX)
        steps = scale.astype(np.float64).reshape(-1, *[1] * len(axes))
        values = np.clip(np.rint(layer.weight / steps), -_INT8_MAX, _INT8_MAX).astype(np.int8)
        inputs = [
            self._constant(f"{name}.quantised", values),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero_point", np.zeros(len(scale), np.int8)),
        ]
        self._node("DequantizeLinear", inputs, name, axis=0)
        return name

    def _scale(self, scale: NDArray[np.float64]) -> NDArray[np.floating]:
        """Return a scale in the file's float type, never rounded down to zero."""
        rounded: NDArray[np.floating] = np.maximum(scale, np.finfo(self.float).smallest_subnormal).astype(self.float)
        return rounded

    def _constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Add an initializer and return its name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:  # noqa: ANN401 - as ONNX
        """Add a node named after its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
