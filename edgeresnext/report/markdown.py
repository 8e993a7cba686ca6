"""A benchmark as Markdown, for an issue, a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from edgeresnext.measure.results import Report
from edgeresnext.report import words
from edgeresnext.report.tables import Cell, Table, overview

_SPECIAL = re.compile(r"([\\`*\[\]|])")


def to_markdown(report: Report) -> str:
    """Return a report as GitHub Flavored Markdown: tables, notes, warnings, environment and how to reproduce it."""
    parts = [f"# {escape(words.title(report))}"]
    parts += [f"> **{escape(caution)}**" for caution in words.cautions(report)]
    tables = overview(report)
    parts += map(draw, tables)
    parts += ["## notes", _list(words.notes(report, tables))]
    warnings = words.warnings(report)
    if warnings:
        parts += ["## warnings", _list(warnings)]
    parts += ["## environment", _pairs(report.environment), "## bundle", _pairs(report.bundle)]
    # Indented rather than fenced: nothing in a line can end the block.
    parts += ["## how to reproduce", f"    {words.plain(report.command)}"]
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """Return text on one line that Markdown shows as it is: no cell, code, link, emphasis or tag begins in it."""
    text = words.plain(text).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\1", text)


def draw(table: Table) -> str:
    """Return a table beneath its title; figures, in all columns but the first, are aligned right."""
    lines = [[_cell(cell) for cell in line] for line in table.lines]
    drawn = _table([escape(column.title) for column in table.columns], lines, rule="---:")
    legend = escape(f"bold: {table.best}") if table.best else ""
    return "\n\n".join(filter(None, (f"## {escape(table.title)}", drawn, legend)))


def _cell(cell: Cell) -> str:
    """Return a cell, the best of its line bold."""
    return f"**{escape(cell.text)}**" if cell.tone == "best" else escape(cell.text)


def _pairs(found: Mapping[str, str]) -> str:
    """Return names and values as a table; nothing for none."""
    return _table(["", ""], [map(escape, pair) for pair in found.items()]) if found else ""


def _table(headings: Sequence[str], lines: Iterable[Iterable[str]], rule: str = "---") -> str:
    """Return a table of texts that are Markdown already; `rule` aligns all columns but the first."""
    rules = ["---", *[rule] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, rules, *lines])


def _list(texts: Iterable[str]) -> str:
    """Return a bullet list."""
    return "\n".join(f"- {escape(text)}" for text in texts)
