"""Where a figure was measured."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path

from edgeresnext import __version__
from edgeresnext.backends import gpu

_ISA = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16",  # x86, as Linux names them
    "asimddp", "i8mm", "bf16", "sve",  # Arm
)  # fmt: skip


def cpu_name() -> str:
    """Return the processor's marketing name, or its architecture where the system does not tell."""
    fields = _cpuinfo()
    return fields.get("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Return the machine in a few words: processor and cores, and its GPU where it has one."""
    count = cores()
    device = gpu.detect()
    return f"{cpu_name()}, {count} core{'' if count == 1 else 's'}" + (f", {device.name}" if device else "")


def environment() -> dict[str, str]:
    """Return what decides a figure besides the artefact: processor, instruction sets, load, GPU, versions, date."""
    device = gpu.detect()
    flags = set((_cpuinfo().get("flags") or _cpuinfo().get("Features") or "").split())
    found = {
        "cpu": cpu_name(),
        "cores": str(cores()),
        "isa": " ".join(name for name in _ISA if name in flags),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_1min": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "",
        "gpu": device.name if device else "",
        "gpu_driver": device.driver if device else "",
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


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo; empty where there is none."""
    first = _read("/proc/cpuinfo").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(path: str) -> str:
    """Return a file's text, or nothing."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
