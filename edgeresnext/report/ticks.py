"""Axes in plain numbers: 1, 2, 5, 10 rather than powers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

_WIDE = 5
"""Largest over smallest above which an axis is logarithmic."""

_STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (12, (1, 1.5, 2, 3, 5, 7)),
    (60, (1, 2, 5)),
    (float("inf"), (1,)),
)
"""Which multiples of a power of ten are labelled, by the largest over the smallest value: as many as have room."""


def scale(axes: Axes, which: Literal["x", "y"], values: Sequence[float], *, wide: float = _WIDE) -> None:
    """Make an axis logarithmic where its values span more than a factor of `wide`, with few and plain labels."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = min(values), max(values)
    if low <= 0 or high <= wide * low:
        axis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=3))
        return
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=next(steps for most, steps in _STEPS if high <= most * low)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_formatter(NullFormatter())
