"""What ran on GPUs, each named: the checks of tests/gpu, TensorRT-RTX's probes, and speed beside PyTorch."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from common import RESULTS

from tables.cells import cell, table

NOTHING = "Not yet run on hardware."
_STATUSES = ("passed", "failed", "crashed", "timed out", "skipped", "not run")


def _runs() -> list[dict[str, Any]]:
    """Return the results of every GPU, by its name."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("gpu-*.json"))]


def _named(run: dict[str, Any]) -> str:
    """Return a GPU's name."""
    return str(run["gpu"]["name"])


def _where(runs: list[dict[str, Any]]) -> str:
    """Name each machine and its day."""
    return " ".join(
        f"{_named(run)}: compute capability {run['gpu']['compute_capability']}, CUDA {run['gpu']['driver']}, "
        f"{run['environment']['cpu']}, {run['environment']['date'][:10]}."
        for run in runs
    )


def _counted(stage: dict[str, Any] | None) -> str:
    """Say how many checks of a stage ended how."""
    if stage is None:
        return "not run"
    counts = Counter(one["status"] for one in stage["checks"])
    return ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])


def _bad(run: dict[str, Any]) -> list[str]:
    """Name what went wrong on a GPU, with the reason."""
    return [
        f"{_named(run)}, {name} {one['name']}: {one['status']}, {one.get('reason', '')}"
        for name, stage in run["stages"].items()
        for one in stage["checks"]
        if one["status"] in ("failed", "crashed", "timed out")
    ]


def checks() -> str:
    """Every stage on every GPU."""
    runs = _runs()
    if not runs:
        return NOTHING
    names = list(dict.fromkeys(name for run in runs for name in run["stages"]))
    rows = [(name, *(_counted(run["stages"].get(name)) for run in runs)) for name in names]
    bad = [line for run in runs for line in _bad(run)]
    return "\n\n".join([table(("stage", *map(_named, runs)), rows), _where(runs), *(f"- {line}" for line in bad)])


def probes() -> str:
    """What TensorRT-RTX builds and runs, by the GPUs that are named to it."""
    rows = []
    for run in _runs():
        for one in run["stages"].get("probes", {}).get("checks", ()):
            figures = one["figures"]
            if "built" not in figures:
                continue
            rows.append(
                (
                    _named(run),
                    one["name"].partition("[")[2].rstrip("]"),
                    "yes" if figures["built"] else "no",
                    " ".join([figures.get("validity", ""), *figures.get("diagnostics", ())]).strip() or "n/a",
                    "yes" if figures.get("ran") else "no",
                    cell(figures.get("snr_db"), ".1f"),
                )
            )
    if not rows:
        return NOTHING
    return table(("GPU", "built for", "built", "called", "ran", "dB from PyTorch"), rows)


def _speed_row(run: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    """Write one variant on one GPU."""
    milliseconds = (cell(row[name], ".3f", 1e3) for name in ("p50_s", "p99_s", "compute_s"))
    figures = (cell(row["images_per_s"], ",.0f"), cell(row["speedup"], ".2f"))
    return _named(run), row["variant"], row["scenario"], str(row["batch"]), *milliseconds, *figures


def speed() -> str:
    """Latency and throughput on each GPU, PyTorch first."""
    runs = _runs()
    rows = [
        _speed_row(run, row)
        for run in runs
        for one in run["stages"].get("bench", {}).get("checks", ())
        for row in one["figures"].get("rows", ())
        if row["status"] == "ok" and row["device"] != "cpu"
    ]
    if not rows:
        return NOTHING
    headings = ("GPU", "variant", "scenario", "batch", "p50 ms", "p99 ms", "network alone ms", "images/s", "speed-up")
    return f"{table(headings, rows)}\n\nResNeXt-50, random weights, 224 px. {_where(runs)}"
