"""Write the tables of the documents from `results/`; with --check, fail if they are not up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from common import load

ROOT = Path(__file__).parent.parent


def machine(figures: dict[str, Any]) -> str:
    """Name where the figures come from."""
    environment = figures["environment"]
    packages = ("torch", "torchao", "openvino", "onnxruntime", "nncf")
    versions = ", ".join(f"{name} {environment[name]}" for name in packages if name in environment)
    isa = f" ({environment['isa'].replace(' ', ', ')})" if environment.get("isa") else ""
    return f"{environment['cpu']}, {environment['cores']} cores{isa}; {versions + '; ' if versions else ''}{environment['date'][:10]}"


def cell(value: float | None, pattern: str, factor: float = 1.0) -> str:
    """Format a figure, or n/a."""
    return "n/a" if value is None else format(value * factor, pattern)


def demo() -> str:
    """The demo's report."""
    figures = load("demo")
    lines = [
        "| variant | p50 ms | p90 ms | images/s | speed-up | top-1 % | drop | agree % | MiB | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['backend']} {row['precision']} | {cell(row['latency_s']['p50'], '.2f', 1e3)} "
        f"| {cell(row['latency_s']['p90'], '.2f', 1e3)} | {row['images_per_s']:.0f} "
        f"| {ratio(row)} | {cell(row['top1'], '.2f', 100)} "
        f"| {cell(row['top1_drop'], '+.2f', 100)} | {cell(row['agreement'], '.2f', 100)} "
        f"| {row['size_bytes'] / 2**20:.1f} | {cell(row['peak_memory_bytes'], '.0f', 2**-20)} |"
        for row in figures["rows"]
        if row["status"] == "ok"
    ]
    return (
        "\n".join(lines)
        + f"\n\n`resnext20_8x4d` on {figures['data']} of scikit-learn's handwritten digits, batch 1, images in memory to logits; "
        f"baseline {figures['baseline']}. All of it, training excluded, took {figures['wall_s']:.0f} s. {machine(figures)}."
    )


def p50(row: dict[str, Any]) -> str:
    """Format the median latency in milliseconds."""
    return cell(row["latency_s"]["p50"], ".1f" if row["latency_s"]["p50"] >= 0.002 else ".2f", 1e3)  # noqa: PLR2004


def ratio(row: dict[str, Any]) -> str:
    """Format a speed-up with its error."""
    if row.get("speedup") is None:
        return "n/a"
    return f"{row['speedup']:.2f} ± {row['speedup_error']:.2f}" if row["speedup_error"] else f"{row['speedup']:.2f}"


def suite(*models: str) -> str:
    """Models, backends, precisions and batches; all models unless some are named."""
    figures = load("suite")
    lines = [
        "| network | variant | p50 ms | p90 ms | compute ms | end to end ms | speed-up | images/s, 8 at once | MiB | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [row for row in figures["models"] if not models or row["model"] in models]
    eights = {(row["model"], name_of(row)): row for row in rows if row["batch"] == 8}  # noqa: PLR2004
    reasons = set()
    for row in rows:
        if row["batch"] != 1 or row["status"] != "ok":
            # Results from before schema 3 of reports have one string a row.
            given = row["reasons"] if "reasons" in row else [row["reason"]]
            reasons |= {f"{name_of(row)}: {reason}" for reason in given} if row["batch"] == 1 else set()
            continue
        eight = eights.get((row["model"], name_of(row)), {})
        scopes = {name: scope["latency_s"]["p50"] for name, scope in row["scopes"].items()}
        lines.append(
            f"| {row['model']} | {name_of(row)} | {p50(row)} | {cell(row['latency_s']['p90'], '.1f', 1e3)} "
            f"| {cell(scopes.get('compute'), '.1f', 1e3)} | {cell(scopes.get('end-to-end'), '.1f', 1e3)} | {ratio(row)} "
            f"| {cell(eight.get('images_per_s'), '.0f')} | {cell(row['size_bytes'], '.1f', 2**-20)} "
            f"| {cell(row['peak_memory_bytes'], '.0f', 2**-20)} |"
        )
    return (
        "Batch 1 in the single-stream scenario, random weights, images in memory to logits unless a column says otherwise; "
        "speed-up over PyTorch eager FP32 in the faster of its two memory layouts, in the same rounds:\n\n"
        + "\n".join(lines)
        + "\n\n"
        + "".join(f"Not measured: {reason}. " for reason in sorted(reasons))
        + f"Compiled networks are not measured 8 at once. Energy is n/a: no counter on this machine. {machine(figures)}."
    )


def name_of(row: dict[str, Any]) -> str:
    """Return a variant's name."""
    return " ".join(filter(None, (row["backend"], row["precision"], row["mode"])))


def against_peers(network: str) -> str:
    """Our artefacts beside other quantisers, and PyTorch's own ways; top-1 where the network is trained."""
    figures = load("suite")
    rows = [row for row in figures["peers"] if row["task"].startswith(network)]
    trained = any(row["top1"] is not None for row in rows)
    lines = [
        "| variant | p50 ms | speed-up | latency over our INT8's | SNR, dB |" + " top-1 % |" * trained,
        "|---" * (5 + trained) + "|",
    ]
    failed = []
    for row in sorted(rows, key=lambda row: row.get("latency_s", {}).get("p50", 9e9)):
        if row["reason"]:
            failed.append(f"{row['variant']}: {row['reason']}")
            continue
        name = f"**{row['variant'].replace('-', ' ', 1)}**" if row["ours"] else row["variant"]
        snr = "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f}"
        top = "n/a" if row["top1"] is None else f"{100 * row['top1']:.2f}"
        over = "1" if row["variant"] == "openvino-int8" else f"{row['over_ours']:.2f} ± {row['over_ours_error']:.2f}"
        lines.append(f"| {name} | {p50(row)} | {ratio(row)} | {over} | {snr} |" + f" {top} |" * trained)
    return (
        f"{rows[0]['task']}; ours in bold. The same images, process and threads, {figures['rounds']} interleaved rounds, batch 1; every quantiser got the "
        f"same {figures['calibration_images']} images and its defaults for x86 CPUs:\n\n"
        + "\n".join(lines)
        + "\n\n"
        + "".join(f"Not measured: {reason}. " for reason in failed)
        + f"{machine(figures)}."
    )


def overhead() -> str:
    """What the harness adds."""
    figures = load("harness")
    lines = ["| session | known time | reported, median | added, median | added, p99 |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['kind']} | {row['known_s'] * 1e3:g} ms | {row['median_s'] * 1e3:.3f} ms | {row['added_s'] * 1e6:.1f} µs "
        f"({row['added_s'] / row['median_s']:.2%}) | {row['added_p99_s'] * 1e6:.1f} µs |"
        for row in figures["overhead"]
    ]
    return "\n".join(lines) + f"\n\n{figures['overhead'][0]['rounds']} runs each. {machine(figures)}."


def comparisons() -> str:
    """How pairs of runs compare."""
    figures = load("harness")
    lines = ["| second run | verdicts | against the baseline | ratios of the medians |", "|---|---|---|---|"]
    for row in figures["comparisons"]:
        name = f"{row['slower']:.0%} slower" if row["slower"] else "the same"
        verdicts, against = (
            ", ".join(f"{count} {verdict}" for verdict, count in row[key].items())
            for key in ("verdicts", "against_baseline")
        )
        lines.append(f"| {name} | {verdicts} | {against} | {', '.join(f'{one:.3f}' for one in row['ratios'])} |")
    return (
        "\n".join(lines)
        + f"\n\nThe digits network in INT8 on OpenVINO, {figures['pairs']} pairs of runs of {figures['pair_rounds']} rounds each, "
        f"threshold 3 %. {machine(figures)}."
    )


def fidelity() -> str:
    """Distance of every file from PyTorch."""
    figures = load("fidelity")
    files = ("fp32", "fp16", "int8", "int8-fp16", "int8-cpu")
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in figures["rows"]:
        table.setdefault(row["model"], {})[row["file"]] = row
    lines = [
        "| network | fp32, largest error | " + " | ".join(f"{f}, dB" for f in files[1:]) + " |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {model} | {found['fp32']['max_error']:.0e} | "
        + " | ".join(cell(found[name]["snr_db"], ".1f") for name in files[1:])
        + " |"
        for model, found in table.items()
    ]
    return (
        "Every file against PyTorch on 16 golden images, with the weights of `--random-weights`, in which every layer matters: the "
        "largest FP32 logit difference over the largest logit, and the logits' signal-to-noise ratio. Signed INT8, which TensorRT needs, "
        "has half the levels after a ReLU. Trained weights reach more: [calibration/](calibration/README.md). Measured when `auto` chose on 8 images; it takes 16 now.\n\n"
        + "\n".join(lines)
        + f"\n\n{machine(figures)}."
    )


def build() -> str:
    """Cost of a build."""
    figures = load("build")
    runs = figures["runs"]
    wall, emitted = max(run["wall_s"] for run in runs), max(run["emit_s"] for run in runs)
    peak = max(run["peak_bytes"] for run in runs)
    before = (
        f", {figures['over_before']:.2f} times what the commit before took in turn" if "over_before" in figures else ""
    )
    return (
        f"Building ResNeXt-50 from a local checkpoint with {figures['calibration_images']} calibration images takes {wall:.0f} s and "
        f"{peak / 2**30:.2f} GiB at its peak; emitting and writing the five ONNX files is {emitted:.1f} s of it "
        f"(the slowest of {len(runs)} runs{before}). {machine(figures)}."
    )


def engines() -> str:
    """Engines built ahead of time: their cost, their layers, and estimates."""
    figures = load("engines")
    lines = [
        "| engine | MB | layers | activations moved, MB | constants, MB | estimate |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["layers"]:
        moved = (row["read_bytes"] + row["written_bytes"]) / 1e6
        estimate = ", ".join(f"{seconds * 1e3:.2f} ms {name}" for name, seconds in row["estimate_s"].items())
        lines.append(
            f"| {row['engine']} | {row['bytes'] / 1e6:.1f} | {row['layers']} | {moved:.0f} "
            f"| {row['constant_bytes'] / 1e6:.0f} | {estimate} |"
        )
    costs = "; ".join(
        f"`{build['model']}` {build['engines_s']:.1f} s, {build['tree_bytes'] / 2**30:.2f} GiB"
        for build in figures["builds"]
    )
    return (
        "\n".join(lines)
        + f"\n\n`{figures['model']}` at 224 px, one image. Estimates are each layer's bytes and multiply-accumulates at the device's peak "
        "rates; no GPU has run these engines. Four engines (rtx40 and rtx30 in FP16 and INT8) take beyond the ONNX files, with the "
        f"peak memory of both processes meanwhile: {costs}. TensorRT-RTX {figures['environment']['tensorrt-rtx']}; {machine(figures)}."
    )


def top1(row: dict[str, Any]) -> str:
    """Format top-1 and what was lost of FP32's, in points."""
    if row["top1"] is None:
        return "n/a: random weights"
    return f"{100 * row['top1']:.2f} ({100 * (row['top1'] - row['top1_fp32']):+.2f})"


def both_files(rows: list[dict[str, Any]], heading: str) -> str:
    """A table of recipes, signed and unsigned INT8 side by side, a block a network."""
    table: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        table.setdefault((row["task"], row["recipe"]), {})[row["file"]] = row
    lines = [
        f"| network | {heading} | int8, dB | int8, top-1 % | int8-cpu, dB | int8-cpu, top-1 % |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {task} | {recipe} | {found['int8']['snr_db']:.1f} | {top1(found['int8'])} "
        f"| {found['int8-cpu']['snr_db']:.1f} | {top1(found['int8-cpu'])} |"
        for (task, recipe), found in table.items()
    ]
    return "\n".join(lines)


def repairs() -> str:
    """What each repair does alone."""
    figures = load("quantization")
    return (
        "Each alone and all together, method `auto`, 64 calibration images; signal-to-noise ratio of the logits and top-1 on "
        "images that nothing was calibrated on, with the change against FP32 in brackets:\n\n"
        + both_files(figures["repairs"], "repairs")
        + f"\n\n{machine(figures)}."
    )


def methods() -> str:
    """The methods beside each other."""
    figures = load("quantization")
    return (
        "The methods with all repairs, up to 512 calibration images:\n\n"
        + both_files(figures["methods"], "method")
        + f"\n\n{machine(figures)}."
    )


def rescaled() -> str:
    """Networks with rescaled channels."""
    figures = load("quantization")
    return both_files(figures["rescaled"], "recipe") + (
        f"\n\nWithout the gate, all convolutions in INT8. {machine(figures)}."
    )


def gate() -> str:
    """What the gate does for a network that naive calibration breaks."""
    figures = load("quantization")
    lines = ["| case | file | drop, points | layers returned | convolutions in INT8 | plans tried |", "|---" * 6 + "|"]
    for row in figures["gate"]:
        if row["exit_code"]:
            lines.append(f"| {row['case']} | none: exit code {row['exit_code']} | | | | |")
        else:
            lines.append(
                f"| {row['case']} | {row['file']} | {row['drop']:+.2f} | {', '.join(row['returned']) or 'none'} "
                f"| {row['int8_convolutions']:.0%} | {row['tries']} |"
            )
    return (
        "The digits network with rescaled channels in its second stage, `--method max --repair none --validation digits/validation`:\n\n"
        + "\n".join(lines)
        + f"\n\n{machine(figures)}."
    )


def peers() -> str:
    """Every quantiser on the same backend."""
    figures = load("quantization")
    lines = [
        "| network | INT8 by | SNR, dB | top-1 % | p50 ms | latency over ours | quantising, s | peak MiB |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {row['task']} | {row['quantiser']} | {row['snr_db']:.1f} | {top1(row)} | {cell(row['p50_s'], '.2f', 1e3)} "
        f"| {row['over_ours']:.2f} ± {row['over_ours_error']:.2f} | {row['seconds']:.0f} | {row['peak_bytes'] / 2**20:.0f} |"
        for row in figures["peers"]
    ]
    return (
        "The same network, 64 calibration images and backend (OpenVINO, batch 1, rest in FP32), interleaved in one process; "
        "top-1 with the change against FP32 in brackets; each quantiser in a process of its own. onnxruntime's entropy calibrator, with "
        "its default 128 bins, finds the maximum, as MinMax does.\n\n" + "\n".join(lines) + f"\n\n{machine(figures)}."
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
        f"{found['growth_bytes'] / 2**20:.0f} MiB. {machine(figures)}."
    )


_FILES = {
    "ours": "**ours**",
    "saturating": "the same, nothing done against saturation",
    "fp32": "FP32",
    "onnxruntime ours": "**ours**, ONNX Runtime",
    "onnxruntime fp32": "FP32, ONNX Runtime",
}


def loaded_top1(row: dict[str, Any]) -> str:
    """Format the top-1 of what was loaded, and PyTorch's."""
    return f"{100 * row['top1']:.2f} ({100 * row['top1_torch']:.2f})" if "top1" in row else "n/a: random weights"


def processors() -> str:
    """INT8 with VNNI and without."""
    figures = load("processors")
    lines = [
        "| network | processor | file | SNR, dB | top-1 % | p50 ms | latency over the saturating file's | speed-up over OpenVINO FP32 |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {row['task']} | {row['processor']} | {_FILES.get(row['file'], row['file'])} | {'exact' if row['snr_db'] is None else format(row['snr_db'], '.1f')} | {top1(row)} "
        f"| {cell(row['p50_s'], '.2f', 1e3)} | {row['over_saturating'][0]:.2f} ± {row['over_saturating'][1]:.2f} "
        f"| {row['over_fp32'][0]:.2f} ± {row['over_fp32'][1]:.2f} |"
        for row in figures["files"]
    ]
    chosen = [
        "| bundle | processor | artefact | top-1 % (PyTorch's) | proof, s | first load, s | later loads, s |",
        "|---" * 7 + "|",
    ]
    chosen += [
        f"| {row['bundle']} | {row['processor']} | {row['artifact']} "
        f"| {loaded_top1(row)} "
        f"| {row['proof_s']:.2f} | {row['first_s']:.2f} | {row['later_s']:.2f} |"
        for row in figures["load"]
    ]
    return (
        "One machine, of which oneDNN is told that it has no more than AVX2, or AVX-512 without VNNI; each processor in a process of its own, its files in "
        "interleaved rounds at batch 1, OpenVINO unless another runtime is named. ONNX Runtime cannot be told: its rows are those of this machine. NNCF "
        "with each setting of its `overflow_fix`, on the same FP32 file and 64 images.\n\n"
        + "\n".join(lines)
        + "\n\nA bundle built here, loaded there. Under conditions that are not the build's the first load opens and times every artefact; "
        "`proof` is what the first load took beyond later ones.\n\n" + "\n".join(chosen) + f"\n\n{machine(figures)}."
    )


DOCUMENTS = {
    "README.md": {
        "demo": demo,
        "suite": lambda: suite("resnext50_32x4d"),
        "peers": lambda: against_peers("ResNeXt-50"),
        "fidelity": fidelity,
        "build": build,
        "engines": engines,
    },
    "benchmarks/README.md": {
        "overhead": overhead,
        "comparisons": comparisons,
        "suite": suite,
        "peers": lambda: against_peers("resnext20"),
        "processors": processors,
    },
    "calibration/README.md": {
        "repairs": repairs,
        "methods": methods,
        "rescaled": rescaled,
        "gate": gate,
        "peers": peers,
        "calibration": calibration,
    },
}


def rendered(document: str) -> str:
    """Return a document with every table replaced."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for name, table in DOCUMENTS[document].items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda found, table=table: f"{found[1]}{table()}\n{found[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{document} has {count} places for table '{name}'")
    return text


if __name__ == "__main__":
    for document in DOCUMENTS:
        new = rendered(document)
        if "--check" in sys.argv and new != (ROOT / document).read_text(encoding="utf-8"):
            sys.exit(f"{document} is not up to date: run `make figures`, or `python benchmarks/render.py`")
        (ROOT / document).write_text(new, encoding="utf-8")
