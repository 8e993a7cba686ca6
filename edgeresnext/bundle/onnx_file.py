"""What may stand in an ONNX file of a bundle, read from its bytes before any runtime sees them.

A runtime does what a file says: it opens other files that hold its weights, runs loops without an end, and loads code
for operators of its own. Files of ours are one plain graph of a few operators, and nothing else is let in. The `onnx`
package, which a device need not have, is not used, and only the fields that are looked at are read
(github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from edgeresnext.bundle.wire_format import Value, as_message, as_number, as_text, grouped
from edgeresnext.errors import BundleError
from edgeresnext.spec import ModelSpec, TensorSpec

OPERATORS = frozenset({
    "Add", "AveragePool", "Cast", "Clip", "Conv", "DequantizeLinear", "Flatten", "Gemm", "GlobalAveragePool", "Log",
    "MaxPool", "Mul", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Sub", "Transpose",
})  # fmt: skip
"""All that `compiler.emit` writes."""
_HINT = "Do not use this bundle unless you know who made it; build it again from its weights."
_MODEL = {"graph": 7, "opset_import": 8, "training_info": 20, "functions": 25}
_GRAPH = {"node": 1, "initializer": 5, "input": 11, "output": 12, "sparse_initializer": 15}
_NODE = {"input": 1, "output": 2, "name": 3, "op_type": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE = {"g": 6, "tensors": 10, "t": 5, "graphs": 11, "sparse_tensor": 22, "sparse_tensors": 23}
_TENSOR = {"external_data": 13, "data_location": 14}
_NEWEST_OPSET = 64
"""Far beyond today's; OpenVINO 2026.4 goes through all releases up to the one that a file says."""
_ELEMENT_TYPES = {1: "float32", 2: "uint8"}


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
        reason = "it is a model of ONNX Runtime's own format" if content[4:8] == b"ORTM" else _objection(content, model)
    except (LookupError, ValueError):
        reason = "it is no ONNX file"
    if reason:
        raise BundleError(f"file '{path}' is none of ours: {reason}", _HINT)


def _objection(content: bytes, model: ModelSpec) -> str:
    """Return what speaks against a file, or nothing."""
    whole = grouped(memoryview(content))
    if reason := _of_model(whole):
        return reason
    graph = grouped(as_message(whole[_MODEL["graph"]][0]))
    if _GRAPH["sparse_initializer"] in graph:
        return "it has sparse weights"
    if any(_is_elsewhere(as_message(tensor)) for tensor in graph.get(_GRAPH["initializer"], [])):
        return "it keeps weights in other files"
    nodes = (_of_node(as_message(node)) for node in graph.get(_GRAPH["node"], []))
    if (reason := next(filter(None, nodes), "")) != "":
        return reason
    for kind, wanted in (("input", model.input), ("output", model.output)):
        given = [_tensor_spec(as_message(value)) for value in graph.get(_GRAPH[kind], [])]
        if given != [wanted]:
            shown = ", ".join(f"{one.name}: {one.dtype} {one.shape}" for one in given)
            return f"its {kind} is {shown or 'missing'}, not {wanted.name}: {wanted.dtype} {wanted.shape}"
    return ""


def _of_model(found: dict[int, list[Value]]) -> str:
    """Return what speaks against all that is around a graph, or nothing."""
    if len(found.get(_MODEL["graph"], [])) != 1 or found.keys() & {_MODEL["training_info"], _MODEL["functions"]}:
        return "it is not one graph alone"
    imports = [grouped(as_message(one)) for one in found.get(_MODEL["opset_import"], [])]
    domains = [as_text(value) for one in imports for value in one.get(1, [])]
    versions = [as_number(value) for one in imports for value in one.get(2, [])]
    if not len(imports) == len(versions) == 1 or any(domains) or not 0 < versions[0] <= _NEWEST_OPSET:
        return "its operators are of no release of ONNX"
    return ""


def _of_node(node: memoryview) -> str:
    """Return what speaks against a node, or nothing."""
    found = grouped(node)
    for number in (_NODE["input"], _NODE["output"], _NODE["name"]):
        for value in found.get(number, []):
            as_text(value)  # what is no UTF-8 runtimes take, and then cannot say what is wrong with it
    operators = [as_text(value) for value in found.get(_NODE["op_type"], [])]
    if len(operators) != 1 or operators[0] not in OPERATORS or any(map(as_text, found.get(_NODE["domain"], []))):
        return f"it has an operator {' '.join(operators) or 'without a name'}, which this release does not write"
    attributes = [grouped(as_message(attribute)) for attribute in found.get(_NODE["attribute"], [])]
    if any(attribute.keys() & set(_ATTRIBUTE.values()) for attribute in attributes):
        return f"an attribute of {operators[0]} holds a graph or a tensor"
    return ""


def _is_elsewhere(tensor: memoryview) -> bool:
    """Whether a tensor says that its values lie in another file."""
    found = grouped(tensor)
    return _TENSOR["external_data"] in found or any(found.get(_TENSOR["data_location"], []))


def _tensor_spec(value: memoryview) -> TensorSpec:
    """Return the name, type and shape of a graph's input or output; a dimension by name is None."""
    found = grouped(value)
    tensor = grouped(as_message(_only(grouped(as_message(_only(found[2])))[1])))
    dimensions = [grouped(as_message(one)) for one in grouped(as_message(_only(tensor[2]))).get(1, [])]
    shape = tuple(as_number(_only(one[1])) if 1 in one else None for one in dimensions)
    kind = _ELEMENT_TYPES.get(as_number(_only(tensor[1])), "other")
    return TensorSpec(name=as_text(_only(found[1])), dtype=kind, shape=shape)


def _only(values: list[Value]) -> Value:
    """Return the value of a field that stands there once; of several protobuf would take the last, or all.

    Raises:
        ValueError: There are several.
    """
    (value,) = values
    return value
