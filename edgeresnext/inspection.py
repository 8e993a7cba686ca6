"""Look into a bundle or an ONNX file: shapes, precision by layer, sizes."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext.errors import InputError, NotInstalledError


def inspect(path: str | Path) -> dict[str, Any]:
    """Return what a bundle or an ONNX file holds, as values that JSON can carry.

    Raises:
        InputError: The path is neither, or damaged.
        NotInstalledError: An ONNX file is given and `onnx` is missing.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return inspect_onnx(path)
    return inspect_bundle(path)


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Return the manifest of a bundle with shapes and sizes spelled out; needs no framework."""
    manifest = bundles.read(path).manifest
    found: dict[str, Any] = {"kind": "bundle", "path": str(path)}
    found |= msgspec.to_builtins(manifest)
    found["input"] = msgspec.to_builtins(manifest.model.input)
    found["output"] = msgspec.to_builtins(manifest.model.output)
    return found


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Return shapes, operators, and the precision of every convolution and Gemm of an ONNX file.

    Raises:
        InputError: The file is missing, damaged, or keeps weights in other files.
        NotInstalledError: `onnx` is missing.
    """
    if importlib.util.find_spec("onnx") is None:
        raise NotInstalledError("looking into an ONNX file needs onnx", "pip install 'edgeresnext[build]'")
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise InputError(f"ONNX file '{path}' does not exist", "Give a file from a bundle's onnx/ folder.")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise InputError(f"ONNX file '{path}' is damaged: {error}", "Build the bundle again.") from None
    graph = model.graph
    if not graph.node:
        raise InputError(f"'{path}' is not an ONNX model: it has no node", "Give a file of a bundle's onnx/ folder.")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise InputError(f"ONNX file '{path}' keeps weights in other files", "Files of a bundle hold their weights.")
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    dequantised = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            source = dequantised.get(node.input[1])
            stored = types.get(source.input[0] if source else node.input[1], 0)
            layers[node.name] = _PRECISION.get(onnx.TensorProto.DataType.Name(stored), "unknown")
    return {
        "kind": "onnx",
        "path": str(path),
        "bytes": path.stat().st_size,
        "opset": next((o.version for o in model.opset_import if not o.domain), 0),
        "inputs": [_tensor(value) for value in graph.input],
        "outputs": [_tensor(value) for value in graph.output],
        "operators": dict(Counter(node.op_type for node in graph.node).most_common()),
        "layers": layers,
    }


_PRECISION = {"FLOAT": "fp32", "FLOAT16": "fp16", "INT8": "int8", "UINT8": "int8"}


def _tensor(value: Any) -> dict[str, Any]:  # noqa: ANN401 - onnx's protobuf classes carry no types
    """Return name, type and shape of a graph input or output."""
    import onnx

    kind = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": onnx.TensorProto.DataType.Name(kind.elem_type).lower(),
        "shape": [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim],
    }
