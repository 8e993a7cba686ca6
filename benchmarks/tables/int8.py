"""What INT8 costs in accuracy: by method, repair, gate, quantiser and processor."""

from __future__ import annotations

from typing import Any

from common import RESULTS, load

from tables.cells import cell, decibels, machine, plus_minus, table, top1

FILES = {
    "ours": "**ours**",
    "saturating": "the same, nothing done against saturation",
    "fp32": "FP32",
    "onnxruntime ours": "**ours**, ONNX Runtime",
    "onnxruntime fp32": "FP32, ONNX Runtime",
}


def fidelity() -> str:
    """Distance of every file from PyTorch."""
    figures = load("fidelity")
    files = ("fp16", "int8", "int8-fp16", "int8-cpu")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in figures["rows"]:
        found.setdefault(row["model"], {})[row["file"]] = row
    rows = (
        (model, f"{by_file['fp32']['max_error']:.0e}", *(cell(by_file[name]["snr_db"], ".1f") for name in files))
        for model, by_file in found.items()
    )
    return (
        "Every file against PyTorch on 16 golden images, with the weights of `--random-weights`, in which every layer matters: the "
        "largest FP32 logit difference over the largest logit, and the logits' signal-to-noise ratio. Signed INT8, which TensorRT needs, "
        "has half the levels after a ReLU. Trained weights reach more: [repairs](#repairs). Measured when `auto` chose on 8 images; it takes 16 now.\n\n"
        + table(("network", "fp32, largest error", *(f"{name}, dB" for name in files)), rows)
        + f"\n\n{machine(figures)}."
    )


def _both_files(rows: list[dict[str, Any]], heading: str) -> str:
    """Return a table of recipes, signed and unsigned INT8 side by side, a block a network."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["task"], row["recipe"]), {})[row["file"]] = row
    headings = ("network", heading, "int8, dB", "int8, top-1 %", "int8-cpu, dB", "int8-cpu, top-1 %")
    return table(
        headings,
        (
            (
                *key,
                *(text for file in ("int8", "int8-cpu") for text in (decibels(row[file]["snr_db"]), top1(row[file]))),
            )
            for key, row in found.items()
        ),
    )


def repairs() -> str:
    """What each repair does alone."""
    figures = load("quantization")
    return (
        "Each alone and all standard ones together, method `auto`, 64 calibration images; signal-to-noise ratio of the logits and top-1 on "
        "images that nothing was calibrated on, with the change against FP32 in brackets:\n\n"
        + _both_files(figures["repairs"], "repairs")
        + f"\n\n{machine(figures, 'repairs')}."
    )


def rounding() -> str:
    """What rounding wins beside the other repairs, and what it costs."""
    figures = load("quantization")
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in figures["rounding"]:
        found.setdefault((row["task"], row["recipe"]), {})[row["file"]] = row
    rows = (
        (
            *key,
            *(text for row in files.values() for text in (decibels(row["snr_db"]), top1(row))),
            f"{files['int8']['cpu_seconds']:.0f}", f"{files['int8']['peak_bytes'] / 2**20:.0f}",
        )
        for key, files in found.items()
    )  # fmt: skip
    headings = (
        "network", "repairs", "int8, dB", "int8, top-1 %", "int8-cpu, dB", "int8-cpu, top-1 %", "CPU seconds", "peak MiB",
    )  # fmt: skip
    return (
        "The standard repairs, and `--repair all`: method `auto`, 64 calibration images, judged on images that nothing was calibrated on; with the seconds "
        "that one core works to calibrate and to write both files, in a process of its own:\n\n"
        + table(headings, rows)
        + f"\n\n{machine(figures, 'rounding')}."
    )


def methods() -> str:
    """The methods beside each other."""
    figures = load("quantization")
    return (
        "The methods with all repairs, up to 512 calibration images:\n\n"
        + _both_files(figures["methods"], "method")
        + f"\n\n{machine(figures, 'methods')}."
    )


def rescaled() -> str:
    """Networks with rescaled channels."""
    figures = load("quantization")
    return _both_files(figures["rescaled"], "recipe") + (
        f"\n\nWithout the gate, all convolutions in INT8. {machine(figures, 'rescaled')}."
    )


def gate() -> str:
    """What the gate does for a network that naive calibration breaks."""
    figures = load("quantization")
    rows = (
        (row["case"], f"none: exit code {row['exit_code']}", "n/a", "n/a", "n/a", "n/a")
        if row["exit_code"]
        else (
            row["case"], row["file"], f"{row['drop']:+.2f}", ", ".join(row["returned"]) or "none",
            f"{row['int8_convolutions']:.0%}", f"{row['tries']}",
        )
        for row in figures["gate"]
    )  # fmt: skip
    headings = ("case", "file", "drop, points", "layers returned", "convolutions in INT8", "plans tried")
    return (
        "The digits network with rescaled channels in its second stage, `--method max --repair none --validation digits/validation`:\n\n"
        + table(headings, rows)
        + f"\n\n{machine(figures, 'gate')}."
    )


def quantisers() -> str:
    """Every quantiser on the same backend."""
    figures = load("quantization")
    rows = (
        (
            row["task"], row["quantiser"], decibels(row["snr_db"]), top1(row), cell(row["p50_s"], ".2f", 1e3),
            plus_minus(row["over_ours"], row["over_ours_error"]), f"{row['seconds']:.0f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
        )
        for row in figures["peers"]
    )  # fmt: skip
    headings = (
        "network", "INT8 by", "SNR, dB", "top-1 %", "p50 ms", "latency over ours", "quantising, s", "peak MiB",
    )  # fmt: skip
    return (
        "The same network, 64 calibration images and backend (OpenVINO, batch 1, rest in FP32), interleaved in one process; "
        "top-1 with the change against FP32 in brackets; each quantiser in a process of its own. onnxruntime's entropy calibrator, with "
        "its default 128 bins, finds the maximum, as MinMax does.\n\n"
        + table(headings, rows)
        + f"\n\n{machine(figures, 'peers')}."
    )


def calibration() -> str:
    """Cost of entropy calibration."""
    figures = load("quantization")
    found = figures["calibration"]
    seconds = [sorted(run["seconds"] for run in found[side])[len(found[side]) // 2] for side in ("ours", "onnxruntime")]
    peaks = [max(run["peak_bytes"] for run in found[side]) / 2**20 for side in ("ours", "onnxruntime")]
    return (
        f"Entropy calibration of {found['task']}, {found['images']} images: {seconds[0]:.1f} s and {peaks[0]:.0f} MiB, against "
        f"{seconds[1]:.1f} s and {peaks[1]:.0f} MiB for onnxruntime's quantiser with its entropy calibrator, which writes a file too "
        f"({found['ratio']:.2f} of its time; medians of {len(found['ours'])} runs in turn). With {found['many']} images the peak grows by "
        f"{found['growth_bytes'] / 2**20:.0f} MiB. {machine(figures, 'calibration')}."
    )


def processors() -> str:
    """INT8 with VNNI and without, and what is loaded on each."""
    figures = load("processors")
    files = (
        (
            row["task"], row["processor"], FILES.get(row["file"], row["file"]), decibels(row["snr_db"]), top1(row),
            cell(row["p50_s"], ".2f", 1e3), plus_minus(*row["over_saturating"]), plus_minus(*row["over_fp32"]),
        )
        for row in figures["files"]
    )  # fmt: skip
    loaded = (
        (
            row["bundle"], row["processor"], row["artifact"],
            f"{100 * row['top1']:.2f} ({100 * row['top1_torch']:.2f})" if "top1" in row else "n/a: random weights",
            *(f"{row[key]:.2f}" for key in ("proof_s", "first_s", "later_s")),
        )
        for row in figures["load"]
    )  # fmt: skip
    headings = (
        "network", "processor", "file", "SNR, dB", "top-1 %", "p50 ms", "latency over the saturating file's",
        "speed-up over OpenVINO FP32",
    )  # fmt: skip
    return (
        "One machine, of which oneDNN is told that it has no more than AVX2, or AVX-512 without VNNI; each processor in a process of its own, its files in "
        "interleaved rounds at batch 1, OpenVINO unless another runtime is named. ONNX Runtime cannot be told: its rows are those of this machine. NNCF "
        "with each setting of its `overflow_fix`, on the same FP32 file and 64 images.\n\n"
        + table(headings, files)
        + f"\n\n{machine(figures, 'files')}.\n\nA bundle built here, loaded there. Under conditions that are not the build's the first load opens and times every artefact; "
        "`proof` is what the first load took beyond later ones.\n\n"
        + table(
            ("bundle", "processor", "artefact", "top-1 % (PyTorch's)", "proof, s", "first load, s", "later loads, s"),
            loaded,
        )
        + f"\n\n{machine(figures, 'load')}."
    )


def trained() -> str:
    """What training in INT8 wins back."""
    if not (RESULTS / "int8_training.json").exists():
        return "n/a: not measured yet"
    figures = load("int8_training")
    cells, whole = [], []
    for name, rows in figures.items():
        if name in ("environment", "measured"):
            continue
        for row in rows:
            images = row["task"].split(", ")[1]
            if name.startswith("everything"):
                by = "labels" if row["labels"] else "FP32 teaches"
                whole.append((images, row["trained_for"], by, row["file"].removeprefix("onnx/"), top1(row)))
                continue
            how = "n/a: too little is lost"
            if row["recovered"] is not None:
                how = ("labels" if row["labels"] else "FP32 teaches") + (
                    ", evened out first" if row["equalised"] else ""
                )
            cells.append((
                f"{images}: {name}", *(f"{100 * row[at]:.2f}" for at in ("top1_fp32", "top1_calibrated")), how,
                *(cell(row.get(at), ".2f", 100) for at in ("top1_start", "top1")), cell(row["recovered"], ".0f", 100),
            ))  # fmt: skip
    found = table(("case", "FP32, top-1 %", "calibrated", "trained by", "begins at", "top-1, %", "% won back"), cells)
    files = table(("with everything on", "trained for", "by", "file", "top-1, % (against FP32)"), whole)
    return f"{found}\n\n{files}\n\n{machine(figures)}."
