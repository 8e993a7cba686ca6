"""What a build is asked for, checked before anything slow is done; none of it needs PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeresnext.backends import registry
from edgeresnext.backends.targets import CPU_ARTIFACTS, HERE, JETSON, Target
from edgeresnext.backends.targets import parse as parse_targets
from edgeresnext.compiler.plan import GROUPED_FLOAT_FILES, ONNX_FILES
from edgeresnext.errors import RequestError, shown, unknown_name
from edgeresnext.model.catalogue import CATALOGUE
from edgeresnext.model.hub import is_name
from edgeresnext.pipeline.recipe import check_recipe
from edgeresnext.pipeline.wanted import Wanted, engines_wanted
from edgeresnext.spec import CPU, Artifact, CheckpointOptions, EngineOptions, Gate, Precision, Recipe

SHAPE = ("depths", "cardinality", "width_per_group")
"""Options by which a network differs from the one that is named."""
_RANGES: dict[str, tuple[float, float, int]] = {
    "depths": (1, 500, 5), "cardinality": (1, 1024, 1), "width_per_group": (1, 1024, 1), "input_px": (8, 4096, 2),
    "bn_eps": (1e-12, 0.1, 1),
}  # fmt: skip
"""Smallest and largest number of an option, and how many numbers it has at most."""
_FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "resnext": ("resnext50_32x4d", SHAPE),
    "resnet": ("resnet50", SHAPE[:1]),
}
"""Names of no size: the network that they become with other numbers, and those numbers."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What `build` makes, as far as that does not depend on the network.

    Args:
        precisions: Each once, in the order of `PRECISIONS`.
        targets: Names of the targets.
        artifacts: What the bundle offers to CPUs, the PyTorch baseline last.
        onnx: Names of the ONNX files to emit.
        engines: The engines to build.
        recipe: How to calibrate.
    """

    precisions: tuple[Precision, ...]
    targets: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    onnx: tuple[str, ...]
    engines: tuple[Wanted, ...]
    recipe: Recipe


def check_request(
    *,
    weights: Sequence[str | Path],
    calibration: str | Path | None,
    targets: Iterable[str],
    precisions: Iterable[str] | None,
    recipe: Recipe,
    ranges: str | Path | None,
    gate: Gate | None,
    engine_options: EngineOptions,
) -> BuildRequest:
    """Return what is to be made, by the arguments of `build`; refuse what contradicts itself or would change nothing.

    Raises:
        RequestError: A name does not exist, a number is out of range, or options contradict each other.
        NotInstalledError: The package or the GPU that an engine needs is missing.
    """
    chosen = PRECISIONS if precisions is None else check_precisions(precisions)
    asked = parse_targets(targets)
    wanted = engines_wanted(asked, None if precisions is None else chosen, engine_options)
    if not isinstance(recipe, Recipe):
        raise RequestError(
            f"recipe is {recipe!r}",
            "Give a Recipe; edgeresnext.read_recipe(path) reads one from a file.",
            values=("recipe",),
        )
    if weights and calibration is None and "int8" in chosen:
        raise RequestError(
            "INT8 needs calibration images",
            "Give a folder of 100 or more training images, or leave INT8 out: precisions fp32 and fp16.",
            values=("calibration", "precisions"),
        )
    if "int8" not in chosen and (gate is not None or ranges is not None):
        raise RequestError(
            "validation and ranges are for INT8, which is not built", "Leave them out.", values=("validation", "ranges")
        )
    if recipe.keep and set(chosen) <= {"fp32"}:
        raise RequestError("keep would change nothing: only FP32 is built", "Leave it out.", values=("keep",))
    return BuildRequest(
        precisions=chosen,
        targets=tuple(target.name for target in asked),
        artifacts=_artifacts(asked, chosen),
        onnx=_onnx_names(asked, chosen, engine_options),
        engines=wanted,
        recipe=check_recipe(recipe),
    )


def named(
    model: str | Path | Sequence[str | Path],
    weights: str | Path | None,
    options: CheckpointOptions,
    *,
    random_weights: bool,
) -> tuple[str | None, tuple[str | Path, ...]]:
    """Return the name of the network that is asked for, None where its weights tell it, and the weights.

    Raises:
        RequestError: Neither is given, or too much; or a family without the numbers that make it a network.
    """
    several = () if isinstance(model, str | Path) else tuple(model)
    if isinstance(model, str) and model in _FAMILIES:
        like, needed = _FAMILIES[model]
        if any(getattr(options, value) is None for value in needed):
            raise RequestError(
                f"'{model}' is a family of networks, not one",
                f"Give its numbers, or a name such as {like}.",
                values=needed,
            )
        model = like
    name = model if isinstance(model, str) and not several and model in CATALOGUE else None
    if isinstance(model, str) and name is None and not (_is_path(model) or is_name(model)):
        raise unknown_name("model", model, CATALOGUE, values=("model",))
    if name is None and weights is None and not random_weights:
        return None, several or (model,)  # type: ignore[return-value]  # one is no sequence
    if name is None:
        given = "random weights" if random_weights else "weights"
        raise RequestError(
            f"'{model}' is no network of the catalogue, and {given} are asked for too",
            "Give weights alone, and their network is recognised; or the name of a network.",
            values=("model", "random_weights" if random_weights else "weights"),
        )
    if (weights is None) is not random_weights:
        raise RequestError(
            "give either weights or random weights" + (", not both" if random_weights else ""),
            "Weights for a trained network, random weights for latency work.",
            values=("weights", "random_weights"),
        )
    return name, () if weights is None else (weights,)


def _is_path(model: str) -> bool:
    """Whether a text means a file, there or not, rather than a network's name."""
    return os.sep in model or bool(Path(model).suffix) or Path(model).exists()


def check_checkpoint_options(name: str | None, options: CheckpointOptions) -> None:
    """Refuse numbers that no network has, and those that would change nothing.

    Args:
        name: The network; None where its weights tell it.
        options: How it differs from its usual form.

    Raises:
        RequestError: There are such numbers.
    """
    if not isinstance(options, CheckpointOptions):
        raise RequestError(
            f"checkpoint_options is {options!r}", "Give CheckpointOptions.", values=("checkpoint_options",)
        )
    asked = {value: getattr(options, value) for value in _RANGES if getattr(options, value) is not None}
    for value, given in asked.items():
        numbers = given if isinstance(given, tuple) else (given,)
        lowest, highest, most = _RANGES[value]
        if not 0 < len(numbers) <= most or not all(lowest <= number <= highest for number in numbers):
            raise RequestError(
                f"{value} is {', '.join(map(shown, numbers)) or 'empty'}",
                f"Give {'a number' if most == 1 else f'at most {most} numbers'} from {lowest:g} to {highest:g}.",
                values=(value,),
            )
    shape = [value for value in SHAPE if value in asked]
    if shape and name is None:
        raise RequestError(
            f"{shape[0]} would change nothing: the weights tell it",
            "Leave it out, or name the network that it changes.",
            values=(shape[0],),
        )
    if name is not None and CATALOGUE[name].spec.block == "basic" and set(shape) - {"depths"}:
        raise RequestError(
            f"{name} consists of basic blocks, which have no groups",
            "Give depths alone, or name a network of bottlenecks such as resnext50_32x4d.",
            values=("cardinality", "width_per_group"),
        )


def check_precisions(precisions: Iterable[str]) -> tuple[Precision, ...]:
    """Return the precisions, each once, in the order of `PRECISIONS`.

    Raises:
        RequestError: One does not exist, or none is given.
    """
    asked = list(precisions)
    for name in asked:
        if name == "bf16":
            raise RequestError(
                "bf16 has no file of its own", "It is run from fp32: ask for that.", values=("precisions",)
            )
        if name not in PRECISIONS:
            raise unknown_name("precision", name, PRECISIONS, values=("precisions",))
    if not asked:
        raise RequestError("no precision given", f"Known: {', '.join(PRECISIONS)}.", values=("precisions",))
    return tuple(name for name in PRECISIONS if name in asked)


def is_int8(onnx: str) -> bool:
    """Whether the ONNX file of that name holds INT8 layers."""
    return "int8" in (ONNX_FILES | GROUPED_FLOAT_FILES)[onnx]


def least_bytes_a_weight(onnx: Iterable[str]) -> int:
    """Return the bytes that a bundle with these ONNX files has for each weight, beside its float32: all in INT8."""
    return 4 + sum(1 if is_int8(name) else 2 if name == "fp16" else 4 for name in onnx)


def _onnx_names(
    asked: tuple[Target, ...], precisions: tuple[Precision, ...], options: EngineOptions
) -> tuple[str, ...]:
    """Return the ONNX files to emit: those of the precisions, and what TensorRT on a device may prefer."""
    names = {**ONNX_FILES}
    on_device = any(target.name == HERE or target.name in JETSON for target in asked)
    if on_device and options.int8_grouped != "on":
        names |= GROUPED_FLOAT_FILES
    return tuple(name for name, needed in names.items() if needed <= set(precisions))


def _artifacts(asked: tuple[Target, ...], precisions: tuple[Precision, ...]) -> tuple[Artifact, ...]:
    """Return what the bundle offers to CPUs, the PyTorch baseline last.

    Raises:
        RequestError: CPUs were asked for and would get nothing.
    """
    found: list[Artifact] = []
    for backend, offered in CPU_ARTIFACTS.items():
        for precision, name in offered.items():
            needed: Precision = "fp32" if precision == "bf16" else precision
            if needed in precisions:
                found.append(Artifact(backend=backend, precision=precision, target=CPU, file=f"onnx/{name}.onnx"))
    if not found and any(target.name == CPU for target in asked):
        raise RequestError(
            f"target '{CPU}' runs nothing in {', '.join(precisions)}",
            "Add one that it runs: fp32 or int8.",
            values=("precisions",),
        )
    return (*found, registry.BASELINE_ARTIFACT)
