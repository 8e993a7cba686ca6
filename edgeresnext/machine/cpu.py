"""The processor of this machine: what Linux says of it in /proc/cpuinfo, and what it does with INT8."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np

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
    """Return which of `FLAGS` this process may use.

    An emulator shows the flags of its host. What NumPy, which asks the processor itself, did not find, is not there.
    """
    found = _flags().intersection(FLAGS)
    missing = _not_found_by_numpy()
    if missing & {"AVX2", "X86_V3"}:
        return frozenset()
    return found & {"avx2"} if "avx512f" in found and missing & {"AVX512F", "X86_V4"} else found


def onednn_limit() -> str:
    """Return the instruction set that the environment limits OpenVINO and PyTorch to, such as AVX2, or nothing."""
    return next((os.environ[name].upper() for name in _ONEDNN_LIMITS if os.environ.get(name)), "")


def saturates(*, limited: bool = True) -> bool:
    """Whether 8-bit products saturate here: on x86 without VNNI, they are added in 16 bits two at a time.

    By what the processor says of itself; Arm adds them in 32 bits.

    Args:
        limited: Whether the limit that oneDNN is given counts, as for OpenVINO.
    """
    if platform.machine().lower() not in _X86:
        return False
    return not isa() & _EXACT or (limited and onednn_limit() in _SATURATING_LIMITS)


def int8_products(*, limited: bool = True) -> str:
    """Return what this processor does with INT8, in words; `limited` as `saturates` has it."""
    if saturates(limited=False):
        return "8-bit products saturate, two at a time (no VNNI)"
    if saturates(limited=limited):
        name = next(name for name in _ONEDNN_LIMITS if os.environ.get(name))
        return f"8-bit products saturate, two at a time ({name}={onednn_limit()})"
    if platform.machine().lower() in _X86:
        return f"8-bit products are added exactly ({' '.join(sorted(isa() & _EXACT))})"
    return "8-bit products are added exactly"


def is_arm() -> bool:
    """Whether this is a 64-bit Arm processor."""
    return platform.machine().lower() in ("aarch64", "arm64")


def bfloat16() -> bool:
    """Whether this processor computes in bfloat16, as far as that is known, and oneDNN may.

    Told not to, OpenVINO 2026.4 crashes in it.
    """
    limited = onednn_limit() in (*_SATURATING_LIMITS, *_LIMITS_WITHOUT_BFLOAT16)
    return not limited and (bool(isa() & _BFLOAT16) or not _flags())


_X86 = ("x86_64", "amd64", "i686")
_EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instructions that add 8-bit products in 32 bits."""
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_SATURATING_LIMITS = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""oneDNN's names of instruction sets without VNNI; names that it does not know are no limit."""

_LIMITS_WITHOUT_BFLOAT16 = ("AVX2_VNNI", "AVX512_CORE_VNNI")


def _not_found_by_numpy() -> frozenset[str]:
    """Return the x86 features that NumPy has code for and did not find at run time; empty where it does not tell."""
    try:
        return frozenset(np.show_config(mode="dicts")["SIMD Extensions"].get("not found", ()))
    except (TypeError, KeyError):  # NumPy before 1.25, or built without
        return frozenset()


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
