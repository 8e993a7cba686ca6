"""Benchmark a bundle: every artefact against PyTorch on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext.backends import base, gpu
from edgeresnext.data import folder
from edgeresnext.data.images import load_image
from edgeresnext.errors import BundleError, DataError, EdgeResNeXtError, RequestError
from edgeresnext.measure.accuracy import Classified, best_classes, classify
from edgeresnext.measure.environment import environment, package_versions
from edgeresnext.measure.latency import interleave, speedup, summarise
from edgeresnext.measure.memory import peak_memory
from edgeresnext.measure.statistics import mcnemar, wilson
from edgeresnext.runtime.classifier import open_artifact
from edgeresnext.spec import CPU, Report, Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeresnext.backends.base import Session
    from edgeresnext.bundle import Bundle
    from edgeresnext.data.folder import ImageFolder
    from edgeresnext.spec import Artifact

RECORDED = "recorded logits"
"""Name of the baseline where PyTorch is not installed: its logits for the golden images, from the bundle."""

_BASELINE = f"{base.BASELINE}-fp32"
_TIMED_IMAGES = 64
_MIN_ROUNDS, _MAX_ROUNDS = 64, 700
"""64 rounds are enough for p90, 662 for p99."""
DEFAULT_SECONDS = 20.0


@dataclass(kw_only=True)
class _Variant:
    """An artefact under test, and what became of it."""

    artifact: Artifact
    session: Session | None = None
    status: str = "ok"
    reasons: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.artifact.name

    def fail(self, reason: str) -> None:
        """Take note that this variant broke; the others go on."""
        self.status = "failed"
        self.reasons = [reason]


def bench(
    path: str | Path,
    *,
    data: str | Path | None = None,
    backend: str | None = None,
    precision: str | None = None,
    batch: int = 1,
    seconds: float = DEFAULT_SECONDS,
    rounds: int | None = None,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> Report:
    """Compare every artefact of a bundle with PyTorch eager FP32: latency, accuracy, size and memory.

    Latency: one process, rounds in which every variant runs in turn on the same images, the scope being uint8 images in
    memory to logits in memory. A variant that fails is reported as such and does not end the run.

    Args:
        path: The bundle.
        data: Folder of images that were used neither for training nor for calibration; with one folder a class,
            accuracy is measured too. Without it the golden images of the bundle serve for latency and agreement.
        backend: Benchmark this backend only (beside the baseline).
        precision: Benchmark this precision only (beside the baseline).
        batch: Images a run.
        seconds: Time to spend on latency; 64 rounds are run in any case.
        rounds: Run exactly this many rounds instead.
        threads: CPU threads of every variant; None leaves the choice to each runtime.
        progress: Told how far each stage is.

    Raises:
        BundleError: The path is no bundle, or a file of it is missing or altered.
        DataError: The image folder cannot be used, or its classes are not the model's.
        RequestError: A number is out of range, or the bundle has no such artefact.
    """
    _check_request(batch, seconds, rounds, threads)
    bundle = bundles.read(path)
    asked = bundle.artifacts(backend, precision)
    labels = bundle.labels()
    images = None if data is None else folder.scan(data)
    targets = _targets(images, labels)
    variants = _open(bundle, asked, threads)
    try:
        timed = _timed_images(bundle, images)
        sessions = {v.name: v.session for v in variants if v.session}
        samples, failures = interleave(
            sessions,
            timed,
            batch,
            min_rounds=rounds or _MIN_ROUNDS,
            max_rounds=rounds or _MAX_ROUNDS,
            budget_s=seconds,
            progress=lambda done, total: progress("latency", done, total),
        )
        for variant in variants:
            if variant.name in failures:
                variant.fail(failures[variant.name])
        sessions = {v.name: v.session for v in variants if v.session and v.status == "ok"}
        classified = _classify(bundle, sessions, images, targets, progress)
        for variant in variants:
            if variant.name in classified.failures:
                variant.fail(classified.failures[variant.name])
        against = classified if _BASELINE in classified.best else _classify_golden(bundle, sessions)
        rows = []
        for done, variant in enumerate(variants):
            progress("memory", done, len(variants))
            row = _row(
                bundle, variant, batch=batch, threads=threads, samples=samples, classified=classified, against=against
            )
            rows.append(row)
        progress("memory", len(variants), len(variants))
    finally:
        for variant in variants:
            if variant.session:
                variant.session.close()
    return Report(
        bundle={
            "path": str(bundle.path),
            "model": bundle.manifest.model.name,
            "weights": "trained" if bundle.manifest.trained else "random",
            "weights_sha256": bundle.manifest.files[bundles.WEIGHTS].sha256,
            "calibration": bundle.manifest.calibration,
        },
        environment=environment()
        | package_versions("torch", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx")
        | ({"threads": str(threads)} if threads else {}),
        baseline=_baseline(variants),
        data=_about(images, classified),
        rows=tuple(rows),
        overlap=_overlap(bundle, classified),
    )


def _overlap(bundle: Bundle, classified: Classified) -> int | None:
    """Return how many images the bundle was calibrated on, by their pixels; None where that is not known."""
    try:
        ranges = bundle.ranges()
    except BundleError:  # of an earlier release; `verify` is what proves files
        return None
    if ranges is None or not classified.digests:
        return None
    calibrated = frozenset(ranges.image_digests)
    return sum(digest in calibrated for digest in classified.digests)


def _check_request(batch: int, seconds: float, rounds: int | None, threads: int | None) -> None:
    """Refuse numbers that cannot be meant."""
    if batch < 1:
        raise RequestError(f"batch is {batch}", "Give one image or more.")
    if not 0 < seconds < math.inf:
        raise RequestError(f"seconds is {seconds:g}", "Give a positive time.")
    if rounds is not None and rounds < 1:
        raise RequestError(f"rounds is {rounds}", "Give one round or more.")
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}", "Give one thread or more, or leave it out.")


def _targets(images: ImageFolder | None, labels: tuple[str, ...]) -> list[int] | None:
    """Return the right class of every image, or None where the folder has no classes."""
    if images is None or not images.classes:
        return None
    mapping = folder.match_classes(images.classes, labels, images.root)
    return [mapping[target] for target in images.targets]


def _open(bundle: Bundle, asked: tuple[Artifact, ...], threads: int | None) -> list[_Variant]:
    """Open the baseline and what was asked for; what cannot be opened is kept with its reason."""
    baseline = [a for a in bundle.manifest.artifacts if a.backend == base.BASELINE]
    variants = [_Variant(artifact=artifact) for artifact in dict.fromkeys([*baseline, *asked])]
    for variant in variants:
        artifact = variant.artifact
        reason = base.unavailable(artifact)
        if reason is not None:
            variant.status, variant.reasons = "skipped", [reason]
            continue
        try:
            variant.session = open_artifact(bundle, artifact, threads)
        except EdgeResNeXtError as error:
            variant.fail(error.what)
    return variants


def _baseline(variants: list[_Variant]) -> str:
    """Return the name of what everything is compared with."""
    usable = [v for v in variants if v.artifact.backend == base.BASELINE and v.status == "ok" and v.session]
    if not usable:
        return RECORDED
    session = usable[0].session
    return f"{usable[0].name}, eager, {session.detail}" if session else RECORDED


def _timed_images(bundle: Bundle, images: ImageFolder | None) -> NDArray[np.uint8]:
    """Return the images that latency is measured on."""
    if images is None:
        return bundle.golden().images
    readable = []
    for path in images.sample(_TIMED_IMAGES, seed=0).images:
        try:
            readable.append(load_image(path, bundle.manifest.model.preprocess))
        except DataError:  # the accuracy pass reports it by name
            continue
    if not readable:
        raise DataError(f"no image of '{images.root}' can be read", "Replace them, or give another folder.")
    return np.stack(readable)


def _classify(
    bundle: Bundle,
    sessions: dict[str, Session],
    images: ImageFolder | None,
    targets: list[int] | None,
    progress: Callable[[str, int, int], None],
) -> Classified:
    """Classify the folder's images, or the golden ones, with every session."""
    if images is None:
        return _classify_golden(bundle, sessions)
    preprocess = bundle.manifest.model.preprocess
    return classify(sessions, images.images, targets, preprocess, lambda done, total: progress("accuracy", done, total))


def _classify_golden(bundle: Bundle, sessions: dict[str, Session]) -> Classified:
    """Classify the golden images with every session, beside PyTorch's recorded logits."""
    golden = bundle.golden()
    found = Classified(best={RECORDED: best_classes(golden.logits)})
    for name, session in sessions.items():
        try:
            found.best[name] = best_classes(session.run(golden.images))
        except EdgeResNeXtError as error:
            found.failures[name] = error.what
    return found


def _row(
    bundle: Bundle,
    variant: _Variant,
    *,
    batch: int,
    threads: int | None,
    samples: dict[str, list[float]],
    classified: Classified,
    against: Classified,
) -> Row:
    """Put together what was measured of one variant.

    Args:
        bundle: The bundle.
        variant: The artefact under test.
        batch: Images a run.
        threads: CPU threads; None is the runtime's choice.
        samples: Seconds a run, by variant.
        classified: Classes found on the images of the benchmark.
        against: The same, or that of the golden images where PyTorch did not run: what agreement is taken from.
    """
    artifact = variant.artifact
    device = gpu.detect()
    row = Row(
        backend=artifact.backend,
        precision=artifact.precision,
        device="cpu" if artifact.target == CPU else device.name if device else "",
        target=artifact.target,
        batch=batch,
        scenario="single-stream" if batch == 1 else "multi-stream",
        size_bytes=bundle.manifest.files[artifact.file].bytes,
    )
    own = samples.get(variant.name)
    if variant.status != "ok" or not own:
        return msgspec.structs.replace(row, status=variant.status, reason="; ".join(variant.reasons))
    latency, lacking = summarise(own)
    peak, no_peak = peak_memory(bundle.path, artifact, batch, threads)
    reasons = [lacking, no_peak, "energy: not measured by this release"]
    ratio = error = None
    if samples.get(_BASELINE):
        ratio, error = speedup(samples[_BASELINE], own)
    else:
        reasons.append("speed-up and drop: the PyTorch baseline did not run here")
    top1 = top5 = drop = None
    if not bundle.manifest.trained:
        reasons.append("accuracy: random weights")
    elif classified.targets is None:
        reasons.append("accuracy: no labelled images")
    else:
        top1, top5 = classified.top(variant.name, 1), classified.top(variant.name, 5)
        right = classified.top(_BASELINE, 1) if _BASELINE in classified.best else None
        drop = None if right is None or top1 is None else right - top1
        row = _paired(row, classified, variant.name)
    reference = _BASELINE if _BASELINE in against.best else RECORDED
    if reference == RECORDED:
        reasons.append(f"agreement: with PyTorch's recorded logits of the {len(against.best[RECORDED])} golden images")
    return msgspec.structs.replace(
        row,
        latency_s=latency,
        latency_n=len(own),
        samples_s=tuple(own),
        images_per_s=batch / latency.mean,
        speedup=ratio,
        speedup_error=error,
        top1=top1,
        top5=top5,
        images=len(classified.best[variant.name]),
        top1_drop=drop,
        agreement=against.agreement(variant.name, reference),
        peak_memory_bytes=peak,
        reason="; ".join(reason for reason in reasons if reason),
    )


def _paired(row: Row, classified: Classified, name: str) -> Row:
    """Return a row with what its top-1 is worth: its interval, and the flips against the baseline."""
    assert classified.targets is not None
    count = len(classified.targets)
    top1 = classified.top(name, 1)
    assert top1 is not None
    row = msgspec.structs.replace(row, top1_interval=wilson(round(top1 * count), count))
    if _BASELINE not in classified.best:
        return row
    flips = classified.flips(name, classified.best[_BASELINE][:, 0])
    assert flips is not None
    lost, gained = flips
    return msgspec.structs.replace(row, lost=lost, gained=gained, p_value=mcnemar(lost, gained))


def _about(images: ImageFolder | None, classified: Classified) -> str:
    """Say which images were used."""
    if images is None:
        return "the bundle's golden images"
    skipped = f", {len(classified.skipped)} unreadable" if classified.skipped else ""
    return f"{len(images.images)} images of '{images.root}'{skipped}"
