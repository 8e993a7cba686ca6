"""Read a weights file by what it holds, not by its suffix, and execute nothing of it.

PyTorch reads its own containers (zip, the pickle before it, the tar of 2017); `unpickler` decides which names exist
there.
"""

from __future__ import annotations

import os
import re
import shlex
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from edgeresnext.errors import CheckpointError
from edgeresnext.model.unpickler import PICKLE

SAVE_TENSORS = "Save the tensors alone: torch.save(model.state_dict(), 'weights.pth')."
_AGAIN = "Copy or download it again."

_HEAD_BYTES = 4096
_SIGNATURES = (
    (b"\x1f\x8b", "gzip archive", "Unpack it first: gunzip FILE"),
    (b"BZh", "bzip2 archive", "Unpack it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "xz archive", "Unpack it first: unxz FILE"),
    (b"7z\xbc\xaf", "7-Zip archive", "Unpack it first."),
    (b"Rar!", "RAR archive", "Unpack it first."),
    (b"\x89HDF", "HDF5 file, as Keras writes it", "Give a PyTorch checkpoint."),
    (b"GGUF", "GGUF file, which holds a language model", "Give a PyTorch checkpoint."),
    (b"\x93NUMPY", "NumPy array", "Give a PyTorch checkpoint."),
    (b"\x89PNG", "PNG image", "Give a PyTorch checkpoint."),
    (b"\xff\xd8\xff", "JPEG image", "Give a PyTorch checkpoint."),
)
_ONNX_FIELDS = b"\x12\x1a\x22\x2a\x32\x3a\x42"
"""Tags of the fields that may follow `ir_version` in an ONNX file (onnx.proto: ModelProto)."""


_PROTOCOL_0 = b"L119547"
"""How PyTorch's magic number begins in the oldest pickles."""
_LONGEST_HEADER = 100_000_000
"""Bytes that the header of safetensors may have (its format's own limit)."""
_MOST_PACKED = 64
"""How much smaller a zip archive may be than what it holds: it is unpacked in memory."""
_NEWEST_ONNX = 32
"""IR versions that may come."""


def python(program: str) -> str:
    """Return the command that runs a program of one line, quoted for a shell."""
    return f"python -c {shlex.quote(program)}"


def read(path: Path) -> Any:  # noqa: ANN401 - dictionaries, lists and tensors, as deep as the file has them
    """Return what a file holds: tensors by name, in whatever dictionaries and lists they lie.

    Raises:
        CheckpointError: The file is missing, damaged, or of another kind, which is named with the way to its weights.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"weights file '{path}' {what}", "Give a checkpoint of PyTorch, or a .safetensors file.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if _is_safetensors(head):
            return _read_safetensors(path)
        _refuse_text(path, head)
        _refuse_signatures(path, head)
        if head[257:262] == b"ustar":
            _check_tar(path)
        elif zipfile.is_zipfile(path):
            _check_zip(path)
        elif head.startswith(b"PK"):
            raise CheckpointError(f"weights file '{path}' is damaged: its end is missing", _AGAIN)
        elif not head.startswith((b"\x80", _PROTOCOL_0)):
            raise CheckpointError(
                f"'{path}' is no weights file that is known here: it begins with {head[:8].hex(' ')}",
                "Give a checkpoint of PyTorch, or a .safetensors file.",
            )
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]  # the rest is what each of its readers says
        raise CheckpointError(f"weights file '{path}' is damaged: {reason}", _AGAIN) from None
    except OSError as error:
        raise CheckpointError(f"cannot read weights file '{path}': {error.strerror or error}", _AGAIN) from None
    return _read_pickle(path)


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do, whole or not: the header's length in 8 bytes, then JSON."""
    return head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"weights file '{path}' is damaged: {error}", _AGAIN) from None


TRAINED_HERE = {"written_by": "edgeresnext train"}
"""What the header of weights says that a training of ours wrote."""


def is_trained_here(path: Path) -> bool:
    """Return whether a training of ours wrote a file of weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return TRAINED_HERE.items() <= (file.metadata() or {}).items()
    except (SafetensorError, OSError):  # pickles too
        return False


def parse_safetensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a .safetensors file from its bytes.

    Raises:
        CheckpointError: It is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"weights file '{path}' is damaged: {error}", _AGAIN) from None


def _refuse_text(path: Path, head: bytes) -> None:
    """Refuse a file that is empty, or text."""
    if not head.strip(b"\0"):
        raise CheckpointError(f"weights file '{path}' is empty" + (": zeros alone" if head else ""), _AGAIN)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        size = next(iter(re.findall(rb"^size (\d+)", text, re.MULTILINE)), b"an unknown number of").decode()
        raise CheckpointError(
            f"'{path}' is a Git LFS pointer: it stands for a file of {size} bytes, which is not here",
            "Get that file in its repository, with git lfs pull.",
        )
    if text.startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"'{path}' is an HTML page, not weights: the download led to a page that asks or refuses",
            "Open it in a browser to see what it says, and download the file itself.",
        )
    if text.startswith((b"<?xml", b"<error")):
        raise CheckpointError(
            f"'{path}' is XML, not weights: often a server's error message", "Read what it says, and download again."
        )
    if text.startswith((b"{", b"[")):
        index = b'"weight_map"' in head
        what = "a JSON index of weights that lie in several files" if index else "JSON text"
        raise CheckpointError(f"'{path}' is {what}, not weights", "Give the file with the tensors.")


def _refuse_signatures(path: Path, head: bytes) -> None:
    """Refuse a file that another program reads."""
    for signature, kind, hint in _SIGNATURES:
        if head.startswith(signature):
            raise CheckpointError(
                f"'{path}' is a {kind}, not a weights file", hint.replace("FILE", shlex.quote(str(path)))
            )
    if (
        head[:1] == b"\x08"
        and head[1:2] < bytes([_NEWEST_ONNX])
        and head[2:3] in {bytes([tag]) for tag in _ONNX_FIELDS}
    ):
        raise CheckpointError(
            f"'{path}' is an ONNX file: its layers are fused, and it cannot be trained or calibrated from",
            "Give the checkpoint that it was exported from.",
        )


def _check_zip(path: Path) -> None:
    """Refuse zip archives that `torch.save` did not write; TorchScript would be run."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            packed = sum(entry.file_size for entry in archive.infolist()) > _MOST_PACKED * path.stat().st_size
            summed = any(entry.CRC for entry in archive.infolist())  # torch.save can be told to leave them out
            broken = archive.testzip() if summed and not packed else None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"weights file '{path}' is damaged: {error}", _AGAIN) from None
    if packed:
        raise CheckpointError(
            f"weights file '{path}' is packed to less than a {_MOST_PACKED}th, which no weights can be",
            "Save it again with torch.save, which does not pack.",
        )
    if broken is not None:
        raise CheckpointError(
            f"weights file '{path}' is damaged: the checksum of its record '{broken}' is another", _AGAIN
        )
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise CheckpointError(
            f"'{path}' is TorchScript: a program with its weights; it is not run",
            "Get the weights where you trust the file: "
            + python(f"import torch; torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"),
        )
    if "data.pkl" not in names:
        arrays = names and all(name.endswith(".npy") for name in names)
        what = "an archive of NumPy arrays" if arrays else f"a zip archive of {', '.join(names[:3]) or 'nothing'}"
        raise CheckpointError(f"'{path}' is {what}, not a checkpoint of PyTorch", "Give the checkpoint itself.")


def _check_tar(path: Path) -> None:
    """Refuse tar archives that are not the container of 2017, and links in one."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    if not {"pickle", "storages", "tensors"} <= set(names) or not all(member.isfile() for member in members):
        raise CheckpointError(
            f"'{path}' is a tar archive of {', '.join(names[:3])}", f"Unpack it first: tar xf {shlex.quote(str(path))}"
        )


def _read_pickle(path: Path) -> Any:  # noqa: ANN401 - as `read`
    """Return what PyTorch finds in its container, by our unpickler."""
    # Whoever sets this has PyTorch refuse every unpickler but its own, which is as safe from 2.6 on and reads less.
    theirs = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0").lower() in ("1", "y", "yes", "true")
    options: dict[str, Any] = {"weights_only": True} if theirs else {"weights_only": False, "pickle_module": PICKLE}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sources that have changed since: none of them is run
            return torch.load(path, map_location="cpu", **options)
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises whatever its first wrong byte leads to
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "saved_id" in reason:
            raise CheckpointError(
                f"'{path}' is in pickle protocol 0, which PyTorch itself does not read", SAVE_TENSORS
            ) from None
        if "magic number" in reason:
            raise CheckpointError(f"'{path}' is a pickle that PyTorch did not write", SAVE_TENSORS) from None
        raise CheckpointError(f"weights file '{path}' is damaged: {reason}", _AGAIN) from None
