"""Joules an image, from a counter or a power sensor that the machine has; not available where it has none.

| where | meter | what it covers |
|---|---|---|
| PC, CPU | RAPL | the processor packages, without memory, disk and supply |
| PC, GPU | NVML | the GPU's board; the processor that feeds it is not in it |
| Jetson | INA3221 | the whole module, CPU, GPU and memory together |

Idle power is in all of them: it is what the machine draws while it works. No meter was yet run on hardware: the machine
that this was written on has none.

Sources: the kernel's Documentation/power/powercap/powercap.rst (zones) and Documentation/hwmon/ina3221.rst (labels);
NVIDIA, "Jetson Linux Developer Guide" (rails of the power monitors).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgeresnext.machine import jetson, nvml, sensors
from edgeresnext.machine.energy_meters import Ina3221Meter, Meter, MeterError, NvmlMeter, RaplMeter

SECONDS = 2.0
"""Time that a figure is taken over, at least: shorter ones catch the clocks while they still change."""
RESOLUTIONS = 50
"""A figure is taken over at least so many steps of its meter, so that beginning and end are wrong by 2 % at most."""

_REREAD_S = 1.0
"""A counter is read about this often, so that it cannot begin again twice unseen: one of 32 bits with steps of 15 uJ is
full after 160 s at 400 W. A reading takes some 30 us."""

_MODULE_RAILS = (("VDD_IN",), ("VIN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
"""Rails whose sum is the module's power, the first that are all there: Orin NX and Nano; an input of another name; AGX
Orin, which has no sensor for its input (VDDQ_VDD2_1V8AO, at the same 5 V, is taken to lie behind VIN_SYS_5V0)."""


def find_meter(device: Literal["cpu", "gpu"], sysfs: Path = sensors.SYSFS) -> tuple[Meter | None, str]:
    """Return the meter for work on the device, or None and the reason in words, with the way out.

    Args:
        device: Where the artefact runs. On a Jetson the module's meter covers both.
        sysfs: Where the kernel's files are looked for.
    """
    if jetson.linux_release() is not None:
        return _ina3221(sysfs)
    return _rapl(sysfs) if device == "cpu" else _nvml()


def joules_an_image(
    meter: Meter,
    run: Callable[[], int],
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Return joules an image and images a second, both from the same loop; the caller has warmed it up.

    Args:
        meter: What counts the joules.
        run: Classifies some images and returns how many.
        seconds: Loop at least so long, and at least `RESOLUTIONS` steps of the meter.
        clock: Seconds from any start.

    Raises:
        MeterError: The meter cannot be read, or stood still.
    """
    least = max(seconds, RESOLUTIONS * meter.resolution_s)
    images = 0
    meter.start()
    try:
        first_j, begin = meter.read_j(), clock()
        now = reread = begin
        while now - begin < least:
            images += run()
            now = clock()
            if now - reread > _REREAD_S:
                meter.read_j()
                reread = now
        joules = meter.read_j() - first_j
    finally:
        meter.stop()
    if images <= 0:
        raise MeterError(f"no image was classified in {now - begin:.1f} s")
    if not joules > 0:
        raise MeterError(f"{meter.source} stood still for {now - begin:.1f} s")
    return joules / images, images / (now - begin)


def _rapl(sysfs: Path) -> tuple[Meter | None, str]:
    """Find the packages; AMD's processors use the same names. `intel-rapl-mmio` repeats the first package."""
    root = sysfs / "class/powercap"
    if not root.is_dir():
        return None, f"this machine has no RAPL: {root} does not exist"
    zones = sorted(
        zone
        for zone in root.glob("intel-rapl:*")
        if zone.name.count(":") == 1 and sensors.text(zone / "name").startswith("package")
    )
    if not zones:
        return None, f"this machine has no RAPL: {root} lists no processor package"
    try:
        return RaplMeter(zones), ""
    except MeterError as error:
        denied = next((zone for zone in zones if _is_denied(zone / "energy_uj")), None)
        if denied is None:
            return None, f"no RAPL counter is readable: {error.what}"
        way_out = f"sudo chmod a+r {root}/intel-rapl:*/energy_uj (until the machine starts again)"
        return None, f"no RAPL counter is readable: {denied / 'energy_uj'} needs root; {way_out}"


def _is_denied(file: Path) -> bool:
    """Return whether the file is there for others only: Linux gives RAPL to root alone since CVE-2020-8694."""
    try:
        file.read_text(encoding="utf-8")
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _nvml() -> tuple[Meter | None, str]:
    board, reason = nvml.find_board()
    if board is None:
        return None, reason
    return _readable(NvmlMeter(board))


def _ina3221(sysfs: Path) -> tuple[Meter | None, str]:
    root = sysfs / "bus/i2c/drivers/ina3221"
    rails = {}
    for label in sorted(root.glob("*/hwmon/hwmon*/in[123]_label")):
        number = label.name[2]
        rails[sensors.text(label)] = (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
    names = next((names for names in _MODULE_RAILS if rails.keys() >= set(names)), None)
    if names is None:
        labels = ", ".join(sorted(filter(None, rails))) or "none"
        return None, f"this Jetson does not tell its module's power: rails under {root} are {labels}"
    return _readable(Ina3221Meter([(name, *rails[name]) for name in names]))


def _readable(meter: Meter) -> tuple[Meter | None, str]:
    """Return a meter that can be read, or None and the reason why it cannot."""
    try:
        meter.read_j()
    except MeterError as error:
        return None, error.what
    return meter, ""
