"""Write the tables of the README from `results/`; with --check, fail if they are not up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from common import load

README = Path(__file__).parent.parent / "README.md"


def machine(figures: dict[str, Any]) -> str:
    """Name where the figures come from."""
    environment = figures["environment"]
    packages = ("torch", "openvino", "onnxruntime", "nncf")
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
        f"| {row['speedup']:.2f} ± {row['speedup_error']:.2f} | {cell(row['top1'], '.2f', 100)} "
        f"| {cell(row['top1_drop'], '+.2f', 100)} | {cell(row['agreement'], '.2f', 100)} "
        f"| {row['size_bytes'] / 2**20:.1f} | {cell(row['peak_memory_bytes'], '.0f', 2**-20)} |"
        for row in figures["rows"]
    ]
    return (
        "\n".join(lines)
        + f"\n\n`resnext20_8x4d` on {figures['data']} of scikit-learn's handwritten digits, batch 1, images in memory to logits; "
        f"baseline {figures['baseline']}. All of it, training excluded, took {figures['wall_s']:.0f} s. {machine(figures)}."
    )


def cpu() -> str:
    """ResNeXt-50 against PyTorch and NNCF."""
    figures = load("cpu")
    lines = ["| variant | p50 ms | p90 ms | faster than PyTorch | SNR of the logits, dB |", "|---|---|---|---|---|"]
    for row in sorted(figures["rows"], key=lambda row: row["p50_s"]):
        name = row["variant"].replace("-", " ", 1) if "NNCF" not in row["variant"] else row["variant"]
        name += f", eager, {row['detail']}" if row["detail"] else ""
        lines.append(
            f"| {name} | {cell(row['p50_s'], '.1f', 1e3)} | {cell(row['p90_s'], '.1f', 1e3)} "
            f"| {row['speedup']:.2f} ± {row['speedup_error']:.2f} | {row['snr_db']:.1f} |"
        )
    return (
        "ResNeXt-50 32x4d, 224 px, batch 1, random weights; the same images, process and number of threads, "
        f"{figures['rounds']} interleaved rounds:\n\n"
        + "\n".join(lines)
        + f"\n\nNNCF quantised the same network with the same {figures['calibration_images']} images; its faster variant takes "
        f"{figures['nncf_over_ours']:.2f} ± {figures['nncf_over_ours_error']:.2f} times our INT8's latency. {machine(figures)}."
    )


def fidelity() -> str:
    """Distance of every file from PyTorch."""
    figures = load("fidelity")
    files = ("fp32", "fp16", "int8", "int8-fp16", "int8-cpu")
    table: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in figures["rows"]:
        table.setdefault((row["model"], row["weights"]), {})[row["file"]] = row
    lines = [
        "| network | random weights | fp32, largest error | " + " | ".join(f"{f}, dB" for f in files[1:]) + " |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {model} | {kind} | {found['fp32']['max_error']:.0e} | "
        + " | ".join(cell(found[name]["snr_db"], ".1f") for name in files[1:])
        + " |"
        for (model, kind), found in table.items()
    ]
    return (
        "Every file against PyTorch on 16 golden images: the largest FP32 logit difference over the largest logit, and the "
        "logits' signal-to-noise ratio. *Normalised* weights are those of `--random-weights`, in which every layer matters; *plain* is "
        "PyTorch's initialisation, which hardly looks at the image and flatters any quantiser. Signed INT8, which TensorRT needs, has half "
        "the levels after a ReLU and stays under 30 dB with normalised weights of this depth. The demo's trained weights reach 33 to 36 dB.\n\n"
        + "\n".join(lines)
        + f"\n\n{machine(figures)}."
    )


def build() -> str:
    """Cost of a build."""
    figures = load("build")
    runs = figures["runs"]
    wall, emitted = max(run["wall_s"] for run in runs), max(run["emit_s"] for run in runs)
    peak = max(run["peak_bytes"] for run in runs)
    return (
        f"Building ResNeXt-50 from a local checkpoint with {figures['calibration_images']} calibration images takes {wall:.0f} s and "
        f"{peak / 2**30:.2f} GiB at its peak; emitting and writing the five ONNX files is {emitted:.1f} s of it "
        f"(the slower of {len(runs)} runs). {machine(figures)}."
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


TABLES = {"demo": demo, "cpu": cpu, "fidelity": fidelity, "build": build, "engines": engines}


def rendered(text: str) -> str:
    """Return the README with every table replaced."""
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda found, table=table: f"{found[1]}{table()}\n{found[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"README.md has {count} places for table '{name}'")
    return text


if __name__ == "__main__":
    old = README.read_text(encoding="utf-8")
    new = rendered(old)
    if "--check" in sys.argv and new != old:
        sys.exit("README.md is not up to date: run `make figures`, or `python benchmarks/render.py`")
    README.write_text(new, encoding="utf-8")
