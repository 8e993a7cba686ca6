"""A benchmark as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgeresnext.report import words
from edgeresnext.report.figures import (
    NOT_MEASURED,
    accuracy_columns,
    accuracy_rows,
    cells,
    matrix,
    scenarios,
    speed_columns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from edgeresnext.measure.results import Report, Row
    from edgeresnext.report.figures import Column


def render(report: Report) -> RenderableType:
    """Return a report as a table a scenario, one of accuracy and size, and what is missing explained beneath.

    Speed and accuracy are apart because accuracy is a variant's in all scenarios, and because both fit 100 columns
    only so.
    """
    parts: list[RenderableType] = [Text(caution.upper(), style="bold reverse") for caution in words.cautions(report)]
    parts.append(Text(words.title(report), style="bold"))
    parts += [_scenario(report, rows) for rows in scenarios(report).values()]
    rows = accuracy_rows(report)
    shown = accuracy_columns(rows)
    if shown:
        parts.append(_figures(words.ACCURACY_TITLE, [row for row in rows if row.status == "ok"], shown))
    parts += [Text(f"warning: {warning}", style="bold") for warning in words.warnings(report)]
    parts += [Text(note, style="dim") for note in words.notes(report)]
    return Group(*parts)


def new_table(title: str, headings: Sequence[str], left: int = 1) -> Table:
    """Return an empty table whose first `left` columns are aligned left, the others right."""
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        # Units stand beneath, so that a full table fits 100 columns.
        lines = heading.replace(" ms", "\nms").replace(" MiB", "\nMiB")
        table.add_column(Text(lines), justify="left" if index < left else "right", no_wrap=True)
    return table


def _scenario(report: Report, rows: Sequence[Row]) -> RenderableType:
    """Return the table of one scenario."""
    if rows[0].scenario == "offline":
        return _offline(report, rows)
    return _figures(words.scenario_title(rows), rows, speed_columns(rows))


def _figures(title: str, rows: Sequence[Row], shown: Sequence[Column]) -> Table:
    """Return rows under columns; where nothing was measured, one column says what became of each."""
    table = new_table(title, ["variant", *([column.heading for column in shown] or [""])])
    for row in rows:
        texts = cells(row, shown) or ["" if row.status == "ok" else row.status]
        table.add_row(*map(Text, [words.plain(row.name), *texts]), style="" if row.status == "ok" else "dim")
    return table


def _offline(report: Report, rows: Sequence[Row]) -> RenderableType:
    """Return images/s of every variant at every batch, the best of each variant marked."""
    found = matrix(rows, report.baseline_variant)
    batches = [f"batch {batch}" for batch in found.batches]
    shown = any(text != NOT_MEASURED for text in found.speedups)
    table = new_table("offline, images/s", ["variant", *batches, *(["speed-up"] if shown else [])])
    for name, texts, best, speedup in zip(found.variants, found.cells, found.best, found.speedups, strict=True):
        # The star stands in a column's right edge, so that figures stay beneath each other.
        marked = [
            Text(f"{text}*" if index == best else f"{text} ", style="bold" if index == best else "")
            for index, text in enumerate(texts)
        ]
        table.add_row(Text(words.plain(name)), *marked, *([Text(speedup)] if shown else []))
    return Group(table, Text(words.offline_legend(report, speedups=shown), style="dim"))
