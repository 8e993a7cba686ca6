"""The tables of a report, as columns and cells that a terminal, Markdown and a page each draw in their own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from edgeresnext.measure.results import ClassAccuracy, Report, Row, Scenario
from edgeresnext.report.columns import NOT_MEASURED, VARIANT, Column, columns, number, rate

T = TypeVar("T")
Tone = Literal["", "best", "good", "bad", "dim"]


class Cell(NamedTuple):
    """What a cell says, what it is sorted by (None where nothing was measured), and what kind of news it is."""

    text: str
    key: float | str | None = None
    tone: Tone = ""


class Table(NamedTuple):
    """Columns with a line of cells a row; `best` says what cells of that tone are."""

    title: str
    columns: tuple[Column[Any], ...]
    lines: tuple[tuple[Cell, ...], ...]
    best: str = ""


def make(title: str, shown: Sequence[Column[T]], rows: Sequence[T], tone: Callable[[T], Tone] | None = None) -> Table:
    """Return rows under columns.

    Args:
        title: Stands above.
        shown: The columns.
        rows: What they are about.
        tone: The tone of a row's last cell.
    """
    lines = [[Cell(column.text(row), column.key(row)) for column in shown] for row in rows]
    if tone is not None:
        for line, row in zip(lines, rows, strict=True):
            line[-1] = line[-1]._replace(tone=tone(row))
    return Table(title, tuple(shown), tuple(map(tuple, lines)))


def by_scenario(report: Report) -> dict[Scenario, list[Row]]:
    """Return the rows by scenario, in the order in which they were measured."""
    found: dict[Scenario, list[Row]] = {}
    for row in report.rows:
        found.setdefault(row.scenario, []).append(row)
    return found


def overview(report: Report) -> list[Table]:
    """Return a table a scenario, and one of accuracy and size, for what shows no more than fits.

    Speed and accuracy are apart because accuracy is a variant's in all scenarios, and because both fit 100 columns only
    so.
    """
    found = [
        _offline(rows, report.baseline_variant) if scenario == "offline" else _speed(rows)
        for scenario, rows in by_scenario(report).items()
    ]
    known: dict[str, Row] = {}
    for row in report.rows:
        if row.status == "ok" and columns([row], "accuracy"):
            known.setdefault(row.name, row)
    rows = list(known.values())
    return [*found, make("accuracy and size", [VARIANT, *columns(rows, "accuracy")], rows)] if rows else found


def details(title: str, rows: Sequence[Row]) -> Table:
    """Return everything about one scenario's rows, for a page, where tables are sorted and may be wide."""
    return make(title, [VARIANT, *columns(rows, "speed", "accuracy", "details")], rows)


def classes(report: Report) -> Table:
    """Return top-1 by class and variant, the classes that lose most against the reference first."""
    names = tuple(dict.fromkeys(name for one in report.classes for name in one.top1))

    def loss(one: ClassAccuracy) -> float | None:
        others = [share for name, share in one.top1.items() if name != report.reference]
        return one.top1[report.reference] - min(others) if others and report.reference in one.top1 else None

    shown: list[Column[ClassAccuracy]] = [
        Column("label", "class", numeric=False),
        Column("images", "images"),
        Column(
            "", "largest drop", take=loss, form=number(100, 1, "+"),
            hint=f"{report.reference}'s top-1 minus the worst of the others, in points",
        ),
        *(Column("", name, take=_share(name), form=number(100, 1)) for name in names),
    ]  # fmt: skip
    return make("top-1 of each class, %", shown, sorted(report.classes, key=lambda one: -(loss(one) or 0)))


def _share(name: str) -> Callable[[ClassAccuracy], float | None]:
    """Return how a variant's top-1 is taken from a class."""
    return lambda one: one.top1.get(name)


def _speed(rows: Sequence[Row]) -> Table:
    """Return how fast the rows of a scenario are; of those that are not ok their status stands in the first figure."""
    batches = {row.batch for row in rows}
    title = f"{rows[0].scenario}, batch {batches.pop()}" if len(batches) == 1 else rows[0].scenario
    shown = columns([row for row in rows if row.status == "ok"], "speed") or [Column("status")]
    found = make(title, [VARIANT, *shown], rows)
    pairs = zip(found.lines, rows, strict=True)
    lines = tuple(line if row.status == "ok" else _failed(row, len(shown)) for line, row in pairs)
    return found._replace(lines=lines)


def _failed(row: Row, figures: int) -> tuple[Cell, ...]:
    """Return the line of a row that was not measured."""
    return tuple(Cell(text, tone="dim") for text in (row.name, row.status, *[""] * (figures - 1)))


def _offline(rows: Sequence[Row], baseline: str) -> Table:
    """Return images/s as variants by batches, and each variant's best over the baseline's best."""
    batches = sorted({row.batch for row in rows})
    own: dict[str, dict[int, Row]] = {}
    for row in rows:
        own.setdefault(row.name, {})[row.batch] = row
    speeds = {
        name: {batch: its[batch].images_per_s or 0.0 for batch in batches if batch in its and its[batch].status == "ok"}
        for name, its in own.items()
    }
    top = {name: max(found.values(), default=0.0) for name, found in speeds.items()}
    compared = top.get(baseline, 0.0)
    lines = []
    for name, its in own.items():
        best = next((batch for batch, speed in speeds[name].items() if speed and speed == top[name]), None)
        line = [Cell(name), *(_throughput(its.get(batch), best=batch == best) for batch in batches)]
        if compared:
            line.append(Cell(f"{top[name] / compared:.2f}" if top[name] else NOT_MEASURED))
        lines.append(tuple(line))
    headings = ["variant", *(f"batch {batch}" for batch in batches), *(["speed-up"] if compared else [])]
    legend = "the variant's best" + (f"; speed-up: over the best of {baseline}" if compared else "")
    shown = tuple(Column[Any]("", heading, numeric=index > 0) for index, heading in enumerate(headings))
    return Table("offline, images/s", shown, tuple(lines), legend)


def _throughput(row: Row | None, *, best: bool) -> Cell:
    """Return images/s at a batch; one that was not asked for is empty."""
    if row is None:
        return Cell("")
    if row.status != "ok":
        return Cell(row.status)
    return Cell(NOT_MEASURED if row.images_per_s is None else rate(row.images_per_s), tone="best" if best else "")
