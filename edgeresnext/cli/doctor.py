"""What this machine has, what it lacks for each job, and the command that installs it.

Nothing heavy is imported: packages are looked up, the GPU is asked of its driver, a Jetson of its files.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import Literal

from edgeresnext.backends import cuda, registry, targets
from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.extras import how_to_install, installed
from edgeresnext.machine import cpu, gpu, jetson, nvml
from edgeresnext.machine.environment import machine, package_versions
from edgeresnext.spec import CPU

Status = Literal["ok", "missing", "none"]

_PACKAGES = {
    "torch": ("PyTorch", "build from a checkpoint; the baseline of bench", "build"),
    "onnx": ("ONNX", "build from a checkpoint", "build"),
    "safetensors": ("safetensors", "build from a checkpoint", "build"),
    "onnxruntime": ("ONNX Runtime", "run on this CPU; check what is built", "cpu"),
    "openvino": ("OpenVINO", "run on this CPU, fastest", "cpu"),
}
"""Package, its name, what it is for, and the extra that installs it."""

_TEGRA, _POWER = jetson.RELEASE, jetson.POWER


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report.

    Args:
        name: What was looked for.
        status: ok; missing (it can be had: `remedy`); none (this machine has no such thing, and that may be well).
        detail: Version, model, or what it would be good for.
        remedy: What to type, where something is missing.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something that edgeresnext does, and whether this machine can.

    Args:
        name: The job, as a command.
        possible: Whether it would start.
        reason: What stands in the way.
    """

    name: str
    possible: bool
    reason: str = ""


def examine() -> tuple[tuple[Finding, ...], tuple[Job, ...]]:
    """Return what this machine has, and what can be done with it."""
    findings = [
        Finding(name="Python", status="ok", detail=f"{platform.python_version()}, {platform.platform()}"),
        Finding(name="CPU", status="ok", detail=machine()),
        Finding(name="INT8 on this CPU", status="ok", detail=cpu.int8_products()),
        *(_package(package) for package in _PACKAGES),
        _gpu(),
        *_other_gpus(),
        *_engine_runtimes(),
        _cuda_library(),
        *_jetson(),
    ]
    return tuple(findings), _jobs()


def _package(package: str) -> Finding:
    name, purpose, extra = _PACKAGES[package]
    if not installed(package):
        return Finding(name=name, status="missing", detail=f"needed to {purpose}", remedy=how_to_install(extra))
    return Finding(name=name, status="ok", detail=package_versions(package).get(package, "version unknown"))


def _gpu() -> Finding:
    device = gpu.detect()
    if device is None:
        divided = nvml.without_instances()
        if divided:
            detail = f"{', '.join(divided)}: in MIG mode without an instance, so CUDA offers nothing"
            return Finding(name="NVIDIA GPU", status="missing", detail=detail, remedy=gpu.MAKE_INSTANCE)
        remedy = "Install NVIDIA's driver if there is one" if sys.platform == "linux" else ""
        return Finding(name="NVIDIA GPU", status="none", detail="no driver, or no GPU", remedy=remedy)
    memory = f"{device.memory_bytes / 2**30:.0f} GiB{', shared with the CPU' if device.integrated else ''}"
    detail = f"{device.name}, compute capability {device.compute_capability}, {memory}, CUDA driver {device.driver}"
    return Finding(name="NVIDIA GPU", status="ok", detail=detail)


def _other_gpus() -> list[Finding]:
    """Name the other GPUs, by what chooses them."""
    chosen = gpu.detect()
    return [
        Finding(name=f"other GPU {one.index}", status="ok", detail=f"{one.name}, {one.uuid or 'no UUID'}")
        for one in gpu.devices()
        if chosen is not None and one.index != chosen.index
    ]


def _engine_runtimes() -> list[Finding]:
    """Look for TensorRT and TensorRT-RTX; without a GPU only the latter is of use, to build for others."""
    found = []
    for name in registry.ENGINE_NAMES:
        backend = registry.get_engine_backend(name)
        if backend.missing() is None:
            release, outdated = backend.release() or "version unknown", backend.outdated_driver()
            if outdated is None:
                found.append(Finding(name=backend.title, status="ok", detail=release))
            else:
                remedy = backend.for_outdated_driver
                found.append(Finding(name=backend.title, status="missing", detail=outdated, remedy=remedy))
        elif name == "tensorrt" and gpu.detect() is None:
            found.append(Finding(name=backend.title, status="none", detail="of no use without a GPU"))
        else:
            purpose = (
                "build engines for GeForce GPUs, here or elsewhere"
                if name == "tensorrt_rtx"
                else "build and run engines"
            )
            found.append(Finding(name=backend.title, status="missing", detail=purpose, remedy=backend.how_to_install))
    return found


def _cuda_library() -> Finding:
    if gpu.detect() is None:
        return Finding(name="CUDA from Python", status="none", detail="of no use without a GPU")
    try:
        return Finding(name="CUDA from Python", status="ok", detail=cuda.connect().name)
    except EdgeResNeXtError as error:
        return Finding(name="CUDA from Python", status="missing", detail=error.what, remedy=error.hint)


def _jetson() -> list[Finding]:
    """Read what a Jetson tells of itself."""
    release = jetson.linux_release(_TEGRA)
    if release is None:
        return []
    jetpack = jetson.jetpack(release)
    known = f"JetPack {jetpack}" if jetpack else "a JetPack that this release does not know"
    found = [Finding(name="Jetson Linux", status="ok", detail=f"{release}: {known}")]
    found.append(Finding(name="power mode", status="ok", detail=_power_mode()))
    if registry.get_engine_backend("tensorrt").missing() is not None and sys.prefix != sys.base_prefix:
        found.append(
            Finding(
                name="virtual environment",
                status="missing",
                detail="JetPack's TensorRT is not seen from here",
                remedy="python3 -m venv --system-site-packages ENV",
            )
        )
    return found


def _power_mode() -> str:
    """Return a Jetson's power mode in words, with the commands that change it."""
    mode = jetson.power_mode(_POWER)
    if mode is None:
        return "unknown: sudo nvpmodel -q tells it"
    return f"{mode.name} (mode {mode.number}); sudo nvpmodel -m N sets it, sudo jetson_clocks pins clocks"


def _jobs() -> tuple[Job, ...]:
    """Return what can be done here, in the order of a user's way."""
    lacking = [
        _PACKAGES[package][0] for package in ("torch", "onnx", "onnxruntime", "safetensors") if not installed(package)
    ]
    build = f"{', '.join(lacking)} not installed" if lacking else ""
    on_cpu = [registry.get(name).unavailable("fp32") for name in targets.CPU_ARTIFACTS]
    cpu = "" if None in on_cpu else " ".join(filter(None, on_cpu))
    ahead = registry.get_engine_backend("tensorrt_rtx").missing() or ""
    if gpu.detect() is None:
        here = "no NVIDIA GPU with a driver"
    else:
        runtimes = [registry.get_engine_backend(name) for name in registry.ENGINE_NAMES]
        present = [runtime.outdated_driver() for runtime in runtimes if runtime.missing() is None]
        here = "neither TensorRT nor TensorRT-RTX is installed" if not present else ""
        here = here or ("" if None in present else " ".join(filter(None, present)))
        here = here or cuda.unavailable() or ""
    reasons = {
        "build MODEL --weights FILE": build,
        f"load, verify and bench on target {CPU}": cpu,
        "build --target rtx20 to rtx50, for other machines": ahead,
        "build BUNDLE --target here": here,
        "load, verify and bench engines": here,
    }
    return tuple(Job(name=name, possible=not reason, reason=reason) for name, reason in reasons.items())
