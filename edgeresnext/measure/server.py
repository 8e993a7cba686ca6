"""Queries that arrive at random times, as in MLPerf's server scenario.

Arrivals are a Poisson process: gaps are exponential. Queries wait in one queue and are answered one at a time, in the
order of their arrival; latency counts from the arrival, waiting included. Either the rate is given, or the highest rate
is sought whose latency stays within a bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeresnext.backends.base import Session
from edgeresnext.measure.statistics import upper_bound

_SPIN_S = 0.001
"""The last millisecond before an arrival is spent looking at the clock: sleeping ends up to that late."""

_OVERLOADED = 0.98
"""Share of the time that a queue may be busy; above, its length depends on the length of the run alone."""

_HALVINGS = 30
STEP = 0.07
_TRIES = 6
"""A confirmed rate is approached in steps of 7 %: the simulation is that good, the machine not that steady."""

_ROUGH = 20_000
"""Simulated queries a rate: p99 of a simulation of so many is within some 3 %."""


class OverloadedError(Exception):  # never leaves this package
    """More queries arrive than can be answered."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The latencies of queries that arrived at a rate.

    Args:
        rate: Queries a second.
        latencies_s: From arrival to logits, in the order of arrival.
    """

    rate: float
    latencies_s: list[float]


def arrivals(rate: float, count: int, seed: int, least_s: float = 0.0) -> NDArray[np.float64]:
    """Return the seconds at which queries arrive: a Poisson process of `rate` a second.

    Args:
        rate: Queries a second.
        count: Queries at least.
        seed: Of the gaps.
        least_s: The last one arrives no sooner.
    """
    generator = np.random.default_rng(seed)
    due: NDArray[np.float64] = np.cumsum(generator.exponential(1 / rate, count))
    while due[-1] < least_s:
        due = np.append(due, due[-1] + generator.exponential(1 / rate))
    return due


def serve(
    session: Session,
    images: NDArray[np.uint8],
    due: NDArray[np.float64],
    *,
    give_up_s: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[float]:
    """Answer queries of one image as they arrive, and return the latency of each in seconds.

    Args:
        session: What answers; prepared for one image.
        images: uint8 `(n, H, W, 3)`, taken in turn.
        due: When each arrives, in seconds from the start.
        give_up_s: Latency at which the queue is taken for endless.
        clock: Seconds, monotonic.
        sleep: Waits for seconds, or a little longer.

    Raises:
        OverloadedError: A latency reached `give_up_s`.
        BackendError: The runtime failed.
    """
    latencies: list[float] = []
    start = clock()
    for index, arrival in enumerate(due.tolist()):
        while (ahead := start + arrival - clock()) > 0:
            sleep(max(ahead - _SPIN_S, 0.0))
        image = index % len(images)
        session.run(images[image : image + 1])
        latencies.append(clock() - start - arrival)
        if latencies[-1] > give_up_s:
            raise OverloadedError
    return latencies


def simulate(services_s: Sequence[float], rate: float, count: int = _ROUGH, seed: int = 0) -> NDArray[np.float64]:
    """Return the latencies of a queue whose service times are drawn from those measured.

    Lindley's recursion (1952, Math. Proc. Camb. Phil. Soc. 48, 277), without a loop: a query waits for the sum of what
    service exceeded the gaps since the queue was last empty.
    """
    generator = np.random.default_rng(seed)
    services = generator.choice(np.asarray(services_s, np.float64), count)
    gaps = generator.exponential(1 / rate, count)
    walk = np.concatenate([[0.0], np.cumsum(services[:-1] - gaps[1:])])
    waiting = walk - np.minimum.accumulate(walk)
    found: NDArray[np.float64] = waiting + services
    return found


def predicted_rate(services_s: Sequence[float], bound_s: float, share: float) -> float | None:
    """Return the highest rate at which the percentile of a share stays within a latency, by simulation.

    Returns:
        Queries a second; None where even a query that never waits is slower.
    """
    if float(np.quantile(services_s, share)) > bound_s:
        return None
    low, high = 0.0, _OVERLOADED / float(np.mean(services_s))
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        within = float(np.quantile(simulate(services_s, rate), share)) <= bound_s
        low, high = (rate, high) if within else (low, rate)
    return low or None


def capacity(services_s: Sequence[float]) -> float:
    """Return the queries a second that can be answered at most."""
    return 1 / float(np.mean(services_s))


def highest_rate(
    attempt: Callable[[float, int], list[float]],
    services_s: Sequence[float],
    bound_s: float,
    share: float,
    keep: Callable[[Served], object] = lambda _served: None,
) -> Served | None:
    """Return the highest rate that really kept the percentile's bound within a latency.

    The bound is MLPerf's, which takes queries to be independent. Those of a queue are not: the closer to saturation,
    the more runs of this length would miss the true percentile.

    The simulation proposes a rate, and queries really arrive at it: while it holds, 7 % more are tried, and 7 % fewer
    until it does, six rates in all.

    Args:
        attempt: Serves queries at a rate, whose arrivals a seed draws, and returns their latencies; raises
            OverloadedError.
        services_s: Service times, measured one at a time.
        bound_s: The latency.
        share: Of the percentile: 0.99.
        keep: Told of every rate that held, each higher than the one before.

    Returns:
        The best that held; None if no rate did.
    """
    rate = predicted_rate(services_s, bound_s, share)
    best: Served | None = None
    failed = False
    for seed in range(_TRIES if rate else 0):
        assert rate is not None
        try:
            latencies = attempt(rate, seed)
            bound = upper_bound(np.asarray(latencies), share)
        except OverloadedError:
            latencies, bound = [], None
        if bound is not None and bound <= bound_s:
            best = Served(rate=rate, latencies_s=latencies)
            keep(best)
            if failed:
                break
            rate *= 1 + STEP
        else:
            failed = True
            if best is not None:
                break
            rate *= 1 - STEP
    return best
