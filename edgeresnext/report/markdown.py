"""A benchmark as Markdown, for an issue, a pull request or a wiki."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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
    from collections.abc import Iterable, Mapping, Sequence

    from edgeresnext.measure.results import Report, Row

_SPECIAL = re.compile(r"([\\`*\[\]|])")


def to_markdown(report: Report) -> str:
    """Return a report as GitHub Flavored Markdown: tables, notes, warnings, environment and how to reproduce it."""
    parts = [f"# {escape(words.title(report))}"]
    parts += [f"> **{escape(caution)}**" for caution in words.cautions(report)]
    for rows in scenarios(report).values():
        parts += _scenario(report, rows)
    accuracy = [row for row in accuracy_rows(report) if row.status == "ok"]
    shown = accuracy_columns(accuracy)
    if shown:
        texts = [[row.name, *cells(row, shown)] for row in accuracy]
        parts += [f"## {words.ACCURACY_TITLE}", _table(["variant", *(c.heading for c in shown)], texts)]
    parts += ["## notes", _list(words.notes(report))]
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


def _scenario(report: Report, rows: Sequence[Row]) -> list[str]:
    """Return heading and table of one scenario."""
    if rows[0].scenario == "offline":
        return _offline(report, rows)
    shown = speed_columns(rows)
    texts = [[row.name, *(cells(row, shown) or ["" if row.status == "ok" else row.status])] for row in rows]
    headings = ["variant", *([column.heading for column in shown] or [""])]
    return [f"## {words.scenario_title(rows)}", _table(headings, texts)]


def _offline(report: Report, rows: Sequence[Row]) -> list[str]:
    """Return images/s of every variant at every batch, the best of each variant bold."""
    found = matrix(rows, report.baseline_variant)
    shown = any(text != NOT_MEASURED for text in found.speedups)
    lines = [
        [
            escape(name),
            *(f"**{escape(text)}**" if index == best else escape(text) for index, text in enumerate(texts)),
            *([speedup] if shown else []),
        ]
        for name, texts, best, speedup in zip(found.variants, found.cells, found.best, found.speedups, strict=True)
    ]
    headings = ["variant", *(f"batch {batch}" for batch in found.batches), *(["speed-up"] if shown else [])]
    legend = words.offline_legend(report, speedups=shown).replace("*:", "bold:", 1)
    return ["## offline, images/s", _joined(headings, lines), escape(legend)]


def _pairs(found: Mapping[str, str]) -> str:
    """Return names and values as a table; nothing for none."""
    return _table(["", ""], found.items(), right=False) if found else ""


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]], *, right: bool = True) -> str:
    """Return a table of texts, which are escaped; figures, in all columns but the first, are aligned right."""
    return _joined(
        [escape(heading) for heading in headings], [[escape(c) for c in line] for line in lines], right=right
    )


def _joined(headings: Sequence[str], lines: Iterable[Sequence[str]], *, right: bool = True) -> str:
    """Return a table of Markdown."""
    rule = ["---", *["---:" if right else "---"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, rule, *lines])


def _list(texts: Iterable[str]) -> str:
    """Return a bullet list."""
    return "\n".join(f"- {escape(text)}" for text in texts)
