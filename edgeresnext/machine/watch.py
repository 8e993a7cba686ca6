"""What else happened on the machine during a benchmark: other programs, a hypervisor, heat.

Sources: proc(5), /proc/stat and /proc/PID/stat (times in ticks of 10 ms); `sensors` and `nvml` for the rest. What is
read from NVML and from a Jetson was not yet run on hardware.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from edgeresnext.machine import nvml, sensors

T = TypeVar("T")

BUSY_OTHERS = 0.05
"""Share of all cores' time that other programs may take without a warning. A quiet server of two cores was seen to take
0 to 1 %; 5 % of four cores is a fifth of one, enough to delay one of four threads that meet after every layer."""
STOLEN = 0.02
"""Share of the time that the hypervisor may give to others without a warning. It comes in pieces of milliseconds, which
make the slowest runs slower long before they show in a mean."""
GPU_THROTTLED = 0.01
"""Share of the time for which the GPU's clocks may be held down without a warning: less does not move a median."""
SHORTEST_S = 1.0
"""Shorter benchmarks are not judged: with ticks of 10 ms, half a second of two cores is known to 1 % at best."""
_SAMPLE_S = 0.5
"""`sample` looks at sensors at most this often: a look takes up to a millisecond."""

_TWICE = frozenset({"guest", "guest_nice", "interrupt", "dpc"})
"""Fields that others include: guests are part of user and nice (proc(5)), interrupts of system on Windows (psutil)."""
_UNREADABLE = (psutil.Error, OSError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError)
"""What sensors and psutil answer with where they cannot tell. Watching must not end a benchmark."""


@dataclass(frozen=True, kw_only=True)
class CpuTimes:
    """Seconds of all cores since the machine started, and of this process with its children.

    Args:
        total: All of it, cores times time.
        busy: Spent on programs and the kernel.
        stolen: Given by the hypervisor to other machines.
        own: Of `busy`, this process and its children, living or ended.
    """

    total: float
    busy: float
    stolen: float
    own: float


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    at_s: float
    cpu: CpuTimes | None
    load: float | None
    temperature_c: float | None
    gpu_temperature_c: float | None
    governor: str
    hot: Mapping[str, float] = field(default_factory=dict)
    overcurrent: Mapping[str, float] = field(default_factory=dict)
    gpu_throttled_s: Mapping[str, float] = field(default_factory=dict)


class MachineWatch:
    """Watches the machine while a benchmark runs; it never raises, and leaves out what it cannot read.

        with MachineWatch() as watch:
            ...
            watch.sample()  # now and then, outside of what is timed
        watch.facts(), watch.warnings()

    Args:
        sysfs: Where the kernel's files are looked for.
        clock: Seconds from any start.
        cpu_times: Reads the processor's times.
    """

    def __init__(
        self,
        *,
        sysfs: Path = sensors.SYSFS,
        clock: Callable[[], float] = time.monotonic,
        cpu_times: Callable[[], CpuTimes] | None = None,
    ) -> None:
        self._sysfs, self._clock, self._cpu_times = sysfs, clock, cpu_times or read_cpu_times
        self._board: nvml.Board | None = None
        self._before: _Snapshot | None = None
        self._after: _Snapshot | None = None
        self._sampled_s = float("-inf")
        self._limiters: frozenset[str] = frozenset()
        self._gpu_reasons: frozenset[str] = frozenset()

    def __enter__(self) -> MachineWatch:  # noqa: PYI034  # typing.Self is newer than Python 3.10
        self._board = _or(lambda: nvml.find_board()[0], None)
        self._before, self._after = self._snapshot(), None
        self._limiters = self._gpu_reasons = frozenset()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()  # first: clocks rise again as soon as the load is gone
        self._after = self._snapshot()

    def sample(self) -> None:
        """Look whether clocks are held down just now; called between runs, so that a passing heat is seen too."""
        if self._clock() - self._sampled_s >= _SAMPLE_S:
            self._look()
            self._sampled_s = self._clock()

    def facts(self) -> dict[str, str]:
        """Return what was seen, by name; "45 -> 61" is before and after. Empty before the end."""
        if self._before is None or self._after is None:
            return {}
        before, after = self._before, self._after
        found = {
            **self._shares(),
            "load_1min": _change(before.load, after.load, ".2f"),
            "temperature_c": _change(before.temperature_c, after.temperature_c, ".0f"),
            "gpu_temperature_c": _change(before.gpu_temperature_c, after.gpu_temperature_c, ".0f"),
            "governor": " -> ".join(dict.fromkeys((before.governor, after.governor))),
            "cpu_throttled": _times(_largest_rise(before.hot, after.hot)),
            "cpu_held_down_by": " ".join(sorted(self._limiters)),
            "overcurrent": _times(_largest_rise(before.overcurrent, after.overcurrent)),
            "gpu_throttle": "; ".join(sorted(self._gpu_throttling())),
        }
        return {name: value for name, value in found.items() if value}

    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for each thing that may have moved the figures: what happened, and what to do."""
        if self._before is None or self._after is None:
            return ()
        hot = _largest_rise(self._before.hot, self._after.hot)
        drawn = _largest_rise(self._before.overcurrent, self._after.overcurrent)
        limiters, reasons = " ".join(sorted(self._limiters)), "; ".join(sorted(self._gpu_throttling()))
        powersave = "powersave" in self._after.governor.split()
        cool = "let it cool, improve its cooling and repeat"
        power = "take a lower power mode or a stronger supply"
        found = (
            self._others_warning(),
            self._stolen_warning(),
            f"the processor throttled {_times(hot)} (too hot): {cool}" if hot else "",
            f"clocks were held down because of heat ({limiters}): {cool}" if limiters else "",
            f"the board drew too much current and was slowed {_times(drawn)}: {power}" if drawn else "",
            f"the GPU's clocks were held down ({reasons}): nvidia-smi -q -d PERFORMANCE tells more" if reasons else "",
            "governor is powersave: sudo cpupower frequency-set -g performance" if powersave else "",
        )
        return tuple(filter(None, found))

    def _others_warning(self) -> str:
        used = self._used()
        if used is None or _others(used) <= BUSY_OTHERS:
            return ""
        share = f"{100 * _others(used):.0f} %"
        return f"other programs took {share} of the processor during the benchmark: close them (see top) and repeat"

    def _stolen_warning(self) -> str:
        used = self._used()
        if used is None or used.stolen / used.total <= STOLEN:
            return ""
        share = f"{100 * used.stolen / used.total:.0f} %"
        return f"the hypervisor took {share} of the processor for other machines: repeat at a quieter time or elsewhere"

    def _shares(self) -> dict[str, str]:
        used = self._used()
        if used is None:
            return {}
        count = os.cpu_count() or 1
        return {
            "busy_others": f"{100 * _others(used):.0f} % of {count} core{'' if count == 1 else 's'}",
            "steal": f"{100 * used.stolen / used.total:.1f} %",
        }

    def _used(self) -> CpuTimes | None:
        """Return the seconds that passed between before and after; None where they are unknown or too few to judge."""
        before, after = self._before, self._after
        if before is None or after is None or before.cpu is None or after.cpu is None:
            return None
        was, now = before.cpu, after.cpu
        if after.at_s - before.at_s < SHORTEST_S or now.total <= was.total:
            return None
        return CpuTimes(
            total=now.total - was.total,
            busy=now.busy - was.busy,
            stolen=max(0.0, now.stolen - was.stolen),  # some kernels have let it fall back
            own=now.own - was.own,
        )

    def _gpu_throttling(self) -> frozenset[str]:
        """Return the reasons seen in looks, and those that the GPU's own counters have for long enough."""
        assert self._before is not None
        assert self._after is not None
        least = GPU_THROTTLED * (self._after.at_s - self._before.at_s)
        was = self._before.gpu_throttled_s
        counted = {reason for reason, now in self._after.gpu_throttled_s.items() if now - was.get(reason, now) > least}
        return self._gpu_reasons | counted

    def _look(self) -> None:
        nothing: frozenset[str] = frozenset()
        self._limiters |= _or(lambda: sensors.limiters(self._sysfs), nothing)
        if self._board:
            self._gpu_reasons |= _or(self._board.throttle_reasons, nothing)

    def _snapshot(self) -> _Snapshot:
        board, sysfs = self._board, self._sysfs
        return _Snapshot(
            at_s=self._clock(),
            cpu=_or(self._cpu_times, None),
            load=_or(lambda: os.getloadavg()[0], None),
            temperature_c=_or(lambda: sensors.cpu_temperature_c(sysfs), None),
            gpu_temperature_c=_or(board.temperature_c, None) if board else None,
            governor=_or(lambda: sensors.governor(sysfs), ""),
            hot=_or(lambda: sensors.throttle_counts(sysfs), {}),
            overcurrent=_or(lambda: sensors.overcurrent_counts(sysfs), {}),
            gpu_throttled_s=_or(board.throttled_s, {}) if board else {},
        )


def read_cpu_times() -> CpuTimes:
    """Return the times of the machine and of this process with its children, living and ended."""
    fields = {name: value for name, value in psutil.cpu_times()._asdict().items() if name not in _TWICE}
    stolen, total = fields.get("steal", 0.0), sum(fields.values())
    idle = fields.get("idle", 0.0) + fields.get("iowait", 0.0)
    own = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.Error):  # one that ended just now: its time has become its parent's
            times = process.cpu_times()
            own += times.user + times.system + times.children_user + times.children_system
    return CpuTimes(total=total, busy=total - idle - stolen, stolen=stolen, own=own)


def _others(used: CpuTimes) -> float:
    """Return the share of the time that programs other than this one took; ticks may make it less than nothing."""
    return max(0.0, used.busy - used.own) / used.total


def _largest_rise(before: Mapping[str, float], after: Mapping[str, float]) -> int:
    """Return the rise of the counter that rose most: several may count the same event."""
    return int(max((now - before[name] for name, now in after.items() if name in before), default=0))


def _times(count: int) -> str:
    return f"{count} time{'' if count == 1 else 's'}" if count > 0 else ""


def _change(before: float | None, after: float | None, form: str) -> str:
    """Return "45 -> 61", or the one that is known."""
    return " -> ".join(f"{value:{form}}" for value in (before, after) if value is not None)


def _or(read: Callable[[], T], default: T) -> T:
    """Return what is read, or the default where it cannot be."""
    try:
        return read()
    except _UNREADABLE:
        return default
