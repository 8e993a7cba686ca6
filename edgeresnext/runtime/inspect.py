"""Look into a bundle, a weights file, an ONNX file or an engine: shapes, precision by layer, sizes, what was fused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext.backends.engine_header import read_header
from edgeresnext.errors import InputError
from edgeresnext.extras import require
from edgeresnext.machine.peak_rates import DEVICES, estimate_s


def inspect(path: str | Path) -> dict[str, Any]:
    """Return what a bundle, a weights file, an ONNX file or an engine holds, as values that JSON can carry.

    Raises:
        InputError: The path is none of these, or damaged.
        NotInstalledError: An ONNX file is given and `onnx` is missing, or a weights file and PyTorch is.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return inspect_onnx(path)
    if path.suffix == ".engine":
        return inspect_engine(path)
    if path.name != bundles.MANIFEST and (path.is_file() or (path.suffix and not path.exists())):
        return inspect_weights(path)
    return inspect_bundle(path)


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Return the manifest of a bundle with shapes and sizes spelled out; needs no framework."""
    manifest = bundles.read(path).manifest
    found: dict[str, Any] = {"kind": "bundle", "path": str(path)}
    found |= msgspec.to_builtins(manifest)
    found["input"] = msgspec.to_builtins(manifest.model.input)
    found["output"] = msgspec.to_builtins(manifest.model.output)
    return found


def inspect_weights(path: Path) -> dict[str, Any]:
    """Return which network the weights of a file belong to, and what was done to read them.

    Raises:
        CheckpointError: They belong to none that is known here, or it is no weights file; the reason is given.
        NotInstalledError: PyTorch is missing.
    """
    require("build", "torch", "safetensors", needed_by="looking into weights")
    from edgeresnext.model import checkpoints, hub, size
    from edgeresnext.model.catalogue import PREPROCESS, usually_preprocessed

    found = checkpoints.read(path, PREPROCESS["torchvision-v1"])
    spec = usually_preprocessed(found.spec)
    published = hub.torchvision_file(path)
    if published is not None:
        spec = msgspec.structs.replace(spec, preprocess=published[1], source=f"torchvision, {published[0]}")
    return {
        "kind": "weights",
        "path": str(path),
        "bytes": path.stat().st_size,
        "model": msgspec.to_builtins(spec),
        "parameters": size.parameters(spec),
        "macs": size.macs(spec),
        "dtype": found.dtype,
        "layout": found.layout,
        "preprocess_assumed": published is None,
        "notes": list(found.notes),
    }


def inspect_engine(path: Path) -> dict[str, Any]:
    """Return what an engine is, by its header and by the manifest of its bundle; no native code sees it.

    Beside the manifest's entry: sums over the layers for one image, and for each known device of its compute
    capabilities an estimate of the latency (see `machine.peak_rates`).

    Raises:
        InputError: The file is no engine, or altered.
    """
    if not path.is_file():
        raise InputError(f"engine '{path}' does not exist", "Give a file from a bundle's engines/ folder.")
    header = read_header(path)
    found: dict[str, Any] = {"kind": "engine", "path": str(path), "bytes": path.stat().st_size}
    found |= {"backend": header.backend, "release": header.release}
    root = path.absolute().parent.parent
    if not (root / bundles.MANIFEST).exists():
        return found  # not in a bundle: the header is all there is
    bundle = bundles.read(root)
    name = path.absolute().relative_to(bundle.path).as_posix()
    artifact = next((one for one in bundle.manifest.artifacts if one.file == name), None)
    if artifact is None or artifact.engine is None:
        return found
    bundle.file(name)
    engine = artifact.engine
    totals = {
        key: sum(getattr(layer, key) for layer in engine.layers)
        for key in ("read_bytes", "written_bytes", "constant_bytes", "macs")
    }
    fitting = [device for device in DEVICES if device.compute_capability in engine.compute_capabilities]
    found |= {
        "name": artifact.name,
        "precision": artifact.precision,
        "engine": msgspec.to_builtins(engine),
        "totals": totals,
        "estimate_s": {device.name: estimate_s(engine.layers, device) for device in fitting} if engine.layers else {},
    }
    return found


def inspect_onnx(path: Path) -> dict[str, Any]:
    """Return shapes, operators, and the precision of every convolution and Gemm of an ONNX file.

    Raises:
        InputError: The file is missing, damaged, or keeps weights in other files.
        NotInstalledError: `onnx` is missing.
    """
    require("build", "onnx", needed_by="looking into an ONNX file")
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
    read_by = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.output and node.input
    }
    layers = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = node.input[1] if len(node.input) > 1 else ""
            stored = types.get(read_by.get(weight, weight), 0)
            layers[node.name] = _PRECISION.get(_type_name(stored), "unknown")
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


_PRECISION = {"float": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int8"}


def _type_name(number: int) -> str:
    """Return the name of a type of ONNX."""
    import onnx

    types = onnx.TensorProto.DataType
    return types.Name(number).lower() if number in types.values() else f"type {number}"


def _tensor(value: Any) -> dict[str, Any]:  # noqa: ANN401 - onnx's protobuf classes carry no types
    """Return name, type and shape of a graph input or output."""
    kind = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": _type_name(kind.elem_type),
        "shape": [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim],
    }
