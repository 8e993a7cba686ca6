"""Proof before the first answer: each artefact replays golden images on this machine, once, and that is remembered.

What is remembered lies in the user's cache, never in the bundle, under a name that is made of the bundle and of all
that an answer depends on: other runtime, other processor, other proof. Nothing here is ever an error: what cannot be
read or written is proved again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from statistics import median
from typing import Literal

import msgspec
import numpy as np

from edgeresnext import __version__, files
from edgeresnext.backends.base import Session
from edgeresnext.bundle import Bundle, Golden
from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.machine import cpu, gpu
from edgeresnext.machine.cache import recall, remember
from edgeresnext.machine.environment import package_versions
from edgeresnext.spec import CPU, Artifact, Check, Fidelity, Manifest, Value

_SCHEMA = 1
_PACKAGES = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx",),
}
"""What is installed under which name for each backend; PyTorch, which everything is compared with, is no candidate."""
_FEWEST_IMAGES = 4
_BUDGET_S = 0.2
"""Time after which no further image is replayed."""
_TIMED_RUNS = 9


class _Remembered(Value, frozen=True, kw_only=True):
    """The form of a file in the cache."""

    schema: int
    bundle: str
    conditions: dict[str, str]
    checks: dict[str, Check]


class Proofs:
    """What is known of a bundle's artefacts on this machine.

    Args:
        bundle: The bundle, as `bundle.read` returned it.
        threads: CPU threads of the sessions, None for the runtime's choice: their order depends on it.

    Attributes:
        checks: By the artefact's name. Without `fidelity` are those that did not start: that may be mended at any time.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._bundle = bundle
        here = conditions(bundle.manifest)
        self.elsewhere = bundle.manifest.selection.conditions != here
        """Whether the order of the artefacts in the manifest was measured under other conditions than these."""
        self._conditions = here | ({"threads": str(threads)} if threads else {})
        self._golden: Golden | None = None
        self.checks: dict[str, Check] = dict(self._read())

    def prove(self, artifact: Artifact, session: Session, *, timed: bool = False) -> Check:
        """Replay golden images on a session, and remember what came of it.

        Args:
            artifact: What the session runs.
            session: Ready to run.
            timed: Take its latency too.

        Raises:
            BundleError: The golden images are missing, altered or damaged.
        """
        if self._golden is None:
            self._golden = self._bundle.golden()
        found = check(self._bundle, self._golden, artifact, session, timed=timed)
        self._note(found)
        return found

    def fail(self, artifact: Artifact, reason: str) -> None:
        """Remember an artefact that does not start here."""
        self._note(Check(artifact=artifact.name, status="failed", reason=reason))

    def latency_s(self, artifact: Artifact) -> float | None:
        """Return what an artefact was timed at here; None where it was not, or is wrong here."""
        known = self.checks.get(artifact.name)
        return None if known is None or known.status == "failed" else known.latency_s

    def failed_to_start(self, artifact: Artifact) -> bool:
        """Whether an artefact did not start when it was tried last."""
        known = self._failure(artifact)
        return known is not None and known.fidelity is None

    def wrong(self, artifact: Artifact) -> str:
        """Return why an artefact is known to give wrong answers here, or nothing."""
        known = self._failure(artifact)
        return "" if known is None or known.fidelity is None else known.reason

    def failures(self, artifacts: Iterable[Artifact]) -> dict[str, str]:
        """Return why those of the artefacts that are known to fail here do, by name."""
        return {
            artifact.name: f"{'it does not start: ' if known.fidelity is None else ''}{known.reason}"
            for artifact in artifacts
            if (known := self._failure(artifact)) is not None
        }

    def _failure(self, artifact: Artifact) -> Check | None:
        known = self.checks.get(artifact.name)
        return known if known is not None and known.status == "failed" else None

    @property
    def _place(self) -> tuple[str, str]:
        """Where it is remembered, below the cache."""
        known = msgspec.json.encode([self._bundle.digest, self._conditions])
        return "proofs", f"{hashlib.sha256(known).hexdigest()[:32]}.json"

    def _read(self) -> dict[str, Check]:
        try:
            found = files.from_json(recall(*self._place) or b"", _Remembered)
        except ValueError:  # nothing there, or nothing of ours
            return {}
        whole = (found.schema, found.bundle, found.conditions) == (_SCHEMA, self._bundle.digest, self._conditions)
        return found.checks if whole else {}

    def _note(self, found: Check) -> None:
        self.checks[found.artifact] = found
        others = self._read()  # of processes that prove at the same time
        value = _Remembered(
            schema=_SCHEMA, bundle=self._bundle.digest, conditions=self._conditions, checks=others | self.checks
        )
        remember(msgspec.json.encode(value), *self._place)


def conditions(manifest: Manifest) -> dict[str, str]:
    """Return what the answers of a bundle's artefacts and their speed depend on besides its files."""
    found = {
        "edgeresnext": __version__,
        "cpu": cpu.name(),
        "isa": " ".join(sorted(cpu.isa())),
        "isa_limit": cpu.onednn_limit(),
        "cores": str(cpu.cores()),
    }
    backends = {artifact.backend for artifact in manifest.artifacts}
    found |= package_versions(*(name for backend in _PACKAGES if backend in backends for name in _PACKAGES[backend]))
    # Asking CUDA initialises it, after which a forked process cannot use it: not where nothing is for a GPU.
    device = gpu.detect() if any(artifact.engine is not None for artifact in manifest.artifacts) else None
    return found | ({"gpu": f"{device.name}, {device.driver}"} if device else {})


def replay(session: Session, golden: Golden, budget_s: float | None = None) -> Fidelity:
    """Return how far a session is from PyTorch on golden images, one at a time as they are served.

    Args:
        session: Ready to run.
        golden: The images.
        budget_s: Time after which no further image is begun, four at least; None for all of them.
    """
    logits = []
    start = time.perf_counter()
    for index in range(len(golden.images)):
        if budget_s is not None and index >= _FEWEST_IMAGES and time.perf_counter() - start > budget_s:
            break
        logits.append(session.run(golden.images[index : index + 1]))
    return golden.first(len(logits)).compare(np.concatenate(logits))


def shortfall(bundle: Bundle, artifact: Artifact, fidelity: Fidelity) -> str:
    """Return why an artefact that ran here is not to be used here, or nothing."""
    found = bundle.shortfall(artifact, fidelity)
    bound = artifact.backend == "openvino"  # by the limit that oneDNN is given
    if found and artifact.precision == "int8" and artifact.target == CPU and cpu.saturates(limited=bound):
        return f"{found}: on this CPU {cpu.int8_products(limited=bound)}"
    return found


def check(bundle: Bundle, golden: Golden, artifact: Artifact, session: Session, *, timed: bool = False) -> Check:
    """Return what golden images make of a session: whether it may answer on this machine.

    Args:
        bundle: The bundle.
        golden: Its golden images.
        artifact: What the session runs.
        session: Ready to run.
        timed: Take its latency too.
    """
    latency_s = None
    try:
        fidelity = replay(session, golden, _BUDGET_S)
        reason = shortfall(bundle, artifact, fidelity)
        if timed and not reason:
            latency_s = _latency_s(session, golden)
    except EdgeResNeXtError as error:
        return Check(artifact=artifact.name, status="failed", reason=error.what)
    status: Literal["ok", "failed"] = "failed" if reason else "ok"
    return Check(artifact=artifact.name, status=status, fidelity=fidelity, reason=reason, latency_s=latency_s)


def _latency_s(session: Session, golden: Golden) -> float:
    """Return the median latency at batch 1; sessions that have replayed images are warm.

    One session after the other: open together, in turn, five of them would take five times the memory.
    """
    session.prepare(golden.images[:1])  # as it is served
    taken = []
    for index in range(_TIMED_RUNS):
        image = golden.images[index % len(golden.images)][None]
        start = time.perf_counter()
        session.run(image)
        taken.append(time.perf_counter() - start)
    return median(taken)
