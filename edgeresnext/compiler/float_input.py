"""An ONNX file of ours for a program that scales pixels itself and reads probabilities: DeepStream's nvinfer.

Only what surrounds the network changes. Cast, Transpose and Sub go to that program, which does exactly these in
float32; the division by each channel's deviation, for which it has no setting, stays in front of the network; a Softmax
follows the logits. Every node between, and so every precision, stays as it was emitted.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeresnext.compiler.emit import save
from edgeresnext.errors import BackendError
from edgeresnext.spec import ModelSpec

PROBABILITIES = "probabilities"
"""Name of the output, float32 `(N, classes)`."""

_FRONT = ["Cast", "Transpose", "Sub", "Mul"]
"""How every file begins (`emit`)."""


def with_float_input(source: bytes, target: Path, model: ModelSpec) -> tuple[float, ...]:
    """Write the file that takes pixels less their mean, float32 `(N, channels, H, W)`, and returns probabilities.

    Its input keeps the name of the original's; the logits are a tensor inside, under their name.

    Args:
        source: What stands in an ONNX file of a bundle.
        target: The file to write.
        model: The network that it holds.

    Returns:
        What is to be taken off each channel of a pixel, exact in float32.

    Raises:
        BackendError: The file does not begin as ours do.
    """
    file = onnx.load_model_from_string(source)
    graph = file.graph
    front = graph.node[: len(_FRONT)]
    if [node.op_type for node in front] != _FRONT or graph.output[0].name != model.output.name:
        raise BackendError(
            "the ONNX file of this precision does not begin and end as files of this release do",
            "Build the bundle again with this release.",
        )
    mean_name = front[2].input[1]
    front[3].input[0] = model.input.name
    del graph.node[:3]
    mean = next(tensor for tensor in graph.initializer if tensor.name == mean_name)
    offsets = tuple(float(value) for value in numpy_helper.to_array(mean).ravel())
    graph.initializer.remove(mean)
    shape: list[str | int | None] = ["batch", model.in_channels, *model.preprocess.size]
    graph.input[0].CopyFrom(helper.make_tensor_value_info(model.input.name, TensorProto.FLOAT, shape))
    graph.node.append(helper.make_node("Softmax", [model.output.name], [PROBABILITIES], name=PROBABILITIES, axis=1))
    graph.output[0].name = PROBABILITIES
    save(file, target)
    return offsets


def with_logits(source: bytes, model: ModelSpec) -> bytes:
    """Return the same file with its logits as a second output, where they are a tensor inside."""
    file = onnx.load_model_from_string(source)
    if model.output.name not in {value.name for value in file.graph.output}:
        value = helper.make_tensor_value_info(model.output.name, TensorProto.FLOAT, ["batch", model.classes])
        file.graph.output.append(value)
    content: bytes = file.SerializeToString()
    return content
