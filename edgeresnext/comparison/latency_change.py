"""Whether latencies changed between two runs, where samples are no independent draws."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeresnext.spec import Value

SpeedVerdict = Literal["slower", "faster", "no difference"]

MIN_SAMPLES = 8
"""Samples a run under which nothing is said: fewer than 8 blocks tell too little of how much blocks differ."""

_Z_99 = 2.575829
"""Two-sided 99 % of the normal distribution."""


class Change(Value, frozen=True, kw_only=True):
    """How a latency changed: `ratio` is new over old (1.1: 10 % slower), `interval` its 99 % interval.

    `resolution` is the ratio above which this comparison would have said "slower" at this noise; its inverse is that of
    "faster". A change that is smaller may have been missed.
    """

    ratio: float
    interval: tuple[float, float]
    resolution: float
    verdict: SpeedVerdict

    @property
    def certain(self) -> bool:
        """Whether anything changed at all, by however little."""
        return not self.interval[0] <= 1 <= self.interval[1]


def change(old: NDArray[np.float64], new: NDArray[np.float64], threshold: float) -> Change:
    """Compare two runs by the logarithms of their block medians.

    Neighbouring samples resemble each other (clock, temperature, neighbours on the machine), so the error of a median
    over all samples, taken as independent draws, is too small. Medians of long contiguous blocks are nearly independent
    (batch means: Schmeiser 1982, Operations Research 30, 556), and outliers do not move them. With means m, variances v
    and numbers k of the logarithms of block medians, in the old run and in the new one, the interval is

        exp(m_new - m_old ± t sqrt(v_old / k_old + v_new / k_new))

    t being Student's 99.5 % quantile with Welch's degrees of freedom (Welch 1947, Biometrika 34, 28). It is called a
    difference only where the whole interval lies beyond the threshold. What differs between runs but is constant
    within each (the memory layout, the place on the machine) no single run can show; Kalibera and Jones (2013,
    "Rigorous Benchmarking in Reasonable Time") repeat runs for that, and here the threshold has to cover it.

    Args:
        old: Logarithms of the old run's block medians, two or more.
        new: Those of the new run.
        threshold: The relative change that does not matter: 0.03 calls nothing between 1 / 1.03 and 1.03.
    """
    parts = [float(run.var(ddof=1)) / len(run) for run in (old, new)]
    variance = sum(parts)
    half = 0.0
    if variance:
        freedom = variance**2 / sum(part**2 / (len(run) - 1) for part, run in zip(parts, (old, new), strict=True))
        half = t_quantile(freedom) * math.sqrt(variance)
    middle = float(new.mean() - old.mean())
    limit = math.log1p(threshold)
    verdict: SpeedVerdict = "no difference"
    if middle - half > limit:
        verdict = "slower"
    elif middle + half < -limit:
        verdict = "faster"
    return Change(
        ratio=math.exp(middle),
        interval=(math.exp(middle - half), math.exp(middle + half)),
        resolution=math.exp(limit + half),
        verdict=verdict,
    )


def t_quantile(freedom: float) -> float:
    """Return Student's 99.5 % quantile (Abramowitz and Stegun 1964, 26.7.5), to 0.2 % from 7 degrees of freedom on."""
    z = _Z_99
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
