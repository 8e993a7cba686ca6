"""The demo: real handwritten digits, from folders of images to a verified and benchmarked bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import msgspec

from edgeresnext.cli.as_typed import command_line
from edgeresnext.cli.measuring import bench as bench_command
from edgeresnext.data.digits import prepare
from edgeresnext.errors import DataError, shortened
from edgeresnext.measure.bench import bench
from edgeresnext.measure.options import BenchOptions
from edgeresnext.measure.results import Report
from edgeresnext.pipeline.build import build
from edgeresnext.progress import Progress, silent
from edgeresnext.runtime.verify import verify
from edgeresnext.spec import Check

MODEL = "resnext20_8x4d"
_BENCH = BenchOptions(seconds=10.0, skip=("compile",))
_OWN = ("digits", "bundle")


@contextlib.contextmanager
def weights() -> Iterator[Path]:
    """Yield the path of the weights that the demo ships; `calibration/digits/train.py` trained them."""
    with as_file(files("edgeresnext") / "data" / "digits.safetensors") as path:
        yield path


def demo(output: str | Path, progress: Progress = silent) -> tuple[tuple[Check, ...], Report]:
    """Prepare the digits in `output/digits`, build `output/bundle`, verify and benchmark it.

    Returns:
        The checks of every artefact, and the benchmark on the 600 validation images.

    Raises:
        NotInstalledError: A package of the `demo`, `build` or `cpu` extra is missing.
        InputError: `output` holds something else, or cannot be written.
    """
    output = Path(output)
    # Beside each of its folders are the lock, and what a demo that was killed has left.
    strangers = [path.name for path in output.glob("*") if path.name.strip(".").partition(".")[0] not in _OWN]
    if strangers or (output.exists() and not output.is_dir()):
        raise DataError(
            f"'{output}' holds something other than a demo: {shortened(strangers)}", "Give a new directory."
        )
    folders = prepare(output / "digits")
    with weights() as path:
        bundle = build(
            MODEL, weights=path, calibration=folders["calibration"], output=output / "bundle", progress=progress
        )
    checks = verify(bundle.path)
    report = bench(bundle.path, data=folders["validation"], options=_BENCH, progress=progress)
    asked = {"bundle": bundle.path, "data": folders["validation"], **msgspec.structs.asdict(_BENCH)}
    return checks, msgspec.structs.replace(report, command=command_line(bench_command, asked))
