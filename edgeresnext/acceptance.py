"""What may be published: artefacts that reproduce PyTorch's logits, with their latency on this machine."""

from __future__ import annotations

import logging
from statistics import median
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext.backends import base
from edgeresnext.errors import AccuracyError, BackendError, EdgeResNeXtError
from edgeresnext.measure.latency import interleave
from edgeresnext.measure.machine.environment import machine
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import Selection, Timing

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgeresnext.backends.base import Session
    from edgeresnext.bundle import Bundle, Golden
    from edgeresnext.progress import Progress
    from edgeresnext.spec import Fidelity, Manifest, Precision

_TIMED_ROUNDS = 15
_CHECK_BATCH = 4
_TIMED_BUDGET_S = 5.0
_log = logging.getLogger("edgeresnext")


def replay(session: Session, golden: Golden) -> Fidelity:
    """Return how far a session is from PyTorch, in small batches, for the runtimes keep the memory of the largest."""
    starts = range(0, len(golden.images), _CHECK_BATCH)
    return golden.compare(np.concatenate([session.run(golden.images[i : i + _CHECK_BATCH]) for i in starts]))


def accept(name: str, precision: Precision, shortfall: str) -> None:
    """Refuse to publish what is too far from PyTorch."""
    if not shortfall:
        return
    hints = {
        "fp32": "This is a bug; report it with the checkpoint.",
        "fp16": "The network does not fit float16: leave it out with --precision fp32 --precision int8.",
        "int8": "Use --method auto and every repair (the defaults), let sensitive layers go back to floating point "
        "(--validation DIR), or leave INT8 out: --precision fp32 --precision fp16.",
    }
    raise AccuracyError(
        f"{name} is too far from PyTorch on the golden images: {shortfall}. Nothing was published.",
        hints.get(precision, ""),
    )


def accept_and_time(bundle: Bundle, golden: Golden, progress: Progress, new: Collection[str] | None = None) -> Manifest:
    """Return the manifest with the artefacts timed in turn at batch 1, after each has passed its check here.

    bf16 comes for nothing where the CPU has it: a network that it does not suit loses bf16 and is built all the same.

    Args:
        bundle: What is about to be published.
        golden: Its golden images, with PyTorch's logits.
        progress: Told how far the measurement is.
        new: The artefacts on trial, None for all. Others that fail here are left as they are, with a warning: they were
            accepted before, and this machine may not be theirs.

    Raises:
        AccuracyError: An artefact on trial is too far from PyTorch.
        BackendError: An artefact on trial does not run.
    """
    sessions: dict[str, Session] = {}
    offered = list(bundle.manifest.artifacts)
    try:
        for artifact in bundle.manifest.artifacts:
            reason = base.unavailable(artifact)
            if reason is not None:
                _log.info("not measured: %s: %s", artifact.name, reason)
                continue
            try:
                session = sessions[artifact.name] = open_artifact(bundle, artifact)
                shortfall = replay(session, golden).shortfall(artifact.precision)
                if shortfall and artifact.precision == "bf16":
                    _log.warning("%s is left out: %s", artifact.name, shortfall)
                    offered.remove(artifact)
                    sessions.pop(artifact.name).close()
                    continue
                accept(artifact.name, artifact.precision, shortfall)
            except EdgeResNeXtError as error:
                if new is None or artifact.name in new:
                    raise
                _log.warning("%s, which was in the bundle before, is not measured: %s", artifact.name, error.what)
                if artifact.name in sessions:
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
    for name, failure in failures.items():
        if new is None or name in new:
            raise BackendError(f"{name} failed while it was timed: {failure}", "Nothing was published.")
        _log.warning("%s failed while it was timed: %s", name, failure)
    timings = [Timing(artifact=name, latency_s=median(s), samples=len(s)) for name, s in samples.items() if s]
    ranked = tuple(sorted(timings, key=lambda timing: timing.latency_s))
    # A machine that can run nothing of it knows nothing better than what was measured before.
    selection = Selection(machine=machine(), timings=ranked) if ranked else bundle.manifest.selection
    return msgspec.structs.replace(bundle.manifest, artifacts=tuple(offered), selection=selection)
