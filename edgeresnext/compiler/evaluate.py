"""Compute what an ONNX file of ours says, operator by operator, and the same on every machine.

Runtimes fuse, choose kernels by CPU and change from release to release; this does not. Products of INT8 levels are
exact integers. What is in floating point beside them is summed in float64 and rounded to the type of the file. Files
without INT8 are summed in float32, whose rounding (1e-7) is far below all that is asked of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from edgeresnext.compiler.arithmetic import MATRIX_PRODUCT, IntegerProduct, round_to_levels
from edgeresnext.compiler.execute import images_at_once, pool
from edgeresnext.errors import BackendError

_BOUNDS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}
_IMAGE_DIMENSIONS = 4


@dataclass(frozen=True)
class _Levels:
    """A quantised tensor: integers counted from the zero point, in float32, and the step that they are multiples of."""

    levels: Tensor
    step: float
    half: bool

    @property
    def values(self) -> Tensor:
        """What the levels stand for."""
        return _rounded(self.levels * self.step, half=self.half)


class Evaluator:
    """An ONNX file of ours, as it is written.

    Args:
        model: The file.
        saturating: Whether products saturate as on x86 CPUs without VNNI, where the file has unsigned levels.

    Attributes:
        constants: Its initializers, by name.

    Raises:
        BackendError: It has an operator that our files do not have, or another order of them.
    """

    @classmethod
    def read(cls, path: Path) -> Evaluator:
        """Return the evaluator of a file on disk, with exact products."""
        return cls(onnx.load(path))

    @classmethod
    def parse(cls, content: bytes) -> Evaluator:
        """Return the evaluator of a file's content, with exact products."""
        return cls(onnx.load_model_from_string(content))

    def __init__(self, model: onnx.ModelProto, *, saturating: bool = False) -> None:
        self._graph = model.graph
        self._saturating = saturating
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._half = {name for name, array in self.constants.items() if array.dtype == np.float16}
        self._wide = torch.float64 if any(n.op_type == "QuantizeLinear" for n in model.graph.node) else torch.float32
        self._last_reader = {name: node.name for node in model.graph.node for name in node.input}
        self._readers = Counter(name for node in model.graph.node for name in node.input)
        self._levels = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        self._weights: dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]] = {}
        self._steps = [step for node in model.graph.node if (step := self._compile(node)) is not None]

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits `(N, classes)`, float32, of uint8 images `(N, H, W, C)`."""
        size = images_at_once(*images.shape[1:3])
        with torch.inference_mode():
            found = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        return np.concatenate(found)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        values: dict[str, Any] = {self._graph.input[0].name: torch.from_numpy(np.ascontiguousarray(images))}
        for node, run in self._steps:
            values[node.output[0]] = run(*(values[name] for name in node.input if name in values))
            for name in node.input:
                if self._last_reader[name] == node.name:
                    values.pop(name, None)
        found: NDArray[np.float32] = values[self._graph.output[0].name].numpy()
        return found

    def _compile(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, Callable[..., Any]] | None:
        """Return a node with what computes it from the inputs that are no constants; None for weights."""
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        half = any(name in self._half for name in node.input)
        match node.op_type:
            case "DequantizeLinear" if node.input[0] in self.constants:
                scale = self.constants[node.input[1]].astype(np.float32)
                self._weights[node.output[0]] = self.constants[node.input[0]], scale
                return None
            case "Cast":
                half = attributes["to"] == TensorProto.FLOAT16
        if half:
            self._half.add(node.output[0])
        run = self._operator(node, attributes)
        return node, _in_half(run) if half and not node.op_type.endswith("Linear") else run

    def _operator(  # noqa: C901, PLR0911, PLR0912 - a table
        self, node: onnx.NodeProto, attributes: Mapping[str, Any]
    ) -> Callable[..., Any]:
        """Return an operator, without the rounding to float16."""
        match node.op_type:
            case "Conv":
                return self._product(node, attributes)
            case "Gemm":
                return self._product(node, MATRIX_PRODUCT)
            case "QuantizeLinear":
                return self._quantise(node)
            case "DequantizeLinear":
                return lambda levels: levels  # until something reads them that has no integer form
            case "Cast":
                return lambda values: _plain(values).float()
            case "Transpose":
                return lambda values: values.permute(attributes["perm"]).contiguous(memory_format=torch.channels_last)
            case "Mul" if node.input[1] not in self.constants:
                return lambda one, other: _plain(one) * _plain(other)
            case "Add" if node.input[1] in self.constants:
                term = torch.from_numpy(self.constants[node.input[1]].astype(np.float32))
                return lambda values: _plain(values) + term
            case "Sigmoid":
                return lambda values: _plain(values).sigmoid()
            case "Softmax":
                return lambda values: values.softmax(1)
            case "Clip":
                least = float(self.constants[node.input[1]])
                return lambda values: values.clamp(min=least)
            case "Log":
                return lambda values: values.log()
            case "Sub" | "Mul":
                constant = torch.from_numpy(self.constants[node.input[1]].astype(np.float32))
                operation = torch.sub if node.op_type == "Sub" else torch.mul
                return lambda values: operation(_plain(values), constant)
            case "Relu" if self._readers[node.input[0]] == 1 and node.input[0] not in self._levels:
                return lambda values: values.relu_()  # of a tensor that nobody else reads
            case "Relu":
                return lambda values: _plain(values).relu()
            case "Add":
                return lambda one, other: _plain(one) + _plain(other)
            case "MaxPool" | "AveragePool":
                run = pool(node.op_type, attributes)
                return lambda values: run(_plain(values))
            case "GlobalAveragePool":
                return _average
            case "Flatten":
                return lambda values: _plain(values).flatten(1)
        raise BackendError(f"the file has an operator {node.op_type}, which no file of ours has", "Build it again.")

    def _quantise(self, node: onnx.NodeProto) -> Callable[[Any], _Levels]:
        step, zero = float(self.constants[node.input[1]]), self.constants[node.input[2]]
        low, high = (bound - int(zero) for bound in _BOUNDS[zero.dtype])
        half = node.input[1] in self._half
        return lambda values: _Levels(round_to_levels(_plain(values), step, low, high), step, half)

    def _product(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> Callable[[Any], Tensor]:
        """Return a convolution or matrix product, of integers where both sides are INT8."""
        bias = self.constants[node.input[2]].astype(np.float32) if len(node.input) > 2 else None  # noqa: PLR2004
        if node.input[1] in self._weights:
            values, scale = self._weights[node.input[1]]
            # Levels around another zero point are never so large that our weights saturate: `saturation.safe_weight`.
            source = next(one for one in self._graph.node if node.input[0] in one.output)
            counted = self.constants[source.input[2]]
            saturating = self._saturating and counted.dtype == np.uint8 and not counted
            weight = torch.from_numpy(values.astype(np.float32))
            if weight.ndim == _IMAGE_DIMENSIONS:
                weight = weight.contiguous(memory_format=torch.channels_last)
            product = IntegerProduct(weight, attributes, saturating=saturating)
            step = np.float32(self.constants[source.input[1]])
            gain = _by_channel(scale * step, weight.ndim)
            shift = None if bias is None else _by_channel(bias, weight.ndim)

            def integers(inputs: _Levels) -> Tensor:
                found = product(inputs.levels).mul_(gain)
                return found if shift is None else found.add_(shift)

            return integers
        weight = torch.from_numpy(self.constants[node.input[1]].astype(np.float32)).to(self._wide)
        term = None if bias is None else torch.from_numpy(bias).to(self._wide)
        if weight.ndim != _IMAGE_DIMENSIONS:
            return lambda inputs: functional.linear(_plain(inputs).to(self._wide), weight, term).float()
        strides, pads, groups = attributes["strides"], attributes["pads"][:2], attributes["group"]
        if self._wide == torch.float64 and groups == 1 and weight.shape[2:] == (1, 1):
            return lambda inputs: _by_position(_plain(inputs)[:, :, :: strides[0], :: strides[1]], weight, term)
        return lambda inputs: functional.conv2d(
            _plain(inputs).to(self._wide), weight, term, strides, pads, groups=groups
        ).float()


def _by_position(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a 1x1 convolution as a matrix product: PyTorch's float64 convolution takes several times as long."""
    found = functional.linear(values.permute(0, 2, 3, 1).double(), weight[:, :, 0, 0], bias)
    return found.float().permute(0, 3, 1, 2)


def _in_half(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operator whose results are rounded to float16."""
    return lambda *inputs: _rounded(run(*inputs), half=True)


def _plain(values: Tensor | _Levels) -> Tensor:
    return values.values if isinstance(values, _Levels) else values


def _rounded(values: Tensor, *, half: bool) -> Tensor:
    """Return values as the file's type holds them; computed in float32 all the same."""
    return values.half().float() if half else values


def _average(values: Tensor | _Levels) -> Tensor:
    """Return the mean of each channel: of levels, their exact sum; else summed in float64."""
    if isinstance(values, _Levels):
        count = values.levels[0, 0].numel()
        return values.levels.sum((2, 3), keepdim=True).mul_(values.step / count)
    return values.double().mean((2, 3), keepdim=True).float()


def _by_channel(values: NDArray[np.float32], dimensions: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).view(1, -1, *[1] * (dimensions - 2))
