"""Commands that measure: bench, report, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgeresnext
from edgeresnext.cli import console
from edgeresnext.cli.options import (
    bench_options,
    bundle_argument,
    json_option,
    save_option,
    take_mode,
)
from edgeresnext.errors import EdgeResNeXtError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeresnext.measure.results import Report


@click.command()
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
        console.fail(
            "interrupted; the report holds what was measured before, and is marked partial", console.INTERRUPTED
        )
    if all(row.status != "ok" for row in report.rows):
        raise EdgeResNeXtError("no variant could be benchmarked", "The table says why, variant by variant.")


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", required=False, type=click.Path(path_type=Path))
@click.option("--threshold", type=float, metavar="PERCENT", help="Smallest change of latency that counts. [3]")
@click.option("--fail-if-worse", is_flag=True, help="Exit code 1 where anything became slower or less accurate.")
@save_option
@json_option
def report(old: Path, new: Path | None, files: tuple[Path, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Show a saved report OLD.json, write it in another format (--save), or compare it with NEW.json."""
    from edgeresnext.comparison.compare import compare
    from edgeresnext.report.comparison import render_comparison
    from edgeresnext.report.files import check_save, read_report

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


@click.command()
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


def _show_report(report: Report, files: Sequence[Path], *, as_json: bool) -> None:
    """Write a report to files and show it."""
    from edgeresnext.files import to_json
    from edgeresnext.measure.bench import uninterrupted
    from edgeresnext.report.files import save_report
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
