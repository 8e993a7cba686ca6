"""What may be published, and what this machine makes of it.

A file is judged by what it says, in exact arithmetic: one that is wrong ends the build. What a runtime of this machine
makes of a file says nothing about other machines: an artefact that fails here is left out here, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from statistics import median
from typing import Literal

import msgspec

from edgeresnext.backends import registry
from edgeresnext.backends.base import Session
from edgeresnext.bundle import Bundle, Golden
from edgeresnext.errors import AccuracyError, BackendError, EdgeResNeXtError
from edgeresnext.machine.environment import machine
from edgeresnext.measure.latency import interleave
from edgeresnext.progress import Progress
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.runtime.proof import conditions, replay, shortfall
from edgeresnext.spec import Artifact, Manifest, Precision, Selection, Timing

_TIMED_ROUNDS = 9
_TIMED_BUDGET_S = 5.0
_log = logging.getLogger("edgeresnext")


_REMEDIES: dict[Precision | Literal["trained"], tuple[str, tuple[str, ...]]] = {
    "fp32": ("This is a bug; report it with the checkpoint.", ()),
    "fp16": ("The network does not fit float16: build fp32 and int8 alone.", ("precisions",)),
    "int8": (
        "Use the method auto and every repair, let validation images decide what stays INT8, or leave INT8 out.",
        ("method", "repairs", "validation", "precisions"),
    ),
    "trained": (
        "Train in INT8 again, distilled or at a lower rate, or delete the ranges beside the weights to calibrate.",
        ("precisions",),
    ),
}
"""What to do about a file that is too far from PyTorch, and the values that this is about."""


def accept(name: str, kind: Precision | Literal["trained"], reason: str) -> None:
    """Refuse to publish a file that says something too far from PyTorch.

    Args:
        name: The file.
        kind: Its precision; trained where it is INT8 with ranges that were trained.
        reason: By how much it misses what it must reach, or nothing.

    Raises:
        AccuracyError: `reason` is not empty.
    """
    if reason:
        hint, values = _REMEDIES[kind]
        raise AccuracyError(
            f"{name} is too far from PyTorch on the golden images: {reason}. Nothing was published.",
            hint,
            values=values,
        )


def measured_here(
    bundle: Bundle, golden: Golden, progress: Progress, new_engines: Collection[str] = ()
) -> tuple[Manifest, dict[str, EdgeResNeXtError]]:
    """Return the manifest with the artefacts that are right here timed in turn at batch 1, and why others are not.

    Engines that were just built for this machine and fail on it are dropped; all other artefacts stay in the bundle,
    for other machines.

    Args:
        bundle: What is about to be published.
        golden: Its golden images, with PyTorch's logits.
        progress: Told how far the measurement is.
        new_engines: Names of the engines that were just built.
    """
    sessions: dict[str, Session] = {}
    failed: dict[str, EdgeResNeXtError] = {}
    try:
        for artifact in bundle.manifest.artifacts:
            missing = registry.unavailable(artifact)
            if missing is not None:
                _log.info("not measured: %s: %s", artifact.name, missing)
                continue
            try:
                session = sessions[artifact.name] = open_artifact(bundle, artifact)
                reason = shortfall(bundle, artifact, replay(session, golden))
            except EdgeResNeXtError as error:
                failed[artifact.name] = error
            else:
                if reason:
                    failed[artifact.name] = AccuracyError(reason)
            if artifact.name in failed and artifact.name in sessions:
                sessions.pop(artifact.name).close()
        samples, failures = interleave(
            sessions,
            golden.images,
            1,
            min_rounds=5,
            max_rounds=_TIMED_ROUNDS,
            budget_s=_TIMED_BUDGET_S,
            progress=lambda done, total: progress("measure", done, total),
            warm=False,
        )
    finally:
        for session in sessions.values():
            session.close()
    failed |= {name: BackendError(f"it failed while it was timed: {reason}") for name, reason in failures.items()}
    timings = [
        Timing(artifact=name, latency_s=median(taken), samples=len(taken))
        for name, taken in samples.items()
        if taken and name not in failed
    ]
    ranked = tuple(sorted(timings, key=lambda timing: timing.latency_s))
    # A machine that can run nothing of it knows nothing better than what was measured before.
    selection = (
        Selection(machine=machine(), timings=ranked, conditions=conditions(bundle.manifest))
        if ranked
        else bundle.manifest.selection
    )
    kept = tuple(_without(bundle.manifest.artifacts, failed, new_engines))
    return msgspec.structs.replace(bundle.manifest, artifacts=kept, selection=selection), failed


def _without(
    artifacts: tuple[Artifact, ...], failed: Mapping[str, EdgeResNeXtError], new_engines: Collection[str]
) -> list[Artifact]:
    """Return the artefacts to publish, after saying what is left out."""
    kept = []
    for artifact in artifacts:
        error = failed.get(artifact.name)
        dropped = error is not None and artifact.name in new_engines
        if error is not None:
            how = "is not published" if dropped else "is left out on this machine"
            _log.warning("%s %s: %s", artifact.name, how, error.what)
        if not dropped:
            kept.append(artifact)
    return kept
