"""How figures are written, and where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_PACKAGES = ("atheris", "torch", "torchao", "openvino", "onnxruntime", "nncf")
_COARSE_S = 0.002
"""Medians from here on have one decimal, in milliseconds."""


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    headings = tuple(headings)
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def machine(figures: dict[str, Any], section: str = "") -> str:
    """Name the machine, the packages and the day of a result file, or of the section of it that was measured later."""
    environment = figures.get("measured", {}).get(section, figures["environment"])
    versions = ", ".join(f"{name} {environment[name]}" for name in _PACKAGES if name in environment)
    isa = f" ({environment['isa'].replace(' ', ', ')})" if environment.get("isa") else ""
    return f"{environment['cpu']}, {environment['cores']} cores{isa}; {versions + '; ' if versions else ''}{environment['date'][:10]}"


def cell(value: float | None, pattern: str, factor: float = 1.0) -> str:
    """Format a figure, or n/a."""
    return "n/a" if value is None else format(value * factor, pattern)


def plus_minus(value: float, error: float) -> str:
    """Format a ratio with its error."""
    return f"{value:.2f} ± {error:.2f}"


def p50(row: dict[str, Any]) -> str:
    """Format the median latency in milliseconds."""
    return cell(row["latency_s"]["p50"], ".1f" if row["latency_s"]["p50"] >= _COARSE_S else ".2f", 1e3)


def speedup(row: dict[str, Any]) -> str:
    """Format a speed-up with its error, which a baseline does not have."""
    if row.get("speedup") is None:
        return "n/a"
    return plus_minus(row["speedup"], row["speedup_error"]) if row["speedup_error"] else f"{row['speedup']:.2f}"


def decibels(value: float | None) -> str:
    """Format a signal-to-noise ratio, which has no value where nothing differs."""
    return "exact" if value is None else f"{value:.1f}"


def top1(row: dict[str, Any]) -> str:
    """Format top-1 and what was lost of FP32's, in points."""
    if row["top1"] is None:
        return "n/a: random weights"
    lost = round(100 * (row["top1"] - row["top1_fp32"]), 2) + 0.0  # of two kinds of zero the positive one
    return f"{100 * row['top1']:.2f} ({lost:+.2f})"
