"""What a finite number of images can say: intervals and tests for shares, in closed form."""

from __future__ import annotations

import math

_Z_95 = 1.959964
"""Two-sided 95 % of the normal distribution."""


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
    flips, fewer = lost + gained, min(lost, gained)
    logarithms = [
        math.lgamma(flips + 1) - math.lgamma(k + 1) - math.lgamma(flips - k + 1) - flips * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(one) for one in logarithms))
