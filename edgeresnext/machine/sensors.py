"""What Linux tells of the processor's clocks and heat under /sys; whatever cannot be read is left out.

Sources: the kernel's Documentation/admin-guide/pm/cpufreq.rst (governors), Documentation/hwmon/sysfs-interface.rst
(temperatures in millidegrees), Documentation/driver-api/thermal/sysfs-api.rst (zones and cooling devices), and for the
throttle counters arch/x86/kernel/cpu/mce/therm_throt.c. Those of a Jetson were not yet run on hardware.
"""

from __future__ import annotations

import math
from pathlib import Path

SYSFS = Path("/sys")

_CPU_CHIPS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal"})
"""Drivers in hwmon whose sensors sit in the processor: Intel, AMD (two), Arm boards."""
_CPU_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "tj-thermal")
"""Thermal zones of the processor; "tj" is a Jetson's hottest junction."""
_LIMITERS = ("cpufreq", "devfreq", "throttle-alert")
"""Parts of the types of those cooling devices that lower clocks while they are active; fans are others."""
_COLDEST_C, _HOTTEST_C = -50.0, 150.0
"""Sensors that are not connected answer with values outside."""


def text(path: Path) -> str:
    """Return a file's text without blanks around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> float | None:
    """Return the number in a file; None where there is none, or it is not finite."""
    try:
        value = float(text(path))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def governor(sysfs: Path = SYSFS) -> str:
    """Return the governors of the processor's clocks, each once; empty where the system has none to choose."""
    files = (sysfs / "devices/system/cpu/cpufreq").glob("policy*/scaling_governor")
    return " ".join(sorted({text(file) for file in files} - {""}))


def smt(sysfs: Path = SYSFS) -> str:
    """Return "on" where cores run two threads or more each, else "off"; empty where that is not known."""
    return {"1": "on", "0": "off"}.get(text(sysfs / "devices/system/cpu/smt/active"), "")


def cpu_temperature_c(sysfs: Path = SYSFS) -> float | None:
    """Return the temperature of the processor's hottest sensor; None where none is readable."""
    files = [
        file
        for chip in (sysfs / "class/hwmon").glob("hwmon*")
        if text(chip / "name") in _CPU_CHIPS
        for file in chip.glob("temp*_input")
    ]
    zones = (sysfs / "class/thermal").glob("thermal_zone*")
    files += [zone / "temp" for zone in zones if text(zone / "type").lower() in _CPU_ZONES]
    found = [value / 1000 for value in map(number, files) if value is not None]
    return max((value for value in found if _COLDEST_C < value < _HOTTEST_C), default=None)


def throttle_counts(sysfs: Path = SYSFS) -> dict[str, float]:
    """Return how often each core and package has been slowed by heat since the machine started, by counter.

    The threads of a core repeat its counter and all cores of a package theirs, so that counts must not be added.
    """
    return _counters(sysfs, "devices/system/cpu", "cpu*/thermal_throttle/*_throttle_count")


def overcurrent_counts(sysfs: Path = SYSFS) -> dict[str, float]:
    """Return how often a Jetson has been slowed for drawing too much current since it started, by counter.

    NVIDIA, "Jetson Linux Developer Guide", platform power and performance: soctherm's `oc1_event_cnt` to `oc3`.
    """
    return _counters(sysfs, "class/hwmon", "hwmon*/oc*_event_cnt")


def limiters(sysfs: Path = SYSFS) -> frozenset[str]:
    """Return the cooling devices that hold clocks down just now, by their types."""
    active = set()
    for device in (sysfs / "class/thermal").glob("cooling_device*"):
        kind = text(device / "type")
        limits = kind == "Processor" or any(part in kind for part in _LIMITERS)
        if limits and (number(device / "cur_state") or 0) > 0:
            active.add(kind)
    return frozenset(active)


def _counters(sysfs: Path, folder: str, pattern: str) -> dict[str, float]:
    read = ((str(file), number(file)) for file in (sysfs / folder).glob(pattern))
    return {name: value for name, value in read if value is not None}
