"""A benchmark as CSV: a line a row, raw values in SI units, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io

from edgeresnext.measure.results import Report
from edgeresnext.report.columns import COLUMNS
from edgeresnext.report.words import plain

_FORMULA = ("=", "+", "-", "@")


def to_csv(report: Report) -> str:
    """Return a report as CSV with a heading: seconds, bytes, joules and shares; an empty cell was not measured.

    The latency is flattened (`latency_p90_s`, its bound `bound_p90_s`), each scope has its median (`end_to_end_p50_s`),
    and the model, mode and completeness of the run stand on every line. Samples and layers are in JSON only.
    """
    columns = [column for column in COLUMNS if column.name]
    run = {"model": report.bundle.get("model", ""), "report_mode": report.mode, "report_partial": report.partial}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(column.name for column in columns), *run])
    for row in report.rows:
        writer.writerow(map(_cell, (*(column.raw(row) for column in columns), *run.values())))
    return text.getvalue()


def _cell(value: object) -> str:
    """Return a value for a cell, such that no spreadsheet takes text for a formula (OWASP, "CSV Injection")."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    text = plain("; ".join(value) if isinstance(value, tuple) else str(value))
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
