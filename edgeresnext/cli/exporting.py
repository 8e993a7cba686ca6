"""The command that hands a bundle over to other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgeresnext
from edgeresnext.cli import console
from edgeresnext.cli.options import bundle_argument, json_option
from edgeresnext.errors import RequestError

if TYPE_CHECKING:
    from edgeresnext.interop.exported import Export
    from edgeresnext.interop.trtexec import Commands


@click.command()
@bundle_argument
@click.option(
    "--triton", type=click.Path(path_type=Path), metavar="REPOSITORY", help="Add a model to a Triton model repository."
)
@click.option(
    "--deepstream",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write ONNX file, labels and configurations for DeepStream's nvinfer.",
)
@click.option("--trtexec", is_flag=True, help="Print how trtexec builds and times the same engines.")
@click.option(
    "--precision",
    metavar="NAME",
    help="fp32, fp16 or int8. [Triton: the fastest that it serves; DeepStream: fp16; trtexec: every engine]",
)
@click.option("--target", metavar="NAME", help="cpu, or the target of one of the bundle's engines. [the fastest]")
@click.option("--batch", type=int, metavar="N", help="Largest batch. [an engine's own; else Triton: 8, DeepStream: 1]")
@click.option("--name", help="What the model is called in Triton. [the bundle's directory]")
@json_option
def export(
    bundle: Path,
    *,
    triton: Path | None,
    deepstream: Path | None,
    trtexec: bool,
    precision: str | None,
    target: str | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401
) -> None:
    """Hand BUNDLE over to Triton, DeepStream or trtexec.

    Exported files are proven before they appear: golden images go through them, and give the bundle's logits.
    """
    from edgeresnext.interop.export import check_precision
    from edgeresnext.interop.trtexec import commands

    writes = triton is not None or deepstream is not None
    if not writes and not trtexec:
        raise RequestError(
            "no program to export for", "Choose one or several.", values=("triton", "deepstream", "trtexec")
        )
    lines: tuple[Commands, ...] = ()
    if trtexec:
        chosen = None if precision is None else check_precision(precision)
        lines = commands(bundle, precision=chosen, target=target, batch=options["batch"])
    exports: tuple[Export, ...] = ()
    if writes:
        target = None if triton is None and trtexec else target  # which is then for trtexec alone
        exports = edgeresnext.export(
            bundle, triton=triton, deepstream=deepstream, precision=precision, target=target, **options
        )
    if as_json:
        console.print_json({"exports": exports, "trtexec": lines})
        return
    for one in exports:
        _show(one)
    for line in lines:
        console.say(f"# {line.name}: build, then time{'' if not line.note else f'; {line.note}'}")
        console.say(line.build, line.time)


def _show(export: Export) -> None:
    """Print what was written and what proved it."""
    console.say(f"{export.path}: {export.name} for {export.tool}, {export.batch} images a run at most")
    console.say(f"  from      {export.source}")
    replay = export.replay
    if replay is not None:
        snr = replay.fidelity.snr_db
        found = "equal to PyTorch's" if snr is None else f"{snr:.1f} dB from PyTorch's"
        console.say(
            f"  replayed  {replay.images} golden images: logits differ by {replay.difference:.1e} of the largest from "
            f"the bundle's own file, {found}"
        )
    for note in export.notes:
        console.say(f"  note      {note}")
    console.say(f"  use       {export.start}")
