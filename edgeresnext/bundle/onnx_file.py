"""What may stand in an ONNX file of a bundle, read from its bytes before any runtime sees them.

A runtime does what a file says: it opens other files that hold its weights, runs loops without an end, and loads code
for operators of its own. Files of ours are one plain graph of a few operators, and nothing else is let in. The `onnx`
package, which a device need not have, is not used: this reads protobuf's wire format, and of it only the fields that
are looked at (github.com/onnx/onnx/blob/main/onnx/onnx.proto, protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeresnext.errors import BundleError
from edgeresnext.spec import ModelSpec, TensorSpec

OPERATORS = frozenset({
    "Add", "AveragePool", "Cast", "Clip", "Conv", "DequantizeLinear", "Flatten", "Gemm", "GlobalAveragePool", "Log",
    "MaxPool", "Mul", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Sub", "Transpose",
})  # fmt: skip
"""All that `compiler.emit` writes."""
_HINT = "Do not use this bundle unless you know who made it; build it again from its weights."
_MODEL = {"graph": 7, "training_info": 20, "functions": 25}
_GRAPH = {"node": 1, "initializer": 5, "input": 11, "output": 12, "sparse_initializer": 15}
_NODE = {"op_type": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE = {"g": 6, "tensors": 10, "t": 5, "graphs": 11, "sparse_tensor": 22, "sparse_tensors": 23}
_TENSOR = {"external_data": 13, "data_location": 14}
_ELEMENT_TYPES = {1: "float32", 2: "uint8"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
Value = int | memoryview


def check_onnx(content: bytes, model: ModelSpec, path: object) -> None:
    """Refuse an ONNX file that is more than a plain graph of our operators, from the model's images to its logits.

    Args:
        content: The file.
        model: What its input and output must be.
        path: Its name, for messages.

    Raises:
        BundleError: It holds something else, or is damaged.
    """
    try:
        reason = _objection(content, model)
    except (LookupError, ValueError):
        reason = "it is no ONNX file"
    if reason:
        raise BundleError(f"file '{path}' is none of ours: {reason}", _HINT)


def _objection(content: bytes, model: ModelSpec) -> str:
    """Return what speaks against a file, or nothing."""
    whole = _grouped(memoryview(content))
    if len(whole.get(_MODEL["graph"], [])) != 1 or whole.keys() & {_MODEL["training_info"], _MODEL["functions"]}:
        return "it is not one graph alone"
    graph = _grouped(_message(whole[_MODEL["graph"]][0]))
    if _GRAPH["sparse_initializer"] in graph:
        return "it has sparse weights"
    if any(_is_elsewhere(_message(tensor)) for tensor in graph.get(_GRAPH["initializer"], [])):
        return "it keeps weights in other files"
    nodes = (_of_node(_message(node)) for node in graph.get(_GRAPH["node"], []))
    if (reason := next(filter(None, nodes), "")) != "":
        return reason
    for kind, wanted in (("input", model.input), ("output", model.output)):
        given = [_tensor_spec(_message(value)) for value in graph.get(_GRAPH[kind], [])]
        if given != [wanted]:
            shown = ", ".join(f"{one.name}: {one.dtype} {one.shape}" for one in given)
            return f"its {kind} is {shown or 'missing'}, not {wanted.name}: {wanted.dtype} {wanted.shape}"
    return ""


def _of_node(node: memoryview) -> str:
    """Return what speaks against a node, or nothing."""
    found = _grouped(node)
    operators = [_text(value) for value in found.get(_NODE["op_type"], [])]
    if len(operators) != 1 or operators[0] not in OPERATORS or any(map(_text, found.get(_NODE["domain"], []))):
        return f"it has an operator {' '.join(operators) or 'without a name'}, which this release does not write"
    attributes = [_grouped(_message(attribute)) for attribute in found.get(_NODE["attribute"], [])]
    if any(attribute.keys() & set(_ATTRIBUTE.values()) for attribute in attributes):
        return f"an attribute of {operators[0]} holds a graph or a tensor"
    return ""


def _is_elsewhere(tensor: memoryview) -> bool:
    """Whether a tensor says that its values lie in another file."""
    found = _grouped(tensor)
    return _TENSOR["external_data"] in found or any(found.get(_TENSOR["data_location"], []))


def _tensor_spec(value: memoryview) -> TensorSpec:
    """Return the name, type and shape of a graph's input or output; a dimension by name is None."""
    found = _grouped(value)
    tensor = _grouped(_message(_grouped(_message(found[2][0]))[1][0]))
    dimensions = [_grouped(_message(one)) for one in _grouped(_message(tensor[2][0])).get(1, [])]
    shape = tuple(_number(one[1][0]) if 1 in one else None for one in dimensions)
    kind = _ELEMENT_TYPES.get(_number(tensor[1][0]), "other")
    return TensorSpec(name=_text(found[1][0]), dtype=kind, shape=shape)


def _grouped(message: memoryview) -> dict[int, list[Value]]:
    """Return the values of a message by the number of their field."""
    found: dict[int, list[Value]] = {}
    for number, value in _fields(message):
        found.setdefault(number, []).append(value)
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield the number and the value of each field.

    Raises:
        ValueError: The message is damaged.
        IndexError: It ends early.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if not key >> 3:
            raise ValueError
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size, at = (8, at) if kind == _FIXED64 else (4, at) if kind == _FIXED32 else _varint(message, at)
        if kind not in (_FIXED64, _FIXED32, _BYTES) or at + size > len(message):
            raise ValueError
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and where it ends."""
    found = 0
    for index in range(_LONGEST_VARINT):
        byte = message[at + index]
        found |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the last one has no mark
            return found, at + index + 1
    raise ValueError


def _message(value: Value) -> memoryview:
    """Return a field's message.

    Raises:
        ValueError: It is a number.
    """
    if isinstance(value, int):
        raise ValueError  # noqa: TRY004 - damage, not a mistake of the caller
    return value


def _number(value: Value) -> int:
    """Return a field's number.

    Raises:
        ValueError: It is a message.
    """
    if not isinstance(value, int):
        raise ValueError  # noqa: TRY004 - damage, not a mistake of the caller
    return value


def _text(value: Value) -> str:
    return bytes(_message(value)).decode("utf-8")
