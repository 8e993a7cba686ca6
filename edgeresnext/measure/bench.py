"""Benchmark a bundle: every artefact against PyTorch on the same images. `_Run` is all of it, stage by stage."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeresnext import bundle as bundles
from edgeresnext.backends.base import Session
from edgeresnext.bundle import Bundle
from edgeresnext.errors import BackendError, EdgeResNeXtError, RequestError
from edgeresnext.machine import gpu
from edgeresnext.machine.energy import find_meter, joules_an_image
from edgeresnext.machine.watch import MachineWatch
from edgeresnext.measure import photos, scenarios, variants
from edgeresnext.measure.accuracy import Changes, Classified, best_classes, classify
from edgeresnext.measure.findings import Findings
from edgeresnext.measure.latency import Record, Turns, batch_of, settle
from edgeresnext.measure.layers import profile
from edgeresnext.measure.memory import peak_memory
from edgeresnext.measure.options import BenchOptions, Request, check, choose_scenarios
from edgeresnext.measure.results import Mode, Report, Scenario
from edgeresnext.measure.rows import report_of
from edgeresnext.measure.scopes import time_scopes
from edgeresnext.measure.variants import RECORDED, REFERENCE, Variant
from edgeresnext.progress import Progress, silent
from edgeresnext.spec import CPU

_DEFAULT = BenchOptions()


class InterruptedBenchError(KeyboardInterrupt):
    """A benchmark was interrupted; what it had measured is in `report`, marked partial."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def bench(
    path: str | Path,
    *,
    data: str | Path | None = None,
    scenario: Scenario | Iterable[Scenario] | None = None,
    mode: Mode = "default",
    backend: str | None = None,
    precision: str | None = None,
    options: BenchOptions = _DEFAULT,
    progress: Progress = silent,
) -> Report:
    """Compare every artefact of a bundle with PyTorch: latency, accuracy, layers, energy, size and memory.

    Latency: one process, rounds in which every variant runs in turn on the same images, from uint8 images in memory to
    logits in memory. A variant that fails is reported as such and does not end the run.

    Args:
        path: The bundle.
        data: Folder of images that were used neither for training nor for calibration; with one folder a class,
            accuracy is measured too. Without it the golden images of the bundle serve for latency and agreement.
        scenario: How queries arrive, one or several: "single-stream", "multi-stream" (8 images a query), "offline"
            (throughput, batches of 1 to 32), "server" (at random times). None is the first, or the second with a batch.
        mode: "quick" (seconds, not for quoting), "default", or "official": each variant is timed for 600 s in each
            scenario (offline: over all batches together), and often enough for p99.
        backend: Benchmark this backend only (beside the baseline).
        precision: Benchmark this precision only (beside the baseline).
        options: Batch, time or rounds, threads, the server's rate, what to leave out, and the like.
        progress: Told how far each stage is.

    Raises:
        BundleError: The path is no bundle, or a file of it is missing or altered.
        DataError: The image folder cannot be used, or its classes are not the model's.
        RequestError: A number is out of range, options do not fit, the bundle has no such artefact, or nothing here
            keeps the rate or the latency bound.
        InterruptedBenchError: Ctrl-C, after something had been measured.
    """
    request = Request(
        path=str(path), data=None if data is None else str(data), scenario=choose_scenarios(scenario, options.batch),
        mode=mode, backend=backend, precision=precision, options=options,
    )  # fmt: skip
    check(request)
    with gpu.using(options.device):
        return _bench(request, progress)


def _bench(request: Request, progress: Progress) -> Report:
    """Measure what was asked for; see `bench`."""
    run = _Run(request, progress)
    interrupted = False
    try:
        with run.watch:
            run.measure()
    except KeyboardInterrupt:
        if not run.findings.has_samples:
            raise
        interrupted = True
    finally:
        with uninterrupted():
            run.close()
    with uninterrupted():  # a second Ctrl-C must not lose what the first one left
        report = report_of(run.findings, run.watch, partial=interrupted)
    if interrupted:
        raise InterruptedBenchError(report)
    return report


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore what would end this meanwhile, where this is the main thread: only there can that be said.

    SIGTERM too, where somebody handles it as Ctrl-C is handled; where nobody does, it ends the process as ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = [signal.SIGINT, *([signal.SIGTERM] if callable(signal.getsignal(signal.SIGTERM)) else [])]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None is a handler that was not set from Python, and cannot be set again from there.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Run:
    """One benchmark: what is needed is opened or refused at once, then each stage adds to the findings.

    Args:
        request: Checked.
        progress: Told how far each stage is.
    """

    def __init__(self, request: Request, progress: Progress) -> None:
        self._request, self._options = request, request.options
        self._progress = progress
        self._bundle = bundles.read(request.path)
        self._labels = self._bundle.labels()  # damaged ones are told before anything is measured
        chosen, baseline = variants.choose(self._bundle, request)
        self._photos = photos.choose(
            self._bundle, request.data, self._options.samples or request.effort.accuracy_images,
            self._options.class_order,
        )  # fmt: skip
        self._preprocess = self._bundle.manifest.model.preprocess
        self._prepared = False
        self.watch = MachineWatch()
        self.findings = Findings(
            request=request, bundle=self._bundle, variants=chosen, baseline=baseline, data=self._photos.about
        )

    def measure(self) -> None:
        """Measure everything that was asked for."""
        found, request = self.findings, self._request
        variants.open_all(self._bundle, found.variants, request, found.baseline)
        for scenario in request.scenario:
            try:
                self._latency(scenario)
            except RequestError as error:  # nothing here keeps the rate or the latency bound
                if not found.has_samples:
                    raise
                found.measured[-1].unable |= dict.fromkeys(self._usable(), error.what)
            self.watch.sample()
        stages: dict[str, Callable[[], None]] = {
            "accuracy": self._accuracy,
            "scopes": self._scopes,
            "energy": self._energy,
            "layers": self._layers,
            "memory": self._memory,
        }
        for name, stage in stages.items():
            if not request.skips(name):
                self._attempt(name, stage)

    def _attempt(self, name: str, stage: Callable[[], None]) -> None:
        """Run a stage; what it cannot do is said in the report, and what was measured before is kept."""
        self.findings.unfinished = name
        try:
            stage()
        except (EdgeResNeXtError, OSError) as error:  # a disk that is full must not cost what was measured before
            self.findings.notes.append(f"{name} was not measured: {getattr(error, 'what', error)}")
        self.findings.unfinished = ""
        self.watch.sample()

    def close(self) -> None:
        """Free every session."""
        for variant in self.findings.variants:
            variant.close()

    def _usable(self) -> dict[str, Variant]:
        return {variant.name: variant for variant in self.findings.variants if variant.usable}

    def _sessions(self) -> dict[str, Session]:
        return {name: variant.session for name, variant in self._usable().items() if variant.session}

    def _fail(self, stage: str, failures: dict[str, str]) -> None:
        """Take variants out that broke; what they had measured before stays."""
        for variant in self.findings.variants:
            if variant.name in failures:
                variant.fail(failures[variant.name])
                self._lack(variant.name, f"{stage}: {failures[variant.name]}")

    def _lack(self, name: str, reason: str) -> None:
        """Take note why something of a variant is missing."""
        self.findings.lacking.setdefault(name, []).append(reason)

    def _latency(self, scenario: Scenario) -> None:
        measured = self.findings.measured
        before = len(measured)
        scenarios.measure(
            scenario, self._sessions(), self._photos.timed, request=self._request, found=measured,
            progress=lambda done, total: self._progress(scenario, done, total),
        )  # fmt: skip
        for one in measured[before:]:
            self._fail(f"{scenario} at batch {one.batch}", one.record.failures)

    def _accuracy(self) -> None:
        sessions, found, drawn = self._sessions(), self.findings, self._photos.drawn
        if drawn is None:
            found.classified = found.against = _classify_golden(self._bundle, sessions)
        else:
            changes = Changes(REFERENCE, self._labels)

            def keep(classified: Classified) -> None:
                found.classified, found.changed = classified, changes.found()
                if REFERENCE in classified.best:
                    found.against = classified

            classify(
                sessions, drawn.images, self._photos.targets, self._preprocess,
                lambda done, total: self._progress("accuracy", done, total), watcher=changes, done=keep,
            )  # fmt: skip
            found.against = found.against or _classify_golden(self._bundle, sessions)
        if found.classified is not None:
            self._fail("accuracy", found.classified.failures)

    def _scopes(self) -> None:
        self._prepare()
        compute, end_to_end = Record(), Record()
        self.findings.scopes = {"compute": compute, "end-to-end": end_to_end}
        time_scopes(
            self._sessions(), self._photos.timed, self._photos.files, self._preprocess, self._batch(),
            rounds=self._options.rounds or self._request.effort.scope_rounds, compute=compute, end_to_end=end_to_end,
            progress=lambda done, total: self._progress("scopes", done, total),
        )  # fmt: skip
        self._fail("scopes", compute.failures)

    def _batch(self) -> int:
        """Return the images a run of what is measured beside the scenarios."""
        return self.findings.measured[0].batch

    def _prepare(self) -> None:
        """Prepare every session for the first batch again, once, where another one was measured last."""
        if self._prepared or self.findings.measured[-1].batch == self._batch():
            return
        self._prepared = True
        record = Record()
        first = batch_of(self._photos.timed, self._batch(), 0)
        Turns(self._sessions(), record).each(lambda _name, session: session.prepare(first))
        self._fail("preparing", record.failures)

    def _each(self, stage: str, measure: Callable[[Variant], None]) -> None:
        """Measure something of every variant in turn; where that cannot be done, the variant's row says why."""
        usable = self._usable()
        for done, (name, variant) in enumerate(usable.items()):
            self._progress(stage, done, len(usable))
            try:
                measure(variant)
            except EdgeResNeXtError as error:
                self._lack(name, f"{stage}: {error.what}")
        self._progress(stage, len(usable), len(usable))

    def _energy(self) -> None:
        self._prepare()
        batch = batch_of(self._photos.timed, self._batch(), 0)

        def joules(variant: Variant) -> None:
            session = variant.session
            assert session is not None
            meter, reason = find_meter("cpu" if variant.artifact.target == CPU else "gpu")
            if meter is None:
                raise BackendError(reason)
            settle(session, batch)
            found = joules_an_image(meter, lambda: len(session.run(batch)), seconds=self._request.effort.energy_s)
            self.findings.energy[variant.name] = (*found, meter.source)

        self._each("energy", joules)

    def _layers(self) -> None:
        batch = batch_of(self._photos.timed, self._batch(), 0)

        def layers(variant: Variant) -> None:
            found = profile(self._bundle, variant.artifact, batch, self._options.threads)
            self.findings.layers[variant.name] = found

        self._each("layers", layers)

    def _memory(self) -> None:
        def peak(variant: Variant) -> None:
            found = peak_memory(self._bundle.path, variant.artifact, self._batch(), self._options.threads)
            self.findings.memory[variant.name] = found

        self._each("memory", peak)


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
