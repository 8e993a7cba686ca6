"""A benchmark as CSV: a line a row, raw values in SI units, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from edgeresnext.measure.results import Latency, Row
from edgeresnext.report.words import plain

if TYPE_CHECKING:
    from edgeresnext.measure.results import Report, Scope

_PERCENTILES = ("p50", "p90", "p95", "p97", "p99", "p99_9")
_SECONDS = (*_PERCENTILES, "mean", "min", "max")
_SCOPES: tuple[Scope, ...] = ("compute", "copies", "end-to-end")
_NESTED = ("latency_s", "samples_s", "scopes", "top1_interval", "right", "layers")
"""Fields that are flattened, or left to JSON."""

_FORMULA = ("=", "+", "-", "@")


def to_csv(report: Report) -> str:
    """Return a report as CSV with a heading: seconds, bytes, joules and shares; an empty cell was not measured.

    Columns are the fields of `Row`; the latency is flattened (`latency_p90_s`, its bound `bound_p90_s`), each scope has
    its median (`end_to_end_p50_s`), and the model, mode and completeness of the run stand on every line. Samples and
    layers are in JSON only.
    """
    lines = [_line(report, row) for row in report.rows]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # Headings are those of an empty row, so that a report without rows has the same.
    writer.writerow(_line(report, Row(backend="", precision="fp32", device="", batch=1, scenario="offline")))
    for line in lines:
        writer.writerow([_cell(value) for value in line.values()])
    return text.getvalue()


def _line(report: Report, row: Row) -> dict[str, object]:
    """Return the values of one row by column."""
    found: dict[str, object] = {"variant": row.name}
    for name in Row.__struct_fields__:
        if name == "latency_s":
            found |= _latency(row.latency_s)
        elif name == "scopes":
            found |= {f"{scope.replace('-', '_')}_p50_s": _median(row, scope) for scope in _SCOPES}
        elif name == "top1_interval":
            low, high = row.top1_interval or (None, None)
            found |= {"top1_low": low, "top1_high": high}
        elif name == "reasons":
            found[name] = "; ".join(row.reasons)
        elif name not in _NESTED:
            found[name] = getattr(row, name)
    return found | {
        "model": report.bundle.get("model", ""),
        "report_mode": report.mode,
        "report_partial": report.partial,
    }


def _latency(found: Latency | None) -> dict[str, object]:
    """Return a latency as columns, in seconds."""
    columns: dict[str, object] = {f"latency_{name}_s": found and getattr(found, name) for name in _SECONDS}
    columns |= {f"bound_{name}_s": found.bound.get(name) if found else None for name in _PERCENTILES}
    rest = [name for name in Latency.__struct_fields__ if name not in (*_SECONDS, "bound")]
    return columns | {f"latency_{name}": found and getattr(found, name) for name in rest}


def _median(row: Row, scope: Scope) -> float | None:
    """Return the median latency of a row in a scope, in seconds."""
    if row.scope == scope:
        return row.latency_s.p50 if row.latency_s else None
    return row.scopes[scope].latency_s.p50 if scope in row.scopes else None


def _cell(value: object) -> str:
    """Return a value for a cell, such that no spreadsheet takes text for a formula (OWASP, "CSV Injection")."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    text = plain(str(value))
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
