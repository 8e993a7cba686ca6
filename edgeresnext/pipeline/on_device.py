"""From a bundle to a bundle with engines: what runs on the device, without PyTorch or the checkpoint.

bundle -> engines -> checked and timed -> bundle
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from edgeresnext import bundle as bundles
from edgeresnext import directories
from edgeresnext.backends.targets import HERE
from edgeresnext.backends.targets import parse as parse_targets
from edgeresnext.bundle import Bundle
from edgeresnext.errors import AccuracyError, BackendError, BundleError, RequestError
from edgeresnext.machine import gpu
from edgeresnext.pipeline.accept import measured_here
from edgeresnext.pipeline.engines import check_files, compile_engines
from edgeresnext.pipeline.request import check_precisions
from edgeresnext.pipeline.wanted import Wanted, engines_wanted
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import Artifact, EngineOptions, Manifest

_DEFAULT_OPTIONS = EngineOptions()
_log = logging.getLogger("edgeresnext")


def build_engines(
    path: str | Path,
    *,
    targets: Iterable[str] = (HERE,),
    precisions: Iterable[str] | None = None,
    output: str | Path | None = None,
    engine_options: EngineOptions = _DEFAULT_OPTIONS,
    progress: Progress = silent,
) -> Bundle:
    """Add engines to a bundle, from its ONNX files: on the device, without PyTorch or the checkpoint.

    Each engine is checked against PyTorch's recorded logits where this machine can run it, and timed together with
    everything else that runs here; one that fails is left out, with a warning. An engine of the same target and
    precision is replaced; others are kept.

    Args:
        path: The bundle.
        targets: `here` for the GPU of this machine, or any rtx target.
        precisions: Any of fp32, fp16 and int8; None for those that pay.
        output: Where to write the bundle with its engines; None changes it in place, when all have been built.
        engine_options: Batch profile, workspace and the like; `backend` where both runtimes are installed.
        progress: Told how far each engine is.

    Raises:
        BundleError: The path is no bundle, or a file of it is missing or altered.
        RequestError: A name does not exist, or options contradict each other.
        NotInstalledError: TensorRT or a GPU is missing.
        BackendError: A build failed; the bundle is as it was.
        AccuracyError: No engine is near enough to PyTorch to be published.
    """
    chosen = None if precisions is None else check_precisions(precisions)
    asked = parse_targets(targets)
    unfit = [target.name for target in asked if target.name != HERE and not target.compute_capabilities]
    if unfit:
        raise RequestError(
            f"target '{unfit[0]}' gets no engine from a bundle",
            "On the device itself ask for 'here'. A Jetson's files come from a build of the checkpoint.",
            values=("targets",),
        )
    wanted = engines_wanted(asked, chosen, engine_options)
    with suppress(OSError):  # `read` says where it waits
        directories.put_back(Path(path))
    check_files(bundles.read(path).manifest, wanted, engine_options)
    output = Path(path if output is None else output)
    bundles.check_output(output)
    with bundles.replacing(output, _log.warning) as staging:
        bundle = bundles.read(path)  # another build may have added to it while this one waited
        replaced = {one.file for one in wanted}
        for name in bundle.manifest.files.keys() - replaced:  # a lost or damaged engine is built anew all the same
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if output.resolve() == Path(path).resolve():
                _link_or_copy(bundle.file(name), target)
            else:  # two bundles share no file
                shutil.copyfile(bundle.file(name), target)
        manifest = msgspec.structs.replace(
            bundle.manifest, targets=tuple(dict.fromkeys([*bundle.manifest.targets, *(t.name for t in asked)]))
        )
        add_engines(Bundle(path=staging, manifest=manifest), wanted, engine_options, progress, before=bundle)
    return bundles.read(output)


def add_engines(
    bundle: Bundle,
    wanted: tuple[Wanted, ...],
    options: EngineOptions,
    progress: Progress,
    *,
    before: Bundle | None = None,
) -> None:
    """Build the engines, time whatever is right here, and write the manifest.

    Args:
        bundle: What is about to be published.
        wanted: The engines.
        options: How they are built.
        progress: Told how far each is.
        before: The bundle that engines are added to, where there is nothing else to publish. One of its engines whose
            successor fails stays.

    Raises:
        AccuracyError: Every engine is too far from PyTorch here, and there is nothing else to publish.
        BackendError: Every engine fails here, and there is nothing else to publish.
    """
    new_files = {one.file for one in wanted}
    for file in new_files:
        (bundle.path / file).unlink(missing_ok=True)  # a link to the old bundle's: never written through
    kept = tuple(artifact for artifact in bundle.manifest.artifacts if artifact.file not in new_files)
    with gpu.using(options.device):
        built = compile_engines(bundle, wanted, options, progress)
        manifest = msgspec.structs.replace(
            bundle.manifest, artifacts=(*built, *kept), files=bundles.list_files(bundle.path)
        )
        new = {artifact.name for artifact in built}
        manifest, failed = measured_here(Bundle(path=bundle.path, manifest=manifest), bundle.golden(), progress, new)
    dropped = [artifact for artifact in built if artifact not in manifest.artifacts]
    if before is not None and dropped and len(dropped) == len(built):
        reasons = ", ".join(f"{artifact.name} ({failed[artifact.name].what})" for artifact in dropped)
        kinds = {type(failed[artifact.name]) for artifact in dropped}
        raise (AccuracyError if kinds == {AccuracyError} else BackendError)(
            f"no engine passes on this machine: {reasons}. The bundle is as it was.",
            "Ask for another precision, such as fp16 or fp32.",
            values=("precisions",),
        )
    for artifact in dropped:
        (bundle.path / artifact.file).unlink()
        manifest = _restored(artifact, manifest, before, bundle.path)
    bundles.write_manifest(bundle.path, manifest)


def _restored(dropped: Artifact, manifest: Manifest, before: Bundle | None, staging: Path) -> Manifest:
    """Return a manifest without an engine that failed, and with the one that it was to replace, where there is one."""
    listed = {name: entry for name, entry in manifest.files.items() if name != dropped.file}
    old = [] if before is None else [one for one in before.manifest.artifacts if one.name == dropped.name]
    try:
        for one in old:
            assert before is not None
            _link_or_copy(before.file(one.file), staging / one.file)
            listed[one.file] = before.manifest.files[one.file]
            _log.warning("%s of the earlier build stays", one.name)
    except BundleError:  # lost or damaged, which is why it was built anew
        old = []
    return msgspec.structs.replace(manifest, files=listed, artifacts=(*old, *manifest.artifacts))


def _link_or_copy(source: Path, target: Path) -> None:
    """Give an unchanged file a second name; copy it where the file system has no such links."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
