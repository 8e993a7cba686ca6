"""What a finite number of samples can say: percentiles with bounds, outliers, drift, ratios, intervals and tests."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeresnext.measure.results import Latency

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p97": 0.97, "p99": 0.99, "p99_9": 0.999}
CONFIDENCE = 0.99
"""That of the percentiles' bounds, as MLPerf Inference has it."""

OUTLIER_SCORE = 14.826
"""Distance from the median, in median absolute deviations, above which a sample is called an outlier (hyperfine's
threshold for the modified z-score of Iglewicz and Hoaglin 1993)."""

_Z_95 = 1.959964
"""Two-sided 95 % of the normal distribution."""

_MAD_TO_SIGMA = 1.4826
_MEDIAN_TO_MEAN_ERROR = math.sqrt(math.pi / 2)
"""Asymptotic standard errors, normal distribution: sigma = 1.4826 MAD; se(median) = sqrt(pi / 2) sigma / sqrt(n)."""

_MIN_DRIFT_SAMPLES = 8

_MIN_BLOCKS, _MAX_BLOCKS, _BLOCK = 8, 16, 4
"""At least 8 blocks, or the t quantile grows; at most 16, so that a block of a long run outlasts what ties neighbouring
samples together; 4 samples a block where there are too few for both, as the median of 4 ignores one outlier."""


@functools.cache
def samples_needed(share: float) -> int:
    """Return the fewest samples from which the percentile of a share (0.9) can be bounded: p90 64, p99 662.

    Those of which all, or all but one, lie under a percentile with no more than 1 % probability (MLPerf Inference,
    "Early stopping").
    """
    count = 2
    while share**count + count * (1 - share) * share ** (count - 1) > 1 - CONFIDENCE:
        count += 1
    return count


def upper_bound(samples: NDArray[np.float64], share: float) -> float | None:
    """Return the latency under which a percentile lies with 99 % confidence; None with too few samples.

    MLPerf's early stopping: t is the largest number of over-latency samples among n for which a binomial(n, 1 - share)
    variable is at most t with no more than 1 % probability; the t - 1 slowest are passed over, the next is the bound.
    """
    count = len(samples)
    if count < samples_needed(share):
        return None
    over = int(np.searchsorted(np.cumsum(_binomial(count, 1 - share)), 1 - CONFIDENCE, side="right")) - 1
    return float(np.partition(samples, count - over)[count - over])


def _binomial(count: int, share: float) -> NDArray[np.float64]:
    """Return the probabilities of 0 to `count` successes."""
    k = np.arange(count + 1)
    factorial = _log_factorials(count)
    logarithms = factorial[-1] - factorial - factorial[::-1] + k * math.log(share) + (count - k) * math.log1p(-share)
    found: NDArray[np.float64] = np.exp(logarithms)
    return found


@functools.lru_cache(maxsize=4)
def _log_factorials(count: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])


def summarise(samples: Sequence[float]) -> tuple[Latency, str]:
    """Return the distribution of latencies (seconds, in the order they were taken), and in words what it lacks."""
    values = np.asarray(samples, np.float64)
    found: dict[str, float | None] = {}
    bounds: dict[str, float] = {}
    for name, share in PERCENTILES.items():
        bound = upper_bound(values, share)
        found[name] = None if bound is None else float(np.quantile(values, share))
        if bound is not None:
            bounds[name] = bound
    lacking = [
        f"{name} needs {samples_needed(PERCENTILES[name])}" for name in ("p50", "p90", "p99") if found[name] is None
    ]
    latency = Latency(
        **found,
        mean=float(values.mean()),
        min=float(values.min()),
        max=float(values.max()),
        bound=bounds,
        variation=float(values.std(ddof=1) / values.mean()) if len(values) > 1 else None,
        outliers=count_outliers(values),
        drift=drift(values),
    )
    return latency, f"{len(samples)} samples: {', '.join(lacking)}" if lacking else ""


def count_outliers(values: NDArray[np.float64]) -> int:
    """Return how many samples lie further from the median than 14.826 median absolute deviations."""
    distance = np.abs(values - np.median(values))
    deviation = np.median(distance)
    return int((distance > OUTLIER_SCORE * deviation).sum()) if deviation > 0 else 0


def drift(values: NDArray[np.float64]) -> float | None:
    """Return how much slower the last quarter of the samples was than the first (medians; 0.05 is 5 %)."""
    if len(values) < _MIN_DRIFT_SAMPLES:
        return None
    quarter = len(values) // 4
    return float(np.median(values[-quarter:]) / np.median(values[:quarter]) - 1)


def speedup(baseline: Sequence[float], samples: Sequence[float], *, total: bool = False) -> tuple[float, float]:
    """Return the ratio of median latencies, or of total time, and its standard error within this run.

    Both ran in turn: the ratio is taken in blocks of neighbouring rounds, whose spread is the error. Neighbouring
    samples resemble each other, so an error of medians of independent draws would be too small (batch means: Schmeiser
    1982, Operations Research 30, 556). Below 8 samples there are no blocks, and it is propagated from the median
    absolute deviations of both.

    Args:
        baseline: Seconds, in the order of measurement.
        samples: Seconds of the other, from the same rounds.
        total: Compare throughput: total time instead of medians.
    """
    middle = np.mean if total else np.median
    ratio = float(middle(baseline) / middle(samples))
    count = min(len(baseline), len(samples))
    if count < _MIN_BLOCKS:
        return ratio, ratio * math.hypot(_relative_error(baseline), _relative_error(samples))
    blocks = blocks_of(count)
    ratios = block_medians(baseline, blocks) - block_medians(samples, blocks)
    return ratio, ratio * float(ratios.std(ddof=1)) / math.sqrt(blocks)


def block_medians(samples: Sequence[float], blocks: int) -> NDArray[np.float64]:
    """Return the logarithm of the median of each contiguous block, blocks differing by one sample at most.

    Args:
        samples: Seconds, positive, in the order of measurement.
        blocks: How many, `len(samples)` at most.
    """
    return np.log([np.median(block) for block in np.array_split(np.asarray(samples, dtype=np.float64), blocks)])


def blocks_of(count: int) -> int:
    """Return into how many blocks so many samples are cut."""
    return min(_MAX_BLOCKS, max(_MIN_BLOCKS, count // _BLOCK))


def _relative_error(samples: Sequence[float]) -> float:
    """Return the standard error of the median over the median."""
    middle = float(np.median(samples))
    deviation = float(np.median(np.abs(np.asarray(samples) - middle))) * _MAD_TO_SIGMA
    return _MEDIAN_TO_MEAN_ERROR * deviation / math.sqrt(len(samples)) / middle


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209), which never leaves [0, 1].

    Args:
        successes: How often it happened.
        count: Of how many, 1 or more.
    """
    share, square = successes / count, _Z_95**2 / count
    centre = share + square / 2
    half = _Z_95 * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def mcnemar(lost: int, gained: int) -> float:
    """Return the probability of flips at least this uneven if both classifiers were equally good.

    McNemar's test (1947, Psychometrika 12, 153), exact: flips each way are tosses of a fair coin.

    Args:
        lost: Images that the first alone classifies right.
        gained: Images that the second alone classifies right.
    """
    return min(1.0, 2 * float(_binomial(lost + gained, 0.5)[: min(lost, gained) + 1].sum()))
