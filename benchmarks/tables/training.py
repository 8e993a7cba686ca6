"""What training reaches, survives and takes; cardinality and the place of activation."""

from __future__ import annotations

from typing import Any

from common import RESULTS, load

from tables.cells import cell, decibels, machine, table

_UNTRIED = "n/a: not tried yet"


def _spread(values: list[float], how: str) -> str:
    """Return the least and the most of some runs."""
    return f"{min(values):{how}} to {max(values):{how}}"


def training() -> str:
    """What was asked of training, and what came of it."""
    figures: dict[str, Any] = load("training") if (RESULTS / "training.json").exists() else {}
    reached, killed, together = (figures.get(name) for name in ("reached", "killed", "together"))
    rows = [
        (
            "digits from random weights, standard recipe",
            f"top-1 {reached['top1']:.2f} % in {reached['seconds']:.0f} s ({reached['epochs']} epochs)"
            if reached
            else _UNTRIED,
        ),
        (
            "SIGKILL at random moments, then resumed each time",
            f"{killed['kills']} kills: {'the same' if killed['same_weights'] else 'OTHER'} weights to the bit"
            if killed
            else _UNTRIED,
        ),
        (
            "two processes (gloo) against one, fine-tuning on the same batches",
            f"training losses differ by {together['largest_difference']:.1e} at most in {together['epochs']} epochs"
            if together
            else _UNTRIED,
        ),
    ]
    rows += [
        (
            f"ten classes of shapes, {row['images']:,} images, {row['epochs']} epochs, {len(row['top1'])} seeds, from {row['start']}",
            f"top-1 {_spread(row['top1'], '.1f')} % in {_spread(row['seconds'], '.0f')} s, rate {row['learning_rate']:g}",
        )
        for row in figures.get("fine_tuned", [])
    ]
    rows += [
        (
            f"steps of {row['network']}, batch {row['batch']}: {row['precision']}{', channels last' if row['channels_last'] else ''}",
            f"{row['images_per_s']:.1f} images/s, {row['ratio']:.2f} times float32 with channels first",
        )
        for row in figures.get("speed", [])
    ]
    where = f"\n\n{machine(figures)}." if figures else ""
    return table(("tried", "found"), rows) + where


def cardinality() -> str:
    """Accuracy, what INT8 costs and latency by cardinality at about equal size."""
    if not (RESULTS / "cardinality.json").exists():
        return table(("", ""), [("cardinality study", _UNTRIED)])
    figures = load("cardinality")
    rows = [
        (
            {"digits": "digits", "shapes": "shapes"}[row["task"]], "behind" if row["order"] == "post" else "before",
            f"{row['cardinality']} x {row['width']}", f"{row['parameters'] / 1e3:.0f}k", f"{row['macs'] / 1e6:.0f}",
            f"{row['top1']['fp32']:.2f}", *(f"{row['top1'][name] - row['top1']['fp32']:+.2f}" for name in ("int8", "int8-cpu")),
            *(decibels(row["snr_db"].get(f"onnx/{name}.onnx")) for name in ("int8", "int8-cpu")),
            cell(row["p50_s"]["fp32"], ".2f", 1e3), cell(row["p50_s"]["int8"], ".2f", 1e3),
        )
        for row in figures["rows"]
    ]  # fmt: skip
    headings = (
        "images", "activation", "groups x channels", "parameters", "MMACs", "FP32, top-1 %", "int8", "int8-cpu", "int8, dB",
        "int8-cpu, dB", "FP32, ms", "INT8, ms",
    )  # fmt: skip
    return f"{table(headings, rows)}\n\n{machine(figures)}."
