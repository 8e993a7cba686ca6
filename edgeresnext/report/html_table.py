"""The tables of the HTML report: which columns there are, and how each figure is written and sorted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edgeresnext.report import figures
from edgeresnext.report.words import by_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeresnext.measure.results import Latency, Report, Row, Scope

_MIB = 1 << 20
_BATCH = "batch"


class Cell(NamedTuple):
    """What a cell says, and what it is sorted by: None, and then last, where nothing was measured."""

    text: str = figures.NOT_MEASURED
    key: float | str | None = None


class Heading(NamedTuple):
    """What a column is called, what that means, and whether its cells are figures."""

    text: str
    hint: str = ""
    numeric: bool = True


class Table(NamedTuple):
    """A sortable table; the first cell of each row names it."""

    label: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Cell, ...], ...]


class _Column(NamedTuple):
    """A heading, and the cell below it for a row."""

    heading: Heading
    cell: Callable[[Row], Cell]


def scenario_table(label: str, rows: Sequence[Row]) -> Table:
    """Return one scenario's rows; a column without a single figure is left out, as is a batch that all share."""
    columns = [column for column in _columns(rows) if any(column.cell(row).key is not None for row in rows)]
    if len({row.batch for row in rows}) == 1:
        columns = [column for column in columns if column.heading.text != _BATCH]
    cells = tuple((_variant(row), *(column.cell(row) for column in columns)) for row in rows)
    return Table(label, (Heading("variant", numeric=False), *(column.heading for column in columns)), cells)


def class_table(report: Report) -> Table:
    """Return top-1 by class and variant, the classes that lose most against the reference first."""
    names = tuple(dict.fromkeys(name for one in report.classes for name in one.top1))
    others = [name for name in names if name != report.reference]
    hint = f"{report.reference}'s top-1 minus the worst of the others, in points"
    found = []
    for one in report.classes:
        reference = one.top1.get(report.reference)
        known = [one.top1[name] for name in others if name in one.top1]
        loss = None if reference is None or not known else 100 * (reference - min(known))
        shares = (number(one.top1.get(name), 100, 1) for name in names)
        found.append((_text(one.label), Cell(str(one.images), one.images), number(loss, 1, 1, "+"), *shares))
    found.sort(key=lambda cells: -float(cells[2].key or 0))
    headings = (Heading("class", numeric=False), Heading("images"), Heading("largest drop", hint), *map(Heading, names))
    return Table("top-1 of each class, %", headings, tuple(found))


def reasons(rows: Sequence[Row]) -> dict[str, str]:
    """Return the names of the rows that each reason applies to."""
    found = {reason: [row.name for row in its] for reason, its in by_reason(rows).items()}
    measured = [row.name for row in rows if row.status == "ok"]
    return {
        reason: "all" if names == measured and len(names) > 1 else ", ".join(dict.fromkeys(names))
        for reason, names in found.items()
    }


def number(value: float | None, factor: float, digits: int, sign: str = "") -> Cell:
    """Return a figure in the table's unit, or n/a."""
    if value is None:
        return Cell()
    rounded = round(value * factor, digits) + 0.0  # no minus before a zero
    return Cell(f"{rounded:{sign},.{digits}f}", value)


def _columns(rows: Sequence[Row]) -> list[_Column]:
    """Return every column that there may be, in order."""
    sources = ", ".join(dict.fromkeys(row.energy_source for row in rows if row.energy_source))
    return [
        _Column(Heading(_BATCH), lambda row: Cell(str(row.batch), row.batch) if row.status == "ok" else Cell()),
        _Column(Heading("queries/s", "queries a second that arrived"), lambda row: number(row.rate, 1, 1)),
        _Column(Heading("in bound", "whether the latency limit was kept, and the limit", numeric=False), _in_bound),
        _Column(Heading("p50 ms", "half of the runs were as fast"), _time("p50")),
        _Column(Heading("p90 ms", "nine of ten runs were as fast; ≤: its bound with 99 % confidence"), _time("p90")),
        _Column(Heading("p99 ms", "99 of 100 runs were as fast"), _time("p99")),
        _Column(Heading("images/s"), lambda row: Cell(figures.rate(row.images_per_s), row.images_per_s)),
        _Column(Heading("speed-up", "over the baseline, with its standard error"), _speedup),
        *(_scope(scope) for scope in dict.fromkeys(scope for row in rows for scope in row.scopes)),
        _Column(Heading("top-1 %"), lambda row: Cell(figures.percent(row.top1), row.top1)),
        _Column(Heading("95 % interval", "Wilson's interval of top-1"), _interval),
        _Column(Heading("drop", "PyTorch's top-1 minus this one's, in points"), _drop),
        _Column(Heading("flips", "images that PyTorch alone (-) and this one alone (+) classifies right"), _flips),
        _Column(Heading("p", "McNemar's test of the flips"), _p_value),
        _Column(Heading("agree %", "images with PyTorch's first class"), _agreement),
        _Column(Heading("J/image", f"energy, from {sources}"), _energy),
        _Column(Heading("MiB", "size of the artefact"), lambda row: number(row.size_bytes, 1 / _MIB, 1)),
        _Column(Heading("peak MiB", "memory of a process that runs it alone"), _peak),
        _Column(Heading("CV %", "standard deviation over mean"), _of_latency("variation", 100, 1)),
        _Column(Heading("drift %", "how much slower the last quarter was than the first"), _drift),
        _Column(Heading("outliers", "samples far from the median; they stay in"), _of_latency("outliers", 1, 0)),
        _Column(Heading("samples"), lambda row: number(row.latency_n or None, 1, 0)),
        _Column(Heading("mode", "how PyTorch runs it, and what the runtime chose for itself", numeric=False), _mode),
    ]


def _text(text: str) -> Cell:
    """Return a cell that is sorted as it reads."""
    return Cell(text, text or None)


def _variant(row: Row) -> Cell:
    """Return a row's name, and its status where that is not ok."""
    return _text(row.name if row.status == "ok" else f"{row.name} ({row.status})")


def _mode(row: Row) -> Cell:
    """Return the mode and what the runtime chose."""
    return _text(", ".join(filter(None, (row.mode, row.detail))))


def _in_bound(row: Row) -> Cell:
    """Return whether the limit that was asked for was kept, and which it was."""
    if row.latency_bound_s is None or row.within_bound is None:
        return Cell()
    return _text(f"{figures.within_bound(row)}, {1e3 * row.latency_bound_s:g} ms")


def _drop(row: Row) -> Cell:
    """Return the drop of top-1 in points."""
    return number(row.top1_drop, 100, 2, "+")


def _p_value(row: Row) -> Cell:
    """Return McNemar's p."""
    return Cell(figures.probability(row.p_value), row.p_value)


def _agreement(row: Row) -> Cell:
    """Return the agreement with PyTorch in percent."""
    return Cell(figures.percent(row.agreement), row.agreement)


def _energy(row: Row) -> Cell:
    """Return the energy of an image."""
    return Cell(figures.joules(row.energy_j_per_image), row.energy_j_per_image)


def _peak(row: Row) -> Cell:
    """Return the peak memory in MiB."""
    return number(row.peak_memory_bytes, 1 / _MIB, 0)


def _drift(row: Row) -> Cell:
    """Return the drift in percent."""
    return Cell() if row.latency_s is None else number(row.latency_s.drift, 100, 1, "+")


def _of_latency(field: str, factor: float, digits: int) -> Callable[[Row], Cell]:
    """Return the column of a field of the row's latency."""

    def cell(row: Row) -> Cell:
        return Cell() if row.latency_s is None else number(getattr(row.latency_s, field), factor, digits)

    return cell


def _time(percentile: str) -> Callable[[Row], Cell]:
    """Return the column of a percentile; that of p90 with its bound, by which MLPerf accepts a run."""

    def cell(row: Row) -> Cell:
        value = None if row.latency_s is None else getattr(row.latency_s, percentile)
        bound = row.latency_s.bound.get(percentile) if row.latency_s and percentile == "p90" else None
        beside = "" if bound is None else f" (≤ {figures.milliseconds(bound)})"
        return Cell(f"{figures.milliseconds(value)}{beside}", value)

    return cell


def _speedup(row: Row) -> Cell:
    """Return the speed-up with its error."""
    return Cell(figures.speedup(row), row.speedup)


def _scope(scope: Scope) -> _Column:
    """Return the column of the median in another scope, or in the row's own where that is the scope."""

    def median(row: Row) -> Cell:
        timed = row.scopes.get(scope)
        latency: Latency | None = row.latency_s if row.scope == scope else timed.latency_s if timed else None
        value = None if latency is None else latency.p50
        return Cell(figures.milliseconds(value), value)

    return _Column(Heading(f"{scope} p50 ms", "the median in that scope, see the terms below"), median)


def _interval(row: Row) -> Cell:
    """Return Wilson's interval, sorted by its lower end."""
    return Cell(figures.interval(row), None if row.top1_interval is None else row.top1_interval[0])


def _flips(row: Row) -> Cell:
    """Return the flips each way, sorted by their number."""
    known = row.lost is not None and row.gained is not None
    return Cell(figures.flips(row), (row.lost or 0) + (row.gained or 0) if known else None)
