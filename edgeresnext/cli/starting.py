"""Commands for a machine that is new: doctor, demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeresnext.cli import console
from edgeresnext.cli.console import say
from edgeresnext.cli.options import device_option, json_option
from edgeresnext.cli.show_bundle import show_checks

if TYPE_CHECKING:
    from edgeresnext.cli.doctor import Finding, Job


@click.command()
@device_option
@json_option
def doctor(device: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show what this machine has, what is missing for which job, and the command that installs it."""
    from edgeresnext.cli.doctor import examine
    from edgeresnext.machine import gpu

    with gpu.using(device):
        findings, jobs = examine()
    if as_json:
        console.print_json({"findings": findings, "jobs": jobs})
    else:
        _show(findings, jobs)


@click.command()
@click.option("--output", "-o", default="edgeresnext-demo", show_default=True, type=click.Path(path_type=Path))
@json_option
def demo(output: Path, as_json: bool) -> None:  # noqa: FBT001
    """Build, verify and benchmark a small ResNeXt on real handwritten digits."""
    from edgeresnext.cli.demo import demo as run
    from edgeresnext.data.digits import prepare
    from edgeresnext.files import to_json
    from edgeresnext.report.terminal import render

    with console.progress() as progress:
        checks, report = run(output, progress)
    if as_json:
        console.say_text(to_json(report).decode())
        return
    show_checks(checks)
    say()
    console.wide_console().print(render(report))
    image = min(prepare(output / "digits")["validation"].glob("7/*.png"))
    console.hint(
        "Try next:",
        f"edgeresnext predict {output / 'bundle'} {image}",
        f"edgeresnext inspect {output / 'bundle'} --layers",
        f"edgeresnext bench {output / 'bundle'} --data {output / 'digits' / 'validation'} --batch 8 --save report.json",
        "edgeresnext build resnext50_32x4d --random-weights --output build/speed",
    )


def _show(findings: Sequence[Finding], jobs: Sequence[Job]) -> None:
    """Print what a machine has and lacks, then what can be done with it."""
    signs = {"ok": "ok", "missing": "missing", "none": "-"}
    console.print_table(
        ("", "", "", "to get it"),
        [(signs[one.status], one.name, one.detail, one.remedy) for one in findings],
        left=(0, 1, 2, 3),
    )
    console.print_table(
        ("edgeresnext can", "", ""),
        [("yes" if job.possible else "no", job.name, job.reason) for job in jobs],
        left=(0, 1, 2),
    )
