"""Replay the golden images on every artefact and compare with PyTorch's recorded logits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from edgeresnext import bundle as bundles
from edgeresnext.backends import registry
from edgeresnext.bundle import Bundle, Golden
from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.machine import gpu
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.runtime.deep import checks
from edgeresnext.runtime.proof import shortfall
from edgeresnext.spec import Artifact, Check


def verify(
    path: str | Path, *, device: int | str | None = None, trusted: Sequence[str | Path] = (), deep: bool = False
) -> tuple[Check, ...]:
    """Check every file's digest, then every artefact that this machine runs against the golden logits.

    Args:
        path: The bundle.
        device: The GPU to run on, by its index among those that CUDA offers or by its UUID; None for the first.
        trusted: Public keys, Ed25519 in PEM, of whom the bundle may come from; with none it may come from anybody.
        deep: Check too that the parts belong together: no file that the manifest does not list, PyTorch's logits
            computed anew from the weights, every ONNX file read and computed by this package and its weights compared,
            ranges and engines by the digests of what they were made from. Takes seconds to a minute, and PyTorch.

    Returns:
        One check an artefact; those that this machine cannot run are skipped with the reason. With `deep` one before
        for each part, by its file.

    Raises:
        BundleError: The path is no bundle, nobody trusted signed it, or a file of it is missing or altered.
        RequestError: There is no such GPU.
    """
    with gpu.using(device):
        return bundles.reading(path, functools.partial(_verify, deep=deep), trusted)


def _verify(bundle: Bundle, *, deep: bool) -> tuple[Check, ...]:
    for name in bundle.manifest.files:
        bundle.file(name)
    golden = bundle.golden()
    bundle.labels()
    parts = checks(bundle) if deep else ()
    return (*parts, *(_check(bundle, artifact, golden) for artifact in bundle.artifacts()))


def _check(bundle: Bundle, artifact: Artifact, golden: Golden) -> Check:
    """Replay the golden images on one artefact."""
    reason = registry.unavailable(artifact)
    if reason is not None:
        return Check(artifact=artifact.name, status="skipped", reason=reason)
    try:
        session = open_artifact(bundle, artifact)
        try:
            fidelity = golden.compare(session.run(golden.images))  # in one batch; `load` proves one image at a time
        finally:
            session.close()
    except EdgeResNeXtError as error:
        return Check(artifact=artifact.name, status="failed", reason=error.what)
    reason = shortfall(bundle, artifact, fidelity)
    return Check(artifact=artifact.name, status="failed" if reason else "ok", fidelity=fidelity, reason=reason)
