"""What a report says of a row, column by column, in one table that every format draws from.

A column knows its raw value, which CSV writes and a page sorts by, and how people read it. Formats choose columns; none
writes a figure of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, Literal, TypeVar

from edgeresnext.measure.results import Row, Scope

T = TypeVar("T")
Part = Literal["speed", "accuracy", "details"]

NOT_MEASURED = "n/a"
_MIB = 1 << 20
_TAILS = ("multi-stream", "server")
"""Scenarios that MLPerf judges by their 99th percentile, whose bound is worth a column."""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One thing that may be said of a row.

    Args:
        name: What it is called in CSV, and the field of the row that holds it unless `take` finds it; empty where a
            column only words what others hold.
        heading: What people call it; empty in CSV alone.
        unit: The unit in which people read it.
        take: Returns the raw value in seconds, bytes, joules or shares; None where nothing was measured.
        form: Words the value.
        words: Words the row instead, where more than the value is said.
        part: The table for people that it belongs to; "details" are of a page only.
        numeric: Whether it is sorted as a number, and stands at the right.
        hint: What the heading means.
        legend: Whether the hint is also said beneath tables, where nothing can be pointed at.
        fits: Whether it has anything to say of these rows.
    """

    name: str = ""
    heading: str = ""
    unit: str = ""
    _: KW_ONLY
    take: Callable[[T], Any] | None = None
    form: Callable[[Any], str] = str
    words: Callable[[T], str] | None = None
    part: Part = "speed"
    numeric: bool = True
    hint: str = ""
    legend: bool = False
    fits: Callable[[Sequence[T]], bool] = lambda _rows: True

    @property
    def title(self) -> str:
        """The heading with its unit, on one line."""
        return f"{self.heading} {self.unit}".rstrip()

    def raw(self, row: T) -> Any:  # noqa: ANN401 - whatever the field holds
        """Return the value for a program."""
        return getattr(row, self.name) if self.take is None else self.take(row)

    def text(self, row: T) -> str:
        """Return the value for people."""
        value = self.raw(row)
        if value is None:
            return NOT_MEASURED
        return self.form(value) if self.words is None else self.words(row)

    def key(self, row: T) -> float | str | None:
        """Return what the row is sorted by: None, and then last, where there is nothing."""
        value = self.raw(row)
        if value is None or self.text(row) == NOT_MEASURED:
            return None
        return value if self.numeric else self.text(row) or None


def shown(columns: Iterable[Column[T]], rows: Sequence[T]) -> list[Column[T]]:
    """Return the columns with a figure in one of the rows; the reasons beneath a table explain the others."""
    return [column for column in columns if column.fits(rows) and any(column.raw(row) is not None for row in rows)]


def differ(name: str) -> Callable[[Sequence[object]], bool]:
    """Return whether rows differ in a field: what is the same in all of them need not be said of each."""
    return lambda rows: len({getattr(row, name) for row in rows}) > 1


def number(factor: float, digits: int, form: str = "") -> Callable[[float], str]:
    """Return how a figure is written in a unit.

    Args:
        factor: Units in one of the raw value.
        digits: Digits after the point.
        form: A sign and grouping, as `format` takes them.
    """
    return lambda value: f"{round(value * factor, digits) + 0.0:{form}.{digits}f}"  # + 0.0: no minus before a zero


def milliseconds(seconds: float) -> str:
    """Return a latency in milliseconds; below one with a third digit, where a GPU's differences are."""
    return f"{1e3 * seconds:.{2 if seconds >= 1e-3 else 3}f}"  # noqa: PLR2004


def rate(per_s: float) -> str:
    """Return something a second, to three digits or more."""
    return f"{per_s:.{0 if per_s >= 100 else 1}f}"  # noqa: PLR2004 - three digits


percent = number(100, 2)
"""Return a share in percent."""


def probability(value: float) -> str:
    """Return a p-value; one that two digits would round to zero keeps a third."""
    return "<0.001" if value < 0.001 else f"{value:.{2 if value >= 0.1 else 3}f}"  # noqa: PLR2004


def joules(value: float) -> str:
    """Return an energy to three significant digits, never as a power of ten."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def speedup(row: Row) -> str:
    """Return a row's speed-up and its standard error."""
    return f"{row.speedup:.2f}" + ("" if row.speedup_error is None else f" ± {row.speedup_error:.2f}")


def _bound(percentile: str) -> Callable[[Row], float | None]:
    """Return how the bound of a percentile is found."""
    return lambda row: None if row.latency_s is None else row.latency_s.bound.get(percentile)


def _latency(name: str, heading: str = "", unit: str = "", **more: Any) -> Column[Row]:  # noqa: ANN401
    """Return the column of a field of the latency; in seconds, unless it is worded without a unit."""

    def take(row: Row) -> float | None:
        return None if row.latency_s is None else getattr(row.latency_s, name)

    suffix = "_s" if unit or not heading else ""
    return Column(f"latency_{name}{suffix}", heading, unit, take=take, **more)


def _scope(scope: Scope) -> Column[Row]:
    """Return the column of the median in a scope; shown where rows have it beside their own."""

    def median(row: Row) -> float | None:
        if row.scope == scope:
            return row.latency_s.p50 if row.latency_s else None
        return row.scopes[scope].latency_s.p50 if scope in row.scopes else None

    name = f"{scope.replace('-', '_')}_p50_s"
    return Column(
        name, scope, "ms", take=median, form=milliseconds, hint="the median in that scope, see the terms below",
        fits=lambda rows: any(scope in row.scopes for row in rows),
    )  # fmt: skip


_BOUNDED = "the percentile lies below with 99 % confidence"

COLUMNS: tuple[Column[Row], ...] = (
    Column(
        "variant", "variant", take=lambda row: row.name, numeric=False,
        words=lambda row: row.name if row.status == "ok" else f"{row.name} ({row.status})",
    ),
    *map(Column, ("backend", "precision", "device")),
    Column("batch", "batch", fits=differ("batch")),
    *map(Column, ("scenario", "target", "mode", "detail", "scope")),
    Column("rate", "queries/s", form=rate, hint="queries a second that arrived"),
    Column("latency_bound_s", "bound", "ms", form=milliseconds, hint="the latency that was to be kept"),
    Column(
        "within_bound", "in bound", numeric=False, form=lambda kept: "yes" if kept else "no",
        hint="whether it was kept",
    ),
    _latency("p50", "p50", "ms", form=milliseconds, hint="half of the runs were as fast"),
    _latency("p90", "p90", "ms", form=milliseconds, hint="nine of ten runs were as fast"),
    Column("bound_p90_s", "p90 ≤", take=_bound("p90"), form=milliseconds, hint=_BOUNDED, legend=True),
    _latency("p99", "p99", "ms", form=milliseconds, hint="99 of 100 runs were as fast"),
    Column(
        "bound_p99_s", "p99 ≤", take=_bound("p99"), form=milliseconds, hint=_BOUNDED, legend=True,
        fits=lambda rows: any(row.scenario in _TAILS for row in rows),
    ),
    *map(_latency, ("p95", "p97", "p99_9", "mean", "min", "max")),
    *(Column(f"bound_{name}_s", take=_bound(name)) for name in ("p50", "p95", "p97", "p99_9")),
    Column("images_per_s", "images/s", form=rate),
    Column("speedup", "speed-up", words=speedup, hint="over the baseline, with its standard error"),
    Column("speedup_error"),
    _scope("compute"),
    _scope("copies"),
    _scope("end-to-end"),
    Column("energy_j_per_image", "J/image", form=joules, hint="energy, from the counter that is named above"),
    *map(Column, ("energy_source", "energy_images_per_s")),
    Column(
        "peak_memory_bytes", "peak", "MiB", form=number(1 / _MIB, 0), hint="memory of a process that runs it alone"
    ),
    Column("top1", "top-1 %", form=percent, part="accuracy"),
    Column(
        "top1_low", "95 %", take=lambda row: row.top1_interval and row.top1_interval[0], part="accuracy",
        words=lambda row: "-".join(f"{100 * end:.1f}" for end in row.top1_interval or ()),
        hint="Wilson's interval of top-1", legend=True,
    ),
    Column("top1_high", take=lambda row: row.top1_interval and row.top1_interval[1]),
    Column("top5", "top-5 %", form=percent, part="accuracy"),
    Column(
        "top1_drop", "drop", form=number(100, 2, "+"), part="accuracy",
        hint="PyTorch's top-1 minus this one's, in points",
    ),
    Column(
        "", "flips", take=lambda row: None if row.lost is None or row.gained is None else row.lost + row.gained,
        words=lambda row: f"-{row.lost} +{row.gained}", part="accuracy", legend=True,
        hint="images that PyTorch alone (-) and the variant alone (+) classify right",
    ),
    *map(Column, ("lost", "gained")),
    Column("p_value", "p", form=probability, part="accuracy", hint="McNemar's test of the flips", legend=True),
    Column("agreement", "agree %", form=percent, part="accuracy", hint="images with PyTorch's first class"),
    Column("images"),
    Column("size_bytes", "MiB", form=number(1 / _MIB, 1), part="accuracy", hint="size of the artefact"),
    _latency("variation", "CV %", form=number(100, 1), part="details", hint="standard deviation over mean"),
    _latency(
        "drift", "drift %", form=number(100, 1, "+"), part="details",
        hint="how much slower the last quarter was than the first",
    ),
    _latency(
        "outliers", "outliers", form=number(1, 0, ","), part="details",
        hint="samples far from the median; they stay in",
    ),
    Column(
        "latency_n", "samples", part="details",
        words=lambda row: f"{row.latency_n:,}" if row.latency_n else NOT_MEASURED,
    ),
    Column(
        "", "mode", take=lambda row: ", ".join(filter(None, (row.mode, row.detail))), part="details", numeric=False,
        hint="how PyTorch runs it, and what the runtime chose for itself",
        fits=lambda rows: any(row.mode or row.detail for row in rows),
    ),
    Column("status"),
    Column("reasons"),
)  # fmt: skip
"""Every column, in the order of the tables."""

VARIANT = COLUMNS[0]


def columns(rows: Sequence[Row], *parts: Part) -> list[Column[Row]]:
    """Return the columns of these parts that have a figure in one of the rows, without the variant."""
    return shown([one for one in COLUMNS[1:] if one.heading and one.part in parts], rows)
