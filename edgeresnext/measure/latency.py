"""Time sessions in turn, so that a machine that drifts slows all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.base import Session
from edgeresnext.errors import EdgeResNeXtError

_SETTLE_S = 0.003
"""On two cores a 0.7 ms network still ran 30 % slow in the first run after another runtime, and not after 3 ms."""

_WINDOW_RUNS, _WINDOW_S = 3, 0.05
_WINDOWS, _MOST_WINDOWS = 3, 20
_AGREE = 0.10
"""Warm-up ends when the medians of the last three windows agree within 10 % (perf_analyzer's rule)."""


@dataclass(kw_only=True)
class Record:
    """What was timed, filled while it goes on, so that an interrupted run keeps what it has.

    Args:
        samples: Seconds a run by session, every sample kept.
        failures: Error message of each session that failed.
        notes: What is to be known of a session's figures, a sentence each.
        details: What a session chose for itself, by session.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)


class Turns:
    """Sessions that take turns; one that fails leaves, and the others go on.

    Args:
        sessions: By name.
        record: Takes the failures.
    """

    def __init__(self, sessions: Mapping[str, Session], record: Record) -> None:
        self.alive = dict(sessions)
        self._record = record
        self._order = random.Random(0)  # noqa: S311 - reproducible, not secret

    def each(self, action: Callable[[str, Session], object]) -> None:
        """Call `action` with every session that has not failed, in an order that a seed draws anew each time.

        In a fixed order each would always follow the same one, and inherit the same caches.
        """
        sessions = list(self.alive.items())
        self._order.shuffle(sessions)
        for name, session in sessions:
            try:
                action(name, session)
            except EdgeResNeXtError as error:
                self._record.failures[name] = error.what
                del self.alive[name]


def interleave(
    sessions: Mapping[str, Session],
    images: NDArray[np.uint8],
    batch: int,
    *,
    min_rounds: int,
    max_rounds: int | None,
    budget_s: float,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
    record: Record | None = None,
    warm: bool = True,
    turn_s: float = 0.0,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run every session once a round, on the same images, until the budget or `max_rounds` is reached.

    First each session chooses how to run this batch, and is warmed up. Before each timed run it runs untimed, once and
    for at least 3 ms, so that caches and worker threads are its own and not those of the session before it.

    Args:
        sessions: What to time, by name.
        images: uint8 `(n, H, W, 3)`; batches are cut from it in turn and wrap around.
        batch: Images a run.
        min_rounds: Rounds that are run even when the budget is spent.
        max_rounds: Rounds after which it ends; None is no limit.
        budget_s: Seconds after which no further round begins.
        progress: Called with rounds done and the number expected.
        clock: Seconds, monotonic.
        record: Filled while it goes on; a new one if None.
        warm: Warm up until it settles; not for a quick look at which is faster.
        turn_s: Go on with timed runs for so long in each turn, so that hardly any time is spent on untimed ones; the
            budget is then what each session must have been timed for.

    Returns:
        Seconds a run by name, every sample kept, and the error message of each session that failed.
    """
    record = record or Record()
    turns = Turns(sessions, record)
    first = batch_of(images, batch, 0)

    def start(name: str, session: Session) -> None:
        session.prepare(first)
        notes = (warm_up(session, first, clock) if warm else "", _pieces(session, batch))
        record.notes[name] = tuple(filter(None, notes))
        record.samples[name] = []
        record.details[name] = session.detail

    turns.each(start)
    begin = clock()
    done = 0
    while turns.alive and (max_rounds is None or done < max_rounds):
        inputs = batch_of(images, batch, done)

        def once(name: str, session: Session, inputs: NDArray[np.uint8] = inputs) -> None:
            record.samples[name].append(timed(session, inputs, clock))
            turn = clock()
            while clock() - turn < turn_s:
                start = clock()
                session.run(inputs)
                record.samples[name].append(clock() - start)

        turns.each(once)
        done += 1
        elapsed = min((sum(record.samples[name]) for name in turns.alive), default=0.0) if turn_s else clock() - begin
        progress(done, _expected(done, elapsed, 1 if turn_s else min_rounds, max_rounds, budget_s))
        fewest = min((len(record.samples[name]) for name in turns.alive), default=0)
        if fewest >= min_rounds and elapsed >= budget_s:
            break
    return {name: record.samples.get(name, []) for name in sessions}, record.failures


def _pieces(session: Session, batch: int) -> str:
    """Say where a runtime does not take a batch as it is."""
    if session.largest is not None and batch > session.largest:
        return f"the batch of {batch} is run in pieces of {session.largest}"
    return f"the batch of {batch} is filled up to {session.smallest}" if batch < session.smallest else ""


def _expected(done: int, elapsed: float, min_rounds: int, max_rounds: int | None, budget_s: float) -> int:
    """Return how many rounds there will be if they go on like this."""
    within = int(budget_s / elapsed * done) if elapsed else done
    return max(min_rounds, done, within if max_rounds is None else min(max_rounds, within))


def warm_up(session: Session, inputs: NDArray[np.uint8], clock: Callable[[], float] = time.perf_counter) -> str:
    """Run until the medians of three windows in a row agree within 10 %.

    A window is three runs and 50 ms at least.

    Returns:
        Nothing, or that this did not happen within twenty windows.
    """
    medians: list[float] = []
    for _ in range(_MOST_WINDOWS):
        window: list[float] = []
        begin = clock()
        while len(window) < _WINDOW_RUNS or clock() - begin < _WINDOW_S:
            start = clock()
            session.run(inputs)
            window.append(clock() - start)
        medians.append(median(window))
        last = medians[-_WINDOWS:]
        if len(last) == _WINDOWS and max(last) <= (1 + _AGREE) * min(last):
            return ""
    return f"never settled: its last three windows of warm-up differ by {max(last) / min(last) - 1:.0%}"


def timed(session: Session, inputs: NDArray[np.uint8], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one run, after untimed ones."""
    settle(session, inputs, clock)
    begin = clock()
    session.run(inputs)
    return clock() - begin


def settle(session: Session, inputs: NDArray[np.uint8], clock: Callable[[], float] = time.perf_counter) -> None:
    """Run untimed, once and for at least 3 ms, until caches and worker threads are this session's own."""
    begin = clock()
    session.run(inputs)
    while clock() - begin < _SETTLE_S:
        session.run(inputs)


def batch_of(images: NDArray[np.uint8], batch: int, turn: int) -> NDArray[np.uint8]:
    """Return the batch of a round, wrapping around the images."""
    return images[np.arange(turn * batch, (turn + 1) * batch) % len(images)]
