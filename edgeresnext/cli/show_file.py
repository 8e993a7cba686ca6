"""What a weights file, an ONNX file or an engine holds, as text."""

from __future__ import annotations

from typing import Any

from edgeresnext.cli.console import print_table, say
from edgeresnext.spec import CHANNELS


def show_weights(found: dict[str, Any]) -> None:
    """Print which network weights belong to."""
    model, preprocess = found["model"], found["model"]["preprocess"]
    say(f"{found['path']}: {model['name']}, {model['classes']} classes, {found['bytes'] / 1e6:.1f} MB")
    gmacs = f"{found['macs'] / 1e9:.2f} GMACs at {preprocess['crop_px']} px"
    say(f"  network      {found['parameters']:,} parameters, {gmacs}")
    blocks = ", ".join(map(str, model["depths"]))
    groups = f"{model['cardinality']} groups of {model['width_per_group']} channels"
    say(f"  blocks       {blocks} ({model['block']}), {groups}, {model['stem']} stem")
    say(f"  images       {CHANNELS[len(preprocess['mean'])]}")
    say(f"  weights      {found['dtype']}, by the names of {found['layout']}")
    said = f"that of {model['source']} is assumed" if len(preprocess["mean"]) in (1, 3) else "a build asks for it"
    said = f"the file does not say; {said}" if found["preprocess_assumed"] else model["source"]
    say(f"  preprocess   {said}")
    for note in found["notes"]:
        say(f"  note         {note}")


def show_onnx(found: dict[str, Any], *, layers: bool) -> None:
    """Print what an ONNX file holds."""
    say(f"{found['path']}: opset {found['opset']}, {found['bytes'] / 1e6:.1f} MB")
    for kind in ("inputs", "outputs"):
        for tensor in found[kind]:
            shape = ", ".join("N" if size is None else str(size) for size in tensor["shape"])
            say(f"  {kind[:-1]:9} {tensor['name']}: {tensor['dtype']} ({shape})")
    say("  operators " + ", ".join(f"{count} {name}" for name, count in found["operators"].items()))
    kinds = list(found["layers"].values())
    say("  layers    " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)), "")
    if layers:
        print_table(("layer", "weights"), list(found["layers"].items()), left=(0, 1))


def show_engine(found: dict[str, Any], *, layers: bool) -> None:
    """Print what an engine is, where it runs, and what its layers move and compute."""
    title = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[found["backend"]]
    engine = found.get("engine")
    release = engine["release"] if engine else found["release"]
    say(f"{found['path']}: {title} {release}, {found['bytes'] / 1e6:.1f} MB")
    if engine is None:
        say("  it lies in no bundle that knows it; its header tells no more", "")
        return
    options = engine["options"]
    where = " and ".join(engine["compute_capabilities"])
    where += " and any newer GPU from Ampere on" if options["hardware_compatible"] else ""
    later = " or later" if options["version_compatible"] else ""
    say(f"  runs on    compute capability {where}, {title} {release}{later}, {engine['platform']}")
    say(f"  built      {engine['built_s']:.1f} s, {_built_on(engine)}")
    say(f"  from       {engine['onnx']}, batch {':'.join(map(str, options['batch']))}")
    for note in engine["notes"]:
        say(f"  note       {note}")
    rows, totals = engine["layers"], found["totals"]
    moved = (totals["read_bytes"] + totals["written_bytes"]) / 1e6
    say(
        f"  one image  {len(rows)} layers, {moved:.1f} MB of activations moved, "
        f"{totals['constant_bytes'] / 1e6:.1f} MB of constants, {totals['macs'] / 1e9:.2f} GMACs"
    )
    for device, seconds in found["estimate_s"].items():
        say(f"  estimate   {seconds * 1e3:.2g} ms on {device} at its peak rates (not measured)")
    say()
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
