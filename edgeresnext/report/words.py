"""What is said around the tables of a report, the same in the terminal and in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeresnext.report.figures import accuracy_columns, scenarios, speed_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeresnext.measure.results import Report, Row, Scenario

SCOPES = {
    "compute": "input and output where the runtime has them",
    "copies": "images in memory to logits in memory",
    "end-to-end": "encoded image files in memory to classes",
}
"""What each scope of a latency spans."""

ACCURACY_TITLE = "accuracy and size"


def plain(text: str) -> str:
    """Return text on one line, without what a terminal would obey: a saved report may come from anybody."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def title(report: Report) -> str:
    """Say what was measured, on what."""
    return plain(f"{report.bundle.get('model', 'a network')} on {report.data}")


def cautions(report: Report) -> list[str]:
    """Return what must be seen before any figure is."""
    found = ["quick: not for quoting"] if report.mode == "quick" else []
    return [*found, "partial: interrupted"] if report.partial else found


def scenario_title(rows: Sequence[Row]) -> str:
    """Name a scenario, with the batch where all its rows have the same."""
    batches = {row.batch for row in rows}
    batch = f", batch {rows[0].batch}" if len(batches) == 1 else ""
    return f"{rows[0].scenario}{batch}"


def notes(report: Report) -> list[str]:
    """Return what explains the tables: baseline, machine, scope, headings, and why figures are missing."""
    if not report.rows:
        return ["nothing had been measured yet"]
    found = [f"baseline: {report.baseline}; {_machine(report)}", *_scopes(report), f"mode: {report.mode}"]
    found += _legend(report)
    found += [f"{names}: {reason}" for reason, names in reasons(report).items()]
    return [plain(note) for note in found]


def warnings(report: Report) -> list[str]:
    """Return what makes figures doubtful."""
    found = list(report.warnings)
    if report.overlap:
        found.append(f"{report.overlap} of these images were calibrated on: INT8 may look better than it is")
    return [plain(warning) for warning in found]


def reasons(report: Report) -> dict[str, str]:
    """Return, in words, the rows that each reason applies to."""
    measured = sum(row.status == "ok" for row in report.rows)
    found = {}
    for reason, rows in by_reason(report.rows).items():
        by_name: dict[str, list[Row]] = {}
        for row in rows:
            by_name.setdefault(row.name, []).append(row)
        found[reason] = _whose(report, by_name, measured)
    return found


def by_reason(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows that each reason applies to."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for reason in row.reasons:
            found.setdefault(reason, []).append(row)
    return found


def _whose(report: Report, by_name: dict[str, list[Row]], measured: int) -> str:
    """Name what a reason applies to: `all` where it is every row that was measured, variants, or whole scenarios."""
    rows = [row for own in by_name.values() for row in own]
    if len(rows) == measured and all(row.status == "ok" for row in rows):
        return "all"
    if all(len(own) == sum(row.name == name for row in report.rows) for name, own in by_name.items()):
        return ", ".join(by_name)
    return ", ".join(_in_scenario(report, scenario, rows) for scenario in dict.fromkeys(row.scenario for row in rows))


def _in_scenario(report: Report, scenario: Scenario, rows: list[Row]) -> str:
    """Name the variants of a scenario that a reason applies to, or the scenario where it is all of them."""
    there = [row for row in rows if row.scenario == scenario]
    if len(there) == sum(row.scenario == scenario and row.status == "ok" for row in report.rows):
        return scenario
    return f"{', '.join(dict.fromkeys(row.name for row in there))} ({scenario})"


def _machine(report: Report) -> str:
    """Name the machine that a report was measured on."""
    environment = report.environment
    parts = [environment.get("cpu", "an unknown processor")]
    parts += [f"{environment['cores']} cores"] if "cores" in environment else []
    parts += [environment["gpu"]] if "gpu" in environment else []
    return ", ".join(parts)


def _scopes(report: Report) -> list[str]:
    """Say what the latencies span."""
    main = dict.fromkeys(row.scope for row in report.rows if row.latency_s is not None)
    other = dict.fromkeys(str(scope) for row in report.rows for scope in row.scopes if scope not in main)
    said = [f"latencies: {SCOPES[scope]}" for scope in main]
    return ["; ".join([*said, *(f"{scope}: {SCOPES[scope]}" for scope in other)])] if said or other else []


def _legend(report: Report) -> list[str]:
    """Explain those headings that are shown and do not explain themselves."""
    speed = {column.heading for rows in scenarios(report).values() for column in speed_columns(rows)}
    accuracy = {column.heading for column in accuracy_columns(report.rows)}
    found = []
    if speed & {"p90 ≤", "p99 ≤"}:
        found.append("≤: the percentile lies below with 99 % confidence")
    if "95 %" in accuracy:
        found.append("95 %: Wilson's interval of top-1")
    if "flips" in accuracy:
        found.append("flips: images that PyTorch alone (-) and the variant alone (+) classify right")
    if "p" in accuracy:
        found.append("p: McNemar's test of these")
    return ["; ".join(found)] if found else []


def offline_legend(report: Report, *, speedups: bool) -> str:
    """Explain the matrix of `offline`."""
    against = f"; speed-up: over the best of {report.baseline_variant}" if speedups else ""
    return plain(f"*: the variant's best{against}")
