"""Commands that make bundles: build, and the networks that it knows."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import click

import edgeresnext
from edgeresnext.cli import console
from edgeresnext.cli.as_typed import given, preprocessing
from edgeresnext.cli.options import (
    CHECKPOINT_OPTIONS,
    ENGINE_OPTIONS,
    QUANTISATION_OPTIONS,
    json_option,
    replaced,
    take_gate,
    with_options,
)
from edgeresnext.cli.show_bundle import show_bundle
from edgeresnext.directories import previous
from edgeresnext.errors import InputError, RequestError


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL|WEIGHTS...|BUNDLE")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Directory of the bundle.")
@click.option("--weights", help="Checkpoint of MODEL: a file, hf:OWNER/NAME, torchvision:NAME, https://...")
@click.option("--random-weights", is_flag=True, help="Seeded random weights, for latency work without a checkpoint.")
@click.option("--labels", type=click.Path(path_type=Path), help="Labels: text, one a line, or JSON.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of training images, for INT8.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="cpu; rtx20 to rtx50, sm80, gb10 (joined, rtx30+rtx40, for one engine); jetson-orin, jetson-thor; here. "
    "Repeatable. [cpu]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="NAME",
    help="fp32, fp16, int8. Repeatable. [all as ONNX files; engines in what pays]",
)
@click.option(
    "--preprocess",
    type=preprocessing,
    metavar="NAME|FILE",
    help="Preprocessing of the weights; `models` lists the names.",
)
@with_options(*CHECKPOINT_OPTIONS, *QUANTISATION_OPTIONS, *ENGINE_OPTIONS)
@json_option
def build(models: tuple[str, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Build a bundle: MODEL and its weights as ONNX in every precision, checked and measured.

    WEIGHTS alone do: their network is recognised. Several become an ensemble (--ensemble).

    Or add engines to a BUNDLE, for the GPU of this machine: edgeresnext build BUNDLE --target here
    """
    from edgeresnext.model.catalogue import CATALOGUE
    from edgeresnext.model.hub import is_name
    from edgeresnext.spec import CheckpointOptions, EngineOptions, Recipe

    asked = given(options)
    model = models[0]
    if (len(models) > 1) is not ("average" in asked):
        raise RequestError(
            f"{len(models)} model{'' if len(models) == 1 else 's'} given",
            "Several become an ensemble where that is asked for, and one does not.",
            values=("average",),
        )
    named = model in CATALOGUE and bool(asked.keys() & {"weights", "random_weights"})
    from_bundle = not named and (Path(model).is_dir() or previous(Path(model)).is_dir())
    engine_options = replaced(EngineOptions(), asked)
    with console.progress() as progress:
        if from_bundle:
            _check_for_bundle(asked)
            bundle = edgeresnext.build_engines(model, engine_options=engine_options, progress=progress, **asked)
        else:
            elsewhere = model in CATALOGUE or is_name(model) or Path(model).is_file()
            if not elsewhere and (os.sep in model or "output" not in asked):
                raise InputError(
                    f"'{model}' is neither a network nor a weights file nor the directory of a bundle",
                    "`edgeresnext models` lists the networks; check the path.",
                )
            if "output" not in asked:
                raise RequestError("no output directory", "Give the one where the bundle will be.", values=("output",))
            file = asked.pop("recipe", None)
            recipe = replaced(edgeresnext.read_recipe(file) if file else Recipe(), asked)
            gate = take_gate(asked)
            checkpoint_options = replaced(CheckpointOptions(), asked)
            bundle = edgeresnext.build(
                models if len(models) > 1 else model,
                recipe=recipe, gate=gate, engine_options=engine_options, checkpoint_options=checkpoint_options,
                progress=progress, **asked,
            )  # fmt: skip
    if as_json:
        from edgeresnext.runtime.inspect import inspect as inspect_path

        console.print_json(inspect_path(bundle.path))
        return
    show_bundle(bundle)
    name = bundle.path
    gate = bundle.manifest.gate
    validation = gate.validation if gate else "VALIDATION_FOLDER"
    on_jetson = any(target.startswith("jetson-") for target in bundle.manifest.targets)
    there = [f"edgeresnext build {name} --target here     (on the Jetson, after copying it there)"] if on_jetson else []
    console.hint(
        "Next:",
        *there,
        f"edgeresnext bench {name} --data {validation}",
        f"edgeresnext predict {name} IMAGE",
        f"edgeresnext verify {name}          (there, after copying it to a device)",
    )


@click.command()
@json_option
def models(as_json: bool) -> None:  # noqa: FBT001
    """List the networks that `build` knows, and the names of preprocessings."""
    from edgeresnext.model.catalogue import CATALOGUE, PREPROCESS

    if as_json:
        console.print_json(
            {"models": {name: entry.described() for name, entry in CATALOGUE.items()}, "preprocess": PREPROCESS}
        )
        return
    rows = [
        (
            name,
            f"{entry.parameters:,}",
            f"{entry.gmacs:.2f}",
            str(entry.spec.preprocess.crop_px),
            entry.spec.source,
            " ".join("yes" if legal else "no" for legal in entry.int8_legal),
            ", ".join(f"{top1:.2f} {where}" for where, top1 in entry.top1.items()),
            entry.about,
        )
        for name, entry in CATALOGUE.items()
    ]
    headings = ("model", "parameters", "GMACs", "px", "preprocess", "INT8 by stage", "published top-1 %", "")
    console.print_table(headings, rows, left=(0, 4, 5, 6, 7))
    sizes = [(name, str(p.resize_px), str(p.crop_px), p.interpolation) for name, p in PREPROCESS.items()]
    console.print_table(("--preprocess", "resize px", "crop px", "filter"), sizes, left=(0, 3))


def _check_for_bundle(asked: dict[str, Any]) -> None:
    """Refuse options that belong to a checkpoint where a bundle is given: they would change nothing."""
    known = inspect.signature(edgeresnext.build_engines).parameters
    others = tuple(name for name in asked if name not in known)
    if others:
        raise RequestError(
            f"{', '.join(others)} would change nothing: a bundle is given, not a model",
            "Leave it out, or build the bundle again from its checkpoint.",
            values=others,
        )
