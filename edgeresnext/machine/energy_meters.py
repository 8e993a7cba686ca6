"""What counts joules: RAPL, NVML and a Jetson's INA3221. None of them was yet run on hardware.

Sources: the kernel's Documentation/power/powercap/powercap.rst (`energy_uj`, `max_energy_range_uj`) and
Documentation/hwmon/ina3221.rst (mV, mA, labels); NVIDIA, "NVML API Reference Guide"
(nvmlDeviceGetTotalEnergyConsumption: mJ since the driver was loaded, Volta and newer).
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.machine import nvml, sensors

_RAPL_S = 0.001
"""RAPL counters are renewed about every millisecond (Intel, "Software Developer's Manual", volume 3B)."""
_NVML_S = 0.1
"""NVML renews its values every 20 to 100 ms, by GPU (Yang, Adamek and Armour, "Part-time Power Measurements", 2024)."""
_INA_S = 0.02
"""Power is sampled this often: the chip takes 6.6 ms for its three rails (TI, "INA3221", default conversion times)."""


class MeterError(EdgeResNeXtError):
    """A meter that cannot be read any more, or stands still: a figure from it would be wrong."""


class Meter(ABC):
    """Something that counts joules, from `start` to `stop` at least.

    Attributes:
        source: What it is, and what it covers.
        resolution_s: How often its reading changes.
    """

    source: str
    resolution_s: float

    def start(self) -> None:  # noqa: B027 - most counters always run
        """Begin to count, where that takes anything."""

    def stop(self) -> None:  # noqa: B027 - the same
        """End what `start` began."""

    @abstractmethod
    def read_j(self) -> float:
        """Return joules since any fixed moment; never less than before, as long as the meter counts.

        Raises:
            MeterError: The meter cannot be read.
        """


class RaplMeter(Meter):
    """The energy of all processor packages, from the counters of the kernel's powercap.

    Args:
        zones: Their folders, such as /sys/class/powercap/intel-rapl:0.

    Raises:
        MeterError: A counter cannot be read.
    """

    resolution_s = _RAPL_S

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = zones
        self.source = "RAPL " + " + ".join(sensors.text(zone / "name") for zone in zones)
        self._last = [_microjoules(zone) for zone in zones]
        self._sum_uj = 0.0

    def read_j(self) -> float:
        """Return joules since this meter was made; a counter that began again at 0 is taken to have been full once.

        Raises:
            MeterError: A counter cannot be read, or fell and does not say how far it counts.
        """
        for index, zone in enumerate(self._zones):
            now, last = _microjoules(zone), self._last[index]
            risen = now - last
            if risen < 0:
                span = sensors.number(zone / "max_energy_range_uj")
                if span is None or span < last:
                    raise MeterError(f"{zone / 'energy_uj'} fell from {last:.0f} to {now:.0f} and its range is unknown")
                risen += span
            self._sum_uj += risen
            self._last[index] = now
        return self._sum_uj / 1e6


class NvmlMeter(Meter):
    """The energy of a GPU's board, counted by its driver.

    Args:
        board: The GPU.
    """

    source = "NVML total energy of the GPU board"
    resolution_s = _NVML_S

    def __init__(self, board: nvml.Board) -> None:
        self._board = board

    def read_j(self) -> float:
        """Return joules since the driver was loaded.

        Raises:
            MeterError: This GPU's energy is not counted.
        """
        millijoules = self._board.ask("nvmlDeviceGetTotalEnergyConsumption")
        if millijoules is None:
            raise MeterError("NVML does not count this GPU's energy: Volta and newer do")
        return float(millijoules) / 1000


class Ina3221Meter(Meter):
    """The energy of a Jetson's module: its power, sampled by a thread and summed by the trapezoid rule.

    Args:
        rails: Name, and the files with millivolts and milliamperes, of the rails that make up the module.
        clock: Seconds from any start.
    """

    resolution_s = _INA_S

    def __init__(self, rails: Sequence[tuple[str, Path, Path]], clock: Callable[[], float] = time.perf_counter) -> None:
        self._rails, self._clock = rails, clock
        self.source = "INA3221 module power " + " + ".join(name for name, _, _ in rails)
        self._sum_j = 0.0
        self._last: tuple[float, float] | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._error: MeterError | None = None

    def start(self) -> None:
        """Begin to sample; what passed since the last `stop` is not counted."""
        self._last = self._error = None
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="power meter", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End sampling."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        self._thread = None

    def read_j(self) -> float:
        """Return the joules counted so far, up to this moment.

        Raises:
            MeterError: A rail cannot be read, or could not be in between.
        """
        if self._error:  # a gap that the trapezoid rule would bridge with a straight line
            raise self._error
        with self._lock:
            now, watts = self._clock(), self._watts()
            if self._last is not None:
                since, before = self._last
                self._sum_j += (now - since) * (watts + before) / 2
            self._last = now, watts
            return self._sum_j

    def _run(self) -> None:
        while not self._ended.wait(_INA_S):
            try:
                self.read_j()
            except MeterError as error:
                self._error = error
                return

    def _watts(self) -> float:
        total = 0.0
        for name, volts, amperes in self._rails:
            millivolts, milliamperes = sensors.number(volts), sensors.number(amperes)
            if millivolts is None or milliamperes is None:
                raise MeterError(f"{self.source}: {name} cannot be read ({volts}, {amperes})")
            total += millivolts * milliamperes / 1e6
        return total


def _microjoules(zone: Path) -> float:
    value = sensors.number(zone / "energy_uj")
    if value is None or value < 0:
        raise MeterError(f"{zone / 'energy_uj'} cannot be read")
    return value
