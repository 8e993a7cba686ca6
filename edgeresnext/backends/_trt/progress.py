"""TensorRT's progress interface, as percent of the whole build."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Phases:
    """Nested phases, each a part of one step of its parent."""

    def __init__(self) -> None:
        self._total: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._parent: dict[str, str | None] = {}
        self._percent = 0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase of `steps` steps, inside `parent` or at the top."""
        self._total[name], self._done[name], self._parent[name] = max(steps, 1), 0, parent

    def step(self, name: str, index: int) -> None:
        """Take note that the step `index`, from 0, is done."""
        self._done[name] = min(max(self._done.get(name, 0), index + 1), self._total.get(name, 1))

    def finish(self, name: str) -> None:
        """End a phase."""
        self._total.pop(name, None)

    @property
    def percent(self) -> int:
        """How far the outermost phase is; never less than before."""
        tops = [name for name in self._total if self._parent[name] not in self._total]
        if tops:
            self._percent = max(self._percent, int(100 * self._fraction(tops[0])))
        return self._percent

    def _fraction(self, name: str) -> float:
        inside = max((self._fraction(child) for child in self._total if self._parent[child] == name), default=0.0)
        return min(1.0, (self._done[name] + inside) / self._total[name])


def make_monitor(trt: Any, report: Callable[[int], None]) -> Any:
    """Return a progress monitor of module `trt` that reports each new percentage."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases = Phases()
            self._told = -1
            self._lock = threading.Lock()  # TensorRT calls from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._phases.step(phase_name, step)
                if self._phases.percent > self._told:
                    self._told = self._phases.percent
                    report(self._told)
            return True

    return Monitor()
