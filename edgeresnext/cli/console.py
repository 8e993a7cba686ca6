"""What the command line shows: progress on stderr, tables and lines on stdout."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from edgeresnext.bundle import Bundle
    from edgeresnext.cli.doctor import Finding, Job
    from edgeresnext.progress import Progress
    from edgeresnext.spec import Check, Gate, OnnxFile, Sensitivity

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""
_TABLE_WIDTH = 170
_BAR = 20
"""Characters of the longest bar."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a bar a stage on stderr, where that is a terminal; otherwise a line a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        seen: set[str] = set()

        def line(stage: str, done: int, total: int) -> None:
            del done
            if stage not in seen:
                seen.add(stage)
                click.echo(f"{stage} ({total}) ...", err=True)

        yield line
        return
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def bar(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield bar


def wide_console() -> Console:
    """Return a console wide enough for every table: a narrow terminal wraps lines, but no figure is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    return Console(highlight=False, width=max(console.width, _TABLE_WIDTH))


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> None:
    """Print rows under headings; the columns in `left` are aligned left, the others right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, heading in enumerate(headings):
        last = index in left[-1:]
        table.add_column(
            heading,
            justify="left" if index in left else "right",
            no_wrap=not last,
            overflow="fold" if last else "ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as text: brackets are no markup
    console = wide_console()
    console.print(table)
    console.print()


def print_checks(checks: Sequence[Check]) -> None:
    """Print the result of `verify`, one artefact a line."""
    for check in checks:
        figures = ""
        if check.fidelity is not None and check.fidelity.max_error is not None:
            snr = check.fidelity.snr_db
            figures = f"{'exact' if snr is None else f'{snr:5.1f} dB'}, largest error {check.fidelity.max_error:.1e}"
        click.echo(f"{check.status:8} {check.artifact:18} {' '.join(filter(None, (figures, check.reason)))}")


def print_bundle(bundle: Bundle, *, layers: bool = False) -> None:
    """Print what a bundle holds."""
    manifest = bundle.manifest
    model = manifest.model
    size = sum(entry.bytes for entry in manifest.files.values())
    click.echo(f"{bundle.path}: {model.name}, {model.classes} classes, {size / 1e6:.1f} MB")
    weights = "trained" if manifest.trained else "random (untrained: no accuracy is reported)"
    edge = model.preprocess.crop_px
    click.echo(f"  weights      {weights}, {manifest.parameters:,} parameters, {manifest.macs / 1e9:.2f} GMACs")
    click.echo(f"  images       uint8 (N, {edge}, {edge}, 3) RGB -> logits float32 (N, {model.classes})")
    click.echo(
        f"  preprocess   shorter edge to {model.preprocess.resize_px} px ({model.preprocess.interpolation}), "
        f"centre {edge} px"
    )
    click.echo(f"  calibration  {manifest.calibration or 'none'}")
    if manifest.calibration:
        click.echo(f"  repairs      {', '.join(manifest.recipe.repairs) or 'none'}")
    click.echo(f"  golden       {manifest.golden}\n")
    gate = manifest.gate
    if gate is not None:
        click.echo(f"  gate         {_gate(gate)}\n")
    files = []
    for file in manifest.onnx:
        counts = {p: list(file.plan.layers.values()).count(p) for p in ("int8", "fp16", "fp32")}
        snr = file.fidelity.snr_db
        files.append((
            file.file,
            str(file.opset),
            ", ".join(f"{count} {precision}" for precision, count in counts.items() if count),
            f"{manifest.files[file.file].bytes / 1e6:.1f}",
            "exact" if snr is None else f"{snr:.1f}",
            *([_verdict(file)] if gate else []),
        ))  # fmt: skip
    print_table(
        ("file", "opset", "layers", "MB", "SNR dB", *(["gate"] if gate else [])),
        files,
        left=(0, 2, 5) if gate else (0, 2),
    )
    timings = {timing.artifact: timing for timing in manifest.selection.timings}
    ranked = [
        (a.name, f"{timings[a.name].latency_s * 1e3:.2f}" if a.name in timings else "n/a", a.target, a.file)
        for a in bundle.artifacts()
    ]
    print_table((f"artefact, on {manifest.selection.machine}", "ms", "target", "file"), ranked, left=(0, 2, 3))
    if layers:
        names = list(dict.fromkeys(name for file in manifest.onnx for name in file.plan.layers))
        plans = [file.plan for file in manifest.onnx]
        rows = [(name, *(_layer(file, name) for file in manifest.onnx)) for name in names]
        print_table(("layer", *(plan.name for plan in plans)), rows, left=range(len(plans) + 1))
        for file in manifest.onnx:
            _print_reasons(file)


def print_sensitivity(found: Sensitivity) -> None:
    """Print what each layer's quantisation costs, the most sensitive first."""
    click.echo(f"{found.bundle}, {found.file}: each layer in INT8 alone, {found.images} images ({found.data})\n")
    ranked = sorted(found.layers, key=lambda row: row.share, reverse=True)
    rows = [
        (
            row.layer,
            "exact" if row.snr_db is None else f"{row.snr_db:.1f}",
            f"{row.share:.1%}",
            f"{row.agreement:.2%}",
            "n/a" if row.top1 is None else f"{row.top1:.2%}",
            "█" * round(_BAR * row.share / ranked[0].share) if ranked[0].share else "",
        )
        for row in [msgspec.structs.replace(found.together, layer="all together"), *ranked]
    ]
    bars = [row if index else (*row[:-1], "") for index, row in enumerate(rows)]
    print_table(("layer", "SNR dB", "noise", "agree", "top-1", ""), bars, left=(0, 5))
    if found.floating:
        click.echo(f"in floating point already: {', '.join(found.floating)}")
    if found.together.agreement < 1:
        hint(
            "To keep the most sensitive layer in floating point:",
            f"edgeresnext build ... --keep 'fp16:{ranked[0].layer}'",
        )


def _layer(file: OnnxFile, name: str) -> str:
    """Say how a file computes a layer."""
    how = str(file.plan.layers.get(name, ""))
    if name in file.wider_rows:
        how += f", {file.wider_rows[name]} row{'' if file.wider_rows[name] == 1 else 's'} wider"
    return f"{how}, uint8 pixels" if name in file.pixel_layers else how


def _print_reasons(file: OnnxFile) -> None:
    """Print why layers of a file are not INT8, layers of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in file.plan.reasons.items():
        by_reason.setdefault(reason, []).append(f"{name} {file.plan.layers[name]}")
    for reason, names in by_reason.items():
        click.echo(f"{file.plan.name}: {', '.join(names)}: {reason}")
    if file.saturated is not None and file.saturated.snr_db is not None:
        click.echo(
            f"{file.plan.name}: {file.saturated.snr_db:.1f} dB on CPUs without VNNI, whose products saturate: rows "
            "whose sums would do so have a wider step, and no image saturates a layer that reads pixels"
        )
    if file.verdict is not None and file.verdict.returned:
        click.echo(f"{file.plan.name}: with these in INT8 too, {file.verdict.without_returning}")
        click.echo(f"{file.plan.name}: {file.verdict.tries} plans were measured")


def _gate(gate: Gate) -> str:
    """Say what a gate asks for."""
    limits = [f"{gate.max_drop:g} points of top-1 at most"] if gate.max_drop is not None else []
    limits += [f"{gate.min_agreement:.2%} like PyTorch at least"] if gate.min_agreement is not None else []
    return f"{', '.join(limits)}, on '{gate.validation}'; {gate.min_int8:.0%} of the convolutions in INT8 at least"


def _verdict(file: OnnxFile) -> str:
    """Say what the gate measured of a file."""
    verdict = file.verdict
    if verdict is None:
        return ""
    parts = []
    if verdict.drop is not None and verdict.top1_fp32 is not None:
        flips = f"{verdict.lost} lost, {verdict.gained} gained"
        parts.append(f"PyTorch {verdict.top1_fp32:.2%}, drop {verdict.drop:+.2f} ({flips})")
    parts.append(f"agree {verdict.agreement:.2%} of {verdict.images}")
    if verdict.returned:
        parts.append(f"{len(verdict.returned)} layers returned")
    if verdict.overlap:
        parts.append(f"{verdict.overlap} calibrated on")
    return ", ".join(parts)


def print_onnx(found: dict[str, Any], *, layers: bool) -> None:
    """Print what an ONNX file holds."""
    click.echo(f"{found['path']}: opset {found['opset']}, {found['bytes'] / 1e6:.1f} MB")
    for kind in ("inputs", "outputs"):
        for tensor in found[kind]:
            shape = ", ".join("N" if size is None else str(size) for size in tensor["shape"])
            click.echo(f"  {kind[:-1]:9} {tensor['name']}: {tensor['dtype']} ({shape})")
    click.echo("  operators " + ", ".join(f"{count} {name}" for name, count in found["operators"].items()))
    kinds = list(found["layers"].values())
    click.echo("  layers    " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) + "\n")
    if layers:
        print_table(("layer", "weights"), list(found["layers"].items()), left=(0, 1))


def print_doctor(findings: Sequence[Finding], jobs: Sequence[Job]) -> None:
    """Print what a machine has and lacks, then what can be done with it."""
    signs = {"ok": "ok", "missing": "missing", "none": "-"}
    print_table(
        ("", "", "", "to get it"),
        [(signs[one.status], one.name, one.detail, one.remedy) for one in findings],
        left=(0, 1, 2, 3),
    )
    print_table(
        ("edgeresnext can", "", ""),
        [("yes" if job.possible else "no", job.name, job.reason) for job in jobs],
        left=(0, 1, 2),
    )


def print_engine(found: dict[str, Any], *, layers: bool) -> None:
    """Print what an engine is, where it runs, and what its layers move and compute."""
    title = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[found["backend"]]
    engine = found.get("engine")
    release = engine["release"] if engine else found["release"]
    click.echo(f"{found['path']}: {title} {release}, {found['bytes'] / 1e6:.1f} MB")
    if engine is None:
        click.echo("  it lies in no bundle that knows it; its header tells no more\n")
        return
    options = engine["options"]
    where = " and ".join(engine["compute_capabilities"])
    where += " and any newer GPU from Ampere on" if options["hardware_compatible"] else ""
    later = " or later" if options["version_compatible"] else ""
    click.echo(f"  runs on    compute capability {where}, {title} {release}{later}, {engine['platform']}")
    click.echo(f"  built      {engine['built_s']:.1f} s, {_built_on(engine)}")
    click.echo(f"  from       {engine['onnx']}, batch {':'.join(map(str, options['batch']))}")
    for note in engine["notes"]:
        click.echo(f"  note       {note}")
    rows, totals = engine["layers"], found["totals"]
    moved = (totals["read_bytes"] + totals["written_bytes"]) / 1e6
    click.echo(
        f"  one image  {len(rows)} layers, {moved:.1f} MB of activations moved, "
        f"{totals['constant_bytes'] / 1e6:.1f} MB of constants, {totals['macs'] / 1e9:.2f} GMACs"
    )
    for device, seconds in found["estimate_s"].items():
        click.echo(f"  estimate   {seconds * 1e3:.2g} ms on {device} at its peak rates (not measured)")
    click.echo()
    if layers:
        print_table(
            ("layer", "kind", "types", "in kB", "out kB", "const kB", "MMACs", "modules"),
            [
                (
                    layer["name"],
                    layer["kind"],
                    layer["types"],
                    *(f"{layer[key] / 1e3:,.0f}" for key in ("read_bytes", "written_bytes", "constant_bytes")),
                    f"{layer['macs'] / 1e6:,.1f}",
                    " ".join(layer["modules"]),
                )
                for layer in rows
            ],
            left=(0, 1, 2, 7),
        )


def _built_on(engine: dict[str, Any]) -> str:
    """Say where an engine was built."""
    if engine["device"]:
        return f"on {engine['device']}, CUDA driver {engine['driver']}"
    return "ahead of time: not yet run by this bundle's maker"


def hint(title: str, *commands: str) -> None:
    """Print commands to try, on stderr so that stdout holds results alone."""
    click.echo(title, err=True)
    for command in commands:
        click.echo(f"  {command}", err=True)


def fail(message: str, code: int) -> NoReturn:
    """Say on stderr what went wrong, and leave with an exit code."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
