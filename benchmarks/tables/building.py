"""What it takes to build: a bundle, and engines for GPUs."""

from __future__ import annotations

from common import load

from tables.cells import machine, table


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


def checkpoints() -> str:
    """What the libraries' own checkpoints became."""
    figures = load("checkpoints")
    environment = figures["environment"]
    rows = [row for row in figures["rows"] if not row["other"]]
    libraries = dict.fromkeys(row["library"] for row in rows)
    cells = []
    for library in libraries:
        its = [row for row in rows if row["library"] == library]
        measured = [row["difference"] for row in its if row["difference"] is not None]
        largest = f"{max(measured):.1e}" if measured else f"n/a: {its[0]['said']}"
        cells.append(
            (f"{library} {environment.get(library, '')}".strip(), ", ".join(row["network"] for row in its), largest)
        )
    others = [row for row in figures["rows"] if row["other"]]
    refused = ", ".join(row["network"] for row in others if row["difference"] is None)
    loaded = ", ".join(f"{row['network']} ({row['difference']:.2f})" for row in others if row["difference"] is not None)
    return (
        table(("library", "networks", "largest difference of logits, of the largest logit"), cells)
        + f"\n\nOf timm's networks that compute something else {refused} are refused by their names or shapes; {loaded} load, are this far off, and "
        f"are what the check of statistics is for. {machine(figures)}."
    )


def engines() -> str:
    """Engines built ahead of time: their cost, their layers, and estimates."""
    figures = load("engines")
    rows = (
        (
            row["engine"], f"{row['bytes'] / 1e6:.1f}", f"{row['layers']}",
            f"{(row['read_bytes'] + row['written_bytes']) / 1e6:.0f}", f"{row['constant_bytes'] / 1e6:.0f}",
            ", ".join(f"{seconds * 1e3:.2f} ms {name}" for name, seconds in row["estimate_s"].items()),
        )
        for row in figures["layers"]
    )  # fmt: skip
    costs = "; ".join(
        f"`{build['model']}` {build['engines_s']:.1f} s, {build['tree_bytes'] / 2**30:.2f} GiB"
        for build in figures["builds"]
    )
    return (
        table(("engine", "MB", "layers", "activations moved, MB", "constants, MB", "estimate"), rows)
        + f"\n\n`{figures['model']}` at 224 px, one image. Estimates are each layer's bytes and multiply-accumulates at the device's peak "
        "rates; no GPU has run these engines. Four engines (rtx40 and rtx30 in FP16 and INT8) take beyond the ONNX files, with the "
        f"peak memory of both processes meanwhile: {costs}. TensorRT-RTX {figures['environment']['tensorrt-rtx']}; {machine(figures)}."
    )
