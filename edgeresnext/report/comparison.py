"""Two benchmarks compared, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from edgeresnext.comparison.accuracy_change import AccuracyComparison
from edgeresnext.comparison.compare import Comparison, RowComparison
from edgeresnext.comparison.latency_change import Change
from edgeresnext.measure.results import Scenario
from edgeresnext.report import tables
from edgeresnext.report.columns import Column, differ, milliseconds, number, percent, probability, rate, shown
from edgeresnext.report.terminal import draw
from edgeresnext.report.words import plain

T = TypeVar("T", "RowComparison", "AccuracyComparison")

_TONES: dict[str, tables.Tone] = {
    "slower": "bad", "worse": "bad", "faster": "good", "better": "good", "not comparable": "dim",
}  # fmt: skip


def _offline(rows: Sequence[RowComparison]) -> bool:
    """Whether throughput is what counts."""
    return any(row.scenario == "offline" for row in rows)


def _timed(rows: Sequence[RowComparison]) -> bool:
    """Whether latency is what counts."""
    return not _offline(rows)


def _moved(rows: Sequence[RowComparison]) -> bool:
    """Whether the baseline itself became slower or faster."""
    return any(row.baseline is not None and row.baseline.certain for row in rows)


def _ratio(found: Change) -> str:
    """Return a ratio of times."""
    return f"{found.ratio:.3f}"


def _interval(found: Change) -> str:
    """Return the interval of a ratio."""
    return f"{found.interval[0]:.3f}-{found.interval[1]:.3f}"


_LATENCY: tuple[Column[RowComparison], ...] = (
    Column("variant", "variant", numeric=False),
    Column("scope", "scope", fits=differ("scope")),
    Column("batch", "batch", fits=differ("batch")),
    Column("rate", "queries/s", form=rate, fits=differ("rate")),
    Column("old_images_per_s", "old", "images/s", form=rate, fits=_offline),
    Column("new_images_per_s", "new", "images/s", form=rate, fits=_offline),
    Column("old_s", "old", "ms", form=milliseconds, fits=_timed),
    Column("new_s", "new", "ms", form=milliseconds, fits=_timed),
    Column("change", "time", form=_ratio),
    Column("change", "99 %", form=_interval),
    Column("change", "sees %", form=lambda change: f"{100 * (change.resolution - 1):.1f}"),
    Column("baseline", "baseline", form=_ratio, fits=_moved),
    Column("against_baseline", "against", "baseline", form=_ratio, fits=_moved),
    Column("against_baseline", "99 %", form=_interval, fits=_moved),
    Column("verdict", "verdict"),
)

_ACCURACY: tuple[Column[AccuracyComparison], ...] = (
    Column("variant", "variant", numeric=False),
    Column("old_top1", "old %", form=percent),
    Column("new_top1", "new %", form=percent),
    Column("", "points", take=lambda row: row.new_top1 - row.old_top1, form=number(100, 2, "+")),
    Column("lost", "flips", words=lambda row: f"-{row.lost} +{row.gained}"),
    Column("p_value", "p", form=probability),
    Column("images", "images"),
    Column("verdict", "verdict"),
)


def render_comparison(comparison: Comparison) -> RenderableType:
    """Return a comparison as a table a scenario, one of accuracy, and what else differs beneath."""
    dates = f"{comparison.old_date or 'the old run'} -> {comparison.new_date or 'the new run'}"
    parts: list[RenderableType] = [Text(plain(dates), style="bold")]
    by_scenario: dict[Scenario, list[RowComparison]] = {}
    for row in comparison.rows:
        by_scenario.setdefault(row.scenario, []).append(row)
    parts += [draw(_table(scenario, _LATENCY, rows)) for scenario, rows in by_scenario.items()]
    if comparison.accuracy:
        parts.append(draw(_table("top-1", _ACCURACY, comparison.accuracy)))
    parts += [Text(plain(f"note: {note}"), style="bold") for note in comparison.notes]
    parts += [Text(plain(line), style="dim") for line in _beneath(comparison)]
    return Group(*parts)


def _table(title: str, columns: Iterable[Column[T]], rows: Sequence[T]) -> tables.Table:
    """Return rows beneath the columns that say something of them, with their verdicts coloured."""
    return tables.make(title, shown(columns, rows), rows, lambda row: _TONES.get(row.verdict, ""))


def _beneath(comparison: Comparison) -> list[str]:
    """Return what explains the verdicts, and what else differs."""
    rule = "time: new over old, from medians of contiguous blocks; a difference is called where its 99 % interval lies"
    found = [f"{rule} beyond {comparison.threshold:.1%}; sees: the change from which it would be"]
    if any(row.p_value is not None for row in comparison.accuracy):
        found.append("flips: images that the old run alone (-) and the new one alone (+) got right; p: McNemar's test")
    reasons: dict[str, dict[str, None]] = {}
    given = [(row.variant, row.reasons) for row in comparison.rows]
    given += [(row.variant, row.reasons) for row in comparison.accuracy]
    for variant, its in given:
        for reason in its:
            reasons.setdefault(reason, {})[variant] = None
    found += [f"{', '.join(variants)}: {reason}" for reason, variants in reasons.items()]
    for name, (old, new) in {**comparison.bundle, **comparison.environment}.items():
        found.append(f"{name}: {old or 'none'} -> {new or 'none'}")
    found += [f"in the old run only: {name}" for name in comparison.only_old]
    found += [f"in the new run only: {name}" for name in comparison.only_new]
    return found
