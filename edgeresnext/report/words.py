"""What is said around the tables of a report, the same in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeresnext.measure.results import Report, Row, Scenario
from edgeresnext.report.tables import Table

_CHANCES = 2
"""How many times as good as guessing a network must be to be taken for one that works."""

SCOPES = {
    "compute": "input and output where the runtime has them",
    "copies": "images in memory to logits in memory",
    "end-to-end": "encoded image files in memory to classes",
}
"""What each scope of a latency spans."""


def plain(text: str) -> str:
    """Return text on one line, without what a terminal would obey: a saved report may come from anybody."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def title(report: Report) -> str:
    """Say what was measured, on what."""
    return plain(f"{report.bundle.get('model', 'a network')} on {report.data}")


def cautions(report: Report) -> list[str]:
    """Return what must be seen before any figure is."""
    found = [guessing(report)] if guessing(report) else []
    found += ["quick: not for quoting"] if report.mode == "quick" else []
    return [*found, "partial: interrupted"] if report.partial else found


def guessing(report: Report) -> str:
    """Say that the reference itself classifies no better than twice what guessing would, or nothing.

    No figure of accuracy means anything then: folders, labels, preprocessing or weights are not those of the training.
    """
    top1 = next((row.top1 for row in report.rows if row.name == report.reference and row.top1 is not None), None)
    classes = int(report.bundle.get("classes", "0"))
    if top1 is None or not classes or top1 > _CHANCES / classes:
        return ""
    return (
        f"{report.reference} itself is right for only {top1:.2%} of the images, and guessing for {1 / classes:.2%}: "
        "compare folders, labels and preprocessing with the training's"
    )


def notes(report: Report, tables: Iterable[Table]) -> list[str]:
    """Return what explains the tables: baseline, machine, scope, headings, and why figures are missing."""
    if not report.rows:
        return ["nothing had been measured yet"]
    found = [f"baseline: {report.baseline}; {_machine(report)}", *_scopes(report), f"mode: {report.mode}"]
    found += _legend(tables)
    found += [f"{names}: {reason}" for reason, names in reasons(report.rows).items()]
    return [plain(note) for note in found]


def warnings(report: Report) -> list[str]:
    """Return what makes figures doubtful."""
    found = list(report.warnings)
    if report.overlap:
        found.append(f"{report.overlap} of these images were calibrated on: INT8 may look better than it is")
    return [plain(warning) for warning in found]


def reasons(rows: Sequence[Row]) -> dict[str, str]:
    """Return, in words, the rows that each reason applies to."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for reason in row.reasons:
            found.setdefault(reason, []).append(row)
    return {reason: _whose(its, rows) for reason, its in found.items()}


def _whose(its: Sequence[Row], rows: Sequence[Row]) -> str:
    """Name some of the rows: `all` where it is every row that was measured, variants, or whole scenarios."""
    if all(row.status == "ok" for row in its) and len(its) == sum(row.status == "ok" for row in rows):
        return "all"
    names = dict.fromkeys(row.name for row in its)
    if len(its) == sum(row.name in names for row in rows):
        return ", ".join(names)
    return ", ".join(_in_scenario(scenario, its, rows) for scenario in dict.fromkeys(row.scenario for row in its))


def _in_scenario(scenario: Scenario, its: Sequence[Row], rows: Sequence[Row]) -> str:
    """Name some rows of a scenario, or the scenario where it is all of them."""
    there = [row for row in its if row.scenario == scenario]
    if len(there) == sum(row.scenario == scenario and row.status == "ok" for row in rows):
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


def _legend(tables: Iterable[Table]) -> list[str]:
    """Explain those headings that are shown and do not explain themselves."""
    found: dict[str, dict[str, None]] = {}
    for table in tables:
        for column in table.columns:
            if column.legend:
                found.setdefault(column.hint, {})[column.heading] = None
    return ["; ".join(f"{', '.join(headings)}: {hint}" for hint, headings in found.items())] if found else []
