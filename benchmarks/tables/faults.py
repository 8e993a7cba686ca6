"""What was tried often, and what was lost."""

from __future__ import annotations

from typing import Any

from common import RESULTS, load

from tables.cells import machine, table

_UNTRIED = "n/a: not tried yet"


def faults() -> str:
    """Trials and losses; what was not tried says so."""
    figures: dict[str, Any] = load("faults") if (RESULTS / "faults.json").exists() else {}
    kills, exchanges, threads, processes = (
        figures.get(name) for name in ("kills", "exchanges", "threads", "processes")
    )
    rows = [
        (
            "SIGKILL at a random moment of a rebuild, then every file compared with the manifest",
            f"{kills['trials'] - kills['finished_before']} kills" if kills else _UNTRIED,
            f"{kills['lost']} bundles, {len(kills['left_behind'])} leftovers" if kills else "",
        ),
        (
            "a bundle replaced under two readers, which read all of it",
            f"{exchanges['trials']} exchanges, {exchanges['reads']:,} reads" if exchanges else _UNTRIED,
            f"{exchanges['lost']} reads" if exchanges else "",
        ),
        (
            "five artefacts from many threads, against the answers of one, to the bit",
            f"{threads['threads']} threads, {threads['trials']:,} runs" if threads else _UNTRIED,
            f"{threads['lost']} answers" if threads else "",
        ),
        (
            "five artefacts from processes that were started anew, and from tasks of asyncio, likewise",
            f"{processes['processes']} processes, {processes['trials']:,} runs; {processes['tasks']:,} tasks"
            if processes
            else _UNTRIED,
            f"{processes['lost']} answers" if processes else "",
        ),
    ]
    rows[1:1] = _calls(figures)
    for row in figures.get("long_runs", []):
        grown = f"{row['growth_bytes'] / 2**20:+.1f} and {row['cycles_growth_bytes'] / 2**20:+.1f} MiB"
        rows.append((
            f"{row['artifact']}: predictions, then loads and closes", f"{row['predictions']:,} and {row['cycles']}",
            f"{grown}, {row['handles']:+d} handles, {row['threads']:+d} threads",
        ))  # fmt: skip
    where = f"\n\n{machine(figures)}." if figures else ""
    return table(("tried", "how often", "lost, or grown by"), rows) + where


def _calls(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what was done to calls of the file system, to disks and to command lines."""
    kills, failing, disks, lines = (
        figures.get(name) for name in ("kill_points", "failing_calls", "full_disks", "command_lines")
    )
    return [
        (
            "SIGKILL before each call that changes a file system, half of a write made; then the same command again",
            f"{_sum(kills, 'kills'):,} kills of {len(kills)} commands" if kills else _UNTRIED,
            _harm(kills) if kills else "",
        ),
        (
            "each such call fails: disk or quota full, I/O error, read-only, no permission; then the same command again",
            f"{_sum(failing, 'failures'):,} failures in {len(failing)} commands" if failing else _UNTRIED,
            f"{_harm(failing)}, {_sum(failing, 'not said')} not said in words" if failing else "",
        ),
        (
            "disks, folders, names and limits that are not as they should be",
            f"{disks['trials']} settings of {len(disks['writers'])} commands" if disks else _UNTRIED,
            f"{disks['lost']} losses, leftovers or tracebacks" if disks else "",
        ),
        (
            "command lines that nobody means: every option with values that it does not take",
            f"{lines['trials']:,} lines" if lines else _UNTRIED,
            f"{lines['lost']} tracebacks, hangs or exit codes that are not written down" if lines else "",
        ),
    ]


def _sum(rows: list[dict[str, Any]], key: str) -> int:
    return sum(row[key] for row in rows)


def _harm(rows: list[dict[str, Any]]) -> str:
    """Say what was lost, left behind, and not put right by the next run."""
    lost, left, broken = (_sum(rows, key) for key in ("lost", "left", "not repaired"))
    return f"{lost} files or bundles, {left} leftovers, {broken} not repaired"


_READ = {
    "onnx": "ONNX files, before a runtime sees them",
    "manifest": "manifests, and what `inspect` shows of them",
    "images": "images of eleven formats",
    "weights": "checkpoints and safetensors, and which network they are",
    "report": "reports, and how they are shown",
    "ranges": "ranges",
    "golden": "golden images",
    "engine": "headers of engines",
    "calibration_cache": "calibration caches",
    "labels": "labels",
    "recipe": "recipes",
    "training_recipe": "recipes of training",
    "training_run": "what a run trains",
    "training_state": "checkpoints of runs",
    "hub_configuration": "what a hub says of weights",
    "preprocessing": "preprocessings",
    "float_weights": "ONNX files that are rewritten for TensorRT 8 and 9",
    "onnx_shown": "ONNX files that are looked at",
    "signed": "signatures",
    "keys": "keys",
    "export_record": "records of exports",
    "proofs": "what is remembered of bundles",
}


def fuzzing() -> str:
    """How long each parser was fuzzed, how often it ran, and what it did that it should not."""
    figures = load("fuzz")
    rows = []
    for name, read in _READ.items():
        found = figures.get(name)
        if found is None:
            rows.append((read, _UNTRIED, "", "", ""))
            continue
        rows.append((
            read, f"{found['seconds'] / 60:.1f}", f"{found['executions']:,}", f"{found['features']:,}", str(len(found["found"])),
        ))  # fmt: skip
    tried = figures.get("properties")
    said = (
        f" Hypothesis: {tried['examples']:,} examples of {tried['properties']['passed']} properties, {tried['failing']} failed."
        if tried
        else ""
    )
    return (
        table(("bytes that are taken for", "minutes", "executions", "ways seen", "found"), rows)
        + f"\n\n{machine(figures)}.{said}"
    )


def ensembles() -> str:
    """What INT8 costs two networks together and alone."""
    rows = load("ensembles")["rows"]
    alone = {row["members"][0]: row["files"] for row in rows if len(row["members"]) == 1}
    cells = []
    for row in rows:
        if len(row["members"]) == 1:
            continue
        one, other = (alone[name] for name in row["members"])
        found = []
        for name, quality in row["files"].items():
            found += [f"{one[name]['snr_db']:.1f}, {other[name]['snr_db']:.1f}", f"**{quality['snr_db']:.1f}**"]
        whole = row["files"]["int8-cpu"]
        cells.append(
            (" + ".join(row["members"]), *found, f"{100 * whole['top1']:.2f} of {100 * whole['top1_fp32']:.2f}")
        )
    headings = ("members", "int8: alone, dB", "together", "int8-cpu: alone, dB", "together", "top-1, %, of FP32")
    return table(headings, cells) + f"\n\n{rows[0]['files']['int8']['images']} images; {machine(load('ensembles'))}."
