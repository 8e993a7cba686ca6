"""The processor of this machine, as Linux describes it in /proc/cpuinfo."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16",  # x86, as Linux names them
    "asimddp", "i8mm", "bf16", "sve",  # Arm
)  # fmt: skip
"""The instruction sets that decide how fast a network runs, in the order in which they are listed."""


def name() -> str:
    """Return the processor's marketing name, or its architecture where the system does not tell."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def isa() -> frozenset[str]:
    """Return which of `FLAGS` this processor has."""
    return _flags().intersection(FLAGS)


def virtualised() -> bool | None:
    """Return whether this is a virtual machine; None where the processor does not tell, as on Arm.

    x86 hypervisors set bit 31 of CPUID leaf 1, ECX, which Linux calls "hypervisor".
    """
    return "hypervisor" in _flags() if "flags" in _cpuinfo() else None


def _flags() -> frozenset[str]:
    fields = _cpuinfo()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor; empty where the system has no such file."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8", errors="replace").strip().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {field.strip(): value.strip() for field, _, value in pairs}
