"""What the simulated parser and builder read from an ONNX file: tensors, nodes, and the layers they fuse into."""

import onnx

DTYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
}
LAYER_TYPES = {
    "Add": "ELEMENTWISE",
    "AveragePool": "POOLING",
    "Cast": "CAST",
    "Clip": "ACTIVATION",
    "Concat": "CONCATENATION",
    "Constant": "CONSTANT",
    "Conv": "CONVOLUTION",
    "DequantizeLinear": "DEQUANTIZE",
    "Div": "ELEMENTWISE",
    "Flatten": "SHUFFLE",
    "Gemm": "MATRIX_MULTIPLY",
    "GlobalAveragePool": "REDUCE",
    "MatMul": "MATRIX_MULTIPLY",
    "MaxPool": "POOLING",
    "Mul": "ELEMENTWISE",
    "QuantizeLinear": "QUANTIZE",
    "ReduceMean": "REDUCE",
    "Relu": "ACTIVATION",
    "Reshape": "SHUFFLE",
    "Shape": "SHAPE",
    "Softmax": "SOFTMAX",
    "Sub": "ELEMENTWISE",
    "Transpose": "SHUFFLE",
}
KERNELS = {"Conv": "correlation", "Gemm": "gemm", "MatMul": "gemm", "MaxPool": "maxpool"}
FUSED = {"Add", "Clip", "Relu"}
# Shape inference needs the values of small constants (shapes) and only the shapes of large ones (weights).
SMALL = 64


def load(content, path=None):
    """The model of a file, with its external data where it has some; raises where the bytes are no ONNX."""
    model = onnx.load(path) if path else onnx.load_model_from_string(content)
    if not model.graph.node:
        raise ValueError("the model has no nodes")
    return model


def opset(model):
    """The version of the ONNX operators."""
    return max((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), default=1)


def dims(value_info):
    """The sizes of a tensor: integers, and names for the free ones."""
    shape = value_info.type.tensor_type.shape.dim
    return [
        one.dim_value if one.HasField("dim_value") else one.dim_param or f"{value_info.name}_{index}"
        for index, one in enumerate(shape)
    ]


def describe(value_info):
    """The name, type and sizes of a tensor."""
    return {
        "name": value_info.name,
        "dtype": DTYPES.get(value_info.type.tensor_type.elem_type, "FLOAT"),
        "dims": dims(value_info),
    }


def node_names(model):
    """A name for every node, made up where it has none."""
    return [node.name or f"{node.op_type}_{index}" for index, node in enumerate(model.graph.node)]


def quantisation_problem(model, *, int8_weights):
    """Why TensorRT would not take the quantised weights or zero points; None where it does.

    Args:
        model: the network.
        int8_weights: whether the release takes INT8 constants (from 10 on), which those before call "invalid weights".
    """
    constants = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        weight = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is not None and not int8_weights:
            return f"{weight.name}: invalid weights type of Int8"
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and len(node.input) > 2:
            zero_point = constants.get(node.input[2])
            if zero_point is None or zero_point.data_type == onnx.TensorProto.INT32:
                continue
            if zero_point.data_type == onnx.TensorProto.UINT8:
                return f"{node.name}: quantization to UINT8 is not supported"
            if onnx.numpy_helper.to_array(zero_point).astype("float32").any():
                return f"{node.name}: non-zero zero point is not supported"
    return None


def infer(model):
    """The description of every tensor by name, and the names of the constants."""
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    constants = {one.name for one in model.graph.initializer}
    inputs = {one.name for one in slim.graph.input}
    del slim.graph.initializer[:]
    for one in model.graph.initializer:
        if sum(one.dims) <= SMALL:
            slim.graph.initializer.append(one)
        elif one.name not in inputs:
            slim.graph.input.append(onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    graph = onnx.shape_inference.infer_shapes(slim).graph
    tensors = {one.name: describe(one) for one in (*graph.value_info, *graph.input, *graph.output)}
    for one in model.graph.initializer:
        tensors[one.name] = {"name": one.name, "dtype": DTYPES.get(one.data_type, "FLOAT"), "dims": list(one.dims)}
    return tensors, constants


def interface(model):
    """The descriptions of the network's inputs and of its outputs."""
    constants = {one.name for one in model.graph.initializer}
    tensors, _ = infer(model)
    inputs = [describe(one) for one in model.graph.input if one.name not in constants]
    return inputs, [tensors[one.name] for one in model.graph.output]


def fuse(model, *, requantise):
    """The nodes of each layer: a kernel with the activation and addition after it, or one node alone.

    Args:
        model: the network.
        requantise: whether a QuantizeLinear after a kernel becomes part of it.
    """
    users = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {one.name for one in model.graph.output}
    constants = {one.name for one in model.graph.initializer}
    followers = FUSED | ({"QuantizeLinear"} if requantise else set())
    taken, groups = set(), []
    for node in model.graph.node:
        folded = node.op_type in {"Constant", "DequantizeLinear"} or (
            node.op_type == "QuantizeLinear" and node.input[0] in constants
        )
        if node.output[0] in taken or folded:
            continue
        group = [node]
        while node.op_type in KERNELS and group[-1].output[0] not in outputs:
            following = users.get(group[-1].output[0], [])
            if len(following) != 1 or following[0].op_type not in followers or following[0].output[0] in taken:
                break
            group.append(following[0])
        taken.update(member.output[0] for member in group)
        groups.append(group)
    return groups


def layers(model, *, requantise):
    """One description for each layer, with its inputs, constants and outputs."""
    tensors, constants = infer(model)
    names = {node.output[0]: name for node, name in zip(model.graph.node, node_names(model), strict=True)}
    producers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for group in fuse(model, requantise=requantise):
        inside = {output for node in group for output in node.output}
        inputs, weights = [], []
        for name in (name for node in group for name in node.input if name and name not in inside):
            producer = producers.get(name)
            source = producer.input[0] if producer and producer.op_type == "DequantizeLinear" else name
            tensor = tensors.get(source, {"name": source, "dtype": "FLOAT", "dims": []})
            (weights if source in constants else inputs).append(tensor)
        last = group[-1].output[0]
        found.append(
            {
                "name": names[group[0].output[0]],
                "kind": KERNELS.get(group[0].op_type, "kgen"),
                "inputs": inputs,
                "constants": weights,
                "outputs": [tensors.get(last, {"name": last, "dtype": "FLOAT", "dims": []})],
                "nodes": [names[node.output[0]] for node in group],
            }
        )
    return found
