"""The command line: parse, call, print. Nothing is decided here.

Progress and messages go to stderr; results to stdout, as JSON alone with `--json`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgeresnext
from edgeresnext import console
from edgeresnext.errors import EdgeResNeXtError, InputError, RequestError, unknown_name
from edgeresnext.options import (
    ENGINE_OPTION_NAMES,
    backend_option,
    bench_options,
    bundle_argument,
    engine_options,
    json_option,
    parse_preprocess,
    precision_option,
    quantisation_options,
    save_option,
    take_engine_options,
    take_gate,
    take_mode,
    threads_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeresnext.measure.results import Report

_INTERRUPTED = 130
_SINGULAR = {"repairs": "repair"}
"""Names of repeatable options, where they differ."""


class _Root(click.Group):
    """A group that suggests the nearest command for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            error = unknown_name("command", args[0], self.list_commands(ctx))
            raise click.UsageError(str(error), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(edgeresnext.__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Export, quantise, run and benchmark ResNeXt image classifiers on edge devices.

    \b
    A first look:      edgeresnext demo
    Your own network:  edgeresnext build resnext50_32x4d --weights w.safetensors --labels labels.txt
                           --calibration photos/ --output build/mine
                       edgeresnext bench build/mine --data val/
    """  # noqa: D301 - click wants the character, not the two


@cli.command()
@click.argument("model", metavar="MODEL|BUNDLE")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Directory of the bundle.")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint: .safetensors, .pth or .pt.")
@click.option("--random-weights", is_flag=True, help="Seeded random weights, for latency work without a checkpoint.")
@click.option("--labels", type=click.Path(path_type=Path), help="Text file, one label a line.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of training images, for INT8.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="cpu, rtx20 to rtx50 (joined, rtx30+rtx40, for one engine), jetson-orin, jetson-thor, here. Repeatable. [cpu]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="NAME",
    help="fp32, fp16, int8. Repeatable. [all as ONNX files; engines in what pays]",
)
@click.option("--preprocess", metavar="NAME|FILE", help="Preprocessing of the weights; `models` lists the names.")
@quantisation_options
@engine_options
@json_option
def build(model: str, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Build a bundle: MODEL and its weights as ONNX in every precision, checked and measured.

    Or add engines to a BUNDLE, for the GPU of this machine: edgeresnext build BUNDLE --target here
    """
    from edgeresnext.model.catalogue import CATALOGUE

    given = {name: value for name, value in options.items() if value is not None and value is not False and value != ()}
    named = model in CATALOGUE and bool(given.keys() & {"weights", "random_weights"})
    from_bundle = Path(model).is_dir() and not named
    if from_bundle:
        _check_for_bundle(given)
    given["engine_options"] = take_engine_options(given)
    gate = take_gate(given)
    if gate is not None:
        given["gate"] = gate
    if "preprocess" in given:
        given["preprocess"] = parse_preprocess(given["preprocess"])
    with console.progress() as progress:
        if from_bundle:
            bundle = edgeresnext.build_engines(model, progress=progress, **given)
        else:
            if model not in CATALOGUE and (os.sep in model or "output" not in given):
                raise InputError(
                    f"'{model}' is neither a network nor the directory of a bundle",
                    "`edgeresnext models` lists the networks; check the path of the bundle.",
                )
            if "output" not in given:
                raise RequestError("no output directory", "Add --output DIR, where the bundle will be.")
            bundle = edgeresnext.build(model, progress=progress, **given)
    if as_json:
        console.print_json(_inspect(bundle.path))
        return
    console.print_bundle(bundle)
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


@cli.command()
@bundle_argument
@bench_options
@save_option
@json_option
def bench(bundle: Path, files: tuple[Path, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Benchmark every artefact of BUNDLE against PyTorch: latency, accuracy, layers, energy, size, memory.

    Ctrl-C ends it early: what was measured by then is shown and saved, marked partial.
    """
    from edgeresnext.measure.bench import InterruptedBenchError
    from edgeresnext.report.files import check_save

    mode = take_mode(options)
    bound_ms = options.pop("latency_bound")
    for file in files:
        check_save(file)
    interrupted = False
    try:
        with console.progress() as progress:
            report = edgeresnext.bench(
                bundle,
                mode=mode,
                latency_bound_s=None if bound_ms is None else bound_ms / 1e3,
                progress=progress,
                **options,
            )
    except InterruptedBenchError as error:
        report, interrupted = error.report, True
    _show_report(report, files, as_json=as_json)
    if interrupted:
        _fail("interrupted; the report holds what was measured before, and is marked partial", _INTERRUPTED)
    if all(row.status != "ok" for row in report.rows):
        raise EdgeResNeXtError("no variant could be benchmarked", "The table says why, variant by variant.")


@cli.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", required=False, type=click.Path(path_type=Path))
@click.option("--threshold", type=float, metavar="PERCENT", help="Smallest change of latency that counts. [3]")
@click.option("--fail-if-worse", is_flag=True, help="Exit code 1 where anything became slower or less accurate.")
@save_option
@json_option
def report(old: Path, new: Path | None, files: tuple[Path, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Show a saved report OLD.json, write it in another format (--save), or compare it with NEW.json."""
    from edgeresnext.report.compare import compare
    from edgeresnext.report.files import check_save, read_report
    from edgeresnext.report.terminal_compare import render_comparison

    for file in files:
        check_save(file)
    threshold, fail_if_worse = options["threshold"], options["fail_if_worse"]
    if new is None:
        if threshold is not None or fail_if_worse:
            name = "--fail-if-worse" if threshold is None else "--threshold"
            raise RequestError(f"{name} would change nothing without a second report", "Give OLD.json NEW.json.")
        _show_report(read_report(old), files, as_json=as_json)
        return
    if files:
        raise RequestError("--save would write one of two reports", "Compare without it, or give one report.")
    found = compare(read_report(old), read_report(new), **({} if threshold is None else {"threshold": threshold / 100}))
    if as_json:
        console.print_json(found)
    else:
        console.wide_console().print(render_comparison(found))
    if fail_if_worse and found.regressed:
        raise EdgeResNeXtError(f"'{new}' is worse than '{old}'", "The table says where.")


@cli.command()
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@backend_option
@precision_option
@threads_option
@click.option("--top", type=int, default=5, show_default=True, help="Classes to print for each image.")
@json_option
def predict(bundle: Path, images: tuple[Path, ...], top: int, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Classify IMAGES (files or folders) with the fastest artefact of BUNDLE."""
    from edgeresnext.data.folder import scan

    paths = [path for given in images for path in (scan(given).images if given.is_dir() else [given])]
    with edgeresnext.load(bundle, **options) as classifier:
        click.echo(f"{classifier.artifact.name} ({classifier.artifact.file}): {classifier.reason}", err=True)
        results: dict[str, Any] = {}
        for path in paths:
            predictions = classifier.predict(path, top)
            results[str(path)] = predictions
            if not as_json:
                click.echo(path if len(paths) > 1 else "", nl=len(paths) > 1)
                for prediction in results[str(path)]:
                    click.echo(f"{prediction.probability:8.2%}  {prediction.label}")
    if as_json:
        console.print_json({"artifact": classifier.artifact.name, "reason": classifier.reason, "images": results})


@cli.command()
@bundle_argument
@json_option
def verify(bundle: Path, as_json: bool) -> None:  # noqa: FBT001
    """Check every file of BUNDLE, then replay the golden images on every artefact that runs here."""
    checks = edgeresnext.verify(bundle)
    if as_json:
        console.print_json(checks)
    else:
        console.print_checks(checks)
    failed = [check.artifact for check in checks if check.status == "failed"]
    if failed:
        raise EdgeResNeXtError(f"{', '.join(failed)} failed", "Rebuild the bundle, or use another backend.")
    if all(check.status == "skipped" for check in checks):
        raise EdgeResNeXtError("nothing of this bundle runs here", "pip install 'edgeresnext[cpu]'")


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Print every layer: its precision, or what an engine made of it.")
@json_option
def inspect(path: Path, layers: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show what a bundle, an ONNX file or an engine holds: shapes, precision by layer, sizes, fused layers."""
    found = _inspect(path)
    if as_json:
        console.print_json(found)
    elif found["kind"] == "onnx":
        console.print_onnx(found, layers=layers)
    elif found["kind"] == "engine":
        console.print_engine(found, layers=layers)
    else:
        from edgeresnext.bundle import read

        console.print_bundle(read(path), layers=layers)


@cli.command()
@bundle_argument
@click.option("--file", metavar="NAME", help="INT8 file: int8, int8-fp16, int8-cpu. [int8-cpu]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images; one folder a class for top-1.")
@click.option("--samples", type=int, metavar="N", help="Images to draw from it, at most. [64]")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw it: .svg, .png or .pdf.")
@json_option
def sensitivity(bundle: Path, plot_file: Path | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Show what the quantisation of each layer of BUNDLE costs alone."""
    from edgeresnext.report import sensitivity as drawing

    if plot_file is not None:
        drawing.check_plot(plot_file)
    with console.progress() as progress:
        found = edgeresnext.sensitivity(bundle, progress=progress, **options)
    if plot_file is not None:
        drawing.plot(found, plot_file)
        click.echo(f"wrote {plot_file}", err=True)
    if as_json:
        console.print_json(found)
    else:
        console.print_sensitivity(found)


@cli.command()
@json_option
def models(as_json: bool) -> None:  # noqa: FBT001
    """List the networks that `build` knows, and the names of preprocessings."""
    from edgeresnext.model.catalogue import CATALOGUE, PREPROCESS

    if as_json:
        console.print_json({"models": CATALOGUE, "preprocess": PREPROCESS})
        return
    rows = [
        (name, f"{entry.parameters:,}", f"{entry.gmacs:.2f}", str(entry.spec.preprocess.crop_px), entry.about)
        for name, entry in CATALOGUE.items()
    ]
    console.print_table(("model", "parameters", "GMACs", "px", ""), rows, left=(0, 4))
    sizes = [(name, str(p.resize_px), str(p.crop_px), p.interpolation) for name, p in PREPROCESS.items()]
    console.print_table(("--preprocess", "resize px", "crop px", "filter"), sizes, left=(0, 3))


@cli.command()
@json_option
def doctor(as_json: bool) -> None:  # noqa: FBT001
    """Show what this machine has, what is missing for which job, and the command that installs it."""
    from edgeresnext.doctor import examine

    findings, jobs = examine()
    if as_json:
        console.print_json({"findings": findings, "jobs": jobs})
    else:
        console.print_doctor(findings, jobs)


@cli.command()
@click.argument("model")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder with one folder a class.")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help=".safetensors file to write.")
@click.option("--validation", type=click.Path(path_type=Path), help="Labelled folder to report top-1 on.")
@click.option("--epochs", type=int, default=30, show_default=True, help="Passes over the data.")
@click.option("--batch", type=int, default=64, show_default=True, help="Images a step.")
@click.option("--learning-rate", type=float, default=0.1, show_default=True, help="Its maximum.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order and augmentation.")
@json_option
def train(as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Train a small network on an image folder; for large ones bring your own weights."""
    with console.progress() as progress:
        top1 = edgeresnext.train(progress=progress, **options)
    if as_json:
        console.print_json({"output": str(options["output"]), "top1": top1})
        return
    click.echo(f"wrote {options['output']}" + ("" if top1 is None else f": top-1 {top1:.2%}"))


@cli.command()
@click.option("--output", "-o", default="edgeresnext-demo", show_default=True, type=click.Path(path_type=Path))
@json_option
def demo(output: Path, as_json: bool) -> None:  # noqa: FBT001
    """Build, verify and benchmark a small ResNeXt on real handwritten digits."""
    from edgeresnext.data.digits import prepare
    from edgeresnext.demo import demo as run
    from edgeresnext.report.files import to_json
    from edgeresnext.report.terminal import render

    with console.progress() as progress:
        checks, report = run(output, progress)
    if as_json:
        click.echo(to_json(report), nl=False)
        return
    console.print_checks(checks)
    click.echo()
    console.wide_console().print(render(report))
    image = min(prepare(output / "digits")["validation"].glob("7/*.png"))
    console.hint(
        "Try next:",
        f"edgeresnext predict {output / 'bundle'} {image}",
        f"edgeresnext inspect {output / 'bundle'} --layers",
        f"edgeresnext bench {output / 'bundle'} --data {output / 'digits' / 'validation'} --batch 8 --save report.json",
        "edgeresnext build resnext50_32x4d --random-weights --output build/speed",
    )


def _show_report(report: Report, files: Sequence[Path], *, as_json: bool) -> None:
    """Write a report to files and show it."""
    from edgeresnext.measure.bench import uninterrupted
    from edgeresnext.report.files import save_report, to_json
    from edgeresnext.report.terminal import render

    failed: EdgeResNeXtError | None = None
    with uninterrupted():  # minutes of measuring are not lost to a late Ctrl-C
        for file in sorted(files, key=lambda file: file.suffix != ".json"):
            try:
                save_report(report, file)
                click.echo(f"saved {file}", err=True)
            except EdgeResNeXtError as error:
                failed = failed or error
        if as_json:
            click.echo(to_json(report), nl=False)
        else:
            console.wide_console().print(render(report))
    if failed is not None:
        raise failed


def _check_for_bundle(given: dict[str, Any]) -> None:
    """Refuse options that belong to a checkpoint where a bundle is given: they would change nothing."""
    known = ("targets", "precisions", "output", *ENGINE_OPTION_NAMES)
    other = [f"--{_SINGULAR.get(name, name).replace('_', '-')}" for name in given if name not in known]
    if other:
        raise RequestError(
            f"{', '.join(other)} would change nothing: a bundle is given, not a model",
            "Leave it out, or build the bundle again from its checkpoint.",
        )


def _inspect(path: Path) -> dict[str, Any]:
    from edgeresnext.inspection import inspect as inspect_path

    return inspect_path(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code; no error of ours becomes a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="edgeresnext", standalone_mode=False)
    except EdgeResNeXtError as error:
        _fail(str(error), error.exit_code)
    except click.UsageError as error:
        usage = f"\n  {error.ctx.command_path} --help shows the options" if error.ctx else ""
        _fail(error.format_message() + usage, RequestError.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; nothing was left half-written", _INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
