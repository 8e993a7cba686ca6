"""What an export is: what a program is to be given, and the record that lies beside its files."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext import directories, files
from edgeresnext.bundle import Bundle
from edgeresnext.bundle.onnx_file import check_onnx
from edgeresnext.errors import InputError
from edgeresnext.interop.replay import Replay
from edgeresnext.spec import Artifact, FileEntry, Precision, Value

RECORD = "edgeresnext.json"
EXPORT_SCHEMA = 1

Tool = Literal["Triton", "DeepStream"]


class Export(Value, frozen=True, kw_only=True):
    """Files of a bundle for another program.

    `name` is that of what they serve, such as `onnxruntime-int8` or `fp16`; `source` the file of the bundle that they
    were made from, and `bundle_sha256` the digest of its manifest. `replay` is None where this machine cannot run them,
    and a note says why. `start` is a command that uses the files.
    """

    tool: Tool
    path: str
    name: str
    precision: Precision
    batch: int
    source: str
    bundle_sha256: str
    files: dict[str, FileEntry]
    replay: Replay | None
    start: str
    notes: tuple[str, ...] = ()
    created_with: str = ""
    schema: int = EXPORT_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Job:
    """An export that has been checked and not yet written.

    Args:
        tool: The program that it is for.
        output: The directory that it replaces as a whole.
        artifact: What of the bundle is exported.
        batch: Largest number of images a run.
        write: Writes the files into an empty directory.
        replay: Sends golden images through what was written there.
        start: A command that uses the files.
        notes: What the program does otherwise than the bundle, or needs.
        by_products: Suffix of files that the program leaves there.
    """

    tool: Tool
    output: Path
    artifact: Artifact
    batch: int
    write: Callable[[Path], None]
    replay: Callable[[Path], Replay]
    start: str
    notes: tuple[str, ...]
    by_products: str = RECORD


def check_output(job: Job, bundle: Bundle) -> None:
    """Refuse an output directory that holds anything but an earlier export for the same program.

    Raises:
        InputError: It does, or it is a file, or lies in the bundle.
    """
    output = job.output
    directories.check_name(output)
    if files.real(output).is_relative_to(files.real(bundle.path)):
        raise InputError(f"output '{output}' lies in the bundle", "Give a directory outside it.")

    def known() -> set[str]:
        try:
            record = files.from_json(files.read(output / RECORD), Export)
        except (OSError, msgspec.MsgspecError) as error:
            raise InputError(f"'{output}' is no export: {error}") from None
        if record.tool != job.tool:
            raise InputError(f"'{output}' is an export for {record.tool}")
        return {RECORD, *record.files}

    bundles.check_replaceable(output, f"an export for {job.tool}", known, (job.by_products,))


def source_content(bundle: Bundle, artifact: Artifact) -> bytes:
    """Return what is exported: what the manifest says it is, and if ONNX, a plain graph of our operators.

    Raises:
        BundleError: It is missing, altered, or holds more; another program would do what it says.
    """
    content = bundle.content(artifact.file)
    if artifact.engine is None:
        check_onnx(content, bundle.manifest.model, bundle.path / artifact.file)
    return content


def as_comments(paragraphs: Iterable[str]) -> str:
    """Return paragraphs as lines that begin with a number sign, as Triton's and DeepStream's configurations have it."""
    return "".join(f"# {line}\n" for one in paragraphs for line in textwrap.wrap(one, 110))
