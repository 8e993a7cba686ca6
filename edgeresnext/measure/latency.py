"""Time sessions in turn, so that a machine that drifts slows all of them alike."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from edgeresnext.errors import EdgeResNeXtError
from edgeresnext.spec import Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edgeresnext.backends.base import Session

MIN_SAMPLES = {"p50": 8, "p90": 64, "p99": 662}
"""Samples under which the sample's percentile is not reported. For p90 and p99 the fewest queries from which MLPerf's
early stopping can bound them with 99 % confidence; for the median the smallest n whose extremes cover it with 99 %
confidence (2 * 0.5**n <= 0.01)."""

_NOISY = 2.0
"""p90 over p50 above which something else ran on the machine: on a quiet one it is 1.1 to 1.4."""

_SETTLE_S = 0.003
"""On two cores a 0.7 ms network still ran 30 % slow in the first run after another runtime, and not after 3 ms."""

_MAD_TO_SIGMA = 1.4826
_MEDIAN_TO_MEAN_ERROR = math.sqrt(math.pi / 2)
"""Asymptotic standard errors, normal distribution: sigma = 1.4826 MAD; se(median) = sqrt(pi / 2) sigma / sqrt(n)."""


def interleave(
    sessions: Mapping[str, Session],
    images: NDArray[np.uint8],
    batch: int,
    *,
    min_rounds: int,
    max_rounds: int,
    budget_s: float,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run every session once a round, on the same images, until the budget or `max_rounds` is reached.

    Before each timed run the session runs untimed, once and for at least 3 ms, so that caches and worker threads are
    its own and not those of the session before it.

    Args:
        sessions: What to time, by name.
        images: uint8 `(n, H, W, 3)`; batches are cut from it in turn and wrap around.
        batch: Images a run.
        min_rounds: Rounds that are run even when the budget is spent.
        max_rounds: Rounds after which it ends.
        budget_s: Seconds after which no further round begins.
        progress: Called with rounds done and the number expected.
        clock: Seconds, monotonic.

    Returns:
        Seconds a run by name, every sample kept, and the error message of each session that failed.
    """
    alive = dict(sessions)
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    failures: dict[str, str] = {}

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except EdgeResNeXtError as error:
            failures[name] = error.what
            del alive[name]
            samples[name].clear()

    first = _batch(images, batch, 0)
    for name in list(alive):
        attempt(name, lambda: alive[name].prepare(first))  # noqa: B023 - called at once

    start = clock()
    for done in range(max_rounds):
        inputs = _batch(images, batch, done)
        for name in list(alive):
            attempt(name, lambda: samples[name].append(_timed(alive[name], inputs, clock)))  # noqa: B023 - called at once
        elapsed = clock() - start
        expected = max(min_rounds, min(max_rounds, int(budget_s / elapsed * (done + 1)) if elapsed else max_rounds))
        progress(done + 1, expected)
        if not alive or (done + 1 >= min_rounds and elapsed >= budget_s):
            break
    return samples, failures


def _timed(session: Session, inputs: NDArray[np.uint8], clock: Callable[[], float]) -> float:
    """Return the seconds of one run, after untimed ones."""
    begin = clock()
    session.run(inputs)
    while clock() - begin < _SETTLE_S:
        session.run(inputs)
    begin = clock()
    session.run(inputs)
    return clock() - begin


def _batch(images: NDArray[np.uint8], batch: int, turn: int) -> NDArray[np.uint8]:
    """Return the batch of a round, wrapping around the images."""
    return images[np.arange(turn * batch, (turn + 1) * batch) % len(images)]


def summarise(samples: Sequence[float]) -> tuple[Latency, str]:
    """Return percentiles of the samples (seconds), and in words which need more samples and whether they are noisy."""
    found: dict[str, float | None] = {}
    lacking = []
    for name, needed in MIN_SAMPLES.items():
        enough = len(samples) >= needed
        found[name] = float(np.percentile(samples, int(name[1:]))) if enough else None
        if not enough:
            lacking.append(f"{name} needs {needed}")
    latency = Latency(
        p50=found["p50"],
        p90=found["p90"],
        p99=found["p99"],
        mean=float(np.mean(samples)),
        min=min(samples),
        max=max(samples),
    )
    notes = [f"{len(samples)} samples: {', '.join(lacking)}"] if lacking else []
    if latency.p50 and latency.p90 and latency.p90 > _NOISY * latency.p50:
        notes.append(f"noisy: p90 is {latency.p90 / latency.p50:.1f} times the median; repeat on a quiet machine")
    return latency, "; ".join(notes)


def speedup(baseline: Sequence[float], samples: Sequence[float]) -> tuple[float, float]:
    """Return the ratio of median latencies, and its standard error.

    The relative errors of the two medians add in quadrature (propagation of error for a quotient); each is estimated
    from the median absolute deviation, which slow outliers do not move.
    """
    ratio = float(np.median(baseline) / np.median(samples))
    relative = math.hypot(_relative_error(baseline), _relative_error(samples))
    return ratio, ratio * relative


def _relative_error(samples: Sequence[float]) -> float:
    """Return the standard error of the median over the median."""
    middle = float(np.median(samples))
    deviation = float(np.median(np.abs(np.asarray(samples) - middle))) * _MAD_TO_SIGMA
    return _MEDIAN_TO_MEAN_ERROR * deviation / math.sqrt(len(samples)) / middle
