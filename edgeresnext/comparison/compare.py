"""Compare two saved benchmarks: what became slower or faster, and what became more or less accurate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeresnext.comparison.accuracy_change import AccuracyComparison, compare_accuracy
from edgeresnext.comparison.latency_change import MIN_SAMPLES, Change, SpeedVerdict, change
from edgeresnext.errors import ReportError, RequestError
from edgeresnext.measure.results import Report, Row, Scenario, Scope
from edgeresnext.measure.server import STEP
from edgeresnext.measure.statistics import block_medians, blocks_of
from edgeresnext.spec import Value

DEFAULT_THRESHOLD = 0.03
"""Covers a machine that wanders by 2 %, as tests/unit/test_compare.py draws it."""

_PASSING = ("date", "load_1min")
"""What differs between any two runs and says nothing about them."""

_BUNDLE = ("model", "weights_sha256", "calibration")


class RowComparison(Value, frozen=True, kw_only=True):
    """One variant in one scenario, batch and scope, in both runs.

    `old_s` and `new_s` are median latencies, `old_images_per_s` and `new_images_per_s` throughputs. `change` is None
    where the verdict is "not comparable", and `reasons` say why. `baseline` is how the baseline changed in the same
    place, and `against_baseline` how the variant changed in units of the baseline: the old speed-up over the new one,
    from which what the machine did to both is gone. Both are None for the baseline itself.
    """

    variant: str
    scenario: Scenario
    batch: int
    scope: Scope
    verdict: SpeedVerdict | Literal["not comparable"]
    rate: float | None = None
    old_s: float | None = None
    new_s: float | None = None
    old_images_per_s: float | None = None
    new_images_per_s: float | None = None
    change: Change | None = None
    baseline: Change | None = None
    against_baseline: Change | None = None
    reasons: tuple[str, ...] = ()


class Comparison(Value, frozen=True, kw_only=True):
    """Two runs, row by row, and what else differs between them.

    `environment` and `bundle` hold the values that differ, old and new, empty where one run has none. `only_old` and
    `only_new` name the rows that the other run lacks; `notes` are sentences that must be read with the verdicts.
    """

    threshold: float
    baseline: str
    old_date: str
    new_date: str
    rows: tuple[RowComparison, ...]
    accuracy: tuple[AccuracyComparison, ...]
    environment: dict[str, tuple[str, str]]
    bundle: dict[str, tuple[str, str]]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether anything became slower or less accurate, for an exit code.

        A variant that the baseline accompanies has to be slower against it as well, and the baseline counts only where
        it is alone: a machine that wanders by 2 % between runs makes one of six tight comparisons "slower" or "faster".
        """
        alone = all(row.variant == self.baseline for row in self.rows)
        return any(_is_slower(row) and (alone or row.variant != self.baseline) for row in self.rows) or any(
            row.verdict == "worse" for row in self.accuracy
        )


def _is_slower(row: RowComparison) -> bool:
    """Whether a row is slower, also with what the machine did to both taken out."""
    against = row.against_baseline
    return row.verdict == "slower" and (against is None or against.verdict == "slower")


@dataclass(frozen=True)
class _Place:
    """Where a latency was measured; what both runs have in the same place is compared."""

    variant: str
    scenario: Scenario
    batch: int
    scope: Scope
    asked: str
    """Of a server: the rate, or the latency bound for which the highest rate was sought."""

    def __str__(self) -> str:
        where = (self.variant, self.scenario, f"batch {self.batch}", self.scope, self.asked)
        return ", ".join(filter(None, where))


@dataclass(frozen=True)
class _Measured:
    """A row, and its samples in one scope."""

    row: Row
    samples_s: tuple[float, ...]
    main: bool


def compare(old: Report, new: Report, *, threshold: float = DEFAULT_THRESHOLD) -> Comparison:
    """Compare two benchmarks, row by row.

    Latencies are compared as `latency.change` says, by medians of contiguous blocks, and accuracy image by image where
    both runs classified the same ones.

    Args:
        old: The run before.
        new: The run after.
        threshold: The relative change of a latency that does not matter.

    Raises:
        ReportError: The two have no row in common.
        RequestError: The threshold is negative, or 1 or more.
    """
    if not 0 <= threshold < 1:
        raise RequestError(
            f"threshold is {100 * threshold:g} %",
            "Give 0 % or more, below 100 %; as a share 0.03 is 3 %.",
            values=("threshold",),
        )
    before, after = _places(old), _places(new)
    both = [place for place in before if place in after]
    if not both:
        raise ReportError(
            "the two reports have no row in common: no variant was measured in the same scenario, batch and scope",
            "Measure again with the options of the old report; its `command` holds them.",
        )
    baseline = old.baseline_variant if old.baseline_variant == new.baseline_variant else ""
    rows = tuple(_compare_place(place, before, after, baseline, threshold) for place in both)
    return Comparison(
        threshold=threshold,
        baseline=baseline,
        old_date=old.environment.get("date", ""),
        new_date=new.environment.get("date", ""),
        rows=rows,
        accuracy=compare_accuracy(old, new),
        environment=_differences(old.environment, new.environment, lambda key: key not in _PASSING),
        bundle=_differences(old.bundle, new.bundle, lambda key: key in _BUNDLE),
        only_old=tuple(str(place) for place in before if place not in after),
        only_new=tuple(str(place) for place in after if place not in before),
        notes=tuple(_notes(old, new, rows, baseline)),
    )


def _places(report: Report) -> dict[_Place, _Measured]:
    """Return every latency of a report by where it was measured."""
    found = {}
    for row in report.rows:
        asked = _asked(row)
        found[_Place(row.name, row.scenario, row.batch, row.scope, asked)] = _Measured(row, row.samples_s, main=True)
        for scope, timed in row.scopes.items():
            place = _Place(row.name, row.scenario, row.batch, scope, asked)
            found.setdefault(place, _Measured(row, timed.samples_s, main=False))
    return found


def _asked(row: Row) -> str:
    """Return what a server was asked for."""
    if row.latency_bound_s is not None:
        return f"within {1e3 * row.latency_bound_s:g} ms"
    return "" if row.rate is None else f"{row.rate:g} queries/s"


def _compare_place(
    place: _Place,
    before: Mapping[_Place, _Measured],
    after: Mapping[_Place, _Measured],
    baseline: str,
    threshold: float,
) -> RowComparison:
    """Compare one row in one scope."""
    old, new = before[place], after[place]
    reasons = _obstacles(old, "old") or _obstacles(new, "new")
    sought = old.row.rate != new.row.rate and not reasons
    found = None if reasons or sought else _change(old, new, threshold)
    verdict: SpeedVerdict | Literal["not comparable"] = found.verdict if found else "not comparable"
    if sought:
        verdict, rates = _by_rate(old.row, new.row, threshold)
        reasons = (rates,)
    against = reference = None
    there = replace(place, variant=baseline)
    if found and place != there and there in before and there in after:
        old_base, new_base = before[there], after[there]
        if not (_obstacles(old_base, "old") or _obstacles(new_base, "new")):
            reference = _change(old_base, new_base, threshold)
            against = change(_relative(old, old_base), _relative(new, new_base), threshold)
    throughputs = (old.row.images_per_s, new.row.images_per_s) if old.main and new.main else (None, None)
    return RowComparison(
        variant=place.variant,
        scenario=place.scenario,
        batch=place.batch,
        scope=place.scope,
        rate=new.row.rate,
        old_s=_median(old),
        new_s=_median(new),
        old_images_per_s=throughputs[0],
        new_images_per_s=throughputs[1],
        verdict=verdict,
        change=found,
        baseline=reference,
        against_baseline=against,
        reasons=reasons,
    )


def _by_rate(old: Row, new: Row, threshold: float) -> tuple[SpeedVerdict, str]:
    """Compare the highest rates that kept a latency bound, which are sought in steps."""
    assert old.rate is not None
    assert new.rate is not None
    limit = (1 + threshold) * (1 + STEP)
    verdict: SpeedVerdict = "slower" if old.rate > limit * new.rate else "no difference"
    verdict = "faster" if new.rate > limit * old.rate else verdict
    return verdict, f"{old.rate:.4g} queries/s before, {new.rate:.4g} now, sought in steps of {STEP:.0%}"


def _obstacles(measured: _Measured, run: str) -> tuple[str, ...]:
    """Return why nothing can be said of what a run measured; empty where something can."""
    row = measured.row
    if row.status != "ok":
        return tuple(f"{row.status} in the {run} run: {reason}" for reason in row.reasons or ("no reason given",))
    if len(measured.samples_s) < MIN_SAMPLES:
        return (f"too few samples: {len(measured.samples_s)} in the {run} run, {MIN_SAMPLES} are needed",)
    if min(measured.samples_s) <= 0:
        return (f"the {run} run has a latency that is not positive",)
    return ()


def _change(old: _Measured, new: _Measured, threshold: float) -> Change:
    """Compare the samples of two runs."""
    runs = [block_medians(run.samples_s, blocks_of(len(run.samples_s))) for run in (old, new)]
    return change(runs[0], runs[1], threshold)


def _relative(variant: _Measured, baseline: _Measured) -> NDArray[np.float64]:
    """Return the logarithms of a variant's block medians over those of the baseline.

    Both ran in turn, so that the same block of each fell in the same time and a slow phase of the machine cancels.
    """
    blocks = blocks_of(min(len(variant.samples_s), len(baseline.samples_s)))
    return block_medians(variant.samples_s, blocks) - block_medians(baseline.samples_s, blocks)


def _median(measured: _Measured) -> float | None:
    """Return the median of the samples in seconds, None where there are none."""
    return float(np.median(measured.samples_s)) if measured.samples_s else None


def _differences(
    old: Mapping[str, str], new: Mapping[str, str], counts: Callable[[str], bool]
) -> dict[str, tuple[str, str]]:
    """Return the values that differ, old and new."""
    keys = [key for key in dict.fromkeys([*old, *new]) if counts(key) and old.get(key, "") != new.get(key, "")]
    return {key: (old.get(key, ""), new.get(key, "")) for key in keys}


def _notes(old: Report, new: Report, rows: tuple[RowComparison, ...], baseline: str) -> list[str]:
    """Return what must be known when the verdicts are read."""
    found = []
    for name, report in (("old", old), ("new", new)):
        found += [f"the {name} run was quick: not for quoting"] if report.mode == "quick" else []
        found += [f"the {name} run was interrupted: it lacks rows or samples"] if report.partial else []
    if old.mode != new.mode:
        found.append(f"the old run's mode was {old.mode}, the new one's {new.mode}")
    if old.data != new.data:
        found.append(f"the images differ: {old.data} before, {new.data} now")
    moved = [row.change.ratio for row in rows if row.variant == baseline and row.change and row.change.certain]
    if moved:
        times = f"{min(moved):.3f} to {max(moved):.3f}" if len(moved) > 1 else f"{moved[0]:.3f}"
        cause = "where nothing of it changed the machine did, and 'against baseline' counts"
        found.append(f"{baseline} itself took {times} times as long: {cause}")
    if not baseline:
        names = [report.baseline_variant or "none that ran" for report in (old, new)]
        found.append(
            f"the baselines differ: {names[0]} before, {names[1]} now" if names[0] != names[1] else "no baseline"
        )
    return found
