"""A benchmark as one HTML file that needs nothing else: no network, no fonts, no scripts but its own."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from edgeresnext.extras import require
from edgeresnext.report.figures import milliseconds, percent, probability, speedup
from edgeresnext.report.html_table import Table, class_table, reasons, scenario_table
from edgeresnext.report.words import SCOPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeresnext.measure.results import ChangedImage, Report, Row, Scenario
    from edgeresnext.report.pareto import Comparison
    from edgeresnext.report.svg import Plot, Style

_THUMBNAIL_BUDGET_BYTES = 1_500_000
_SHOWN = 12
"""Changed images on the page; the report as JSON has those of every variant."""
"""Thumbnails that a page holds, at most: two thirds of a page of 5 MB are left after base64."""

_POINTS, _AGREEMENT = 0.005, 0.99
"""What counts as PyTorch's accuracy in the summary: a drop of half a point, or the same class for 99 images of 100."""

_SCENARIOS: dict[Scenario, tuple[str, str]] = {
    "single-stream": ("Single stream", "One image after the other, the next one when the last is done."),
    "multi-stream": ("Multi-stream", "Several images at a time, the next ones when all are done."),
    "offline": ("Offline", "All images at once, in batches: what counts is how many a second."),
    "server": ("Server", "Images that arrive at random times; the latency is from arrival to logits."),
}


class _Drawing(NamedTuple):
    """An SVG with what is said about it."""

    svg: str
    title: str
    caption: str


class _Entry(NamedTuple):
    """A variant in the legend; `best` where none is both faster and more accurate."""

    style: Style
    name: str
    speed: str
    accuracy: str
    best: bool


class _Section(NamedTuple):
    """One scenario of the report."""

    title: str
    text: str
    table: Table
    drawings: list[_Drawing]
    reasons: dict[str, str]


class _Thumbnail(NamedTuple):
    """A changed image, and its picture as a data URI."""

    image: ChangedImage
    source: str


def to_html(report: Report) -> str:
    """Return a report as a page. All text of the report is escaped; the same report gives the same page.

    Raises:
        NotInstalledError: matplotlib or jinja2 is missing.
    """
    require("plot", "jinja2", "matplotlib", needed_by="an HTML report")
    import jinja2
    from markupsafe import Markup

    from edgeresnext.report.svg import styles, theme

    script = _asset("report.js")
    thumbnails = _thumbnails(report.changed)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    look = styles(row.name for row in report.rows if row.status == "ok")
    comparison = _comparison(report)
    with theme():
        page = environment.from_string(_asset("report.html.j2")).render(
            report=report,
            css=Markup(_asset("report.css")),  # noqa: S704 - part of this package, not of the report
            script=Markup(script),  # noqa: S704
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            summary=summary(report),
            pareto=comparison if isinstance(comparison, str) else _pareto(comparison, look),
            entries=[] if isinstance(comparison, str) else _entries(comparison, look),
            sections=_sections(report, look),
            layers=_layers(report, look),
            classes=class_table(report) if report.classes else None,
            thumbnails=thumbnails,
            thumbnails_left_out=len(report.changed) - len(thumbnails),
        )
    # A file name that is no UTF-8 holds surrogates, which no file could take.
    return page.encode("utf-8", "replace").decode()


def _asset(name: str) -> str:
    """Return a file of the page."""
    return (resources.files("edgeresnext.report") / "page" / name).read_text(encoding="utf-8")


def summary(report: Report) -> str:
    """Return in one or two sentences which variant is the fastest that keeps PyTorch's accuracy."""
    rows = [row for row in compared(report) if row.name != report.baseline_variant and row.speedup is not None]
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


def compared(report: Report) -> list[Row]:
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


def _comparison(report: Report) -> Comparison | str:
    """Return the variants by speed and accuracy, or why they cannot be compared."""
    from edgeresnext.report.pareto import compare

    rows = compared(report)
    return compare(rows) if rows else "No variant was measured."


def _pareto(found: Comparison, look: dict[str, Style]) -> _Drawing:
    """Return the plot of accuracy against speed."""
    from edgeresnext.report.pareto import draw

    text = "The dashed line joins the variants than which none is both faster and more accurate."
    if any(mark.below or mark.above for mark in found.marks):
        text += " Bars: Wilson's 95 % interval of top-1 on these images."
    return _inline(draw(found, look), "pareto", f"{found.accuracy[0].upper()}{found.accuracy[1:]} and speed", text)


def _entries(found: Comparison, look: dict[str, Style]) -> list[_Entry]:
    """Return the legend of the plot, fastest first."""
    best = {mark.name for mark in found.frontier()}
    marks = sorted(found.marks, key=lambda mark: -mark.x if found.offline else mark.x)
    return [
        _Entry(
            look[mark.name],
            mark.name,
            f"{mark.x:.4g} {found.unit}" if found.offline else f"{milliseconds(mark.x / 1e3)} ms",
            f"{mark.y:.2f} %",
            best=mark.name in best,
        )
        for mark in marks
    ]


def _sections(report: Report, look: dict[str, Style]) -> list[_Section]:
    """Return the scenarios in the order of their rows."""
    found = []
    for scenario in dict.fromkeys(row.scenario for row in report.rows):
        rows = [row for row in report.rows if row.scenario == scenario]
        measured = [row for row in rows if row.status == "ok"]
        title, text = _SCENARIOS[scenario]
        if measured:
            scopes = dict.fromkeys(SCOPES[row.scope] for row in measured)
            text += f" Timed: {', '.join(scopes)}."
        batches = {row.batch for row in rows}
        if len(batches) == 1:
            text += f" Batch {batches.pop()}."
        energy = dict.fromkeys(row.energy_source for row in measured if row.energy_source)
        if energy:
            text += f" Energy: {', '.join(energy)}."
        drawings = _drawings(scenario, measured, look)
        found.append(_Section(title, text, scenario_table(title, rows), drawings, reasons(rows)))
    return found


def _drawings(scenario: Scenario, rows: Sequence[Row], look: dict[str, Style]) -> list[_Drawing]:
    """Return the plots of one scenario."""
    from edgeresnext.report import plots

    if scenario == "offline":
        plot = plots.throughput(rows, look)
        return [_inline(plot, "offline", "Images a second by batch", "")] if plot else []
    found = []
    plot = plots.distributions(rows, look)
    if plot:
        text = "Ticks below: p50 (the longest), p90 and p99. The thin line ends at the slowest run."
        found.append(_inline(plot, f"{scenario}-distribution", "Distribution of latency", text))
    plot = plots.over_time(rows, look)
    if plot:
        text = "Line: the median of neighbouring rounds; band: their fastest and slowest, cut at the top."
        found.append(_inline(plot, f"{scenario}-time", "Latency over the run", text))
    return found


def _layers(report: Report, look: dict[str, Style]) -> _Drawing | None:
    """Return the time of each layer in each variant, from the first scenario that was profiled."""
    from edgeresnext.report import plots

    rows = list({row.name: row for row in reversed(report.rows) if row.layers}.values())[::-1]
    plot = plots.layers(rows, look)
    text = (
        "Milliseconds a run: the median of runs that were profiled, apart from those that were timed. What the runtime "
        "does outside the network's layers stands at the end, by kind. A fused layer carries the time of what was "
        "fused into it."
    )
    return _inline(plot, "layers", "Time by layer", text) if plot else None


def _inline(plot: Plot, name: str, title: str, caption: str) -> _Drawing:
    """Return a plot with its words."""
    from markupsafe import Markup

    from edgeresnext.report.svg import inline

    return _Drawing(Markup(inline(plot, name)), title, caption)  # noqa: S704 - serialised as XML, thus escaped


def _thumbnails(changed: Sequence[ChangedImage]) -> list[_Thumbnail]:
    """Return the most changed images whose pictures fit into the page."""
    found = []
    room = _THUMBNAIL_BUDGET_BYTES
    for image in sorted(changed, key=lambda one: -one.change)[:_SHOWN]:
        room -= len(image.thumbnail)
        if room < 0:
            break
        found.append(_Thumbnail(image, f"data:image/jpeg;base64,{base64.b64encode(image.thumbnail).decode()}"))
    return found
