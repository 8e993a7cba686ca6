"""Commands that run or look into a bundle: predict, verify, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import edgeresnext
from edgeresnext.cli import console
from edgeresnext.cli.console import say
from edgeresnext.cli.options import (
    backend_option,
    bundle_argument,
    device_option,
    json_option,
    precision_option,
    threads_option,
    trusted_option,
)
from edgeresnext.cli.show_bundle import show_bundle, show_checks
from edgeresnext.cli.show_file import show_engine, show_onnx, show_weights
from edgeresnext.errors import DataError, EdgeResNeXtError
from edgeresnext.extras import how_to_install


@click.command()
@bundle_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@backend_option
@precision_option
@threads_option
@device_option
@trusted_option
@click.option("--top", type=int, default=5, show_default=True, help="Classes to print for each image.")
@json_option
def predict(bundle: Path, images: tuple[Path, ...], top: int, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Classify IMAGES (files or folders) with the fastest artefact of BUNDLE."""
    from edgeresnext.data.folder import scan

    paths = [path for given in images for path in (scan(given).images if given.is_dir() else [given])]
    with edgeresnext.load(bundle, **options) as classifier:
        say(f"{classifier.artifact.name} ({classifier.artifact.file}): {classifier.reason}", err=True)
        results: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for path in paths:
            try:
                results[str(path)] = classifier.predict(path, top)
            except DataError as error:  # one bad image does not hide what the others are
                refused[str(path)] = error.what
                say(f"skipped: {error.what}", err=True)
                continue
            if not as_json:
                say(*([path] if len(paths) > 1 else []), nl=len(paths) > 1)
                for prediction in results[str(path)]:
                    say(f"{prediction.probability:8.2%}  {prediction.label}")
    if as_json:
        console.print_json({
            "artifact": classifier.artifact.name, "reason": classifier.reason, "images": results, "skipped": refused,
        })  # fmt: skip
    if refused:
        raise DataError(f"{len(refused)} of {len(paths)} images could not be classified", "Remove or replace them.")


@click.command()
@bundle_argument
@device_option
@trusted_option
@click.option(
    "--deep",
    is_flag=True,
    help="Check too that the parts belong together: no other files, golden logits computed anew from the weights, each "
    "ONNX file computed without a runtime and its weights compared, what ranges and engines were made from. Takes "
    "PyTorch, and seconds to a minute.",
)
@json_option
def verify(bundle: Path, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001
    """Check every file of BUNDLE, then replay the golden images on every artefact that runs here."""
    checks = edgeresnext.verify(bundle, **options)
    if as_json:
        console.print_json(checks)
    else:
        show_checks(checks)
    failed = [check.artifact for check in checks if check.status == "failed"]
    if failed:
        raise EdgeResNeXtError(f"{', '.join(failed)} failed", "Rebuild the bundle, or use another backend.")
    if all(check.status == "skipped" for check in checks):
        raise EdgeResNeXtError("nothing of this bundle runs here", how_to_install("cpu"))


@click.command()
@bundle_argument
@click.option("--key", required=True, type=click.Path(path_type=Path), metavar="KEY.PEM", help="Private key, Ed25519.")
def sign(bundle: Path, key: Path) -> None:
    """Sign BUNDLE, once its files are as its manifest says; --trusted of others then tells whose it is."""
    edgeresnext.sign(bundle, key=key)
    say(f"signed {bundle}")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Print every layer: its precision, or what an engine made of it.")
@json_option
def inspect(path: Path, layers: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show what a bundle, a weights file, an ONNX file or an engine holds: network, precisions, fused layers."""
    from edgeresnext.runtime.inspect import inspect as inspect_path

    found = inspect_path(path)
    if as_json:
        console.print_json(found)
    elif found["kind"] == "onnx":
        show_onnx(found, layers=layers)
    elif found["kind"] == "engine":
        show_engine(found, layers=layers)
    elif found["kind"] == "weights":
        show_weights(found)
    else:
        from edgeresnext.bundle import read

        show_bundle(read(path), layers=layers)
