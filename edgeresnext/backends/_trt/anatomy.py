"""The layers of an engine, as its builder tells them: what was fused, and what one image moves and computes.

TensorRT-RTX prints the list while it builds, with profiling verbosity DETAILED and a VERBOSE logger, so that it can be
had without a GPU. TensorRT's engine inspector gives the same as JSON, on the GPU.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from edgeresnext.spec import EngineLayer

LIST_START = "Layers:\n"

_ROLES = ("inputs", "constants", "outputs")

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*Metadata: ?(?P<metadata>.*)$"
)
_TENSOR = re.compile(
    r"\{ Name: .*?, Dimensions: \[(?P<shape>[^\]]*)\].*?Datatype: (?P<dtype>\w+), Format: (?P<format>.*?) \}"
)
_MODULE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_TYPES = {
    "float": ("fp32", 4), "fp32": ("fp32", 4), "half": ("fp16", 2), "fp16": ("fp16", 2),
    "bf16": ("bf16", 2), "bfloat16": ("bf16", 2), "fp8": ("fp8", 1), "int8": ("int8", 1), "uint8": ("uint8", 1),
    "bool": ("bool", 1), "int32": ("int32", 4), "int64": ("int64", 8),
}  # fmt: skip
"""TensorRT's names of types, in lower case, ours, and bytes an element; what is unknown is taken for four bytes."""

_ORDERING = frozenset({"wait", "signal", "shape_call"})
"""Kinds that order other layers and move no tensor."""

_COMPUTING = re.compile(r"correlation|conv|gemm|fusion|matrix", re.IGNORECASE)
"""Kinds that can hold a convolution or Gemm; TensorRT-RTX's element-wise kernels (kgen) name it in part only."""


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    format: str

    @property
    def nbytes(self) -> int:
        """Size for one image: the free dimension counts once."""
        itemsize = next((size for name, size in _TYPES.values() if name == self.dtype), 4)
        return math.prod(map(abs, self.shape)) * itemsize


def from_build_log(text: str, layer_macs: Mapping[str, int], batch: int = 1) -> tuple[EngineLayer, ...]:
    """Return the layers that TensorRT-RTX printed.

    Args:
        text: The message that begins with `LIST_START`.
        layer_macs: Multiply-accumulates of each convolution and Gemm of the network.
        batch: Images a run that the list describes; a free dimension counts once.
    """
    matches = map(_LINE.match, text.removeprefix(LIST_START).splitlines())
    found = [
        _layer(one.group("name", "kind", "metadata"), (_printed(one[key]) for key in _ROLES))
        for one in matches
        if one is not None and one["kind"] not in _ORDERING
    ]
    return _with_macs(found, layer_macs, batch)


def from_inspector(text: str, layer_macs: Mapping[str, int], batch: int = 1) -> tuple[EngineLayer, ...]:
    """Return the layers that TensorRT's engine inspector gives as JSON.

    Releases differ: 8.6 writes type and format as one text under "Format/Datatype", later ones apart; constants are
    "Constants", or "Weights" and "Bias" with a type and a count.

    Args:
        text: The JSON.
        layer_macs: Multiply-accumulates of each convolution and Gemm of the network.
        batch: Images a run that the list describes; a free dimension counts once.
    """
    found = []
    for layer in json.loads(text or "{}", strict=False).get("Layers", []):
        if not isinstance(layer, dict):  # built with less than DETAILED: a list of names
            found.append(_layer((str(layer), "", ""), ([], [], [])))
            continue
        inputs, constants, outputs = (
            [_inspected(tensor) for tensor in layer.get(key.capitalize(), [])] for key in _ROLES
        )
        for key in ("Weights", "Bias"):
            value = layer.get(key)
            if isinstance(value, dict) and value.get("Count"):
                constants.append(_Tensor((int(value["Count"]),), _type_name(value.get("Type", "Float")), ""))
        words = [layer.get(key, "") for key in ("Name", "LayerType", "Metadata")]
        found.append(_layer(words, (inputs, constants, outputs)))
    return _with_macs(found, layer_macs, batch)


def _printed(text: str) -> list[_Tensor]:
    """Read the tensors of a printed layer."""
    return [
        _Tensor(
            shape=tuple(int(size) for size in match["shape"].split(",") if size),
            dtype=_type_name(match["dtype"]),
            format=match["format"],
        )
        for match in _TENSOR.finditer(text)
    ]


def _inspected(tensor: Mapping[str, Any]) -> _Tensor:
    """Read a tensor of the inspector's JSON, whose type may be a word in a sentence that describes the format."""
    fields = {key.lower(): str(value) for key, value in tensor.items()}
    text = fields.get("format/datatype") or fields.get("datatype", "")
    return _Tensor(
        shape=tuple(int(size) for size in tensor.get("Dimensions", [])),
        dtype=_type_name(text),
        format=fields.get("format") or text,
    )


def _type_name(text: str) -> str:
    """Return our name of the first type that a text names, or the text."""
    known = (_TYPES[word] for word in re.findall(r"\w+", text.lower()) if word in _TYPES)
    return next(known, (text, 0))[0]


def _layer(words: Sequence[str], tensors: Iterable[list[_Tensor]]) -> EngineLayer:
    """Return a layer, from its name, kind and metadata, and its tensors by role; its macs are still to be found."""
    name, kind, metadata = words
    inputs, constants, outputs = tensors
    read, written = (", ".join(dict.fromkeys(one.dtype for one in tensors)) for tensors in (inputs, outputs))
    return EngineLayer(
        name=name,
        kind=kind,
        modules=tuple(dict.fromkeys(_MODULE.findall(metadata))),
        types=f"{read} -> {written}",
        formats=", ".join(dict.fromkeys(tensor.format for tensor in outputs)),
        read_bytes=sum(tensor.nbytes for tensor in inputs),
        written_bytes=sum(tensor.nbytes for tensor in outputs),
        constant_bytes=sum(tensor.nbytes for tensor in constants),
        macs=0,
    )


def _with_macs(layers: Sequence[EngineLayer], layer_macs: Mapping[str, int], batch: int) -> tuple[EngineLayer, ...]:
    """Give each convolution's multiply-accumulates to the one layer that computes it, and activations to one image.

    Several may name it, such as the kernel that requantises its result: the one with the most constants, its weights,
    is meant.
    """
    macs = [0] * len(layers)
    for module, count in layer_macs.items():
        holders = [i for i, layer in enumerate(layers) if module in layer.modules and _COMPUTING.search(layer.kind)]
        if holders:
            macs[max(holders, key=lambda i: layers[i].constant_bytes)] += count
    return tuple(
        msgspec.structs.replace(
            layer, macs=count, read_bytes=layer.read_bytes // batch, written_bytes=layer.written_bytes // batch
        )
        for layer, count in zip(layers, macs, strict=True)
    )
