"""Options of the command line that several commands share, or that make one value together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeresnext.errors import InputError, RequestError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeresnext.measure.results import Mode
    from edgeresnext.spec import EngineOptions, Gate, Preprocess

    Command = TypeVar("Command", bound=Callable[..., Any])

_MIB = 2**20

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on stdout.")
backend_option = click.option(
    "--backend", metavar="NAME", help="Use this backend: openvino, onnxruntime, torch, tensorrt, tensorrt_rtx."
)
precision_option = click.option("--precision", metavar="NAME", help="Use this precision: fp32, bf16, fp16, int8.")
threads_option = click.option("--threads", type=int, metavar="N", help="CPU threads. Default: the runtime's choice.")
save_option = click.option(
    "--save",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Write the report: .json, .html, .md or .csv. Repeatable.",
)
bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))

_ENGINE_OPTIONS = (
    click.option("--batch", metavar="MIN:OPT:MAX", help="Images a run that engines take; N alone fixes it. [1:1:8]"),
    click.option("--workspace", type=float, metavar="MIB", help="Memory that TensorRT may use to build. [all]"),
    click.option("--optimization-level", type=int, metavar="N", help="0 builds fast, 5 searches longest. [TensorRT's]"),
    click.option("--timing-cache", type=click.Path(path_type=Path), help="File of kernel timings to use and extend."),
    click.option("--version-compatible", is_flag=True, help="An engine for later TensorRT releases too; slower."),
    click.option("--hardware-compatible", is_flag=True, help="An engine for all GPUs from Ampere on; slower."),
    click.option(
        "--dla", "dla_core", type=int, metavar="CORE", help="Build for this DLA of a Jetson; the rest on its GPU."
    ),
    click.option(
        "--int8-grouped",
        type=click.Choice(["auto", "on", "off"]),
        help="Grouped convolutions of INT8 engines in INT8; auto measures both on the device. [auto]",
    ),
    click.option("--backend", "engine_backend", metavar="NAME", help="For target here: tensorrt or tensorrt_rtx."),
)


_BENCH_OPTIONS = (
    click.option("--data", type=click.Path(path_type=Path), help="Folder of images; one folder a class for accuracy."),
    backend_option,
    precision_option,
    click.option(
        "--scenario",
        "scenario",
        multiple=True,
        metavar="NAME",
        help="single-stream, multi-stream (8 images a query), offline (throughput), server (random arrivals). "
        "Repeatable. [single-stream]",
    ),
    click.option("--batch", type=int, metavar="N", help="Images a query of multi-stream, or a run of offline."),
    click.option("--rate", type=float, metavar="N", help="Queries a second of server."),
    click.option("--latency-bound", type=float, metavar="MS", help="Find the highest rate of server that keeps it."),
    click.option("--baseline", metavar="NAME", help="What speed is compared with. [torch-fp32, on the GPU if it is]"),
    click.option("--quick", is_flag=True, help="Seconds instead of minutes; not for quoting."),
    click.option("--official", is_flag=True, help="600 s a variant and scenario, as MLPerf asks."),
    click.option("--seconds", type=float, help="Time to spend on each scenario. [20]"),
    click.option("--rounds", type=int, help="Run exactly this many interleaved rounds instead."),
    click.option("--samples", type=int, metavar="N", help="Images to draw for accuracy. [all]"),
    click.option(
        "--skip",
        multiple=True,
        metavar="STAGE",
        help="Leave out pytorch (its other ways), compile, accuracy, scopes, layers, energy or memory. Repeatable.",
    ),
    click.option("--sensitivity", is_flag=True, help="Add what each layer's quantisation costs."),
    threads_option,
)


ENGINE_OPTION_NAMES = (
    "batch", "workspace", "optimization_level", "timing_cache", "version_compatible", "hardware_compatible", "dla_core",
    "int8_grouped", "engine_backend",
)  # fmt: skip
"""What a command is given these as."""


def bench_options(command: Command) -> Command:
    """Add the options of a benchmark to a command."""
    for option in reversed(_BENCH_OPTIONS):
        command = option(command)
    return command


def take_mode(given: dict[str, Any]) -> Mode:
    """Remove the flags of a benchmark's mode from what was given, and return the mode.

    Raises:
        RequestError: Both are given.
    """
    quick, official = given.pop("quick"), given.pop("official")
    if quick and official:
        raise RequestError("--quick contradicts --official", "Leave one of them out.")
    return "quick" if quick else "official" if official else "default"


def engine_options(command: Command) -> Command:
    """Add the options of engines to a command."""
    for option in reversed(_ENGINE_OPTIONS):
        command = option(command)
    return command


_QUANTISATION_OPTIONS = (
    click.option("--recipe", type=click.Path(path_type=Path), help="TOML file with what the next four options say."),
    click.option(
        "--method",
        metavar="NAME",
        help="Calibration: auto, max, percentile (99.999), percentile:P, mse, entropy. [auto]",
    ),
    click.option("--samples", type=int, metavar="N", help="Calibration images to draw, at most. [512]"),
    click.option("--seed", type=int, metavar="N", help="Of the sample and of random weights. [0]"),
    click.option(
        "--repair",
        "repairs",
        multiple=True,
        metavar="NAME",
        help="equalisation, bias-correction, weight-clipping, none. Repeatable. [all]",
    ),
    click.option("--ranges", type=click.Path(path_type=Path), help="ranges.json of an earlier build of the same."),
    click.option(
        "--keep",
        multiple=True,
        metavar="PRECISION:LAYERS",
        help="Layers that are not to be INT8, such as 'fp16:layer1.*'. Repeatable.",
    ),
    click.option(
        "--validation",
        type=click.Path(path_type=Path),
        help="Folder of images on which INT8 must keep its accuracy, or sensitive layers go back.",
    ),
    click.option("--max-drop", type=float, metavar="POINTS", help="Points of top-1 that INT8 may lose. [0.5]"),
    click.option(
        "--min-agreement", type=float, metavar="SHARE", help="Images classified as PyTorch does; needs no labels."
    ),
    click.option(
        "--min-int8", type=float, metavar="SHARE", help="Convolutions that must stay INT8, or the build fails. [0.5]"
    ),
)


def quantisation_options(command: Command) -> Command:
    """Add the options of calibration and of the accuracy gate to a command."""
    for option in reversed(_QUANTISATION_OPTIONS):
        command = option(command)
    return command


def take_gate(given: dict[str, Any]) -> Gate | None:
    """Remove the options of the accuracy gate from what was given, and return them as one value.

    Raises:
        RequestError: Limits are given without images to measure on, or `none` among repairs.
    """
    from edgeresnext.spec import Gate

    if "repairs" in given and "none" in given["repairs"]:
        if len(given["repairs"]) > 1:
            raise RequestError("--repair none contradicts the other repairs", "Leave one of them out.")
        given["repairs"] = ()
    limits = {name: given.pop(name) for name in ("max_drop", "min_agreement", "min_int8") if name in given}
    if "validation" not in given:
        if limits:
            name = f"--{next(iter(limits)).replace('_', '-')}"
            raise RequestError(f"{name} would change nothing without images to measure on", "Add --validation DIR.")
        return None
    return Gate(validation=str(given.pop("validation")), **limits)


def take_engine_options(given: dict[str, Any]) -> EngineOptions:
    """Remove the options of engines from what was given, and return them as one value.

    Raises:
        RequestError: The batch profile or the workspace cannot be read.
    """
    from edgeresnext.spec import EngineOptions

    values: dict[str, Any] = {}
    if "batch" in given:
        values["batch"] = _batch(given.pop("batch"))
    if "workspace" in given:
        mib = given.pop("workspace")
        if not math.isfinite(mib):
            raise RequestError(f"workspace is {mib} MiB", "Give a positive number of MiB.")
        values["workspace_bytes"] = int(mib * _MIB)
    if "timing_cache" in given:
        values["timing_cache"] = str(given.pop("timing_cache"))
    for name in ("optimization_level", "version_compatible", "hardware_compatible", "dla_core", "int8_grouped"):
        if name in given:
            values[name] = given.pop(name)
    return EngineOptions(**values)


def _batch(text: str) -> tuple[int, int, int]:
    """Return MIN:OPT:MAX as numbers; one number fixes the batch."""
    parts = text.split(":")
    if len(parts) in (1, 3) and all(part.isascii() and part.isdecimal() for part in parts):
        smallest, usual, largest = (int(part) for part in (parts if len(parts) > 1 else parts * 3))
        return smallest, usual, largest
    raise RequestError(f"cannot read batch profile '{text}'", "Give MIN:OPT:MAX such as 1:1:8, or one number.")


def parse_preprocess(text: str) -> Preprocess:
    """Return a named preprocessing, or one read from a JSON file.

    Raises:
        RequestError: There is no such name.
        InputError: The file cannot be read.
    """
    import msgspec

    from edgeresnext.model.catalogue import PREPROCESS
    from edgeresnext.spec import Preprocess

    if text in PREPROCESS:
        return PREPROCESS[text]
    path = Path(text)
    if path.suffix != ".json":
        raise unknown_name("preprocessing", text, PREPROCESS)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Preprocess)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read preprocessing from '{path}': {error}",
            'Write it as {"resize_px": 256, "crop_px": 224, "interpolation": "bilinear"}, with mean and std if needed.',
        ) from None
