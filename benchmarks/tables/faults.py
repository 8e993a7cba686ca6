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
    for row in figures.get("long_runs", []):
        grown = f"{row['growth_bytes'] / 2**20:+.1f} and {row['cycles_growth_bytes'] / 2**20:+.1f} MiB"
        rows.append((
            f"{row['artifact']}: predictions, then loads and closes", f"{row['predictions']:,} and {row['cycles']}",
            f"{grown}, {row['handles']:+d} handles, {row['threads']:+d} threads",
        ))  # fmt: skip
    where = f"\n\n{machine(figures)}." if figures else ""
    return table(("tried", "how often", "lost, or grown by"), rows) + where


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
