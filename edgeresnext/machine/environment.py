"""Where a figure was measured."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

from edgeresnext import __version__
from edgeresnext.machine import cpu, gpu, jetson, nvml, sensors


def machine() -> str:
    """Return the machine in a few words: processor and cores, and its GPU where it has one."""
    count = cpu.cores()
    device = gpu.detect()
    return f"{cpu.name()}, {count} core{'' if count == 1 else 's'}" + (f", {device.name}" if device else "")


def environment(sysfs: Path = sensors.SYSFS) -> dict[str, str]:
    """Return what decides a figure besides the artefact; what this machine does not tell is left out.

    Units are in the names: `_mhz`, `_c` (degrees Celsius), `_gib`, `_w`. `cores` are those that this process may use,
    of `logical_cores`. `gpu_cuda` is the newest CUDA release that the driver supports. A `MachineWatch` tells what
    happened to load, temperature and governor meanwhile: its facts replace these.

    Args:
        sysfs: Where the kernel's files are looked for.
    """
    found = {
        **_processor(sysfs),
        **_gpu(),
        **_jetson(),
        "load_1min": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "",
        "os": platform.platform(),
        "python": platform.python_version(),
        "edgeresnext": __version__,
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return {name: value for name, value in found.items() if value}


def package_versions(*names: str) -> dict[str, str]:
    """Return the versions of those of the packages that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _processor(sysfs: Path) -> dict[str, str]:
    has = cpu.isa()
    temperature = sensors.cpu_temperature_c(sysfs)
    now_mhz, max_mhz = _clocks_mhz()
    return {
        "cpu": cpu.name(),
        "cores": str(cpu.cores()),
        "logical_cores": str(psutil.cpu_count() or ""),
        "physical_cores": str(psutil.cpu_count(logical=False) or ""),
        "smt": sensors.smt(sysfs),
        "isa": " ".join(flag for flag in cpu.FLAGS if flag in has),
        "virtual_machine": {True: "yes", False: "no", None: ""}[cpu.virtualised()],
        "governor": sensors.governor(sysfs),
        "cpu_mhz": now_mhz,
        "cpu_max_mhz": max_mhz,
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "temperature_c": "" if temperature is None else f"{temperature:.0f}",
    }


def _clocks_mhz() -> tuple[str, str]:
    """Return the processor's clock now and at most; empty where psutil cannot tell, as in most virtual machines."""
    try:
        clocks = psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError, ValueError):  # systems and files that psutil does not know
        clocks = None
    if clocks is None:
        return "", ""
    now, most = (f"{value:.0f}" if value else "" for value in (clocks.current, clocks.max))
    return now, most


def _gpu() -> dict[str, str]:
    """Return what CUDA's driver tells, and NVML where it is installed."""
    device = gpu.detect()
    if device is None:
        return {}
    board, _ = nvml.find_board()
    facts = board.facts() if board else {}
    memory = f"{device.memory_bytes / 2**30:.1f}"
    return {**facts, "gpu": device.name, "gpu_memory_gib": memory, "gpu_cuda": device.driver}


def _jetson() -> dict[str, str]:
    release = jetson.linux_release()
    if release is None:
        return {}
    mode = jetson.power_mode()
    return {
        "jetson_linux": release,
        "jetpack": jetson.jetpack(release) or "",
        "power_mode": f"{mode.name} ({mode.number})" if mode else "",
    }
