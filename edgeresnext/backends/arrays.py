"""Arrays of other libraries: where they lie, whether a network takes them, and views of them without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends import dlpack
from edgeresnext.backends.dlpack import Lent
from edgeresnext.errors import DataError
from edgeresnext.spec import CHANNELS

_UINT8 = np.dtype(np.uint8)
_ON_GPU = (dlpack.CUDA, dlpack.CUDA_MANAGED)
_CONTIGUOUS = "Nothing is copied unasked: give it compact, by .contiguous() in PyTorch or ascontiguousarray elsewhere."
_REFUSALS = (BufferError, RuntimeError, TypeError, ValueError, AttributeError)
"""What libraries raise where they do not lend an array."""


def on_gpu(array: Any) -> bool:  # noqa: ANN401 - of any library
    """Whether an array lies in the memory of a GPU."""
    if hasattr(array, "__dlpack_device__"):
        try:
            return array.__dlpack_device__()[0] in _ON_GPU
        except _REFUSALS:  # a kind of device that DLPack does not have
            return False
    return hasattr(array, "__cuda_array_interface__") or (dlpack.is_capsule(array) and dlpack.peek(array) in _ON_GPU)


def on_host(array: Any, wanted: tuple[int | None, ...]) -> NDArray[np.uint8]:  # noqa: ANN401 - of any library
    """Return images as a compact NumPy array: their own memory, but for NumPy arrays that are not compact.

    Args:
        array: A NumPy array, or anything of the host with `__dlpack__`.
        wanted: Height, width and channels.

    Raises:
        DataError: They are of another type or shape, a view with gaps of another library than NumPy, or on a GPU.
    """
    if isinstance(array, np.ndarray):
        check(array.dtype, array.shape, wanted)
        return np.ascontiguousarray(array)
    if dlpack.is_capsule(array):
        lent = _of_host(Lent(array))
        check(lent.dtype, lent.shape, wanted)
        check_compact(lent.shape, lent.strides, "the images")
        found: NDArray[np.uint8] = dlpack.view(lent.address, lent.shape, np.uint8, lent)
        return found
    # Where an array lies is asked only where it cannot be read: PyTorch takes microseconds to tell it.
    if not hasattr(array, "__dlpack__") and not on_gpu(array):
        raise mismatch(type(array).__name__, wanted)
    view = _view(array)
    check(view.dtype, view.shape, wanted)
    if not view.flags.c_contiguous:
        raise DataError("the images: a view with gaps or another order", _CONTIGUOUS)
    return view


def fill(out: Any, logits: NDArray[np.float32]) -> None:  # noqa: ANN401 - of any library
    """Write logits into an array of the host that the caller gave.

    Raises:
        DataError: It is of another type or shape, a view with gaps, read-only, or not on the host.
    """
    if isinstance(out, np.ndarray):
        check_out(str(out.dtype), out.shape, logits.shape)
        if not out.flags.writeable:
            raise DataError("out is read-only", "Give an array that can be written to.")
        out[...] = logits
        return
    if not dlpack.is_capsule(out):
        check_writable(out)
        view = _view(out)
        if view.flags.writeable and view.flags.c_contiguous:
            check_out(str(view.dtype), view.shape, logits.shape)
            view[...] = logits
            return
    lent = _of_host(borrow(out))  # NumPy before 2.1 only reads what others lend
    check_out(lent.dtype, lent.shape, logits.shape)
    check_compact(lent.shape, lent.strides, "out")
    dlpack.view(lent.address, lent.shape, np.float32, lent)[...] = logits


def _view(array: Any) -> NDArray[Any]:  # noqa: ANN401 - of any library
    """Return an array of the host as NumPy sees it, by DLPack."""
    try:
        view: NDArray[Any] = np.from_dlpack(array)
    except _REFUSALS as error:
        if on_gpu(array):
            raise DataError(
                f"the {type(array).__name__} is on a GPU, where neither this artefact nor the other array is",
                "Bring it to the host, by x.cpu() in PyTorch, or load an engine and give both on its GPU.",
            ) from None
        raise DataError(f"cannot read the {type(array).__name__}: {error}", "Give it as a NumPy array.") from error
    return view


def borrow(array: Any, **exchange: Any) -> Lent:  # noqa: ANN401 - of any library
    """Return an array's memory, by DLPack.

    Args:
        array: A capsule, or anything with `__dlpack__`.
        exchange: What that is told, such as the stream.

    Raises:
        DataError: The library does not lend it.
    """
    if dlpack.is_capsule(array):
        return Lent(array)
    try:
        capsule = array.__dlpack__(**exchange)
    except _REFUSALS as error:
        raise DataError(f"cannot read the {type(array).__name__}: {error}", "Give a plain array.") from error
    return Lent(capsule)


def check(dtype: Any, shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:  # noqa: ANN401 - or its name
    """Refuse images that the network does not take.

    Raises:
        DataError: Their type or shape is another.
    """
    if (dtype is not _UINT8 and str(dtype) != "uint8") or shape[1:] != wanted:
        raise mismatch(f"{dtype} {shape}", wanted, shape)


def mismatch(got: str, wanted: tuple[int | None, ...], shape: tuple[int, ...] = ()) -> DataError:
    """Return the error for images of another type or shape."""
    height, width, channels = wanted
    planar = shape[1:] == (channels, height, width)
    order = "x.permute(0, 2, 3, 1).contiguous() has the channels last." if planar else ""
    hint = f"Images are {CHANNELS[channels or 0]}, channels last, 0..255; use `predict` for images of any size."
    return DataError(f"expected a uint8 array (N, {height}, {width}, {channels}), got {got}", order or hint)


def check_out(dtype: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse an array that logits do not fit into.

    Raises:
        DataError: Its type or shape is another.
    """
    if (dtype, shape) != ("float32", wanted):
        raise DataError(f"out must be float32 {wanted}, and is {dtype} {shape}", "Give one of that type and shape.")


def check_writable(array: Any, **exchange: Any) -> None:  # noqa: ANN401 - of any library
    """Refuse an array to write to whose library says that it is read-only, as those of JAX always are.

    Args:
        array: With `__dlpack__`.
        exchange: What that is told, such as the stream.

    Raises:
        DataError: It is read-only.
    """
    try:
        capsule = array.__dlpack__(max_version=(1, 0), **exchange)
    except _REFUSALS:  # of an earlier release, which does not tell
        return
    if dlpack.is_read_only(capsule):
        raise DataError("out is read-only", "Give an array that can be written to.")


def check_compact(shape: tuple[int, ...], strides: tuple[int, ...], what: str) -> None:
    """Refuse a view with gaps, or whose last dimension is not the fastest.

    Raises:
        DataError: It is one.
    """
    steps = zip(shape, strides, dlpack.compact(shape), strict=True)
    if 0 not in shape and any(size > 1 and given != wanted for size, given, wanted in steps):
        raise DataError(f"{what}: a view with gaps or another order", _CONTIGUOUS)


def _of_host(lent: Lent) -> Lent:
    if lent.device[0] not in (dlpack.CPU, dlpack.CUDA_HOST):
        raise DataError(
            f"the array is neither on the host nor on an NVIDIA GPU (DLPack's device type {lent.device[0]})",
            "Bring it to the host.",
        )
    return lent
