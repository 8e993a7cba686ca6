"""INT8 weights as float32 behind a QuantizeLinear, for releases that take no others: TensorRT 8 and 9.

"TensorRT does not support INT8 weights for explicit quantization" (trt-engine-explorer's ResNet notes in TensorRT 8.6.1
and 9.3): their builder wants a constant, QuantizeLinear and DequantizeLinear in this order. A device has no `onnx`
package, so the file is read and written as what it is (field numbers from onnx.proto).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeresnext.bundle.wire_format import Field, as_message, as_text, fields, written
from edgeresnext.errors import InputError

_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUTS, _OUTPUTS, _NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5
_DIMS, _TYPE, _TENSOR_NAME, _RAW = 1, 2, 8, 9
_FLOAT, _INT8 = 1, 3
"""Field numbers of ModelProto, GraphProto, NodeProto and TensorProto, and two data types."""


def with_float_weights(model: bytes) -> bytes:
    """Return an ONNX model whose INT8 weights are float32 behind a QuantizeLinear that gives them back exactly.

    Each is written as `weight * scale` in float32. That product and its quotient by the scale are each off by 2^-24 of
    themselves at most, so the quotient is within 2^-16 of the weight, to which it is rounded.

    Args:
        model: A file of ours: weights and scales are initializers with raw data, quantised along their first axis.

    Raises:
        InputError: The bytes are no ONNX model.
    """
    try:
        return b"".join(
            written(_GRAPH, _graph(as_message(field.value))) if field.number == _GRAPH else field.whole
            for field in fields(memoryview(model))
        )
    except (LookupError, ValueError) as error:
        raise InputError(f"damaged ONNX file: {error}", "Build the bundle again.") from error


def _graph(graph: memoryview) -> bytes:
    """Return a graph with a QuantizeLinear in front for each INT8 initializer that a DequantizeLinear reads."""
    parts = [(field, list(fields(as_message(field.value)))) for field in fields(graph) if field.number == _INITIALIZER]
    tensors = {_text(tensor, _TENSOR_NAME): tensor for _, tensor in parts}
    quantisers: list[bytes] = []
    floats: dict[str, bytes] = {}
    for node in (list(fields(as_message(field.value))) for field in fields(graph) if field.number == _NODE):
        if _text(node, _OPERATOR) != "DequantizeLinear":
            continue
        weight, scale, zero_point = (as_text(field.value) for field in node if field.number == _INPUTS)
        if weight not in tensors or weight in floats or _values(tensors[weight], _TYPE) != [_INT8]:
            continue
        floats[weight] = _float_tensor(tensors[weight], tensors[scale], f"{weight}.float")
        inputs = [written(_INPUTS, name.encode()) for name in (f"{weight}.float", scale, zero_point)]
        named = [written(number, weight.encode()) for number in (_OUTPUTS, _NAME)]
        axis = [field.whole for field in node if field.number == _ATTRIBUTE]
        quantisers.append(written(_NODE, b"".join([*inputs, *named, written(_OPERATOR, b"QuantizeLinear"), *axis])))
    constants = [
        written(_INITIALIZER, floats[name]) if (name := _text(tensor, _TENSOR_NAME)) in floats else field.whole
        for field, tensor in parts
    ]
    rest = [field.whole for field in fields(graph) if field.number != _INITIALIZER]
    return b"".join([*quantisers, *rest, *constants])


def _float_tensor(weight: list[Field], scale: list[Field], name: str) -> bytes:
    """Return a float32 TensorProto: an INT8 tensor times its scales, one for each row of its first axis."""
    raw, raw_scale = (as_message(_values(tensor, _RAW)[0]) for tensor in (weight, scale))
    scales: NDArray[np.float32] = np.frombuffer(raw_scale, "<f4")
    values = np.frombuffer(raw, np.int8).reshape(len(scales), -1).astype(np.float32) * scales[:, None]
    dims = [field.whole for field in weight if field.number == _DIMS]
    rest = (written(_TYPE, _FLOAT), written(_TENSOR_NAME, name.encode()), written(_RAW, values.astype("<f4").tobytes()))
    return b"".join([*dims, *rest])


def _values(message: list[Field], number: int) -> list[int | memoryview]:
    return [field.value for field in message if field.number == number]


def _text(message: list[Field], number: int) -> str:
    """Return the text in a field of a message, empty where it has none."""
    return "".join(as_text(value) for value in _values(message, number)[:1])
