"""Find the one dictionary of tensors in what a checkpoint holds, and make plain float32 of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from edgeresnext.errors import CheckpointError, shortened
from edgeresnext.model.unpickler import Foreign
from edgeresnext.model.weight_files import SAVE_TENSORS, python

State = dict[str, Tensor]

_PREFERRED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "swa_model", "averaged_model")
"""Averages over the training's last steps: where a file holds one beside the weights, it is what is used."""
_USUAL = ("state_dict", "model", "model_state_dict", "net")
_DEEPEST = 4
_OF_LAYERS = ("weight", "bias", "running_mean", "running_var")
_KERNEL_DIMENSIONS = 4
_MATRIX_DIMENSIONS = 2
_NOT_PLAIN = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_qtensor": "quantised",
    "_rebuild_meta_tensor_no_storage": "without values (on the meta device)",
    "_rebuild_nested_tensor": "nested",
}
"""How PyTorch makes tensors that are no arrays of numbers, by the end of the name."""


@dataclass(frozen=True, kw_only=True)
class FoundState:
    """A dictionary of tensors in a checkpoint.

    Args:
        state: Tensors by name, float32 and contiguous, without counters.
        key: Where it lay, such as "model_ema"; empty where the checkpoint is nothing else.
        others: Where there were others.
        dtype: As most of its numbers were stored, such as "float16".
    """

    state: State
    key: str
    others: tuple[str, ...]
    dtype: str


def find_state(loaded: object, path: Path, key: str | None = None) -> FoundState:
    """Return the dictionary of weights in what `weight_files.read` found.

    Args:
        loaded: Dictionaries and lists of anything, as deep as they come.
        path: The file, for messages.
        key: Where the weights lie, with dots between the levels; None for the only ones, or an average of them.

    Raises:
        CheckpointError: There are none, `key` names none, several lie there and none is an average, or a tensor is not
            a plain array of numbers.
    """
    if isinstance(loaded, Foreign):
        raise CheckpointError(
            f"'{path}' is a whole pickled {loaded.name}: a program's object, which is not run",
            "Where you trust the file and it is a network, get its weights: "
            + python(f"import torch; torch.save(torch.load({str(path)!r}, weights_only=False).state_dict(), 'w.pth')"),
        )
    candidates = dict(_candidates(loaded, "", set()))
    if not candidates:
        _refuse_objects(loaded, path)
        raise CheckpointError(f"'{path}' holds no dictionary of weights: it is {_describe(loaded)}", SAVE_TENSORS)
    chosen = _choose(candidates, path, key)
    others = tuple(name for name in candidates if name != chosen)
    whole = _with_head(loaded, candidates[chosen])
    return FoundState(state=_plain(whole, path), key=chosen, others=others, dtype=_usual_dtype(whole))


def _candidates(value: object, where: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every dictionary that holds a convolution's kernel, with where it lies."""
    if depth > _DEEPEST or id(value) in seen:  # what holds itself, or lies in many places, is looked at once
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        if _holds_kernels(value):
            yield where, value
            return
        items = value.items()
    elif isinstance(value, list | tuple):
        items = dict(enumerate(value)).items()
    else:
        return
    for name, inner in items:
        yield from _candidates(inner, f"{where}.{name}".removeprefix("."), seen, depth + 1)


def _holds_kernels(value: Mapping[Any, Any]) -> bool:
    """Whether a dictionary is a state dictionary: names, and a convolution's kernel among them."""
    return any(
        isinstance(name, str)
        and name.endswith("weight")
        and (_is_odd(tensor) or (isinstance(tensor, Tensor) and tensor.ndim == _KERNEL_DIMENSIONS))
        for name, tensor in value.items()
    )


def _refuse_objects(loaded: object, path: Path) -> None:
    """Refuse a checkpoint whose network is a pickled object, by the name that it has there."""
    objects = (
        {name: value for name, value in loaded.items() if _is_object(value)} if isinstance(loaded, Mapping) else {}
    )
    if not objects:
        return
    name = next((name for name in objects if name in _USUAL), next(iter(objects)))
    program = f"import torch; torch.save(torch.load({str(path)!r}, weights_only=False)[{name!r}].state_dict(), 'w.pth')"
    raise CheckpointError(
        f"'{path}' holds a whole pickled {objects[name].name} at '{name}': a program's object, which is not run",
        f"Where you trust the file and it is a network, get its weights: {python(program)}",
    )


def _with_head(loaded: object, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a dictionary of weights without a classifier together with the one in a dictionary beside it."""
    if any(isinstance(one, Tensor) and one.ndim == _MATRIX_DIMENSIONS for one in found.values()):
        return found
    around = _around(loaded, found, set())
    heads = {name: beside for name, beside in around.items() if beside is not found and _is_head(beside)}
    if not heads:
        return found
    parts = {"network": found, **heads}
    return {f"{name}.{inner}": tensor for name, part in parts.items() for inner, tensor in part.items()}


def _around(value: object, found: Mapping[str, Any], seen: set[int], depth: int = 0) -> Mapping[Any, Any]:
    """Return the dictionary that a dictionary of weights lies in; an empty one where that is a list, or nothing."""
    inner = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    if any(one is found for one in inner):
        return value if isinstance(value, Mapping) else {}
    if depth > _DEEPEST or id(value) in seen:
        return {}
    seen.add(id(value))
    return next((around for one in inner if (around := _around(one, found, seen, depth + 1))), {})


def _is_head(value: object) -> bool:
    """Whether a dictionary is one of weights and biases, a matrix among them, and nothing else."""
    return (
        isinstance(value, Mapping)
        and all(isinstance(one, Tensor) and str(name).endswith(("weight", "bias")) for name, one in value.items())
        and any(one.ndim == _MATRIX_DIMENSIONS for one in value.values())
    )


def _choose(candidates: Mapping[str, object], path: Path, key: str | None) -> str:
    """Return where the weights lie."""
    if key is not None:
        if key not in candidates:
            raise CheckpointError(
                f"'{path}' holds no weights at '{key}'",
                f"It has them at {', '.join(repr(name) for name in candidates if name) or 'its top'}.",
                values=("key",),
            )
        return key
    if len(candidates) == 1:
        return next(iter(candidates))
    averages = [name for name in candidates if set(name.split(".")) & set(_PREFERRED)]
    usual = [name for name in candidates if name.split(".")[-1] in _USUAL]
    some = averages or usual  # of several averages none is the usual one
    if len(some) == 1:
        return some[0]
    raise CheckpointError(
        f"'{path}' holds several dictionaries of weights: {', '.join(map(repr, candidates))}",
        f"Say which: key='{next(iter(candidates))}'.",
        values=("key",),
    )


def _is_object(value: object) -> TypeGuard[Foreign]:
    return isinstance(value, Foreign) and not _is_odd(value)


def _is_odd(value: object) -> bool:
    return isinstance(value, Foreign) and value.name.startswith("torch._utils._rebuild_")


def _plain(found: Mapping[str, Any], path: Path) -> State:
    """Return the tensors of a dictionary as contiguous float32; counters and what is no tensor are left out."""
    state: State = {}
    for name, tensor in found.items():
        if not isinstance(name, str):
            continue
        if _is_odd(tensor):
            kind = next((kind for end, kind in _NOT_PLAIN.items() if tensor.name.endswith(end)), tensor.name)
            raise CheckpointError(
                f"tensor '{name}' of '{path}' is {kind}", "Save dense floating point: tensor.to_dense()."
            )
        if not isinstance(tensor, Tensor) or _counts(name, tensor) or _is_beside(name, tensor):
            continue
        if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_floating_point():
            kind = "sparse" if tensor.layout != torch.strided else str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"tensor '{name}' of '{path}' is {kind}, not floating point",
                "Give the checkpoint before it was quantised or converted.",
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"tensor '{name}' of '{path}' has more numbers by its shape {tuple(tensor.shape)} than are stored",
                "Save all its values: tensor.contiguous().",
            )
        state[name] = tensor.detach().float().contiguous()
    return state


def _usual_dtype(found: Mapping[str, Any]) -> str:
    """Return the type of most numbers of a dictionary."""
    counts: Counter[str] = Counter()
    for tensor in found.values():
        if isinstance(tensor, Tensor):
            counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return max(counts, key=counts.__getitem__)


def _is_beside(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of integers is none of a network's weights, but of a metric, a mask or a buffer beside them."""
    whole = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_floating_point()
    return whole and not tensor.is_complex() and name.rpartition(".")[2] not in _OF_LAYERS


def _counts(name: str, tensor: Tensor) -> bool:
    """Whether a tensor counts steps: a single number, such as `num_batches_tracked`, `n_averaged` or `step`."""
    return re.search(r"(^|\.)num_batches_tracked$", name) is not None or tensor.ndim == 0


def _describe(loaded: object) -> str:
    """Say what a checkpoint is instead."""
    if isinstance(loaded, Mapping):
        kinds = [f"{name}: {_kind(value)}" for name, value in loaded.items()]
        return f"a dictionary of {shortened(kinds, 4)}" if kinds else "an empty dictionary"
    return _kind(loaded)


def _kind(value: object) -> str:
    if isinstance(value, Foreign):
        return value.name
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
