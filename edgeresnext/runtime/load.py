"""Load a bundle: which of its artefacts is the fastest that this machine runs rightly."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext.backends import registry
from edgeresnext.backends.base import ForkedError, Session
from edgeresnext.bundle import Bundle
from edgeresnext.errors import BackendError, EdgeResNeXtError, NotInstalledError, RequestError
from edgeresnext.machine import gpu
from edgeresnext.runtime.classifier import Classifier, is_count, open_artifact
from edgeresnext.runtime.proof import Proofs
from edgeresnext.spec import Artifact

_WRONG = "Build the bundle again with this release, or ask for another backend or precision."
_log = logging.getLogger("edgeresnext")


def load(
    path: str | Path,
    *,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    prove: bool = True,
    batches: Iterable[int] = (1,),
    device: int | str | None = None,
    trusted: Sequence[str | Path] = (),
) -> Classifier:
    """Load the fastest artefact of a bundle that this machine runs, and runs rightly.

    The first load on a machine replays golden images before anything is answered, which takes a fraction of a second;
    an artefact that fails is passed over with a warning. Where processor or runtimes are not those of the build, all
    artefacts are opened and timed once, which takes seconds, for another may be the fastest. What is found is
    remembered in the user's cache (`EDGERESNEXT_CACHE`). The choice is logged at INFO on the logger `edgeresnext`; it
    is the classifier's `artifact`, and `reason` says why.

    It ends prepared: the runtime has chosen how it runs batches of the sizes that are asked for (memory layout, CUDA
    graph, copies or shared memory), and is warm. Batches of other sizes run too.

    Args:
        path: The bundle.
        backend: Take this backend's artefacts only.
        precision: Take this precision only.
        threads: CPU threads; None leaves the choice to the runtime.
        prove: Whether artefacts have to prove themselves; without, the order is that of the build's machine.
        batches: Images a call that it will mostly be given.
        device: The GPU to run on, by its index among those that CUDA offers or by its UUID; None for the first.
        trusted: Public keys, Ed25519 in PEM, of whom the bundle may come from; with none it may come from anybody.

    Raises:
        BundleError: The path is no bundle, nobody trusted signed it, or a file of it is missing or altered; golden
            images are needed to prove.
        RequestError: The bundle has no such artefact, there is no such GPU, or `threads` or a batch is not positive.
        NotInstalledError: This machine can run none of the artefacts; each reason is given.
        BackendError: No artefact that was asked for starts here and gives the right answers.
    """
    sizes = _sizes(batches)

    def load_it(bundle: Bundle) -> Classifier:
        candidates = bundle.artifacts(backend, precision)
        with gpu.using(device):
            return _choose(bundle, candidates, threads, sizes, prove=prove)

    return bundles.reading(path, load_it, trusted)


def _sizes(batches: Iterable[int]) -> tuple[int, ...]:
    """Return batch sizes, each once.

    Raises:
        RequestError: One is not a positive number.
    """
    hint = "Give one image or more, such as (1, 8)."
    if not isinstance(batches, Iterable):
        raise RequestError(f"batches is {batches!r}", hint, values=("batches",))
    sizes = tuple(dict.fromkeys(batches))
    for size in sizes:
        if not is_count(size):
            raise RequestError(f"a batch is {size!r}", hint, values=("batches",))
    return sizes


def _choose(
    bundle: Bundle, candidates: tuple[Artifact, ...], threads: int | None, sizes: tuple[int, ...], *, prove: bool
) -> Classifier:
    """Return the first of the candidates that runs rightly, prepared for batches of these sizes; see `load`."""
    labels = bundle.labels()
    proofs = Proofs(bundle, threads) if prove else None
    if proofs is not None and proofs.elsewhere and len(candidates) > 1:
        _time_all(bundle, candidates, proofs, threads)
    measured_on = bundle.manifest.selection.machine
    if proofs is not None:
        latencies = {artifact.name: proofs.latency_s(artifact) for artifact in candidates}
        if any(latency is not None for latency in latencies.values()):
            measured_on = "this machine"
            candidates = tuple(sorted(candidates, key=lambda one: latencies[one.name] or math.inf))
        # What did not start when it was tried last is tried again, but only when nothing else is left.
        candidates = tuple(sorted(candidates, key=proofs.failed_to_start))
    missing: dict[str, str] = {}
    failed: dict[str, EdgeResNeXtError] = {}
    for artifact in candidates:
        reason = registry.unavailable(artifact)
        if reason is not None:
            missing[artifact.name] = reason
            continue
        try:
            session = _prepared(_proven(bundle, artifact, proofs, threads), sizes)
        except (BackendError, NotInstalledError) as error:
            failed[artifact.name] = error
            continue
        # What failed while everything was timed stands behind the one that is chosen, and is told all the same.
        wrong = {} if proofs is None else proofs.failures(candidates)
        wrong |= {name: error.what for name, error in failed.items()}
        _tell_once(bundle, artifact, missing, wrong)
        why = _why(artifact, len(candidates), missing | wrong, measured_on)
        _log.info("%s: running %s (%s), %s", bundle.path, artifact.name, artifact.file, why)
        return Classifier(session, artifact, labels, bundle.manifest.model.preprocess, why)
    raise _nothing_runs(bundle, missing, failed)


def _nothing_runs(bundle: Bundle, missing: dict[str, str], failed: dict[str, EdgeResNeXtError]) -> EdgeResNeXtError:
    """Return the error for a machine that can run nothing of what was asked for.

    Args:
        bundle: The bundle.
        missing: What is not there to run an artefact, by name.
        failed: Why an artefact that could be tried failed, by name.
    """
    if len(failed) == 1 and not missing:
        ((name, error),) = failed.items()
        error.what = f"{name} of bundle '{bundle.path}': {error.what}"
        return error
    hints = [*missing.values(), *(error.hint for error in failed.values() if error.hint)]
    hint = "; ".join(dict.fromkeys(hints))
    if failed:
        what = ", ".join(f"{name} ({error.what})" for name, error in failed.items())
        return BackendError(f"nothing that was asked for from bundle '{bundle.path}' runs here rightly: {what}", hint)
    return NotInstalledError(f"this machine can run nothing that was asked for from bundle '{bundle.path}'", hint)


def _time_all(bundle: Bundle, candidates: tuple[Artifact, ...], proofs: Proofs, threads: int | None) -> None:
    """Prove and time every candidate whose speed here is not known, one after the other."""
    for artifact in candidates:
        known = proofs.latency_s(artifact) is not None or proofs.wrong(artifact) or proofs.failed_to_start(artifact)
        # PyTorch is what all others are faster than; importing it would take longer than everything else.
        if known or artifact.backend == registry.BASELINE or registry.unavailable(artifact):
            continue
        try:
            session = open_artifact(bundle, artifact, threads)
        except ForkedError:
            continue
        except EdgeResNeXtError as error:
            proofs.fail(artifact, error.what)
            continue
        try:
            proofs.prove(artifact, session, timed=True)
        finally:
            session.close()


def _proven(bundle: Bundle, artifact: Artifact, proofs: Proofs | None, threads: int | None) -> Session:
    """Open an artefact that has given, or now gives, the right answers here.

    Raises:
        BackendError: It does not start, or its answers are wrong.
        NotInstalledError: Its runtime does not start.
        BundleError: Its file, or the golden images, are missing or altered.
    """
    wrong = "" if proofs is None else proofs.wrong(artifact)
    if wrong:
        raise BackendError(wrong, _WRONG)
    try:
        session = open_artifact(bundle, artifact, threads)
    except (BackendError, NotInstalledError) as error:
        # An engine may fit by the manifest and still not start: too little memory, or a DLA that is not there.
        if proofs is not None and not isinstance(error, ForkedError):
            proofs.fail(artifact, error.what)
        error.what = f"it does not start: {error.what}"
        raise
    if proofs is None or (artifact.name in proofs.checks and not proofs.failed_to_start(artifact)):
        return session
    try:
        found = proofs.prove(artifact, session)
    except BaseException:
        session.close()
        raise
    if found.status == "failed":
        session.close()
        raise BackendError(found.reason, _WRONG)
    return session


def _prepared(session: Session, sizes: tuple[int, ...]) -> Session:
    """Return a session that has chosen how it runs batches of these sizes, and is warm.

    Raises:
        BackendError: It fails on one of them.
    """
    height, width, channels = session.model.input.shape[1:]
    generator = np.random.default_rng(0)
    try:
        for size in sizes:
            session.prepare(generator.integers(0, 256, (size, height, width, channels), dtype=np.uint8))  # type: ignore[arg-type]
    except MemoryError as error:
        session.close()
        what = f"batches of {max(sizes):,} images do not fit into memory"
        raise BackendError(f"{what}: {error}", "Ask for smaller ones.", values=("batches",)) from None
    except BaseException:
        session.close()
        raise
    return session


def _why(artifact: Artifact, asked_for: int, passed_over: Mapping[str, str], measured_on: str) -> str:
    """Say in a few words why an artefact was chosen.

    Args:
        artifact: The one that was chosen.
        asked_for: How many there were to choose from.
        passed_over: Why others were not, by name.
        measured_on: Where their order was measured.
    """
    if asked_for == 1:
        how = "the only one that was asked for"
    elif asked_for - len(passed_over) == 1:
        how = "the only one that runs here"
    else:
        how = (
            "an engine for this GPU" if artifact.engine else f"the fastest that runs here, as measured on {measured_on}"
        )
    wrong = [f"{name} ({reason})" for name, reason in passed_over.items()]
    return f"{how}; passed over: {', '.join(wrong)}" if wrong else how


_told: set[tuple[Path, str, tuple[str, ...]]] = set()


def _tell_once(bundle: Bundle, chosen: Artifact, missing: Mapping[str, str], failed: Mapping[str, str]) -> None:
    """Say, once a bundle and process, what is passed over though it is there: what fails, and engines of other GPUs."""
    engines = {artifact.name for artifact in bundle.manifest.artifacts if artifact.engine is not None}
    notable = dict(failed)
    if chosen.engine is None:
        first = next((name for name in missing if name in engines), None)
        notable |= {first: missing[first]} if first is not None else {}
    key = bundle.path, chosen.name, tuple(notable)
    if not notable or key in _told:
        return
    _told.add(key)
    names = [f"{'the engine ' if name in engines else ''}{name}: {reason}" for name, reason in notable.items()]
    _log.warning("%s: running %s, not %s", bundle.path, chosen.name, ", nor ".join(names))
