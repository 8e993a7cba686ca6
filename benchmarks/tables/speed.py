"""How fast: the demo, models by backend, ours beside other quantisers, and the harness itself."""

from __future__ import annotations

from typing import Any

from common import load

from tables.cells import cell, decibels, machine, p50, plus_minus, speedup, table

BATCH = 8
"""Of the suite's second run of each model."""


def _measured() -> list[dict[str, Any]]:
    """Return the demo's rows, those that failed left out."""
    return [row for row in load("demo")["rows"] if row["status"] == "ok"]


def _demo_setting(figures: dict[str, Any]) -> str:
    return (
        f"`resnext20_8x4d` on {figures['data']} of scikit-learn's handwritten digits, batch 1, images in memory to logits; "
        f"baseline {figures['baseline']}. All of it, training excluded, took {figures['wall_s']:.0f} s. {machine(figures)}."
    )


def demo_in_brief() -> str:
    """The demo's report in four columns."""
    rows = (
        (name_of(row), cell(row["latency_s"]["p50"], ".2f", 1e3), speedup(row), cell(row["top1"], ".2f", 100))
        for row in _measured()
    )
    return table(("variant", "p50 ms", "speed-up", "top-1 %"), rows) + f"\n\n{_demo_setting(load('demo'))}"


def demo() -> str:
    """The demo's report."""
    headings = ("variant", "p50 ms", "p90 ms", "images/s", "speed-up", "top-1 %", "drop", "agree %", "MiB", "peak MiB")
    rows = (
        (
            name_of(row), cell(row["latency_s"]["p50"], ".2f", 1e3), cell(row["latency_s"]["p90"], ".2f", 1e3),
            f"{row['images_per_s']:.0f}", speedup(row), cell(row["top1"], ".2f", 100),
            cell(row["top1_drop"], "+.2f", 100), cell(row["agreement"], ".2f", 100),
            f"{row['size_bytes'] / 2**20:.1f}", cell(row["peak_memory_bytes"], ".0f", 2**-20),
        )
        for row in _measured()
    )  # fmt: skip
    return table(headings, rows) + f"\n\n{_demo_setting(load('demo'))}"


def suite() -> str:
    """Models, backends, precisions and batches."""
    figures = load("suite")
    headings = (
        "network", "variant", "p50 ms", "p90 ms", "compute ms", "end to end ms", "speed-up", "images/s, 8 at once",
        "MiB", "peak MiB",
    )  # fmt: skip
    eights = {(row["model"], name_of(row)): row for row in figures["models"] if row["batch"] == BATCH}
    singles = [row for row in figures["models"] if row["batch"] == 1]
    reasons = {f"{name_of(row)}: {reason}" for row in singles if row["status"] != "ok" for reason in _reasons(row)}
    rows = []
    for row in singles:
        if row["status"] != "ok":
            continue
        eight = eights.get((row["model"], name_of(row)), {})
        scopes = {name: scope["latency_s"]["p50"] for name, scope in row["scopes"].items()}
        rows.append((
            row["model"], name_of(row), p50(row), cell(row["latency_s"]["p90"], ".1f", 1e3),
            cell(scopes.get("compute"), ".1f", 1e3), cell(scopes.get("end-to-end"), ".1f", 1e3), speedup(row),
            cell(eight.get("images_per_s"), ".0f"), cell(row["size_bytes"], ".1f", 2**-20),
            cell(row["peak_memory_bytes"], ".0f", 2**-20),
        ))  # fmt: skip
    return (
        "Batch 1 in the single-stream scenario, random weights, images in memory to logits unless a column says otherwise; "
        "speed-up over PyTorch eager FP32 in the faster of its two memory layouts, in the same rounds:\n\n"
        + table(headings, rows)
        + "\n\n"
        + "".join(f"Not measured: {reason}. " for reason in sorted(reasons))
        + f"Compiled networks are not measured {BATCH} at once. Energy is n/a: no counter on this machine. {machine(figures, 'models')}."
    )


def _reasons(row: dict[str, Any]) -> list[str]:
    """Return why a row was not measured; results of earlier releases hold one string."""
    return row["reasons"] if "reasons" in row else [row["reason"]]


def name_of(row: dict[str, Any]) -> str:
    """Return a variant's name."""
    return " ".join(filter(None, (row["backend"], row["precision"], row["mode"])))


def peers(network: str) -> str:
    """Our artefacts beside other quantisers, and PyTorch's own ways; top-1 where the network is trained."""
    figures = load("suite")
    rows = [row for row in figures["peers"] if row["task"].startswith(network)]
    trained = any(row["top1"] is not None for row in rows)
    failed = [f"{row['variant']}: {row['reason']}" for row in rows if row["reason"]]
    cells = []
    for row in sorted((row for row in rows if not row["reason"]), key=lambda row: row["latency_s"]["p50"]):
        name = f"**{row['variant'].replace('-', ' ', 1)}**" if row["ours"] else row["variant"]
        first = row["variant"] == "openvino-int8"
        over = "1" if first else plus_minus(row["over_ours"], row["over_ours_error"])
        top1 = (cell(row["top1"], ".2f", 100),) if trained else ()
        cells.append((name, p50(row), speedup(row), over, decibels(row["snr_db"]), *top1))
    headings = (
        "variant",
        "p50 ms",
        "speed-up",
        "latency over our INT8's",
        "SNR, dB",
        *(("top-1 %",) if trained else ()),
    )
    return (
        f"{rows[0]['task']}; ours in bold. The same images, process and threads, {figures['rounds']} interleaved rounds, batch 1; every quantiser got the "
        f"same {figures['calibration_images']} images and its defaults for x86 CPUs:\n\n"
        + table(headings, cells)
        + "\n\n"
        + "".join(f"Not measured: {reason}. " for reason in failed)
        + f"{machine(figures, 'peers')}."
    )


def overhead() -> str:
    """What the harness adds."""
    figures = load("harness")
    rows = (
        (
            row["kind"], f"{row['known_s'] * 1e3:g} ms", f"{row['median_s'] * 1e3:.3f} ms",
            f"{row['added_s'] * 1e6:.1f} µs ({row['added_s'] / row['median_s']:.2%})", f"{row['added_p99_s'] * 1e6:.1f} µs",
        )
        for row in figures["overhead"]
    )  # fmt: skip
    found = table(("session", "known time", "reported, median", "added, median", "added, p99"), rows)
    return f"{found}\n\n{figures['overhead'][0]['rounds']} runs each. {machine(figures)}."


def arrays() -> str:
    """What `logits` adds to a runtime's own call."""
    figures = load("harness")
    rows = (
        (
            row["backend"], row["array"], f"{row['runtime_s'] * 1e3:.3f} ms", f"{row['added_s'] * 1e6:.1f} µs",
            f"{row['added_p99_s'] * 1e6:.1f} µs",
        )
        for row in figures["arrays"]
    )  # fmt: skip
    found = table(("runtime", "array", "its own call, median", "added, median", "added, p99"), rows)
    return f"{found}\n\nThe digits network in FP32, one image, {figures['arrays'][0]['rounds']} runs each in turn. {machine(figures, 'arrays')}."


def comparisons() -> str:
    """How pairs of runs compare."""
    figures = load("harness")
    rows = (
        (
            f"{row['slower']:.0%} slower" if row["slower"] else "the same",
            *(
                ", ".join(f"{n} {verdict}" for verdict, n in row[key].items())
                for key in ("verdicts", "against_baseline")
            ),
            ", ".join(f"{one:.3f}" for one in row["ratios"]),
        )
        for row in figures["comparisons"]
    )
    return (
        table(("second run", "verdicts", "against the baseline", "ratios of the medians"), rows)
        + f"\n\nThe digits network in INT8 on OpenVINO, {figures['pairs']} pairs of runs of {figures['pair_rounds']} rounds each, "
        f"threshold 3 %. {machine(figures)}."
    )
