"""A benchmark as tables for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from edgeresnext.measure.results import Report
from edgeresnext.report import words
from edgeresnext.report.tables import Table, Tone, overview

_STYLES: dict[Tone, str] = {"": "", "best": "bold", "good": "green", "bad": "bold red", "dim": "dim"}


def render(report: Report) -> RenderableType:
    """Return a report as a table a scenario, one of accuracy and size, and what is missing explained beneath."""
    tables = overview(report)
    parts: list[RenderableType] = [Text(caution.upper(), style="bold reverse") for caution in words.cautions(report)]
    parts.append(Text(words.title(report), style="bold"))
    parts += map(draw, tables)
    parts += [Text(f"warning: {warning}", style="bold") for warning in words.warnings(report)]
    parts += [Text(note, style="dim") for note in words.notes(report, tables)]
    return Group(*parts)


def draw(table: Table) -> RenderableType:
    """Return a table with units beneath the headings, so that a full one fits 100 columns."""
    drawn = Drawn(title=Text(table.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # The star stands in a column's right edge, so that figures stay beneath each other.
    starred = {index for line in table.lines for index, cell in enumerate(line) if cell.tone == "best"}
    for index, column in enumerate(table.columns):
        heading = Text("\n".join(filter(None, (column.heading, column.unit))))
        drawn.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for line in table.lines:
        cells = []
        for index, cell in enumerate(line):
            star = "" if index not in starred else "*" if cell.tone == "best" else " "
            cells.append(Text(f"{words.plain(cell.text)}{star}", style=_STYLES[cell.tone]))
        drawn.add_row(*cells)
    return Group(drawn, Text(words.plain(f"*: {table.best}"), style="dim")) if table.best else drawn
