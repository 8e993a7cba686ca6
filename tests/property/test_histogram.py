import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeresnext.compiler.thresholds import BINS, Histogram

values = st.lists(st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30), min_size=1, max_size=60)


def histogram_of(parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(torch.tensor(part, dtype=torch.float32))
    return histogram


@settings(max_examples=200, deadline=None)
@given(values, st.randoms())
def test_any_split_and_order_gives_the_same_histogram(numbers, random):
    whole = histogram_of([numbers])
    shuffled = random.sample(numbers, len(numbers))
    cut = random.randint(0, len(numbers))
    parts = histogram_of([part for part in (shuffled[:cut], shuffled[cut:]) if part])
    assert parts.limit == whole.limit
    assert torch.equal(parts.counts, whole.counts)


@settings(max_examples=200, deadline=None)
@given(values.filter(any), st.floats(51, 100))
def test_a_percentile_is_right_to_within_a_bin(numbers, percent):
    histogram = histogram_of([numbers])
    magnitudes = np.sort(np.abs(np.array(numbers, np.float32)))
    exact = magnitudes[max(0, math.ceil(len(numbers) * percent / 100 - 1e-9) - 1)]
    width = histogram.limit / BINS
    assert exact - 1e-6 * width <= histogram.percentile(percent) <= exact + width * 1.000001


@given(values)
def test_the_range_is_the_next_power_of_two(numbers):
    histogram = histogram_of([numbers])
    largest = max(abs(np.float32(number)) for number in numbers)
    if largest:
        assert histogram.limit / 2 <= largest < histogram.limit
        assert math.log2(histogram.limit) == pytest.approx(round(math.log2(histogram.limit)))
    assert histogram.maximum == largest
