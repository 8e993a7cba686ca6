"""From a bundle to the files of another program: chosen, written, replayed, and published only if they are right.

bundle -> artefact -> files -> golden images through them -> directory
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast, get_args

from edgeresnext import __version__, directories, files
from edgeresnext import bundle as bundles
from edgeresnext.bundle import Bundle
from edgeresnext.errors import NotInstalledError, RequestError, unknown_name
from edgeresnext.interop.deepstream import prepare as for_deepstream
from edgeresnext.interop.exported import RECORD, Export, Job, check_output
from edgeresnext.interop.triton import prepare as for_triton
from edgeresnext.spec import Precision

_log = logging.getLogger("edgeresnext")


def export(
    path: str | Path,
    *,
    triton: str | Path | None = None,
    deepstream: str | Path | None = None,
    precision: str | None = None,
    target: str | None = None,
    batch: int | None = None,
    name: str | None = None,
) -> tuple[Export, ...]:
    """Write a bundle as a model of a Triton repository, as a classifier for DeepStream's nvinfer, or as both.

    Golden images go through the files as that program sends them, and have to give the logits of the bundle's own file
    within 1e-3 of the largest one; otherwise nothing is left. What is there of an earlier export is replaced.

    Args:
        path: The bundle.
        triton: A model repository, which may have other models; this one is a folder in it.
        deepstream: A directory for nvinfer's ONNX file, labels and configurations.
        precision: fp32, fp16 or int8; None for the fastest that Triton can serve, and for FP16 in DeepStream.
        target: For Triton, `cpu` or the target of one of the bundle's engines; None for the fastest.
        batch: Largest number of images a run; None for what an engine takes, 8 for Triton's ONNX files, 1 for
            DeepStream.
        name: What the model is called in Triton; None for the name of the bundle's directory.

    Returns:
        What was written, Triton's first.

    Raises:
        BundleError: The path is no bundle, or a file of it is missing or altered.
        RequestError: The bundle has no such artefact, the program cannot run it, or nothing was asked for.
        InputError: A directory holds something other than such an export.
        NotInstalledError: ONNX Runtime is missing, or `onnx` for DeepStream.
        AccuracyError: The exported files do not reproduce the golden images.
    """
    if triton is None and deepstream is None:
        raise RequestError(
            "nothing to export to", "Name a directory for Triton or for DeepStream.", values=("triton", "deepstream")
        )
    for_triton_alone = {"target": target, "name": name}
    unused = tuple(key for key, value in for_triton_alone.items() if triton is None and value is not None)
    if unused:
        raise RequestError(
            f"{', '.join(unused)} would change nothing: DeepStream builds its engine itself, of an ONNX file",
            "Leave it out.",
            values=unused,
        )
    if batch is not None and batch < 1:
        raise RequestError(f"batch is {batch}", "Ask for one image or more.", values=("batch",))
    bundle = bundles.read(path)
    chosen = None if precision is None else check_precision(precision)
    jobs = []
    if triton is not None:
        jobs.append(for_triton(bundle, Path(triton), precision=chosen, target=target, batch=batch, name=name))
    if deepstream is not None:
        jobs.append(for_deepstream(bundle, Path(deepstream), chosen, batch))
    for job in jobs:
        check_output(job, bundle)
    if len({files.real(job.output) for job in jobs}) < len(jobs):
        raise RequestError(
            f"both exports would be '{jobs[0].output}'", "Give two directories.", values=("triton", "deepstream")
        )
    return tuple(_publish(job, bundle) for job in jobs)


def check_precision(name: str) -> Precision:
    """Return a name as a precision.

    Raises:
        RequestError: There is none of this name.
    """
    if name not in get_args(Precision):
        raise unknown_name("precision", name, get_args(Precision), values=("precision",))
    return cast("Precision", name)


def _publish(job: Job, bundle: Bundle) -> Export:
    """Write, replay, record; all of it appears at once or not at all."""
    with directories.replacing(job.output, _log.warning) as staging:
        check_output(job, bundle)  # once more: another export may have come first
        job.write(staging)
        notes = job.notes
        try:
            replay = job.replay(staging)
        except NotInstalledError as error:
            if job.artifact.engine is None:
                raise
            replay = None
            notes = (f"not replayed here: {error.what}. `edgeresnext verify` proves the engine where it runs", *notes)
        record = Export(
            tool=job.tool,
            path=str(job.output),
            name=job.artifact.name,
            precision=job.artifact.precision,
            batch=job.batch,
            source=job.artifact.file,
            bundle_sha256=bundle.digest,
            files=bundles.list_files(staging),
            replay=replay,
            start=job.start,
            notes=notes,
            created_with=__version__,
        )
        (staging / RECORD).write_bytes(files.to_json(record))
    return record
