"""What a benchmark found as rows and a report; whatever is missing gets its reason."""

from __future__ import annotations

import msgspec
import numpy as np

from edgeresnext import bundle as bundles
from edgeresnext.machine import gpu
from edgeresnext.machine.environment import environment, package_versions
from edgeresnext.machine.watch import MachineWatch
from edgeresnext.measure.accuracy import Classified
from edgeresnext.measure.findings import Findings
from edgeresnext.measure.options import STAGES
from edgeresnext.measure.results import Report, Row, Scope, Timed
from edgeresnext.measure.scenarios import Measured
from edgeresnext.measure.statistics import mcnemar, speedup, summarise, wilson
from edgeresnext.measure.variants import RECORDED, REFERENCE, Variant
from edgeresnext.spec import CPU, variant_name

_MOST_VARIATION = 0.025
"""Coefficient of variation above which trtexec warns."""

_MOST_DRIFT = 0.05
_PACKAGES = ("torch", "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx", "cuda-python", "pycuda", "numpy")


def report_of(found: Findings, watch: MachineWatch, *, partial: bool = False) -> Report:
    """Return the report of what was found."""
    bundle, classified = found.bundle, found.classified
    rows = tuple(_row(found, measured, variant) for measured in found.measured for variant in found.variants)
    data = found.data
    if classified and classified.skipped:
        data += f", {len(classified.skipped)} unreadable"
    if partial and found.unfinished == "accuracy" and classified:
        data = f"the first {len(classified.digests)} of {data}"
    threads = {"threads": str(found.request.options.threads)} if found.request.options.threads else {}
    return Report(
        bundle={
            "path": str(bundle.path),
            "model": bundle.manifest.model.name,
            "classes": str(bundle.manifest.model.classes),
            "weights": "trained" if bundle.manifest.trained else "random",
            "weights_sha256": bundle.manifest.files[bundles.WEIGHTS].sha256,
            "calibration": bundle.manifest.calibration,
        },
        environment=environment() | watch.facts() | package_versions(*_PACKAGES) | threads,
        mode=found.request.mode,
        command=found.request.command(),
        baseline=found.baseline_in_words(),
        baseline_variant=found.baseline if found.timed(found.baseline) else "",
        reference=REFERENCE if classified and REFERENCE in classified.best else RECORDED,
        data=data,
        rows=rows,
        partial=partial,
        warnings=(*found.notes, *watch.warnings(), *_unsteady(rows), *_slow_int8(rows)),
        images_sha256=classified.images_sha256() if classified else "",
        overlap=found.overlap(),
        classes=classified.classes(bundle.labels()) if classified and bundle.manifest.trained else (),
        changed=found.changed,
    )


def _unsteady(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Return warnings of latencies that vary or drift more than a quiet machine's do."""
    timed = [(row, row.latency_s) for row in rows if row.latency_s is not None and row.scenario != "server"]
    varying = [
        f"{row.name} {latency.variation:.1%}"
        for row, latency in timed
        if latency.variation is not None and latency.variation > _MOST_VARIATION
    ]
    drifting = [
        f"{row.name} {latency.drift:+.0%}"
        for row, latency in timed
        if latency.drift is not None and abs(latency.drift) > _MOST_DRIFT
    ]
    found = []
    if varying:
        found.append(f"coefficient of variation above {_MOST_VARIATION:.1%}: {', '.join(dict.fromkeys(varying))}")
    if drifting:
        found.append(f"speed drifted between the first and the last rounds: {', '.join(dict.fromkeys(drifting))}")
    return tuple(found)


def _slow_int8(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Name INT8 variants that are slower than FP32 of the same runtime: nobody gains by them on this machine."""
    medians = {
        (row.target, row.backend, row.precision): row.latency_s.p50
        for row in rows
        if row.scenario == "single-stream" and row.mode == "" and row.latency_s is not None
    }
    found = []
    for (target, backend, precision), int8 in medians.items():
        fp32 = medians.get((target, backend, "fp32"))
        if precision == "int8" and int8 and fp32 and int8 > fp32:
            name, other = (variant_name(backend, kind, target) for kind in ("int8", "fp32"))
            found.append(f"{name} takes {int8 / fp32:.1f} times as long as {other} here: nothing is gained by it")
    return tuple(found)


def _row(found: Findings, measured: Measured, variant: Variant) -> Row:
    """Put together what was measured of one variant in one scenario."""
    artifact, request = variant.artifact, found.request
    device = gpu.detect()
    row = Row(
        backend=artifact.backend,
        precision=artifact.precision,
        device="cpu" if artifact.target == CPU else device.name if device else "",
        target=artifact.target,
        mode=artifact.mode,
        detail=measured.record.details.get(variant.name, ""),
        batch=measured.batch,
        scenario=measured.scenario,
        size_bytes=found.bundle.manifest.files[artifact.file].bytes,
    )
    if not measured.record.samples.get(variant.name):
        return _without_figures(row, measured, variant)
    reasons = [*measured.record.notes.get(variant.name, ()), measured.record.failures.get(variant.name, "")]
    row = _with_speed(row, found, measured, reasons)
    row = _with_accuracy(row, found, reasons)
    if measured is found.measured[0]:
        row = _with_extras(row, found, reasons)
    else:
        first = found.measured[0]
        reasons.append(f"layers, energy, memory, other scopes: with {first.scenario} at batch {first.batch}")
    if request.options.skip:
        reasons.append(f"left out: {', '.join(sorted(request.options.skip))}")
    return msgspec.structs.replace(row, reasons=tuple(dict.fromkeys(filter(None, reasons))))


def _without_figures(row: Row, measured: Measured, variant: Variant) -> Row:
    """Return the row of a variant that was not timed here, with the reason."""
    if variant.name in measured.record.failures:
        return msgspec.structs.replace(row, status="failed", reasons=(measured.record.failures[variant.name],))
    if variant.name in measured.unable:
        return msgspec.structs.replace(row, status="skipped", reasons=(measured.unable[variant.name],))
    if variant.status != "ok":
        return msgspec.structs.replace(row, status=variant.status, reasons=variant.reasons)
    return msgspec.structs.replace(row, status="skipped", reasons=("interrupted",))


def _with_speed(row: Row, found: Findings, measured: Measured, reasons: list[str]) -> Row:
    """Add latency, throughput and the ratio to the baseline."""
    own = measured.record.samples[row.name]
    latency, lacking = summarise(own)
    reasons.append(lacking)
    throughput = row.batch * len(own) / sum(own)
    row = msgspec.structs.replace(
        row, latency_s=latency, latency_n=len(own), samples_s=tuple(own), images_per_s=throughput
    )
    if row.scenario == "server":
        rate, bound_s = measured.rates[row.name], found.request.options.latency_bound_s
        percentile = found.request.effort.server_percentile
        row = msgspec.structs.replace(row, rate=rate, images_per_s=rate, latency_bound_s=bound_s)
        if bound_s is not None:
            bound = latency.bound.get(percentile)
            row = msgspec.structs.replace(row, within_bound=None if bound is None else bound <= bound_s)
            reasons.append(f"the bound of {bound_s * 1e3:g} ms is on {percentile}")
            if found.request.options.rate is None:
                reasons.append("the highest rate is sought in steps of 7 %")
        reasons.append("bounds take queries to be independent, which those of one queue are not")
    baseline = measured.record.samples.get(found.baseline)
    if not baseline:
        reasons.append("speed-up: the baseline did not run here")
        return row
    if row.scenario == "server":
        return _with_rates(row, measured, found.baseline, reasons)
    ratio, error = speedup(baseline, own, total=row.scenario == "offline")
    return msgspec.structs.replace(row, speedup=ratio, speedup_error=None if row.name == found.baseline else error)


def _with_rates(row: Row, measured: Measured, baseline: str, reasons: list[str]) -> Row:
    """Add how many times the baseline's queries were answered; at one rate for all there is nothing to compare."""
    if len(set(measured.rates.values())) == 1 and len(measured.rates) > 1:
        reasons.append("speed-up: every variant had the same rate")
        return row
    assert row.rate is not None
    return msgspec.structs.replace(row, speedup=row.rate / measured.rates[baseline])


def _with_accuracy(row: Row, found: Findings, reasons: list[str]) -> Row:
    """Add what the images say, with labels and without."""
    classified, against = found.classified, found.against
    if classified is None or row.name not in classified.best:
        if "accuracy" not in found.request.options.skip and not any(
            "accuracy" in one for one in found.lacking.get(row.name, [])
        ):
            reasons.append("accuracy: not measured")
        return row
    row = msgspec.structs.replace(row, images=len(classified.best[row.name]))
    if not found.bundle.manifest.trained:
        reasons.append("accuracy: random weights")
    elif classified.targets is None:
        reasons.append("accuracy: no labelled images")
    else:
        row = _with_labels(row, classified, reasons)
    if against is None or row.name not in against.best:
        return row
    reference = REFERENCE if REFERENCE in against.best else RECORDED
    if reference == RECORDED:
        reasons.append(f"agreement: with PyTorch's recorded logits of the {len(against.best[RECORDED])} golden images")
    return msgspec.structs.replace(row, agreement=against.agreement(row.name, reference))


def _with_labels(row: Row, classified: Classified, reasons: list[str]) -> Row:
    """Add what is right, what its interval is, and the flips against PyTorch."""
    name, right = row.name, classified.right(row.name)
    assert right is not None
    row = msgspec.structs.replace(
        row,
        top1=classified.top(name, 1),
        top5=classified.top(name, 5),
        top1_interval=wilson(int(right.sum()), len(right)),
        right=np.packbits(right).tobytes(),
    )
    if REFERENCE not in classified.best:
        reasons.append("drop: PyTorch did not run here")
        return row
    flips = classified.flips(name, classified.best[REFERENCE][:, 0])
    assert flips is not None
    lost, gained = flips
    return msgspec.structs.replace(
        row, lost=lost, gained=gained, p_value=mcnemar(lost, gained), top1_drop=(lost - gained) / len(right)
    )


def _with_extras(row: Row, found: Findings, reasons: list[str]) -> Row:
    """Add the other scopes, layers, energy and memory, which were measured once."""
    lacking = found.lacking.get(row.name, [])
    scopes: dict[Scope, Timed] = {}
    for scope, record in found.scopes.items():
        samples = record.samples.get(row.name)
        if samples:
            latency, missing = summarise(samples)
            reasons.append(f"{scope}: {missing}" if missing else "")
            scopes[scope] = Timed(latency_s=latency, samples_s=tuple(samples))
        elif scope == "compute" and found.unfinished != "scopes" and not lacking:
            reasons.append("compute: this runtime does not tell it apart")
    reasons += lacking
    if found.unfinished:
        stages = STAGES[STAGES.index(found.unfinished) :] if found.unfinished in STAGES else ()
        reasons += [f"{stage}: interrupted" for stage in stages]
    row = msgspec.structs.replace(
        row, scopes=scopes, layers=found.layers.get(row.name, ()), peak_memory_bytes=found.memory.get(row.name)
    )
    if row.name not in found.energy:
        return row
    joules, images_per_s, source = found.energy[row.name]
    return msgspec.structs.replace(
        row, energy_j_per_image=joules, energy_images_per_s=images_per_s, energy_source=source
    )
