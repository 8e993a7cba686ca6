"""The plot of accuracy against speed, one mark a variant, each labelled where there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from edgeresnext.report.svg import GRID, MUTED, SURFACE, Plot, Style, clean
from edgeresnext.report.ticks import scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from edgeresnext.measure.results import Row

_MARK = 5.0
"""Half the side of a mark, in points."""


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


class Comparison(NamedTuple):
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


def compare(rows: Sequence[Row]) -> Comparison | str:
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
    return Comparison(speed.label, speed.unit, accuracy.label, marks, offline)


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


def draw(found: Comparison, styles: dict[str, Style]) -> Plot:
    """Draw the marks, their error bars, the frontier and the labels."""
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
    axes.margins(x=0.16, y=0.1)
    axes.set_xlabel(f"{found.speed}, {found.unit} ({'faster →' if found.offline else '← faster'})")
    axes.set_ylabel(f"{found.accuracy}, % (better ↑)")
    axes.grid(color=GRID)
    _label(figure, axes, found.marks, styles)
    return Plot(figure, f"{found.accuracy} against {found.speed} of {len(found.marks)} variants", titles)


def _label(figure: Figure, axes: Axes, marks: Sequence[Mark], styles: dict[str, Style]) -> None:
    """Write each mark's name in its colour where it hides the least, one after the other."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()
    room = axes.get_window_extent(renderer)
    taken = [(box, weight) for mark in marks for box, weight in _occupied(axes, mark)]
    for mark in marks:
        text = axes.annotate(
            clean(mark.name),
            (mark.x, mark.y),
            xytext=(0, 0),
            textcoords="offset points",
            va="bottom",
            color=styles[mark.name].colour,
            fontsize=8.8,
            zorder=4,
            gid=f"label-{clean(mark.name, 80)}",
        )
        text.set_in_layout(False)  # the axes stay where the room was measured
        size = text.get_window_extent(renderer)
        x, y = axes.transData.transform((mark.x, mark.y))
        offset = min(_offsets(size.width, size.height), key=lambda at: _cost(at, (x, y), size, taken, room))
        text.set_position(offset)
        taken.append((Bbox.from_bounds(x + offset[0], y + offset[1], size.width, size.height), 1.0))


def _occupied(axes: Axes, mark: Mark) -> list[tuple[Bbox, float]]:
    """Return the boxes of a mark and of its error bar, in points, and how bad it is to write across each."""
    x, y = axes.transData.transform((mark.x, mark.y))
    low, high = (axes.transData.transform((mark.x, mark.y + reach))[1] for reach in (-mark.below, mark.above))
    # Names have a halo, so that a bar may pass behind one.
    return [
        (Bbox.from_bounds(x - _MARK, y - _MARK, 2 * _MARK, 2 * _MARK), 1.0),
        (Bbox([[x - 2, low], [x + 2, high]]), 0.25),
    ]


def _offsets(width: float, height: float) -> list[tuple[float, float]]:
    """Return where the lower left corner of a label may lie, from its mark; the nearest places first."""
    found = []
    for step in range(6):
        near = _MARK + 3 + 0.8 * height * step
        aside = _MARK + 3
        found += [
            (aside, -height / 2 + (near - aside)), (aside, -height / 2 - (near - aside)),
            (-aside - width, -height / 2 + (near - aside)), (-aside - width, -height / 2 - (near - aside)),
            (-width / 2, near), (-width / 2, -near - height),
        ]  # fmt: skip
    return found


def _cost(
    offset: tuple[float, float], mark: tuple[float, float], size: Bbox, taken: Sequence[tuple[Bbox, float]], room: Bbox
) -> float:
    """Return how much a label there would hide, how much of it would lie outside, and how far it is from its mark."""
    box = Bbox.from_bounds(mark[0] + offset[0], mark[1] + offset[1], size.width, size.height)
    hidden = sum(weight * _area(Bbox.intersection(box, other)) for other, weight in taken)
    outside = size.width * size.height - _area(Bbox.intersection(box, room))
    return hidden + 3 * outside + 0.5 * abs(offset[1] + size.height / 2)


def _area(box: Bbox | None) -> float:
    """Return a box's area."""
    return 0.0 if box is None else float(box.width * box.height)
