"""How figures are written, in one place for the terminal, Markdown and HTML: columns, units, digits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeresnext.measure.results import Latency, Report, Row, Scenario

NOT_MEASURED = "n/a"
_MIB = 1 << 20
_TAILS = ("multi-stream", "server")
"""Scenarios that MLPerf judges by their 99th percentile, whose bound is worth a column."""


class Column(NamedTuple):
    """A heading, and how the figure beneath it is taken from a row."""

    heading: str
    text: Callable[[Row], str]


@dataclass(frozen=True)
class Matrix:
    """Images/s in `offline`: a line a variant, a cell a batch.

    `best` is the index of the batch at which each variant is fastest, None where it was not measured at all. `speedups`
    are its best images/s over the baseline's best, each at the batch that suits it.
    """

    batches: tuple[int, ...]
    variants: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    best: tuple[int | None, ...]
    speedups: tuple[str, ...]


def scenarios(report: Report) -> dict[Scenario, tuple[Row, ...]]:
    """Return the rows by scenario, in the order in which they were measured."""
    found: dict[Scenario, list[Row]] = {}
    for row in report.rows:
        found.setdefault(row.scenario, []).append(row)
    return {scenario: tuple(rows) for scenario, rows in found.items()}


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return every column that has a figure for the rows of one scenario: speed, then accuracy and size."""
    return [*speed_columns(rows), *accuracy_columns(rows)]


def speed_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns about latency, throughput, energy and memory that have a figure in one of the rows."""
    found = [
        Column("p50 ms", lambda row: _latency(row.latency_s, "p50")),
        Column("p90 ms", lambda row: _latency(row.latency_s, "p90")),
        Column("p90 ≤", lambda row: _bound(row.latency_s, "p90")),
        Column("p99 ms", lambda row: _latency(row.latency_s, "p99")),
        Column("images/s", lambda row: rate(row.images_per_s)),
        Column("speed-up", speedup),
        Column("compute ms", lambda row: _scope(row, "compute")),
        Column("end-to-end ms", lambda row: _scope(row, "end-to-end")),
        Column("J/image", lambda row: joules(row.energy_j_per_image)),
        Column("peak MiB", lambda row: _scaled(row.peak_memory_bytes, 1 / _MIB, 0)),
    ]
    scenario = rows[0].scenario if rows else "single-stream"
    if scenario in _TAILS:
        found.insert(4, Column("p99 ≤", lambda row: _bound(row.latency_s, "p99")))
    if scenario == "server":
        found.insert(0, Column("queries/s", lambda row: rate(row.rate)))
        found.insert(1, Column("bound ms", lambda row: milliseconds(row.latency_bound_s)))
        found.insert(2, Column("in bound", within_bound))
    if len({row.batch for row in rows}) > 1:
        found.insert(0, Column("batch", lambda row: str(row.batch)))
    return _with_figures(found, rows)


def accuracy_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns about accuracy and size that have a figure in one of the rows."""
    found = [
        Column("top-1 %", lambda row: percent(row.top1)),
        Column("95 %", interval),
        Column("top-5 %", lambda row: percent(row.top5)),
        Column("drop", lambda row: _scaled(row.top1_drop, 100, 2, sign="+")),
        Column("flips", flips),
        Column("p", lambda row: probability(row.p_value)),
        Column("agree %", lambda row: percent(row.agreement)),
        Column("MiB", lambda row: _scaled(row.size_bytes, 1 / _MIB, 1)),
    ]
    return _with_figures(found, rows)


def accuracy_rows(report: Report) -> tuple[Row, ...]:
    """Return one row a variant, as its accuracy and size are the same in every scenario: the first that knows them."""
    known: dict[str, Row] = {}
    for row in report.rows:
        if row.name not in known or (not accuracy_columns([known[row.name]]) and accuracy_columns([row])):
            known[row.name] = row
    return tuple(known.values())


def cells(row: Row, shown: Sequence[Column]) -> list[str]:
    """Return the texts of a row under `shown`; of a row that is not ok its status, then nothing."""
    if row.status == "ok":
        return [column.text(row) for column in shown]
    return [row.status, *[""] * (len(shown) - 1)][: len(shown)]


def matrix(rows: Sequence[Row], baseline: str) -> Matrix:
    """Return the rows of `offline` as variants by batches.

    Args:
        rows: Those of one scenario.
        baseline: The variant that speed-ups are taken against.
    """
    batches = sorted({row.batch for row in rows})
    variants = list(dict.fromkeys(row.name for row in rows))
    found = {(row.name, row.batch): row for row in rows}
    best: list[int | None] = []
    for name in variants:
        speeds = [_images_per_s(found.get((name, batch))) for batch in batches]
        best.append(speeds.index(max(speeds)) if max(speeds) else None)
    top = {
        name: 0.0 if index is None else _images_per_s(found[name, batches[index]])
        for name, index in zip(variants, best, strict=True)
    }
    reference = top.get(baseline, 0.0)
    return Matrix(
        batches=tuple(batches),
        variants=tuple(variants),
        cells=tuple(tuple(_offline(found.get((name, batch))) for batch in batches) for name in variants),
        best=tuple(best),
        speedups=tuple(f"{top[name] / reference:.2f}" if reference and top[name] else NOT_MEASURED for name in top),
    )


def milliseconds(seconds: float | None) -> str:
    """Return a latency in milliseconds; below one with a third digit, where a GPU's differences are."""
    return _scaled(seconds, 1e3, 2 if seconds is None or seconds >= 1e-3 else 3)  # noqa: PLR2004


def rate(per_s: float | None) -> str:
    """Return something a second, to three digits or more."""
    return _scaled(per_s, 1, 0 if (per_s or 0) >= 100 else 1)  # noqa: PLR2004 - three digits


def percent(share: float | None) -> str:
    """Return a share in percent."""
    return _scaled(share, 100, 2)


def probability(value: float | None) -> str:
    """Return a p-value; one that two digits would round to zero keeps a third."""
    if value is None:
        return NOT_MEASURED
    return "<0.001" if value < 0.001 else f"{value:.{2 if value >= 0.1 else 3}f}"  # noqa: PLR2004


def joules(value: float | None) -> str:
    """Return an energy to three significant digits, never as a power of ten."""
    if not value:
        return NOT_MEASURED if value is None else "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def speedup(row: Row) -> str:
    """Return a row's speed-up and its standard error."""
    error = "" if row.speedup_error is None else f" ± {row.speedup_error:.2f}"
    return NOT_MEASURED if row.speedup is None else f"{row.speedup:.2f}{error}"


def interval(row: Row) -> str:
    """Return the interval of a row's top-1 in percent."""
    found = row.top1_interval
    return NOT_MEASURED if found is None else f"{100 * found[0]:.1f}-{100 * found[1]:.1f}"


def flips(row: Row) -> str:
    """Return how many images a row lost and gained against the reference."""
    return NOT_MEASURED if row.lost is None or row.gained is None else f"-{row.lost} +{row.gained}"


def within_bound(row: Row) -> str:
    """Return whether a row of `server` kept the latency that was asked for."""
    return NOT_MEASURED if row.within_bound is None else "yes" if row.within_bound else "no"


def _latency(found: Latency | None, percentile: str) -> str:
    """Return a percentile in milliseconds."""
    return milliseconds(None if found is None else getattr(found, percentile))


def _bound(found: Latency | None, percentile: str) -> str:
    """Return the bound of a percentile in milliseconds."""
    return milliseconds(None if found is None else found.bound.get(percentile))


def _scope(row: Row, scope: str) -> str:
    """Return the median latency of a row in a scope, which may be its own."""
    if row.scope == scope:
        return _latency(row.latency_s, "p50")
    timed = {str(name): timed for name, timed in row.scopes.items()}.get(scope)
    return _latency(timed.latency_s if timed else None, "p50")


def _images_per_s(row: Row | None) -> float:
    """Return the throughput of a row, 0 where there is none."""
    return 0.0 if row is None or row.status != "ok" else row.images_per_s or 0.0


def _offline(row: Row | None) -> str:
    """Return a cell of the matrix; a batch that was not asked for is empty."""
    if row is None:
        return ""
    return rate(row.images_per_s) if row.status == "ok" else row.status


def _with_figures(found: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Return the columns with a figure in one of the rows; the reasons beneath a table explain the others."""
    measured = [row for row in rows if row.status == "ok"]
    return [column for column in found if any(column.text(row) != NOT_MEASURED for row in measured)]


def _scaled(value: float | None, factor: float, digits: int, sign: str = "") -> str:
    """Return a figure in the table's unit, or n/a."""
    return NOT_MEASURED if value is None else f"{value * factor:{sign}.{digits}f}"
