"""Options of the command line that several commands share, or that make one value together.

An option is called as the field or argument that it gives; the values are in `spec` and `measure.options`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from edgeresnext.cli.as_typed import Scaled, batch_profile, depths, input_size, repairs
from edgeresnext.errors import RequestError
from edgeresnext.measure.results import Mode
from edgeresnext.spec import Gate

if TYPE_CHECKING:
    Command = TypeVar("Command", bound=Callable[..., Any])

    AnyValue = TypeVar("AnyValue", bound=msgspec.Struct)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on stdout.")
backend_option = click.option(
    "--backend", metavar="NAME", help="Use this backend: openvino, onnxruntime, torch, tensorrt, tensorrt_rtx."
)
precision_option = click.option("--precision", metavar="NAME", help="Use this precision: fp32, bf16, fp16, int8.")
threads_option = click.option("--threads", type=int, metavar="N", help="CPU threads. Default: the runtime's choice.")
device_option = click.option("--device", metavar="N|UUID", help="The GPU, by index or as nvidia-smi -L has it. [0]")
trusted_option = click.option(
    "--trusted",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PUBLIC.PEM",
    help="Refuse a bundle that this key has not signed. Repeatable.",
)
save_option = click.option(
    "--save",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Write the report: .json, .html, .md or .csv. Repeatable.",
)
class_order_option = click.option(
    "--class-order",
    type=click.Choice(["sorted", "numeric"]),
    help="What class folders that are numbers mean to a network without labels: their place by name, or their value.",
)
bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))

ENGINE_OPTIONS = (
    click.option(
        "--batch",
        type=batch_profile,
        metavar="MIN:OPT:MAX",
        help="Images a run that engines take; N alone fixes it. [1:1:8]",
    ),
    click.option(
        "--workspace",
        "workspace_bytes",
        type=Scaled("MiB", 2**20, whole=True),
        metavar="MIB",
        help="Memory that TensorRT may use to build. [all]",
    ),
    click.option("--optimization-level", type=int, metavar="N", help="0 builds fast, 5 searches longest. [TensorRT's]"),
    click.option("--timing-cache", type=click.Path(), help="File of kernel timings to use and extend."),
    click.option("--version-compatible", is_flag=True, help="An engine for later TensorRT releases too; slower."),
    click.option("--hardware-compatible", is_flag=True, help="An engine for all GPUs from Ampere on; slower."),
    click.option(
        "--capability-compatible",
        is_flag=True,
        help="An engine for all GPUs of this compute capability (TensorRT 10.9 and later); slower.",
    ),
    click.option(
        "--dla", "dla_core", type=int, metavar="CORE", help="Build for this DLA of a Jetson; the rest on its GPU."
    ),
    click.option(
        "--int8-grouped",
        type=click.Choice(["auto", "on", "off"]),
        help="Grouped convolutions of INT8 engines in INT8; auto measures both on the device. [auto]",
    ),
    click.option("--backend", metavar="NAME", help="For target here: tensorrt or tensorrt_rtx."),
    device_option,
)

BENCH_OPTIONS = (
    click.option("--data", type=click.Path(path_type=Path), help="Folder of images; one folder a class for accuracy."),
    backend_option,
    precision_option,
    click.option(
        "--scenario",
        multiple=True,
        metavar="NAME",
        help="single-stream, multi-stream (8 images a query), offline (throughput), server (random arrivals). "
        "Repeatable. [single-stream]",
    ),
    click.option("--batch", type=int, metavar="N", help="Images a query of multi-stream, or a run of offline."),
    click.option("--rate", type=float, metavar="N", help="Queries a second of server."),
    click.option(
        "--latency-bound",
        "latency_bound_s",
        type=Scaled("ms", 1e-3),
        metavar="MS",
        help="Find the highest rate of server that keeps it.",
    ),
    click.option("--baseline", metavar="NAME", help="What speed is compared with. [torch-fp32, on the GPU if it is]"),
    click.option("--quick", is_flag=True, help="Seconds instead of minutes; not for quoting."),
    click.option("--official", is_flag=True, help="600 s a variant and scenario, as MLPerf asks."),
    click.option("--seconds", type=float, help="Time to spend on each scenario. [20]"),
    click.option("--rounds", type=int, help="Run exactly this many interleaved rounds instead."),
    class_order_option,
    click.option("--samples", type=int, metavar="N", help="Images to draw for accuracy. [all]"),
    click.option(
        "--skip",
        multiple=True,
        metavar="STAGE",
        help="Leave out pytorch (its other ways), compile, accuracy, scopes, layers, energy or memory. Repeatable.",
    ),
    threads_option,
    device_option,
)

CHECKPOINT_OPTIONS = (
    click.option("--key", metavar="NAME", help="Which weights of a file that holds several, such as model_ema."),
    click.option("--bn-eps", type=float, metavar="NUMBER", help="BatchNorm's epsilon in training. [1e-5]"),
    click.option(
        "--input",
        "input_px",
        type=input_size,
        metavar="WIDTHxHEIGHT",
        help="Pixels of the network's input; N is square.",
    ),
    click.option(
        "--fit",
        type=click.Choice(["crop", "squash"]),
        help="How images of another shape become that: the centre cut out, or squashed. [crop]",
    ),
    click.option("--depths", type=depths, metavar="N,N,...", help="Blocks a stage, of a network like the named one."),
    click.option("--cardinality", type=int, metavar="N", help="Groups of its grouped convolutions."),
    click.option("--width", "width_per_group", type=int, metavar="N", help="Channels a group in its first stage."),
    click.option(
        "--trust-network",
        is_flag=True,
        help="Go on where the weights' own statistics say that something is wrong.",
    ),
    click.option(
        "--ensemble",
        "average",
        is_flag=False,
        flag_value="logits",
        type=click.Choice(["logits", "probability"]),
        help="Build several weights as one network, the mean of their logits or probabilities. [logits]",
    ),
)

QUANTISATION_OPTIONS = (
    click.option("--recipe", type=click.Path(), help="TOML file with what the next five options say."),
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
        callback=repairs,
        help="equalisation, bias-correction, weight-clipping, rounding; none, all. Repeatable. [the first three]",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="PRECISION:LAYERS",
        help="Layers that are not to be INT8, such as 'fp16:layer1.*'. Repeatable.",
    ),
    click.option("--ranges", type=click.Path(), help="ranges.json of an earlier build of the same."),
    click.option(
        "--validation",
        type=click.Path(),
        help="Folder of images on which INT8 must keep its accuracy, or sensitive layers go back.",
    ),
    class_order_option,
    click.option("--max-drop", type=float, metavar="POINTS", help="Points of top-1 that INT8 may lose. [0.5]"),
    click.option(
        "--min-agreement", type=float, metavar="SHARE", help="Images classified as PyTorch does; needs no labels."
    ),
    click.option(
        "--min-int8", type=float, metavar="SHARE", help="Convolutions that must stay INT8, or the build fails. [0.5]"
    ),
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Add options to a command, in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def replaced(value: AnyValue, given: dict[str, Any]) -> AnyValue:
    """Return a value with what was given of its fields in their place; remove that from what was given."""
    fields = [name for name in value.__struct_fields__ if name in given]
    return msgspec.structs.replace(value, **{name: given.pop(name) for name in fields})


def take_mode(given: dict[str, Any]) -> Mode:
    """Remove the flags of a benchmark's mode from what was given, and return the mode.

    Raises:
        RequestError: Both are given.
    """
    quick, official = given.pop("quick", False), given.pop("official", False)
    if quick and official:
        raise RequestError("--quick contradicts --official", "Leave one of them out.")
    return "quick" if quick else "official" if official else "default"


def take_gate(given: dict[str, Any]) -> Gate | None:
    """Remove what belongs to the accuracy gate from what was given, and return it as one value.

    Raises:
        RequestError: Limits are given without images to measure on.
    """
    from edgeresnext.spec import Gate

    limits = [name for name in Gate.__struct_fields__ if name in given]
    if not limits:
        return None
    if "validation" not in given:
        raise RequestError(
            f"{limits[0]} would change nothing without images to measure on",
            "Give a folder of validation images.",
            values=(limits[0], "validation"),
        )
    return replaced(Gate(validation=given["validation"]), given)
