"""Which engines a request asks for, checked against this machine and each other; no bundle is needed yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from edgeresnext.backends import cuda, registry, targets
from edgeresnext.backends.targets import Target
from edgeresnext.errors import NotInstalledError, RequestError, shown, unknown_name
from edgeresnext.extras import how_to_install
from edgeresnext.machine import gpu
from edgeresnext.spec import EngineOptions, Precision

FOLDER = "engines"

_DEFAULT: dict[str, tuple[Precision, ...]] = {"tensorrt": ("fp16", "int8"), "tensorrt_rtx": ("fp16",)}
"""What is built where no precision is asked for. TensorRT-RTX 1.7 does not fuse requantisation into INT8 convolutions:
ResNeXt-50 moves 148 MB an image in INT8 against 71 MB in FP16 (the engines' own layer lists, SM89)."""

_MAX_BATCH = 4096
_MAX_WORKSPACE = 2**50


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One engine to build.

    Args:
        backend: Which builds and runs it.
        target: The name under which it is kept.
        precision: What it computes in.
        compute_capabilities: What to build for; empty for the GPU of this machine.
    """

    backend: str
    target: str
    precision: Precision
    compute_capabilities: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Its file in the bundle."""
        return f"{FOLDER}/{self.target}-{self.precision}.engine"

    @property
    def name(self) -> str:
        """The name of the artefact."""
        return f"{self.target}-{self.precision}"


def _check_options(options: EngineOptions) -> None:
    """Refuse options that no engine can be built with.

    Raises:
        RequestError: A number is out of range, or the batch profile is impossible.
    """
    smallest, usual, largest = options.batch
    if not 1 <= smallest <= usual <= largest <= _MAX_BATCH:
        raise RequestError(
            f"batch profile {smallest}:{usual}:{largest} is impossible",
            f"Give the smallest, the usual and the largest number of images, in this order, from 1 to {_MAX_BATCH}.",
            values=("batch",),
        )
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:  # noqa: PLR2004
        raise RequestError(
            f"optimisation level is {options.optimization_level}",
            "Give 0 (fast build) to 5 (slow).",
            values=("optimization_level",),
        )
    if options.workspace_bytes is not None and not 1 <= options.workspace_bytes <= _MAX_WORKSPACE:
        raise RequestError(
            f"workspace is {shown(options.workspace_bytes >> 20)} MiB",
            "Give a positive size, or leave it out.",
            values=("workspace_bytes",),
        )
    if options.dla_core is not None and options.dla_core < 0:
        raise RequestError(f"DLA core is {options.dla_core}", "Give 0 or 1, or leave it out.", values=("dla_core",))


def engines_wanted(
    asked: Sequence[Target],
    precisions: Collection[Precision] | None,
    options: EngineOptions,
) -> tuple[Wanted, ...]:
    """Return the engines that a request asks for, after checking that they can be built on this machine.

    Args:
        asked: The targets; `cpu` and Jetsons get no engine here.
        precisions: Any of fp32, fp16 and int8; None for what suits each backend.
        options: How they will be built.

    Raises:
        RequestError: A target cannot have a precision, the backend is ambiguous, there is no such GPU, or an option
            would change nothing.
        NotInstalledError: The package, or the GPU, is missing.
    """
    _check_options(options)
    for name, what in (("backend", "engine backend"), ("device", "GPU")):
        value = getattr(options, name)
        if value is not None and not any(target.name == targets.HERE for target in asked):
            raise RequestError(
                f"{what} {value} would change nothing: it is for the target '{targets.HERE}'",
                "Leave it out.",
                values=(name,),
            )
    found: list[Wanted] = []
    with gpu.using(options.device):
        for target in asked:
            if target.name == targets.HERE:
                found += _here(precisions, options)
            elif target.compute_capabilities:
                found += _ahead_of_time(target, precisions)
        found = list({one.file: one for one in found}.values())
        for one in found:
            registry.get_engine_backend(one.backend).check(options, one.precision)
    _check_use(options, asked, found)
    return tuple(found)


def _check_use(options: EngineOptions, asked: Sequence[Target], found: Sequence[Wanted]) -> None:
    """Refuse options that nothing which was asked for would use."""
    # Without an engine the treatment of grouped convolutions still decides which files a Jetson gets.
    rest = msgspec.structs.replace(options, int8_grouped="auto")
    for_jetson = any(target.name in targets.JETSON for target in asked)
    used, usual = rest if for_jetson else options, EngineOptions()
    given = tuple(name for name in EngineOptions.__struct_fields__ if getattr(used, name) != getattr(usual, name))
    if not found and given:
        raise RequestError(
            "options of engines would change nothing: no target here gets an engine",
            "Give them where the engine is built: edgeresnext build BUNDLE --target here.",
            values=given,
        )
    int8 = any(one.precision == "int8" for one in found)
    on_dla = options.dla_core is not None
    if options.int8_grouped == "off" and found and (on_dla or not int8):
        why = "TensorRT decides layer by layer on a DLA" if on_dla else "no INT8 engine is built"
        raise RequestError(
            f"int8_grouped is off and would change nothing: {why}", "Leave it out.", values=("int8_grouped",)
        )


def _ahead_of_time(target: Target, precisions: Collection[Precision] | None) -> list[Wanted]:
    name = "tensorrt_rtx"
    missing = registry.get_engine_backend(name).missing()
    if missing is not None:
        raise NotInstalledError(
            f"target '{target.name}' needs TensorRT-RTX: {missing}", how_to_install("rtx"), values=("targets",)
        )
    chosen = _DEFAULT[name] if precisions is None else precisions
    _check_refusals(target, chosen)
    return [
        Wanted(backend=name, target=target.name, precision=precision, compute_capabilities=target.compute_capabilities)
        for precision in chosen
    ]


def _check_refusals(target: Target, precisions: Collection[Precision]) -> None:
    """Refuse precisions that TensorRT-RTX does not build for a target's GPUs.

    Raises:
        RequestError: There is one.
    """
    for precision in precisions:
        if reason := target.refuses(precision):
            raise RequestError(
                f"target '{target.name}' cannot have {precision}: {reason}",
                "Ask for fp16, or name the other targets in a build of their own.",
                values=("targets", "precisions"),
            )


def _here(precisions: Collection[Precision] | None, options: EngineOptions) -> list[Wanted]:
    """Return the engines for the GPU of this machine."""
    device = gpu.detect()
    if device is None:
        raise NotInstalledError(
            "target 'here' needs an NVIDIA GPU with a driver, and this machine has none",
            "edgeresnext doctor shows what is missing; targets such as rtx40 are for GPUs elsewhere.",
            values=("targets",),
        )
    backend = options.backend
    installed = [name for name in registry.ENGINE_NAMES if registry.get_engine_backend(name).missing() is None]
    if backend is not None and backend not in registry.ENGINE_NAMES:
        raise unknown_name("engine backend", backend, registry.ENGINE_NAMES, values=("backend",))
    if backend is None and len(installed) > 1:
        raise RequestError(
            f"both TensorRT and TensorRT-RTX are installed, for {device.name}",
            "Choose tensorrt, which tunes on this GPU, or tensorrt_rtx.",
            values=("backend",),
        )
    name = backend or (installed[0] if installed else "tensorrt")
    runtime = registry.get_engine_backend(name)
    missing = runtime.missing()
    if missing is not None:
        raise NotInstalledError(f"target 'here' needs TensorRT for {device.name}: {missing}", "edgeresnext doctor")
    if (reason := runtime.outdated_driver()) is not None:
        raise NotInstalledError(reason, runtime.for_outdated_driver)
    try:
        cuda.connect()
    except NotInstalledError as error:
        raise NotInstalledError(f"an engine is checked where it is built: {error.what}", error.hint) from None
    if name == "tensorrt":
        label = f"sm{device.compute_capability.replace('.', '')}"
    else:
        known = {capability: rtx for rtx, capability in targets.RTX.items()}
        label = known.get(device.compute_capability, f"rtx-sm{device.compute_capability.replace('.', '')}")
    if options.dla_core is not None:
        label += f"-dla{options.dla_core}"
    chosen = _DEFAULT[name] if precisions is None else precisions
    if name == "tensorrt_rtx":
        _check_refusals(Target(name=label, compute_capabilities=(device.compute_capability,)), chosen)
    return [Wanted(backend=name, target=label, precision=precision) for precision in chosen]
