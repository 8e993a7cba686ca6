"""What a bundle holds, and what proving it found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeresnext.cli.console import print_table, say
from edgeresnext.spec import CHANNELS, Check, Gate, OnnxFile

if TYPE_CHECKING:
    from edgeresnext.bundle import Bundle


def show_checks(checks: Sequence[Check]) -> None:
    """Print the result of `verify`, one artefact a line."""
    for check in checks:
        figures = ""
        if check.fidelity is not None and check.fidelity.max_error is not None:
            snr = check.fidelity.snr_db
            figures = f"{'exact' if snr is None else f'{snr:5.1f} dB'}, largest error {check.fidelity.max_error:.1e}"
        say(f"{check.status:8} {check.artifact:18} {' '.join(filter(None, (figures, check.reason)))}")


def show_bundle(bundle: Bundle, *, layers: bool = False) -> None:
    """Print what a bundle holds."""
    manifest = bundle.manifest
    model = manifest.model
    size = sum(entry.bytes for entry in manifest.files.values())
    say(f"{bundle.path}: {model.name}, {model.classes} classes, {size / 1e6:.1f} MB")
    weights = "trained" if manifest.trained else "random (untrained: no accuracy is reported)"
    height, width = model.preprocess.size
    images = f"uint8 (N, {height}, {width}, {model.in_channels}) {CHANNELS[model.in_channels]}"
    say(f"  weights      {weights}, {manifest.parameters:,} parameters, {manifest.macs / 1e9:.2f} GMACs")
    say(f"  images       {images} -> logits float32 (N, {model.classes})")
    say(f"  preprocess   {model.preprocess.in_words}")
    say(f"  calibration  {manifest.calibration or 'none'}")
    if manifest.calibration:
        say(f"  repairs      {', '.join(manifest.recipe.repairs) or 'none'}")
    say(f"  golden       {manifest.golden}", "")
    gate = manifest.gate
    if gate is not None:
        say(f"  gate         {_gate(gate)}", "")
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
        say(f"{file.plan.name}: {', '.join(names)}: {reason}")
    if file.saturated is not None and file.saturated.snr_db is not None:
        say(
            f"{file.plan.name}: {file.saturated.snr_db:.1f} dB on CPUs without VNNI, whose products saturate: rows "
            "whose sums would do so have a wider step, and no image saturates a layer that reads pixels"
        )
    if file.verdict is not None and file.verdict.returned:
        say(f"{file.plan.name}: with these in INT8 too, {file.verdict.without_returning}")
        say(f"{file.plan.name}: {file.verdict.tries} plans were measured")


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
