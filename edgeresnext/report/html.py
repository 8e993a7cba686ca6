"""A benchmark as one HTML file that needs nothing else: no network, no fonts, no scripts but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from edgeresnext.extras import require
from edgeresnext.measure.results import ChangedImage, Report, Row, Scenario
from edgeresnext.report import tables, words
from edgeresnext.report.columns import milliseconds
from edgeresnext.report.files import HTML_NEEDS
from edgeresnext.report.summary import fastest, one_a_variant
from edgeresnext.report.tables import Table

if TYPE_CHECKING:
    from edgeresnext.report.pareto import TradeOff
    from edgeresnext.report.svg import Plot, Style

_THUMBNAIL_BUDGET_BYTES = 1_500_000
"""Thumbnails that a page holds, at most: two thirds of a page of 5 MB are left after base64."""

_SHOWN = 12
"""Changed images on the page; the report as JSON has those of every variant."""

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
    require("plot", *HTML_NEEDS, needed_by="an HTML report")
    import jinja2
    from markupsafe import Markup

    from edgeresnext.report.svg import styles, theme

    script = _asset("report.js")
    thumbnails = _thumbnails(report.changed)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    look = styles(row.name for row in report.rows if row.status == "ok")
    found = _trade_off(report)
    with theme():
        page = environment.from_string(_asset("report.html.j2")).render(
            report=report,
            css=Markup(_asset("report.css")),  # noqa: S704 - part of this package, not of the report
            script=Markup(script),  # noqa: S704
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            summary=fastest(report),
            guessing=words.guessing(report),
            warnings=words.warnings(report),
            pareto=found if isinstance(found, str) else _pareto(found, look),
            entries=[] if isinstance(found, str) else _entries(found, look),
            sections=_sections(report, look),
            layers=_layers(report, look),
            classes=tables.classes(report) if report.classes else None,
            thumbnails=thumbnails,
            thumbnails_left_out=len(report.changed) - len(thumbnails),
        )
    # A file name that is no UTF-8 holds surrogates, which no file could take.
    return page.encode("utf-8", "replace").decode()


def _asset(name: str) -> str:
    """Return a file of the page."""
    return (resources.files("edgeresnext.report") / "page" / name).read_text(encoding="utf-8")


def _trade_off(report: Report) -> TradeOff | str:
    """Return the variants by speed and accuracy, or why they cannot be compared."""
    from edgeresnext.report.pareto import trade_off

    rows = one_a_variant(report)
    return trade_off(rows) if rows else "No variant was measured."


def _pareto(found: TradeOff, look: dict[str, Style]) -> _Drawing:
    """Return the plot of accuracy against speed."""
    from edgeresnext.report.pareto import draw

    text = "The dashed line joins the variants than which none is both faster and more accurate."
    if any(mark.below or mark.above for mark in found.marks):
        text += " Bars: Wilson's 95 % interval of top-1 on these images."
    return _inline(draw(found, look), "pareto", f"{found.accuracy[0].upper()}{found.accuracy[1:]} and speed", text)


def _entries(found: TradeOff, look: dict[str, Style]) -> list[_Entry]:
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
    for scenario, rows in tables.by_scenario(report).items():
        measured = [row for row in rows if row.status == "ok"]
        title, text = _SCENARIOS[scenario]
        if measured:
            scopes = dict.fromkeys(words.SCOPES[row.scope] for row in measured)
            text += f" Timed: {', '.join(scopes)}."
        batches = {row.batch for row in rows}
        if len(batches) == 1:
            text += f" Batch {batches.pop()}."
        energy = dict.fromkeys(row.energy_source for row in measured if row.energy_source)
        if energy:
            text += f" Energy: {', '.join(energy)}."
        drawings = _drawings(scenario, measured, look)
        found.append(_Section(title, text, tables.details(title, rows), drawings, words.reasons(rows)))
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
