"""The plots of a benchmark's report, by matplotlib, without pyplot: nothing is shared and nothing opens a window."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from edgeresnext.measure.results import LayerTime, Row
from edgeresnext.report.svg import GRID, INK, MUTED, Plot, Style, clean
from edgeresnext.report.ticks import scale

_WIDTH_IN = 4.3
"""In points this is the width of a phone, where letters then have their own size."""

_BINS = 80
_BUCKETS = 120
_STEPS = (5, 10, 20, 50, 100)
"""Percent above the median that may be marked in `over_time`."""

_BETWEEN = "between layers: "
_KINDS = 5
"""Operations of the runtime's own that are named; the others are added up."""


def label(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's name for a plot, with the batch where the rows differ in it."""
    several = len({other.batch for other in rows}) > 1
    return clean(f"{row.name}, batch {row.batch}" if several else row.name, 34)


def _height_in(rows: Sequence[Row]) -> float:
    """Return the height of a figure that gives each row the same room, so that two of them stand side by side."""
    return 0.7 + 0.62 * len(rows)


def distributions(rows: Sequence[Row], styles: Mapping[str, Style]) -> Plot | None:
    """Return each row's latencies as a histogram over a shared axis, or None where no row has any.

    The bars end at the 99.5th percentile; a line goes on to the slowest sample.
    """
    rows = [row for row in rows if row.samples_s and row.latency_s is not None]
    if not rows:
        return None
    figure = Figure(figsize=(_WIDTH_IN, _height_in(rows)), layout="constrained")
    axes = figure.add_subplot()
    titles = {}
    extremes = []
    for index, row in enumerate(rows):
        samples = 1e3 * np.asarray(row.samples_s)
        extremes += [float(samples.min()), float(samples.max())]
        gid = f"distribution-{index}"
        titles[gid] = _spread(row, len(samples))
        _ridge(axes, samples, index, styles[row.name].colour, gid)
        for name, height, width in (("p50", 0.18, 1.6), ("p90", 0.12, 1), ("p99", 0.12, 1)):
            value = getattr(row.latency_s, name)
            if value is not None:
                axes.vlines(1e3 * value, index, index + height, color=INK, linewidth=width)
    scale(axes, "x", extremes, wide=2.5)
    axes.set_ylim(len(rows) - 0.7, -0.9)
    axes.set_yticks(range(len(rows)), [label(row, rows) for row in rows], color=INK, va="bottom")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("latency, ms")
    return Plot(figure, f"distribution of the latency of {len(rows)} variants", titles)


def _ridge(axes: Axes, samples: NDArray[np.float64], base: float, colour: str, gid: str) -> None:
    """Draw a histogram that stands on the line y = `base` and is 0.8 high at its peak."""
    low, high = float(samples.min()), float(np.percentile(samples, 99.5))
    if high <= low:  # a clock that ticks slower than the network runs
        low, high = 0.99 * low, 1.01 * low
    count = int(np.clip(np.sqrt(len(samples)), 8, _BINS))
    heights, edges = np.histogram(samples, bins=np.geomspace(low, high, count + 1))
    tops = base - 0.8 * np.append(heights, heights[-1]) / max(1, heights.max())
    axes.fill_between(edges, tops, base, step="post", color=colour, linewidth=0, alpha=0.85, gid=gid)
    axes.hlines(base, low, float(samples.max()), color=colour, linewidth=1.2)
    axes.plot(float(samples.max()), base, "|", color=colour, markersize=6)


def _spread(row: Row, count: int) -> str:
    """Return a row's percentiles as a tooltip."""
    found = ((name, getattr(row.latency_s, name)) for name in ("p50", "p90", "p99"))
    known = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in found if value is not None)
    return f"{row.name}: {known or 'too few samples for percentiles'} ({count} samples)"


def over_time(rows: Sequence[Row], styles: Mapping[str, Style]) -> Plot | None:
    """Return each row's latency round by round against its own median, so that a drift of a few percent is seen."""
    rows = [row for row in rows if len(row.samples_s) >= 8]  # noqa: PLR2004 - fewer have no median
    if not rows:
        return None
    figure = Figure(figsize=(_WIDTH_IN, _height_in(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    floors, ceilings = [], []
    for axes, row in zip(panels, rows, strict=True):
        samples = np.asarray(row.samples_s)
        at, low, middle, high = _buckets(100 * (samples / np.median(samples) - 1))
        colour = styles[row.name].colour
        axes.fill_between(at, low, high, color=colour, alpha=0.28, linewidth=0)
        axes.plot(at, middle, color=colour, linewidth=1.3)
        axes.axhline(0, color=MUTED, linewidth=0.7, linestyle=(0, (3, 3)))
        axes.set_title(label(row, rows), loc="left", fontsize=9, pad=2)
        axes.grid(color=GRID)
        floors += [float(low.min())]
        ceilings += [float(np.percentile(high, 90)), 1.2 * float(middle.max())]
    # A single slow run must not flatten everything: bands are cut above what nine buckets in ten reach.
    bottom, top = max(-60.0, min([*floors, -5.0])), min(150.0, max([*ceilings, 5.0]))
    step = next(step for step in _STEPS if step >= 0.35 * (top - bottom))  # room for two labels
    panels[0].set_ylim(bottom, max(top, 1.05 * step))
    panels[0].set_yticks([0, step], ["median", f"+{step} %"])
    panels[0].xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    panels[-1].set_xlabel("round")
    return Plot(figure, f"latency of {len(rows)} variants over the run, relative to each one's median", {})


def _buckets(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return positions, minima, medians and maxima of at most 120 equal stretches."""
    count = max(1, min(_BUCKETS, len(values) // 4))
    edges = np.linspace(0, len(values), count + 1).astype(int)
    parts = [values[begin:end] for begin, end in itertools.pairwise(edges)]
    reduced = [np.array([reduce(part) for part in parts]) for reduce in (np.min, np.median, np.max)]
    return ((edges[:-1] + edges[1:]) / 2, *reduced)


def throughput(rows: Sequence[Row], styles: Mapping[str, Style]) -> Plot | None:
    """Return images/s against the batch, one line a variant, or None where no row has any."""
    rows = [row for row in rows if row.images_per_s is not None]
    if not rows:
        return None
    names = list(dict.fromkeys(row.name for row in rows))
    figure = Figure(figsize=(_WIDTH_IN, 3.6), layout="constrained")
    axes = figure.add_subplot()
    titles = {}
    for index, name in enumerate(names):
        points = sorted((row.batch, row.images_per_s or 0.0) for row in rows if row.name == name)
        style = styles[name]
        (line,) = axes.plot(
            *zip(*points, strict=True), color=style.colour, marker=style.marker, markersize=5, label=clean(name)
        )
        line.set_gid(f"throughput-{index}")
        titles[f"throughput-{index}"] = f"{name}: " + ", ".join(f"{y:.4g}/s at batch {x}" for x, y in points)
    batches = sorted({row.batch for row in rows})
    if len(batches) > 1 and batches[0] > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    scale(axes, "y", [row.images_per_s or 0.0 for row in rows])
    axes.set_xlabel("batch")
    axes.set_ylabel("images/s")
    axes.grid(color=GRID)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, labelcolor=INK)
    return Plot(figure, f"images a second of {len(names)} variants by batch", titles)


def layers(rows: Sequence[Row], styles: Mapping[str, Style]) -> Plot | None:
    """Return what each layer took, the variants side by side over one axis, or None where no row was profiled."""
    rows = [row for row in rows if row.layers]
    if not rows:
        return None
    found = [_by_layer(row.layers) for row in rows]
    order = _layer_order(found)
    figure = Figure(figsize=(1.7 + 1.12 * len(rows), 1.0 + 0.165 * len(order)), layout="constrained")
    panels = figure.subplots(1, len(rows), sharex=True, sharey=True, squeeze=False)[0]
    titles = {}
    # What one runtime does between layers can dwarf every layer: such bars are cut at the longest layer, and labelled.
    longest = 1e3 * max((seconds for times in found for seconds in _of_layers(times)), default=0.0)
    for column, (axes, row, times) in enumerate(zip(panels, rows, found, strict=True)):
        names = [name for name in order if name in times]
        bars = axes.barh([order.index(name) for name in names], [1e3 * times[name] for name in names], height=0.78)
        for line, (bar, name) in enumerate(zip(bars, names, strict=True)):
            bar.set_color(styles[row.name].colour)
            bar.set_gid(f"layer-{column}-{line}")
            titles[f"layer-{column}-{line}"] = f"{row.name}, {name}: {1e3 * times[name]:.4g} ms"
            if longest and 1e3 * times[name] > longest:
                place = (longest, order.index(name))
                axes.annotate(
                    f"{1e3 * times[name]:.2g} ", place, ha="right", va="center", fontsize=6.5, color="white", zorder=9
                )
        name = "\n".join(clean(part, 18) for part in row.name.rsplit("-", 1))  # columns are narrow
        axes.set_title(f"{name}\n{1e3 * sum(times.values()):.3g} ms", fontsize=7.5)
        axes.grid(axis="x", color=GRID)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="x", labelsize=7)
        axes.tick_params(axis="y", length=0, labelsize=7.5)
        axes.locator_params(axis="x", nbins=3)
    panels[0].set_yticks(range(len(order)), [clean(name, 34) for name in order])
    panels[0].set_ylim(len(order) - 0.4, -0.6)
    if longest:
        panels[0].set_xlim(0, longest)
    return Plot(figure, f"time of each of {len(order)} layers in {len(rows)} variants", titles)


def _of_layers(times: Mapping[str, float]) -> list[float]:
    """Return the seconds of the network's own layers; of everything where nothing is known to be one."""
    own = [seconds for name, seconds in times.items() if not name.startswith(_BETWEEN)]
    return own or list(times.values())


def _by_layer(times: Sequence[LayerTime]) -> dict[str, float]:
    """Return seconds by layer; last come the operations that belong to none, by kind, the smallest added up."""
    found: dict[str, float] = {}
    between: dict[str, float] = {}
    for time in times:
        group, key = (found, time.module) if time.module else (between, time.kind)
        group[key] = group.get(key, 0.0) + time.seconds
    for place, kind in enumerate(sorted(between, key=lambda kind: -between[kind])):
        key = f"{_BETWEEN}{kind if place < _KINDS else 'others'}"
        found[key] = found.get(key, 0.0) + between[kind]
    return found


def _layer_order(found: Sequence[Mapping[str, float]]) -> list[str]:
    """Return all names, as in the row that has the most; those between layers at the end."""
    names = dict.fromkeys(name for times in sorted(found, key=len, reverse=True) for name in times)
    return sorted(names, key=lambda name: name.startswith(_BETWEEN))
