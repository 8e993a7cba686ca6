"""Show a benchmark as a table, and save it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgeresnext.errors import EdgeResNeXtError, RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from edgeresnext.spec import Report, Row

SUFFIXES = (".json",)
_MIB = 1 << 20
_NOT_MEASURED = "n/a"
_HEADINGS = (
    "p50 ms", "p90 ms", "p99 ms", "images/s", "speed-up", "top-1 %", "95 %", "top-5 %", "drop", "flips", "p", "agree %",
    "MiB", "peak MiB",
)  # fmt: skip


def check_save(path: Path) -> None:
    """Refuse a file name that `save` cannot write, before anything is measured.

    Raises:
        RequestError: The suffix is unknown or the folder does not exist.
    """
    if path.suffix not in SUFFIXES:
        raise RequestError(f"cannot save a report as '{path}'", f"Known suffixes: {', '.join(SUFFIXES)}.")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"folder '{path.absolute().parent}' does not exist", "Create it first.")


def save(report: Report, path: Path) -> None:
    """Write a report; the format follows the suffix.

    Raises:
        EdgeResNeXtError: The file cannot be written.
    """
    check_save(path)
    try:
        path.write_bytes(to_json(report))
    except OSError as error:
        raise EdgeResNeXtError(f"cannot write report '{path}': {error.strerror}", "Give another file.") from None


def to_json(report: Report) -> bytes:
    """Return a report as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def render(report: Report) -> RenderableType:
    """Return a report as a table for a terminal, with what is missing explained beneath."""
    title = f"{report.bundle['model']} on {report.data}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    cells = [_cells(row) for row in report.rows]
    # A column without a single figure says nothing; the reasons beneath the table do.
    shown = [index for index in range(len(_HEADINGS)) if any(row[index] not in ("", _NOT_MEASURED) for row in cells)]
    for index in shown:
        table.add_column(_HEADINGS[index], justify="right", no_wrap=True)
    for row, texts in zip(report.rows, cells, strict=True):
        figures = [texts[index] for index in shown] if row.status == "ok" else [row.status]
        table.add_row(row.name, *figures, style="" if row.status == "ok" else "dim")
    environment = report.environment
    gpu = f", {environment['gpu']}" if "gpu" in environment else ""
    where = f"{environment['cpu']}, {environment['cores']} cores{gpu}; batch {report.rows[0].batch}"
    notes = [Text(f"baseline: {report.baseline}; {where}; images in memory to logits", style="dim")]
    if any(row.p_value is not None for row in report.rows):
        legend = (
            "95 %: Wilson's interval of top-1; flips: images that PyTorch alone (-) and the variant alone (+) classify"
        )
        notes.append(Text(f"{legend} right; p: McNemar's test of these", style="dim"))
    if report.overlap:
        notes.append(
            Text(f"{report.overlap} of these images were calibrated on: INT8 may look better than it is", style="bold")
        )
    notes += [Text(f"{names}: {reason}", style="dim") for reason, names in _reasons(report).items()]
    return Group(table, *notes)


def _cells(row: Row) -> list[str]:
    """Format the figures of one row."""
    if row.status != "ok" or row.latency_s is None:
        return [""] * len(_HEADINGS)
    latency = row.latency_s
    ratio = _NOT_MEASURED if row.speedup is None else f"{row.speedup:.2f} ± {row.speedup_error:.2f}"
    return [
        *(_scaled(value, 1e3, 2) for value in (latency.p50, latency.p90, latency.p99)),
        _scaled(row.images_per_s, 1, 0 if (row.images_per_s or 0) >= 100 else 1),  # noqa: PLR2004 - three digits
        ratio,
        _scaled(row.top1, 100, 2),
        _interval(row.top1_interval),
        _scaled(row.top5, 100, 2),
        _scaled(row.top1_drop, 100, 2, sign="+"),
        _NOT_MEASURED if row.lost is None else f"-{row.lost} +{row.gained}",
        _scaled(row.p_value, 1, 2),
        _scaled(row.agreement, 100, 2),
        _scaled(row.size_bytes, 1 / _MIB, 1),
        _scaled(row.peak_memory_bytes, 1 / _MIB, 0),
    ]


def _interval(found: tuple[float, float] | None) -> str:
    """Return an interval of shares in percent, or n/a."""
    return _NOT_MEASURED if found is None else f"{100 * found[0]:.1f}-{100 * found[1]:.1f}"


def _scaled(value: float | None, factor: float, digits: int, sign: str = "") -> str:
    """Return a figure in the table's unit, or n/a."""
    return _NOT_MEASURED if value is None else f"{value * factor:{sign}.{digits}f}"


def _reasons(report: Report) -> dict[str, str]:
    """Return the variants that each reason applies to."""
    found: dict[str, list[str]] = {}
    for row in report.rows:
        for reason in filter(None, row.reason.split("; ") if row.status == "ok" else [row.reason]):
            found.setdefault(reason, []).append(row.name)
    measured = [row.name for row in report.rows if row.status == "ok"]
    return {reason: "all" if names == measured else ", ".join(names) for reason, names in found.items()}
