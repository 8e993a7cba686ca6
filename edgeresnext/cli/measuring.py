"""Commands that measure: bench, report, sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

import edgeresnext
from edgeresnext.cli import console, interruption
from edgeresnext.cli.as_typed import Scaled, command_line, given
from edgeresnext.cli.console import say
from edgeresnext.cli.options import (
    BENCH_OPTIONS,
    bundle_argument,
    json_option,
    replaced,
    save_option,
    take_mode,
    with_options,
)
from edgeresnext.errors import EdgeResNeXtError, RequestError
from edgeresnext.measure.results import Report
from edgeresnext.spec import Sensitivity

_BAR = 20
"""Characters of the longest bar."""


@click.command()
@bundle_argument
@with_options(*BENCH_OPTIONS)
@save_option
@json_option
def bench(bundle: Path, files: tuple[Path, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Benchmark every artefact of BUNDLE against PyTorch: latency, accuracy, layers, energy, size, memory.

    Ctrl-C ends it early: what was measured by then is shown and saved, marked partial.
    """
    from edgeresnext.measure.bench import InterruptedBenchError
    from edgeresnext.report.files import check_save

    asked = given(options)
    command = command_line(bench, {"bundle": bundle, **asked})
    mode = take_mode(asked)
    chosen = replaced(edgeresnext.BenchOptions(), asked)
    for file in files:
        check_save(file)
    interrupted = False
    try:
        with console.progress() as progress:
            report = edgeresnext.bench(bundle, mode=mode, options=chosen, progress=progress, **asked)
    except InterruptedBenchError as error:
        report, interrupted = error.report, True
    report = msgspec.structs.replace(report, command=command)
    _show_report(report, files, as_json=as_json)
    if interrupted:
        console.fail(
            f"{interruption.how()}; the report holds what was measured before, and is marked partial",
            code=interruption.exit_code(),
        )
    if all(row.status != "ok" for row in report.rows):
        raise EdgeResNeXtError("no variant could be benchmarked", "The table says why, variant by variant.")


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", required=False, type=click.Path(path_type=Path))
@click.option(
    "--threshold", type=Scaled("%", 0.01), metavar="PERCENT", help="Smallest change of latency that counts. [3]"
)
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
    asked = given(options)
    if new is None:
        if asked:
            raise RequestError(
                f"{next(iter(asked))} would change nothing without a second report",
                "Give OLD.json NEW.json.",
                values=tuple(asked),
            )
        _show_report(read_report(old), files, as_json=as_json)
        return
    if files:
        raise RequestError("--save would write one of two reports", "Compare without it, or give one report.")
    fail_if_worse = asked.pop("fail_if_worse", False)
    found = compare(read_report(old), read_report(new), **asked)
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
        say(f"wrote {plot_file}", err=True)
    if as_json:
        console.print_json(found)
    else:
        _show_sensitivity(found)


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
                say(f"saved {file}", err=True)
            except EdgeResNeXtError as error:
                failed = failed or error
        if as_json:
            console.say_text(to_json(report).decode())
        else:
            console.wide_console().print(render(report))
    if failed is not None:
        raise failed


def _show_sensitivity(found: Sensitivity) -> None:
    """Print what each layer's quantisation costs, the most sensitive first."""
    say(f"{found.bundle}, {found.file}: each layer in INT8 alone, {found.images} images ({found.data})", "")
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
    console.print_table(("layer", "SNR dB", "noise", "agree", "top-1", ""), bars, left=(0, 5))
    if found.floating:
        say(f"in floating point already: {', '.join(found.floating)}")
    if found.together.agreement < 1:
        console.hint(
            "To keep the most sensitive layer in floating point:",
            f"edgeresnext build ... --keep 'fp16:{ranked[0].layer}'",
        )
