"""INT8 weights as float32 behind a QuantizeLinear, for releases that take no others: TensorRT 8 and 9.

"TensorRT does not support INT8 weights for explicit quantization" (trt-engine-explorer's ResNet notes in TensorRT 8.6.1
and 9.3): their builder wants a constant, QuantizeLinear and DequantizeLinear in this order. A device has no `onnx`
package, so the file is read and written as what it is, Protocol Buffers (protobuf.dev, "Encoding"; field numbers from
onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeresnext.errors import InputError

_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUTS, _OUTPUTS, _NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5
_DIMS, _TYPE, _TENSOR_NAME, _RAW = 1, 2, 8, 9
_FLOAT, _INT8 = 1, 3
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
"""Field numbers of ModelProto, GraphProto, NodeProto and TensorProto, two data types, and the wire types."""


class _Field(NamedTuple):
    """A field of a message: its number, its value, and its bytes with tag and length."""

    number: int
    value: int | memoryview
    whole: memoryview


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
            _field(_GRAPH, _graph(_bytes(field))) if field.number == _GRAPH else field.whole
            for field in _fields(memoryview(model))
        )
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"damaged ONNX file: {error}", "Build the bundle again.") from error


def _graph(graph: memoryview) -> bytes:
    """Return a graph with a QuantizeLinear in front for each INT8 initializer that a DequantizeLinear reads."""
    fields = list(_fields(graph))
    tensors = {
        _text(tensor, _TENSOR_NAME): tensor
        for tensor in (list(_fields(_bytes(field))) for field in fields if field.number == _INITIALIZER)
    }
    quantisers: list[bytes] = []
    floats: dict[str, bytes] = {}
    for node in (list(_fields(_bytes(field))) for field in fields if field.number == _NODE):
        if _text(node, _OPERATOR) != "DequantizeLinear":
            continue
        weight, scale, zero_point = (_decoded(field) for field in node if field.number == _INPUTS)
        if weight not in tensors or weight in floats or _number(tensors[weight], _TYPE) != _INT8:
            continue
        floats[weight] = _float_tensor(tensors[weight], tensors[scale], f"{weight}.float")
        inputs = [_field(_INPUTS, name.encode()) for name in (f"{weight}.float", scale, zero_point)]
        named = [_field(number, weight.encode()) for number in (_OUTPUTS, _NAME)]
        axis = [field.whole for field in node if field.number == _ATTRIBUTE]
        quantisers.append(_field(_NODE, b"".join([*inputs, *named, _field(_OPERATOR, b"QuantizeLinear"), *axis])))
    rest = (
        _field(_INITIALIZER, floats[name])
        if field.number == _INITIALIZER and (name := _text(list(_fields(_bytes(field))), _TENSOR_NAME)) in floats
        else field.whole
        for field in fields
    )
    return b"".join([*quantisers, *rest])


def _float_tensor(weight: list[_Field], scale: list[_Field], name: str) -> bytes:
    """Return a float32 TensorProto: an INT8 tensor times its scales, one for each row of its first axis."""
    scales: NDArray[np.float32] = np.frombuffer(_raw(scale), "<f4")
    levels = np.frombuffer(_raw(weight), np.int8).reshape(len(scales), -1)
    values = levels.astype(np.float32) * scales[:, None]
    dims = [field.whole for field in weight if field.number == _DIMS]
    kind = bytes([_TYPE << 3 | _VARINT, _FLOAT])
    return b"".join([*dims, kind, _field(_TENSOR_NAME, name.encode()), _field(_RAW, values.astype("<f4").tobytes())])


def _fields(message: memoryview) -> Iterator[_Field]:
    """Yield the fields of a message, in their order."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        value: int | memoryview
        if tag & 7 == _VARINT:
            value, at = _varint(message, at)
        else:
            sizes = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
            size, at = _varint(message, at) if tag & 7 == _BYTES else (sizes[tag & 7], at)
            value = message[at : at + size]
            at += size
            if at > len(message):
                raise ValueError("it was cut off")
        yield _Field(tag >> 3, value, message[start:at])


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a place, seven bits a byte, lowest first, and the place behind it."""
    found = shift = 0
    while message[at] >= 0x80:  # noqa: PLR2004 - the highest bit says that another byte follows
        found |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return found | message[at] << shift, at + 1


def _field(number: int, value: bytes) -> bytes:
    """Return a field of bytes with its tag and length."""
    length, size = bytearray(), len(value)
    while size >= 0x80:  # noqa: PLR2004
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | _BYTES]) + bytes(length) + value


def _bytes(field: _Field) -> memoryview:
    if not isinstance(field.value, memoryview):
        raise TypeError(f"field {field.number} is a number")
    return field.value


def _decoded(field: _Field) -> str:
    return bytes(_bytes(field)).decode()


def _text(fields: list[_Field], number: int) -> str:
    """Return the text in a field of a message, empty where it has none."""
    return next((_decoded(field) for field in fields if field.number == number), "")


def _number(fields: list[_Field], number: int) -> int | memoryview | None:
    return next((field.value for field in fields if field.number == number), None)


def _raw(tensor: list[_Field]) -> memoryview:
    """Return the raw data of a tensor."""
    return next(_bytes(field) for field in tensor if field.number == _RAW)
