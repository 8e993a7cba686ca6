"""Run a graph layer by layer in PyTorch, so that whoever watches sees each tensor once and none is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgeresnext.compiler import INPUT
from edgeresnext.compiler.graph import Graph, Layer
from edgeresnext.errors import BackendError

_IMAGE_DIMENSIONS = 4
_PIXELS_AT_ONCE = 4 * 224 * 224
"""Of the images that run together: layers then find their input in the cache. Of ResNeXt-50 at 224 px, 4 images at once
take 26 ms an image and 8 or more 34 to 43 (two cores, 32 MiB of cache)."""
_MOST_IMAGES = 16


def images_at_once(height: int, width: int) -> int:
    """Return how many images of this size, in pixels, are best run together on a CPU."""
    return max(1, min(_MOST_IMAGES, _PIXELS_AT_ONCE // (height * width)))


def in_cache(images: Tensor) -> list[Tensor]:
    """Return images `(N, C, H, W)` in batches that are best run together."""
    size = images_at_once(*images.shape[2:])
    return [images[start : start + size] for start in range(0, len(images), size)]


def pool(op: str, attributes: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """Return what an ONNX pooling with these attributes does to `(N, C, H, W)`; padding counts for nothing."""
    kernel, strides = attributes["kernel_shape"], attributes["strides"]
    ceil = bool(attributes.get("ceil_mode"))
    if op == "MaxPool":
        pads = attributes["pads"][:2]
        return lambda x: functional.max_pool2d(x, kernel, strides, pads, ceil_mode=ceil)
    return lambda x: functional.avg_pool2d(x, kernel, strides, ceil_mode=ceil, count_include_pad=False)


class Executor:
    """The layers of a graph as PyTorch calls, in float32.

    Args:
        graph: The folded graph.
        device: Where to run; None for the fastest that PyTorch has.

    Raises:
        BackendError: The GPU fails, or its memory does not suffice; every method may raise it.
    """

    def __init__(self, graph: Graph, device: torch.device | None = None) -> None:
        self.graph = graph
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.parameters = {
            layer.name: (self.tensor(layer.weight), None if layer.bias is None else self.tensor(layer.bias))
            for layer in graph.layers
            if layer.weight is not None
        }
        self._last_reader = {name: layer.name for layer in graph.layers for name in layer.inputs}

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Run without gradients and in true float32, and name what goes wrong on a GPU.

        Never held across a `yield` to others: it would leave PyTorch as it is here.
        """
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                yield
        except RuntimeError as error:
            if self.device.type != "cuda":
                raise
            raise BackendError(
                f"PyTorch failed on the GPU: {str(error).splitlines()[0]}",
                "CUDA_VISIBLE_DEVICES= in front of the command leaves the GPU out.",
            ) from error

    def tensor(self, array: NDArray[np.generic]) -> Tensor:
        """Return an array on the device, images and filters with their channels last."""
        return self.place(torch.from_numpy(array))

    def place(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device, images and filters with their channels last."""
        images = tensor.ndim == _IMAGE_DIMENSIONS
        with self._guard():
            return tensor.to(self.device, memory_format=torch.channels_last if images else torch.contiguous_format)

    def steps(self, images: Tensor) -> Iterator[tuple[Layer | None, Tensor]]:
        """Run normalised images `(N, C, H, W)` and yield each layer with its output; the images first, with None.

        A tensor is dropped after its last reader has run.
        """
        values = {INPUT: self.place(images)}
        yield None, values[INPUT]
        for layer in self.graph.layers:
            with self._guard():
                values[layer.name] = self.run_layer(layer, values)
            yield layer, values[layer.name]
            for name in layer.inputs:
                if self._last_reader[name] == layer.name:
                    values.pop(name, None)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images, float32 `(N, classes)`."""
        ((_, logits),) = deque(self.steps(images), maxlen=1)  # nothing else is held
        return logits

    def resume(self, values: Mapping[str, Tensor], layers: Sequence[Layer]) -> Tensor:
        """Run the last layers of the graph on tensors computed before, by name; return the logits `(N, classes)`."""
        found = dict(values)
        with self._guard():
            for layer in layers:
                found[layer.name] = self.run_layer(layer, found)
        return found[layers[-1].name]

    def run_layer(self, layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
        """Return the output of one layer, float32 `(N, *layer.shape)`, from the tensors before it by name."""
        inputs = [values[name] for name in layer.inputs]
        return self.compute(layer, inputs, *self.parameters.get(layer.name, (None, None)))

    @staticmethod
    def compute(  # noqa: C901, PLR0911, PLR0912 - a table
        layer: Layer, inputs: Sequence[Tensor], weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """Return what the layer's operator makes of `inputs`, float32 `(N, *layer.shape)`.

        Raises:
            NotImplementedError: `graph.trace` makes a layer that is not listed here.
        """
        attributes = layer.attributes
        match layer.op:
            case "Conv":
                assert weight is not None
                return functional.conv2d(
                    inputs[0], weight, bias, attributes["strides"], attributes["pads"][:2], groups=attributes["group"]
                )
            case "Gemm":
                assert weight is not None
                return functional.linear(inputs[0], weight, bias)
            case "Relu":
                return inputs[0].relu()
            case "Add":
                return inputs[0] + inputs[1]
            case "Mul":
                return inputs[0] * inputs[1]
            case "Affine":
                gain, shift = (
                    torch.from_numpy(attributes[name]).to(inputs[0].device).view(-1, 1, 1) for name in ("gain", "shift")
                )
                return torch.addcmul(shift, inputs[0], gain)
            case "Sigmoid":
                return inputs[0].sigmoid()
            case "Softmax":
                return inputs[0].softmax(1)
            case "Clip":
                return inputs[0].clamp(min=attributes["min"])
            case "Log":
                return inputs[0].log()
            case "MaxPool" | "AveragePool":
                return pool(layer.op, attributes)(inputs[0])
            case "GlobalAveragePool":
                return inputs[0].mean((2, 3), keepdim=True)
            case "Flatten":
                return inputs[0].flatten(1)
        raise NotImplementedError(layer.op)
