"""A benchmark in one or two sentences."""

from __future__ import annotations

from edgeresnext.measure.results import Report, Row
from edgeresnext.report.columns import percent, probability, speedup

_POINTS, _AGREEMENT = 0.005, 0.99
"""What counts as PyTorch's accuracy: a drop of half a point, or the same class for 99 images of 100."""


def fastest(report: Report) -> str:
    """Return in one or two sentences which variant is the fastest that keeps PyTorch's accuracy."""
    rows = [row for row in one_a_variant(report) if row.name != report.baseline_variant and row.speedup is not None]
    if not rows:
        return "No variant could be compared with the baseline."
    kept = [row for row in rows if _keeps(row)]
    if any(row.top1_drop is not None for row in rows):
        condition = f"within {100 * _POINTS:g} points of the top-1 of {report.reference}"
    elif any(row.agreement is not None for row in rows):
        condition = f"that gives the first class of {report.reference} for {100 * _AGREEMENT:g} % of the images"
    else:
        kept, condition = rows, "(no accuracy was measured)"
    best = max(kept, key=lambda row: row.speedup or 0, default=None)
    if best is None or (best.speedup or 0) <= 1:
        return f"No variant {condition} is faster than {report.baseline_variant}."
    return f"{best.name} is the fastest variant {condition}: {_figures(best, report.baseline_variant)}."


def _keeps(row: Row) -> bool:
    """Return whether a variant has PyTorch's accuracy, for all that can be said."""
    if row.top1_drop is not None:
        return row.top1_drop <= _POINTS
    return row.agreement is not None and row.agreement >= _AGREEMENT


def _figures(row: Row, baseline: str) -> str:
    """Return a variant's speed-up and accuracy in words."""
    found = [f"{speedup(row)} times as fast as {baseline}"]
    if row.top1 is not None and row.top1_drop is not None:
        found.append(f"top-1 {percent(row.top1)} %, {abs(100 * row.top1_drop):.2f} points {_direction(row.top1_drop)}")
        if row.p_value is not None:
            found.append(f"p = {probability(row.p_value)}".replace("= <", "< "))
    elif row.agreement is not None:
        found.append(f"agreement {percent(row.agreement)} %")
    return ", ".join(found)


def _direction(drop: float) -> str:
    """Return the word for a drop."""
    return "lower" if drop > 0 else "higher" if drop < 0 else "apart"


def one_a_variant(report: Report) -> list[Row]:
    """Return one measured row a variant, of the report's first scenario: the smallest batch, offline the fastest."""
    scenario = next((row.scenario for row in report.rows if row.status == "ok"), None)
    found: dict[str, Row] = {}
    for row in report.rows:
        if row.status != "ok" or row.scenario != scenario:
            continue
        other = found.setdefault(row.name, row)
        faster = (row.images_per_s or 0) > (other.images_per_s or 0)
        if faster if scenario == "offline" else row.batch < other.batch:
            found[row.name] = row
    return list(found.values())
