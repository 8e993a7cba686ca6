"""The plot of accuracy against speed, one mark a variant; the legend beside it on the page names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from edgeresnext.measure.results import Row
from edgeresnext.report.svg import GRID, MUTED, SURFACE, Plot, Style, clean
from edgeresnext.report.ticks import scale


class Mark(NamedTuple):
    """A variant's place in the plot, and half the lengths of its error bar."""

    name: str
    x: float
    y: float
    below: float
    above: float


class _Axis(NamedTuple):
    """What an axis shows, its unit, and each variant's figure."""

    label: str
    unit: str
    values: dict[str, float]


class TradeOff(NamedTuple):
    """The variants of one scenario by speed and accuracy; `offline` speed is images/s, otherwise latency."""

    speed: str
    unit: str
    accuracy: str
    marks: tuple[Mark, ...]
    offline: bool

    def frontier(self) -> list[Mark]:
        """Return the variants than which no other is both faster and more accurate, fastest first."""
        sign = -1 if self.offline else 1
        found: list[Mark] = []
        for mark in sorted(self.marks, key=lambda mark: (sign * mark.x, -mark.y)):
            if not found or mark.y > found[-1].y:
                found.append(mark)
        return found


def trade_off(rows: Sequence[Row]) -> TradeOff | str:
    """Return accuracy and latency (offline: images/s) of each variant, or in words why they cannot be compared.

    Args:
        rows: One row a variant, all of the same scenario and measured.
    """
    offline = bool(rows) and rows[0].scenario == "offline"
    speed, accuracy = _throughput(rows) if offline else _latency(rows), _accuracy(rows)
    if not accuracy.values:
        return "Neither top-1 nor the agreement with PyTorch was measured, so speed has nothing to be set against."
    if not speed.values:
        return "Too few samples for a median of any variant, so accuracy has no latency to be set against."
    marks = tuple(
        Mark(row.name, speed.values[row.name], accuracy.values[row.name], *_error(row))
        for row in rows
        if row.name in speed.values and row.name in accuracy.values
    )
    if not marks:
        return "No variant has both an accuracy and a latency."
    return TradeOff(speed.label, speed.unit, accuracy.label, marks, offline)


def _latency(rows: Sequence[Row]) -> _Axis:
    """Return the 90th percentile where every variant has one, else the median, in milliseconds."""
    known = [(row.name, row.latency_s) for row in rows if row.latency_s is not None]
    tails = {name: 1e3 * latency.p90 for name, latency in known if latency.p90 is not None}
    if tails and len(tails) == len(known):
        return _Axis("p90 latency", "ms", tails)
    medians = {name: 1e3 * latency.p50 for name, latency in known if latency.p50 is not None}
    return _Axis("median latency", "ms", medians)


def _throughput(rows: Sequence[Row]) -> _Axis:
    """Return images a second."""
    return _Axis("throughput", "images/s", {row.name: row.images_per_s for row in rows if row.images_per_s is not None})


def _accuracy(rows: Sequence[Row]) -> _Axis:
    """Return top-1, or the agreement with PyTorch where there are no labels, in percent."""
    top1 = {row.name: 100 * row.top1 for row in rows if row.top1 is not None}
    if top1:
        return _Axis("top-1", "%", top1)
    agreement = {row.name: 100 * row.agreement for row in rows if row.agreement is not None}
    return _Axis("agreement with PyTorch", "%", agreement)


def _error(row: Row) -> tuple[float, float]:
    """Return how far Wilson's interval reaches below and above top-1, in percent."""
    if row.top1 is None or row.top1_interval is None:
        return 0.0, 0.0
    low, high = row.top1_interval
    return max(0.0, 100 * (row.top1 - low)), max(0.0, 100 * (high - row.top1))


def draw(found: TradeOff, styles: dict[str, Style]) -> Plot:
    """Draw the marks, their error bars and the frontier."""
    figure = Figure(figsize=(4.3, 3.6), layout="constrained")
    axes = figure.add_subplot()
    titles = {}
    best = [(mark.x, mark.y) for mark in found.frontier()]
    axes.step(*zip(*best, strict=True), where="post", color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for mark in found.marks:
        style = styles[mark.name]
        gid = f"mark-{clean(mark.name, 80)}"
        axes.vlines(mark.x, mark.y - mark.below, mark.y + mark.above, color=style.colour, linewidth=1.4, alpha=0.5)
        (line,) = axes.plot(
            mark.x, mark.y, style.marker, color=style.colour, markersize=9, markeredgecolor=SURFACE, zorder=3
        )
        line.set_gid(gid)
        titles[gid] = f"{mark.name}: {found.accuracy} {mark.y:.2f} %, {found.speed} {mark.x:.4g} {found.unit}"
    scale(axes, "x", [mark.x for mark in found.marks])
    axes.margins(0.1)
    axes.set_xlabel(f"{found.speed}, {found.unit} ({'faster →' if found.offline else '← faster'})")
    axes.set_ylabel(f"{found.accuracy}, % (better ↑)")
    axes.grid(color=GRID)
    return Plot(figure, f"{found.accuracy} against {found.speed} of {len(found.marks)} variants", titles)
