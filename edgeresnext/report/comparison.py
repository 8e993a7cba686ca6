"""Two benchmarks compared, as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from edgeresnext.report.figures import NOT_MEASURED, milliseconds, percent, probability, rate
from edgeresnext.report.terminal import new_table
from edgeresnext.report.words import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from edgeresnext.comparison.accuracy import AccuracyComparison
    from edgeresnext.comparison.compare import Comparison, RowComparison
    from edgeresnext.comparison.latency import Change

_STYLES = {"slower": "bold red", "worse": "bold red", "faster": "green", "better": "green", "not comparable": "dim"}


def render_comparison(comparison: Comparison) -> RenderableType:
    """Return a comparison as a table a scenario, one of accuracy, and what else differs beneath."""
    dates = f"{comparison.old_date or 'the old run'} -> {comparison.new_date or 'the new run'}"
    parts: list[RenderableType] = [Text(plain(dates), style="bold")]
    parts += [_scenario(comparison, scenario) for scenario in dict.fromkeys(row.scenario for row in comparison.rows)]
    if comparison.accuracy:
        parts.append(_accuracy(comparison.accuracy))
    parts += [Text(plain(f"note: {note}"), style="bold") for note in comparison.notes]
    parts += [Text(plain(line), style="dim") for line in _beneath(comparison)]
    return Group(*parts)


def _scenario(comparison: Comparison, scenario: str) -> RenderableType:
    """Return the table of one scenario."""
    rows = [row for row in comparison.rows if row.scenario == scenario]
    found = _columns(rows, scenario)
    table = new_table(scenario, ["variant", *(name for name, _ in found), "verdict"])
    for row in rows:
        texts = [Text(text(row)) for _, text in found]
        table.add_row(Text(plain(row.variant)), *texts, Text(row.verdict, style=_STYLES.get(row.verdict, "")))
    return table


def _columns(rows: Sequence[RowComparison], scenario: str) -> list[tuple[str, Callable[[RowComparison], str]]]:
    """Return the columns of a scenario; those that say the same of every row are left out."""
    found: list[tuple[str, Callable[[RowComparison], str]]] = []
    if len({row.scope for row in rows}) > 1:
        found.append(("scope", lambda row: row.scope))
    if len({row.batch for row in rows}) > 1:
        found.append(("batch", lambda row: str(row.batch)))
    if len({row.rate for row in rows}) > 1:
        found.append(("queries/s", lambda row: rate(row.rate)))
    if scenario == "offline":
        found.append(("old\nimages/s", lambda row: rate(row.old_images_per_s)))
        found.append(("new\nimages/s", lambda row: rate(row.new_images_per_s)))
    else:
        found.append(("old ms", lambda row: milliseconds(row.old_s)))
        found.append(("new ms", lambda row: milliseconds(row.new_s)))
    found.append(("time", lambda row: _ratio(row.change)))
    found.append(("99 %", lambda row: _interval(row.change)))
    found.append(("sees %", lambda row: f"{100 * (row.change.resolution - 1):.1f}" if row.change else NOT_MEASURED))
    if any(row.baseline and not row.baseline.interval[0] <= 1 <= row.baseline.interval[1] for row in rows):
        found.append(("baseline", lambda row: _ratio(row.baseline)))
        found.append(("against\nbaseline", lambda row: _ratio(row.against_baseline)))
        found.append(("99 %", lambda row: _interval(row.against_baseline)))
    return found


def _accuracy(found: Sequence[AccuracyComparison]) -> RenderableType:
    """Return the table of accuracies."""
    table = new_table("top-1", ["variant", "old %", "new %", "points", "flips", "p", "images", "verdict"])
    for row in found:
        texts = [
            percent(row.old_top1),
            percent(row.new_top1),
            f"{100 * (row.new_top1 - row.old_top1):+.2f}",
            NOT_MEASURED if row.lost is None else f"-{row.lost} +{row.gained}",
            probability(row.p_value),
            str(row.images),
        ]
        verdict = Text(row.verdict, style=_STYLES.get(row.verdict, ""))
        table.add_row(Text(plain(row.variant)), *map(Text, texts), verdict)
    return table


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


def _ratio(found: Change | None) -> str:
    """Return a ratio of times."""
    return NOT_MEASURED if found is None else f"{found.ratio:.3f}"


def _interval(found: Change | None) -> str:
    """Return the interval of a ratio."""
    return NOT_MEASURED if found is None else f"{found.interval[0]:.3f}-{found.interval[1]:.3f}"
