"""From the histogram of a tensor to the threshold at which quantisation clips it: max, percentile, MSE or entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeresnext.errors import RequestError

BINS = 4096
"""Bins of a histogram. The range is a power of two, so between 2,048 and 4,096 of them lie under the maximum."""

DEFAULT_PERCENTILE = 99.999

STANDARD = ("max", "percentile:99.9", "percentile:99.99", "percentile:99.999", "mse", "entropy")
"""The methods whose thresholds every calibration finds."""

_IMAGE_DIMENSIONS = 4
_SMALLEST = 1e-30
"""A tensor with nothing larger is counted as zeros: float32 cannot hold bins for it."""

_LEVELS = 127
"""Positive levels of symmetric INT8. Unsigned tensors have 255 and use the same thresholds."""
_CANDIDATES = 128
"""Thresholds that MSE tries, evenly spaced up to the maximum."""


@dataclass(frozen=True)
class Method:
    """How a histogram becomes a threshold.

    Args:
        name: `max`, `percentile`, `mse` or `entropy`.
        percentile: Share of the values, in percent, that lie below the threshold of `percentile`.
    """

    name: str
    percentile: float = 100.0

    @classmethod
    def parse(cls, text: str) -> Method:
        """Read `max`, `mse`, `entropy`, `percentile` (99.999) or `percentile:P` with 50 < P <= 100.

        Raises:
            RequestError: It is none of these.
        """
        name, colon, value = text.partition(":")
        if text in ("max", "mse", "entropy"):
            return cls(text)
        if name == "percentile":
            try:
                percentile = float(value) if colon else DEFAULT_PERCENTILE
            except ValueError:
                percentile = math.nan
            if 50 < percentile <= 100:  # noqa: PLR2004 - stated in the docstring
                return cls("percentile", percentile)
        raise RequestError(
            f"unknown calibration method '{text}'",
            "Use auto, max, mse, entropy, percentile (99.999), or percentile:P with P above 50 and at most 100.",
        )

    def __str__(self) -> str:
        """Return the form that `parse` reads."""
        return f"percentile:{self.percentile!r}".removesuffix(".0") if self.name == "percentile" else self.name

    def threshold(self, histogram: Histogram) -> float:
        """Return the threshold of one tensor, above zero even if the tensor is constant zero."""
        if not histogram.maximum:
            return 1.0
        match self.name:
            case "percentile":
                found = histogram.percentile(self.percentile)
            case "mse":
                found = least_squares(histogram)
            case "entropy":
                found = least_divergence(histogram)
            case _:
                found = histogram.maximum
        return min(found, histogram.maximum)


class Histogram:
    """Counts of |x| in bins from 0 to a power of two that doubles when a larger value arrives.

    Doubling adds neighbouring bins, so no count is lost, and because the edges are always multiples of a power of two
    the counts are the same in whatever order and batches the values come.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0
        self.maximum = 0.0

    def add(self, values: Tensor) -> None:
        """Count the |x| of a float32 tensor of any shape.

        Raises:
            ValueError: It holds NaN or infinity.
        """
        low, high = (float(edge) for edge in values.aminmax())
        largest = max(-low, high)
        if not math.isfinite(largest):
            raise ValueError(largest)
        largest = largest if largest >= _SMALLEST else 0.0
        if largest > 0:
            self._grow(largest)
        self.maximum = max(self.maximum, largest)
        if not self.limit:
            self.counts[0] += values.numel()  # zeros stay in the first bin, whatever the range becomes
            return
        # The range is a power of two, so this product is exact; integers are counted faster than `torch.histc` can.
        bins = values.mul(BINS / self.limit)
        bins = bins.abs_() if low < 0 else bins
        order = bins.permute(0, 2, 3, 1) if bins.ndim == _IMAGE_DIMENSIONS else bins  # as it lies in memory
        self.counts += torch.bincount(order.to(torch.int32).flatten(), minlength=BINS).cpu()

    def _grow(self, maximum: float) -> None:
        """Double the range until `maximum` lies inside it."""
        needed = math.ldexp(1.0, math.frexp(maximum)[1])
        if not self.limit:
            self.limit = needed
        while self.limit < needed:
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.cat([merged, torch.zeros_like(merged)])
            self.limit *= 2

    def percentile(self, percent: float) -> float:
        """Return the upper edge of the first bin below which `percent` of all values lie."""
        cumulative = self.counts.cumsum(0)
        wanted = cumulative[-1] * (percent / 100)
        index = int(torch.searchsorted(cumulative, wanted))
        return self.limit * (index + 1) / BINS


def least_squares(histogram: Histogram) -> float:
    """Return the threshold with the smallest squared error between values and their INT8 levels.

    Of `_CANDIDATES`, each value taken for the centre of its bin (Sung et al. 2015, arXiv:1511.06488).
    """
    counts = histogram.counts.numpy()
    width = histogram.limit / BINS
    centres = (np.arange(BINS) + 0.5) * width
    used = counts > 0
    counts, centres = counts[used], centres[used]
    candidates = np.linspace(0, histogram.maximum, _CANDIDATES + 1)[1:]

    def error(threshold: float) -> float:
        step = threshold / _LEVELS
        levels = np.minimum(np.rint(centres / step), _LEVELS) * step
        return float((counts * (centres - levels) ** 2).sum())

    return float(min(candidates, key=error))


def least_divergence(histogram: Histogram) -> float:
    """Return the threshold whose 128 quantised levels diverge least from the clipped distribution (Kullback-Leibler).

    Migacz 2017, "8-bit inference with TensorRT". Zeros carry no information about the range and ReLU makes many of
    them: the first bin is given the count of the second. A candidate keeps whole groups of bins, one group a level.
    """
    counts = histogram.counts.numpy().copy()
    counts[0] = counts[1]
    last = int(np.flatnonzero(counts).max(initial=0)) + 1
    groups = _LEVELS + 1
    per_group = np.arange(1, -(-last // groups) + 1)  # bins a level: 1, 2, ... until all bins are inside
    divergences = [_divergence(counts, int(size), groups) for size in per_group]
    best = int(per_group[int(np.argmin(divergences))])
    return histogram.limit * min(best * groups, BINS) / BINS


def _divergence(counts: NDArray[np.float64], size: int, groups: int) -> float:
    """Return KL(P || Q): P clips the counts after `groups` groups of `size` bins, Q averages P over each group."""
    kept = np.zeros(size * groups)
    inside = counts[: len(kept)]
    kept[: len(inside)] = inside
    clipped = kept.copy()
    clipped[-1] += counts[len(kept) :].sum()
    blocks = kept.reshape(groups, size)
    occupied = (blocks > 0).sum(1, keepdims=True)
    averages = np.divide(blocks.sum(1, keepdims=True), occupied, where=occupied > 0, out=np.zeros((groups, 1)))
    quantised = np.where(blocks > 0, averages, 0).ravel()
    both = (clipped > 0) & (quantised > 0)
    if not both.any():
        return math.inf
    p, q = clipped / clipped.sum(), quantised / quantised.sum()
    lost = p[(clipped > 0) & ~both].sum()  # mass where Q has none: an infinite divergence, weighed as one level's worth
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * math.log(groups))
